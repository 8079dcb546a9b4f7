"""The layers of the package: modules on levels, imports only from lower levels, and a core without Lightning."""

import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
import time
import types
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import spl

ROOT = Path(spl.__file__).parent

FLOORS = [  # from the lowest level up
    {"errors", "lightning_api"},
    {"data", "files", "functional"},
    {"initializers", "jacobian", "masks", "networks"},
    {"classifier", "criteria", "export", "isometry"},
    {"pruning"},
    {"diagnosis", "sparsify", "updates"},
    {"callbacks"},
    {"cli"},
    {"reproduction"},
    {"compare"},
    {"__main__"},
]


def imported(file):
    """Yield the modules and packages of spl that a file imports from."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "spl":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("spl."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("spl."))


def test_every_room_stands_above_all_that_it_imports():
    floor_of = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    rooms = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms - {"__init__"} == floor_of.keys()
    assert len(rooms) <= 23
    assert len(FLOORS) <= 11
    for file in ROOT.rglob("*.py"):
        room = file.relative_to(ROOT).parts[0].removesuffix(".py")
        for other in set(imported(file)) - {room}:
            if room != "__init__":  # __init__ imports names from everywhere on demand
                assert floor_of[other] < floor_of[room], f"{file} imports {other}"


def test_no_file_is_longer_than_250_lines():
    """But for the exact selection of the largest scores, which is one algorithm."""
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in ROOT.rglob("*.py")}
    assert {file for file, length in lengths.items() if length > 250} == {"masks/top_k.py"}


def fresh(code, *args):
    """Return what a new interpreter prints, and the CPU seconds that it took."""
    before = os.times()
    done = subprocess.run([sys.executable, *args, *(["-c", code] if code else [])], capture_output=True, text=True)
    after = os.times()
    assert done.returncode == 0, done.stderr
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return done.stdout.strip(), seconds


NO_TORCH = "import sys, time; start = time.process_time(); import spl; spent = time.process_time() - start"
WAYS = ("import spl.sparsify", "from spl.sparsify import sparsify", "import spl.callbacks", "import spl")
CORE = "criteria, diagnosis, export, isometry, jacobian, masks, networks, pruning, sparsify, updates"
HEAVY = "'pytorch_lightning', 'lightning_fabric', 'lightning', 'matplotlib', 'torchvision', 'tensorboard'"
MOVED = "from spl.scopes import Global; from spl.patterns import NM; from spl.schedules import Linear"
CHECKS = {  # code by what it is about
    "spl alone": f"{NO_TORCH}; print('torch' in sys.modules, spent < 0.1)",
    "every name": "from spl import *; import spl; print(len(spl.__all__), PruneAtInit.__name__)",
    "core": f"import sys; from spl import {CORE}; print([name for name in ({HEAVY}) if name in sys.modules])",
    "moved": f"import sys; {MOVED}; from spl.module import sgd; "
    "print(*(sys.modules[found.__module__].__spec__.name for found in (Global, NM, Linear, sgd)))",
    **{way: f"{way}; import spl; print(spl.sparsify.__name__, type(spl.sparsify).__name__)" for way in WAYS},
}


def printed():
    """Return what each of the checks prints, in a process of its own that has imported nothing of spl before.

    It takes many seconds, so one test asks for all. The processes are forked from one interpreter, which between them
    imports torch, then Lightning and what else takes seconds.
    """
    torch, lightning = (
        "import torch",
        "import pytorch_lightning, torchvision, torch.utils.tensorboard, matplotlib.figure",
    )
    stages = [("spl alone",), torch, ("core", "import spl", *WAYS[:2]), lightning, ("every name", "moved", WAYS[2])]
    script = (
        "import json, os, sys\n"
        "checks = json.loads(sys.argv[1])\n"
        "for stage in json.loads(sys.argv[2]):\n"
        "    if isinstance(stage, str):\n"
        "        exec(stage)\n"
        "        continue\n"
        "    for name in stage:\n"
        "        print(name, end='\\t', flush=True)\n"
        "        if os.fork() == 0:\n"
        "            exec(checks[name], {})\n"
        "            sys.stdout.flush()\n"
        "            os._exit(0)\n"
        "        assert os.wait()[1] == 0, name\n"
    )
    out, _ = fresh("", "-c", script, json.dumps(CHECKS), json.dumps(stages))
    found = dict(line.split("\t") for line in out.splitlines())
    assert found.keys() == CHECKS.keys()
    return found


@pytest.mark.slow
def test_imports_load_what_they_need_and_find_every_name_also_where_it_has_moved_to():
    found = printed()
    assert found["spl alone"] == "False True"
    assert found["core"] == "[]"
    assert found["every name"] == f"{len(spl.__all__)} PruneAtInit"
    assert {found[way] for way in WAYS} == {"sparsify function"}
    homes = ["spl.pruning.scopes", "spl.pruning.patterns", "spl.criteria.schedules", "spl.functional.optimizer"]
    assert found["moved"].split() == homes


def test_names_are_listed_and_others_are_refused():
    assert set(spl.__all__) <= set(dir(spl))
    with pytest.raises(AttributeError, match="module 'spl' has no attribute 'nonsense'"):
        spl.nonsense  # noqa: B018


PUBLIC = ["spl", *(f"spl.{room}" for room in ("callbacks", "criteria", "data", "diagnosis", "export", "isometry"))]
PUBLIC += ["spl.masks", "spl.networks", "spl.pruning", "spl.pruning.patterns", "spl.pruning.scopes", "spl.jacobian"]
PUBLIC += ["spl.initializers", "spl.classifier", "spl.sparsify", "spl.errors", "spl.files", "spl.criteria.schedules"]
PUBLIC += ["spl.updates"]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_class_and_function_has_an_example(name):
    module = importlib.import_module(name)
    if isinstance(module, types.FunctionType):  # spl.sparsify
        module = sys.modules[name]
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == name and key[0] != "_"]
    objects = [getattr(module, key) for key in getattr(module, "__all__", own)]
    callables = [o for o in objects if (inspect.isclass(o) and not inspect.isabstract(o)) or inspect.isfunction(o)]
    assert [o.__name__ for o in callables if ">>> " not in (vars(o).get("__doc__") or o.__doc__ or "")] == []


def test_a_source_tree_that_is_not_installed_has_no_version(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    assert spl.__version__ == "unknown"


def test_help_and_version_wait_for_nothing():
    started = time.monotonic()
    out, seconds = fresh("", "-m", "spl", "--version")
    assert out == f"spl {spl.__version__}"

    assert seconds < 0.3 or time.monotonic() - started > 5  # no conclusion on a busy machine
    out, seconds = fresh("", "-m", "spl", "--help")
    assert seconds < 1.5
    assert all(f"\n  {name} " in out for name in ("fit", "diagnose", "summary", "export", "reproduce"))
