"""A hundred and fifty YAML files with one mistake each give a run or one clear error, never an internal traceback."""

import copy
import random
import re
from functools import cache
from pathlib import Path

import pytest
import yaml
from commands import command

CONFIGS = Path(__file__).parent.parent / "configs"
EXPERIMENTS = [f"mnist/{a}_{i}_{m}" for a in ("tanh", "linear") for i in ("ldi", "vs") for m in ("cs_ai", "random")]
EXPERIMENTS += ["quickstart", "cifar10/resnet20_cs_ai"]
BATCHES, IN_A_BATCH = 5, 30
ODD = [None, -1, 0, 1, -0.5, 0.5, 1e300, float("nan"), float("inf"), True, "", "nonsense", "12", "é", [], [1, 2], {}]
ODD += [{"a": 1}, "spl.networks.Missing", "os.system", {"class_path": "spl.networks.MLP"}, {"class_path": 5}]
ODD += [10**5, 10**9, 10**15, 10**30]
QUICK = [
    "--test_after_fit",
    "false",
    "--trainer.fast_dev_run",
    "true",
    "--trainer.accelerator",
    "cpu",
    "--trainer.enable_progress_bar",
    "false",
]
ALONE = ["--trainer.devices", "1"]  # every further device would start the tests again
FEW = {False: [], True: ["--spectrum.examples", "3", "--pruning.batches", "2"]}  # slow if left out


def whole(path):
    """Return a configuration with everything that it includes."""

    def included(node, folder):
        if isinstance(node, dict):
            return {key: included(value, folder) for key, value in node.items()}
        if isinstance(node, str) and node.endswith(".yaml"):
            return whole(folder / node)
        return node

    return included(yaml.safe_load(path.read_text()), path.parent)


@cache
def read(name):
    """Return what `whole` returns for an experiment; it is changed by nobody."""
    return whole(CONFIGS / f"{name}.yaml")


def small(name):
    """Return a small experiment that has an option of every kind."""
    config = copy.deepcopy(read(name))
    config["data"] = {"class_path": "spl.data.MNISTSample", "init_args": {"batch_size": 20}}
    network = config["model"]["network"]["init_args"]
    if "cifar10" in name:
        network |= {"in_channels": 1, "width_multiplier": 0.125, "blocks_per_stage": 1}
    else:
        network |= {"depth": 3, "width": 10}
    config["model"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}
    isometry = {"class_path": "spl.isometry.ApproximateIsometry", "init_args": {"gain": 1.0, "max_iterations": 5}}
    config["pruning"] |= {"batches": 2, "minimum": 1, "scope": "spl.scopes.ERK", "exclude": []}
    config["pruning"] |= {"isometry": isometry} if "ai" in name else {}
    return config | {"spectrum": {"examples": 3}, "checkpoint": {"save_top_k": 1}}


def places(node, path=()):
    """Yield the paths to all values."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def at(node, path):
    for key in path:
        node = node[key]
    return node


def mutated(config, draw):
    """Return the configuration with one mistake."""
    config = copy.deepcopy(config)
    path = draw.choice(list(places(config)))
    parent, key = at(config, path[:-1]), path[-1]
    value = parent[key]
    kind = draw.choice(["delete", "replace", "replace", "rename", "misspell", "move", "number"])
    if kind == "delete":
        del parent[key]
    elif kind == "replace":
        parent[key] = draw.choice(ODD)
    elif kind == "rename" and isinstance(parent, dict):
        parent[f"{key}x"] = parent.pop(key)
    elif kind == "misspell" and isinstance(value, str):
        parent[key] = value[:-1]
    elif kind == "move":
        mappings = [config, *(at(config, p) for p in places(config) if isinstance(at(config, p), dict))]
        draw.choice(mappings)[key] = copy.deepcopy(value)
    elif kind == "number" and isinstance(value, int | float):
        parent[key] = draw.choice([-value, value / 2, value + 0.5, str(value), [value]])
    else:
        return mutated(config, draw)
    return config


def written(config, draw):
    """Return the configuration as YAML, in one of six cases with a syntax mistake."""
    text = yaml.safe_dump(config)
    place = draw.randrange(len(text))
    kinds = [
        text[:place],
        f"{text[:place]}\t{text[place:]}",
        f"{text[:place]}{draw.choice('{}[]:&*!%@#,')}{text[place:]}",
        text + "".join(line + "\n" for line in text.splitlines()[:3]),  # duplicate keys
        "",
    ]
    return draw.choice(kinds) if draw.random() < 1 / 6 else text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_mistake_in_a_configuration_ends_in_a_run_or_in_one_clear_error(batch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    codes = []
    for number in range(IN_A_BATCH):
        draw = random.Random(f"{batch} {number}")
        name = draw.choice(EXPERIMENTS)
        text = written(mutated(small(name), draw), draw)
        Path("mistake.yaml").write_text(text)
        try:
            ended = command("fit", "--config", "mistake.yaml", *QUICK, *ALONE, *FEW["cifar10" in name])
        except Exception as error:
            raise AssertionError(f"{batch} {number}: {text}") from error
        codes.append(ended.code)
        assert ended.code in (0, 2), (batch, number, text)
        assert "Traceback" not in ended.errors, (batch, number, text)
        assert ended.code == 0 or ended.errors.count("error: ") == 1, (batch, number, text, ended.errors)
    assert len(codes) == IN_A_BATCH
    assert set(codes) == {0, 2}


@pytest.mark.filterwarnings("ignore")
def test_the_configurations_that_mistakes_are_made_in_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in EXPERIMENTS:
        Path("right.yaml").write_text(yaml.safe_dump(small(name)))
        assert command("fit", "--config", "right.yaml", *QUICK).code == 0, name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("seed_everything",), -1, r"seed_everything must lie in \[0, 2³²\), got -1"),
        (("model", "optimizer", "init_args", "lr"), -1.0, "optimizer or its schedule cannot be made: Invalid learning"),
        (("model", "optimizer", "init_args", "lr"), 1e300, "optimizer's lr is 1e[+]300, which is no finite number"),
        (("model", "network", "init_args", "width"), 10**12, "What the configuration asks for cannot be made"),
        (("model", "network", "init_args", "width"), 10**30, r"init_args.width is 10+, and whole numbers must lie in"),
        (("model", "network", "init_args", "depth"), 10**5, "depth=100000 makes 100000 layers: ask for at most 10000"),
        (
            ("pruning", "schedule"),
            {"class_path": "spl.schedules.Linear", "init_args": {"rounds": 10**5}},
            "rounds must be at least 1 and at most 10000, got 100000",
        ),
        (("trainer", "devices"), "nonsense", "What the configuration asks for cannot be made .TypeError: `devices`"),
        (("trainer", "log_every_n_steps"), 0, "^$"),
    ],
)
def test_values_that_pass_the_parser_are_refused_with_the_reason(path, value, message, tmp_path, monkeypatch):
    """All values are refused except the last, with which nothing is logged during training."""
    monkeypatch.chdir(tmp_path)
    config = small("quickstart")
    at(config, path[:-1])[path[-1]] = value
    Path("mistake.yaml").write_text(yaml.safe_dump(config))
    ended = command("fit", "--config", "mistake.yaml", *QUICK)
    assert ended.code == (0 if message == "^$" else 2)
    assert message == "^$" or re.search(message, ended.errors), ended.errors
