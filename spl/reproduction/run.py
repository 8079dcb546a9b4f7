"""A run: one planned `spl fit`, and the digest by which its result is found again."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spl.errors import InputError, first_line
from spl.files import read_yaml
from spl.lightning_api import instantiate_class
from spl.reproduction.length import training_steps

RUN_FILE = "run.yaml"
CHECKPOINT = Path("checkpoints", "last.ckpt")  # of the final weights, in the folder of a run
RUNS = Path("lightning_logs", "reproduction")  # where `spl fit` puts runs whose names begin with reproduction/
_LONGEST_CHAIN = 10  # of runs that start from each other's weights
_MACHINE_ARGUMENTS = ("root", "download")  # arguments of data sets that say where data lie


@dataclass(frozen=True, eq=False)
class Run:
    """A planned run of `spl fit`.

    Attributes:
        name: a readable name, which its folder has too.
        config: the configuration of `spl fit`, without its name and the path of weights.
        pretrained: the run whose final weights this run starts from.
        group: the folder in lightning_logs that has the folders of this run and of others like it.
    """

    name: str
    config: Mapping[str, Any]
    pretrained: "Run | None" = None
    group: str = RUNS.name

    @property
    def digest(self) -> str:
        """The SHA-256 of everything that decides the result."""
        return _digest(self.config, self.pretrained.digest if self.pretrained else None)

    @property
    def network(self) -> dict[str, Any]:
        """The `class_path` and `init_args` of the network."""
        network: dict[str, Any] = self.config["model"]["network"]
        return network

    @property
    def steps(self) -> int:
        """The number of training iterations; estimated where epochs of an unknown data set are counted."""
        return training_steps(self.config)

    def data(self, root: Path | None) -> list[dict[str, Any]]:
        """Return the `class_path` and `init_args` of the data sets that the run reads, with their folder."""
        return list(_data_sets(self.on_machine(root, None)))

    def build_network(self) -> nn.Module:
        """Build the network on the meta device, with shapes but without values."""
        return build(self.network)

    def on_machine(self, data_root: Path | None, pretrained: Path | None) -> dict[str, Any]:
        """Return the configuration of this run on one machine, complete for `spl fit`.

        Args:
            data_root: the folder of the data sets; None for what the configuration says.
            pretrained: the checkpoint to start from, if the run starts from one.
        """
        config: dict[str, Any] = json.loads(json.dumps({"name": f"{self.group}/{self.name}"} | dict(self.config)))
        if data_root is not None:
            for data in _data_sets(config):
                data.setdefault("init_args", {})["root"] = str(data_root)
        if pretrained is not None:
            config["model"]["pretrained"] = str(pretrained)
        return config


def build(network: Mapping[str, Any]) -> nn.Module:
    """Build a network from its class_path and init_args on the meta device, with shapes but without values."""
    with torch.device("meta"):
        built: nn.Module = instantiate_class((), dict(network))
    return built


def with_ancestors(runs: Iterable[Run]) -> dict[str, Run]:
    """Return the runs and the runs that they start from, each once, by digest."""
    found: dict[str, Run] = {}
    for run in runs:
        if run.pretrained is not None:
            found |= with_ancestors([run.pretrained])
        found[run.digest] = run
    return found


def folder_of(checkpoint: str) -> Path:
    """Return the folder of the run with this checkpoint."""
    return Path(checkpoint).parent.parent


def digest_of(file: Path, folder_of: Callable[[str], Path] = folder_of) -> str:
    """Return the digest of the run with this `run.yaml`; it equals the digest of the planned `Run`.

    Args:
        file: the `run.yaml`.
        folder_of: returns the folder of the run with a checkpoint from which another run starts.

    Raises:
        InputError: the file, or that of a run which it starts from, is damaged or gone.
    """
    return _digest_of(file, folder_of, ())


def _digest_of(file: Path, folder_of: Callable[[str], Path], begun: tuple[Path, ...]) -> str:
    """Return the digest of a run from which the runs in the files `begun` start."""
    if len(begun) > _LONGEST_CHAIN:
        raise InputError(f"{begun[0]} starts from itself, or from a chain of more than {_LONGEST_CHAIN} runs.")
    config = read_yaml(file)
    try:
        del config["name"]
        pretrained = config["model"].pop("pretrained", None)
        before = _digest_of(folder_of(pretrained) / RUN_FILE, folder_of, (*begun, file)) if pretrained else None
        return _digest(config, before)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} is not the file of a run ({type(error).__name__}: {first_line(error)}).") from error


def _digest(config: Mapping[str, Any], pretrained: str | None) -> str:
    """Return the SHA-256 of a configuration without the arguments that say where data lie."""
    decisive: dict[str, Any] = json.loads(json.dumps(config))
    for data in _data_sets(decisive):
        arguments = data.get("init_args", {})
        for argument in _MACHINE_ARGUMENTS:
            arguments.pop(argument, None)
        if not arguments:
            data.pop("init_args", None)
    return hashlib.sha256(json.dumps([decisive, pretrained], sort_keys=True).encode()).hexdigest()


def _data_sets(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the data set to train on and, if there is another to score on, that one."""
    yield config["data"]
    scoring = config["pruning"].get("scoring_data")
    if scoring is not None:
        yield scoring
