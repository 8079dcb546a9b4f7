"""spl works with `pytorch_lightning` and with `lightning`, and refuses a mix of the two."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import forking
import pytest
import yaml

import spl
from spl import lightning_api

ROOT = Path(spl.__file__).parent
TESTS = Path(__file__).parent
PROGRAMS = TESTS / "support" / "lightning_programs.py"
PACKAGES = ("pytorch_lightning", "lightning")


def run(folder, *arguments, **environment):
    """Run Python, which has imported neither Lightning nor spl, and return how it ended."""
    command = [sys.executable, "-IS", forking.__file__, *map(str, arguments)]
    path = os.pathsep.join([str(ROOT.parent), str(TESTS / "support"), os.environ.get("PYTHONPATH", "")])
    address = forking.server("prepare_without_lightning")
    environment = {"PYTHONPATH": path, forking.ADDRESS: address, "MASTER_ADDR": "127.0.0.1"} | environment
    pipes = {"capture_output": True, "text": True}
    return subprocess.run(command, cwd=folder, env=os.environ | environment, timeout=300, **pipes)


def printed(folder, *arguments):
    """Run Python, and return the last line that it prints."""
    done = run(folder, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def script(folder, text):
    """Run a script, and return the last line that it prints."""
    path = folder / "script.py"
    path.write_text(text)
    return printed(folder, path)


def test_one_module_alone_imports_lightning():
    for file in ROOT.rglob("*.py"):
        found = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {(alias.name, "") for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {(node.module or "", alias.name) for alias in node.names}
        named = [name for module, name in found if module.partition(".")[0] in {*PACKAGES, "lightning_fabric"}]
        assert set(named) == (
            lightning_api._HOMES.keys() if file.parent.name == "lightning_api" and named else set()
        ), file


@pytest.mark.parametrize("package", PACKAGES)
def test_all_names_are_there(package, tmp_path):
    text = f"import {package}\nfrom spl import lightning_api as api\n"
    text += "found = [getattr(api, name) for name in api._HOMES]\n"
    text += "modules = {getattr(value, '__module__', '').partition('.')[0] for value in found}\n"
    text += "print(*sorted(modules & {'pytorch_lightning', 'lightning', 'lightning_fabric'}))"
    assert script(tmp_path, text) == ("lightning" if package == "lightning" else "lightning_fabric pytorch_lightning")


FIRST = {  # what spl works with, by what a program does before it imports spl
    "pass": "pytorch_lightning",
    "import lightning.fabric": "lightning",
    "from lightning import Trainer": "lightning",
    "import pytorch_lightning.callbacks": "pytorch_lightning",
    "import pytorch_lightning, lightning": "pytorch_lightning",
    "import lightning, pytorch_lightning": "lightning",
    "import sys; sys.modules['lightning'] = sys": "pytorch_lightning",  # another module of that name
    "import sys; sys.modules['pytorch_lightning'] = None": "lightning",  # as where it is not installed
}


@pytest.mark.parametrize("before", FIRST)
def test_the_first_import_decides(before, tmp_path):
    text = f"{before}\nfrom spl import PruneAtInit\nfrom spl.lightning_api import Callback, module_name\n"
    text += "assert issubclass(PruneAtInit, Callback)\nassert Callback.__module__.startswith(module_name('pytorch'))\n"
    text += "print(module_name('fabric.plugins'))"
    assert script(tmp_path, text) == {"lightning": "lightning.fabric.plugins"}.get(
        FIRST[before], "lightning_fabric.plugins"
    )


def test_the_python_example_of_the_readme_runs_under_lightning(tmp_path):
    readme = (ROOT.parent / "README.md").read_text()
    example = next(text for text in readme.split("```python\n")[1:] if "Trainer(" in text.partition("```")[0])
    text = example.partition("```")[0].replace("from pytorch_lightning import", "from lightning import")
    small = "max_epochs=1, limit_train_batches=2, limit_val_batches=1, accelerator='cpu', enable_progress_bar=False"
    text = text.replace("max_epochs=1", small).replace("JacobianSpectrum()", "JacobianSpectrum(examples=5)")
    text = text.replace("MLP()", "MLP(depth=2, width=20)")
    text += "import sys\nassert 'lightning.pytorch' in sys.modules\nassert 'pytorch_lightning' not in sys.modules"
    assert "0.9" in script(tmp_path, text)


@pytest.mark.parametrize("first", PACKAGES)
def test_a_checkpoint_made_under_one_resumes_under_the_other(first, tmp_path):
    (second,) = set(PACKAGES) - {first}
    trainer, step, masks = printed(tmp_path, PROGRAMS, "fit", first, 1).split()
    assert (trainer.partition(".")[0], step) == (first, "1")
    trainer, step, same = printed(tmp_path, PROGRAMS, "fit", second, 2, "run/checkpoints/last.ckpt").split()
    assert (trainer.partition(".")[0], step) == (second, "2")
    assert masks == same


@pytest.mark.parametrize(("own", "other"), [PACKAGES, PACKAGES[::-1]])
def test_a_mix_is_refused_in_one_sentence(own, other, tmp_path):
    assert printed(tmp_path, PROGRAMS, "mix", own, other) == "refused"


ORDERS = ["own other spl model", "own spl other model", "own spl model other"]


@pytest.mark.parametrize(
    ("order", "own", "other"),
    [(order, *pair) for order in ORDERS for pair in (PACKAGES, PACKAGES[::-1])]
    + [(order, *PACKAGES) for order in ("spl other model", "spl model other")],
)
def test_the_trainer_of_the_other_package_refuses_a_classifier_in_whatever_order_they_are_imported(
    order, own, other, tmp_path
):
    assert printed(tmp_path, PROGRAMS, "fit_by_the_other", own, other, *order.split()) == "refused"


def test_a_package_that_is_imported_after_spl_is_not_silently_the_wrong_one(tmp_path):
    assert printed(tmp_path, PROGRAMS, "late") == "warned"


def test_all_ranks_decide_alike(tmp_path):
    assert printed(tmp_path, PROGRAMS, "fit_on_two_ranks", "lightning") == "done"
    assert [(tmp_path / f"rank{rank}.txt").read_text() for rank in (0, 1)] == ["lightning True"] * 2


SHORT = ["--model.network", "spl.networks.MLP", "--data", "MNISTSample", "--spectrum.examples", "5"]
SHORT += ["--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu", "--pruning.batches", "1"]
OWN = """
import lightning as L
from torch import nn
class Mine(L.Callback): pass
class Net(nn.Sequential):
    def __init__(self): super().__init__(nn.Flatten(), nn.Linear(784, 10))
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_the_command_reads_a_configuration_of_either(package, tmp_path):
    entry = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "loss/val"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [entry]}}))
    arguments = ["--config", "config.yaml", *SHORT, "--trainer.logger=pytorch_lightning.loggers.CSVLogger"]
    arguments += ["--trainer.logger.save_dir", "logs", "--print_config"]
    done = run(tmp_path, PROGRAMS, "command", package, "fit", *arguments)
    assert done.returncode == 0, done.stderr
    trainer = yaml.safe_load(done.stdout)["trainer"]
    parent = {"lightning": "lightning.pytorch"}.get(package, package)
    assert trainer["callbacks"][0]["class_path"] == f"{parent}.callbacks.EarlyStopping"
    assert trainer["logger"]["class_path"] == f"{parent}.loggers.CSVLogger"


def test_the_command_refuses_a_class_of_the_other_package_in_one_sentence(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    arguments = ["fit", *SHORT, "--trainer.callbacks+=own.Mine", "--model.network", "own.Net"]
    done = run(tmp_path, PROGRAMS, "command", "none", *arguments)
    assert done.returncode == 2
    message = "own.Mine is a class of lightning, and this command works with pytorch_lightning: base the class on "
    assert done.stderr.splitlines()[-1] == f"spl: error: {message}pytorch_lightning."
    done = run(tmp_path, PROGRAMS, "command", "lightning alone", *arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_callbacks_pass_their_tests_under_lightning():
    files = [f"test_{name}.py" for name in ("prune_at_init", "spectrum", "module", "finite_loss", "private_attributes")]
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    options += ["-k", "not compiled and not torchscript and not processes and not reproduce"]
    done = run(TESTS, "-m", "pytest", *options, *files, SPL_TEST_LIGHTNING="lightning")
    assert done.returncode == 0, done.stdout[-3000:]
