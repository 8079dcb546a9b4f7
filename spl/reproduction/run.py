"""Run: one `spl fit`, planned, and the digest by which its result is found again."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning.cli import instantiate_class
from torch import nn

RUN_FILE = "run.yaml"
RUNS = Path("lightning_logs", "reproduction")  # where `spl fit` puts runs of such names
_MACHINE_ARGUMENTS = ("root", "download")  # arguments of data sets that say where data lie


@dataclass(frozen=True, eq=False)
class Run:
    """One `spl fit`, planned.

    Attributes:
        name: for people: what its folder is called.
        config: of `spl fit`, complete but for what depends on the machine: name, and where data and weights lie.
        pretrained: the run whose final weights it starts from.
    """

    name: str
    config: Mapping[str, Any]
    pretrained: "Run | None" = None

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the result."""
        return _digest(self.config, self.pretrained.digest if self.pretrained else None)

    @property
    def network(self) -> dict[str, Any]:
        """The `class_path` and `init_args` of the network."""
        network: dict[str, Any] = self.config["model"]["network"]
        return network

    @property
    def steps(self) -> int:
        """Training iterations."""
        return int(self.config["trainer"]["max_steps"])

    @property
    def data(self) -> set[str]:
        """The classes of the data sets that it reads."""
        return {data["class_path"] for data in _data_sets(self.config)}

    def build_network(self) -> nn.Module:
        """The network, of shapes alone."""
        return build(self.network)

    def on_machine(self, data_root: Path, pretrained: Path | None) -> dict[str, Any]:
        """The YAML of this run on a machine whose data lie in `data_root`, and a trained network in `pretrained`."""
        config: dict[str, Any] = json.loads(json.dumps({"name": f"{RUNS.name}/{self.name}"} | dict(self.config)))
        for data in _data_sets(config):
            data.setdefault("init_args", {})["root"] = str(data_root)
        if pretrained is not None:
            config["model"]["pretrained"] = str(pretrained)
        return config


def build(network: Mapping[str, Any]) -> nn.Module:
    """The network of a class and arguments, of shapes alone."""
    with torch.device("meta"):
        built: nn.Module = instantiate_class((), dict(network))
    return built


def with_ancestors(runs: Iterable[Run]) -> dict[str, Run]:
    """The runs and those that they start from, each once, by digest."""
    found: dict[str, Run] = {}
    for run in runs:
        if run.pretrained is not None:
            found |= with_ancestors([run.pretrained])
        found[run.digest] = run
    return found


def digest_of(file: Path) -> str:
    """The digest of the run whose `run.yaml` this is, equal to that of the `Run` that was planned."""
    config = yaml.load(file.read_text(), yaml.CSafeLoader)
    del config["name"]
    for data in _data_sets(config):
        for argument in _MACHINE_ARGUMENTS:
            data["init_args"].pop(argument, None)
        if not data["init_args"]:
            del data["init_args"]
    pretrained = config["model"].pop("pretrained", None)
    return _digest(config, digest_of(Path(pretrained).parent.parent / RUN_FILE) if pretrained else None)


def _digest(config: Mapping[str, Any], pretrained: str | None) -> str:
    return hashlib.sha256(json.dumps([config, pretrained], sort_keys=True).encode()).hexdigest()


def _data_sets(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The data set to train on, and the other that is scored on, if there is one."""
    yield config["data"]
    scoring = config["pruning"].get("scoring_data")
    if scoring is not None:
        yield scoring
