"""A run: one planned `spl fit`, and the digest by which its result is found again."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
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
_LONGEST_CHAIN = 50  # of runs that start from each other's weights
TRAINED_MAGNITUDE = "spl.criteria.TrainedMagnitude"
_CHECKPOINT_ARGUMENT = "checkpoint"  # of TrainedMagnitude
_MACHINE_ARGUMENTS = ("root", "download")  # arguments of data sets that say where data lie


@dataclass(frozen=True, eq=False)
class Run:
    """A planned run of `spl fit`.

    Attributes:
        name: a readable name, which its folder has too.
        config: the configuration of `spl fit`, without its name and the path of weights.
        pretrained: the run whose final weights this run starts from.
        scored: the run whose final weights decide the masks of this run; see `TrainedMagnitude`.
        group: the folder in lightning_logs that has the folders of this run and of others like it.
    """

    name: str
    config: Mapping[str, Any]
    pretrained: "Run | None" = None
    group: str = RUNS.name
    scored: "Run | None" = None

    @property
    def before(self) -> "list[Run]":
        """The runs whose final weights this run needs, each once."""
        return [run for run in dict.fromkeys((self.pretrained, self.scored)) if run is not None]

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of everything that decides the result."""
        before = [run.digest if run else None for run in (self.pretrained, self.scored)]
        return _digest(self.config, *before)

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

    def on_machine(self, data_root: Path | None, pretrained: Path | None, scored: Path | None = None) -> dict[str, Any]:
        """Return the configuration of this run on one machine, complete for `spl fit`.

        Args:
            data_root: the folder of the data sets; None for what the configuration says.
            pretrained: the checkpoint to start from, if the run starts from one.
            scored: the checkpoint whose weights decide the masks, if there is one.
        """
        config: dict[str, Any] = json.loads(json.dumps({"name": f"{self.group}/{self.name}"} | dict(self.config)))
        if data_root is not None:
            for data in _data_sets(config):
                data.setdefault("init_args", {})["root"] = str(data_root)
        if pretrained is not None:
            config["model"]["pretrained"] = str(pretrained)
        if scored is not None and (criterion := _scoring_by_checkpoint(config)) is not None:
            criterion["init_args"] = {_CHECKPOINT_ARGUMENT: str(scored)}
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
        found |= with_ancestors(run.before)
        found[run.digest] = run
    return found


def folder_of(checkpoint: str) -> Path:
    """Return the folder of the run with this checkpoint."""
    return Path(checkpoint).parent.parent


def digest_of(file: Path, folder_of: Callable[[str], Path] = folder_of, known: dict[Path, str] | None = None) -> str:
    """Return the digest of the run with this `run.yaml`; it equals the digest of the planned `Run`.

    Args:
        file: the `run.yaml`.
        folder_of: returns the folder of the run with a checkpoint from which another run starts.
        known: the digests that were computed before, by file; new ones are added.

    Raises:
        InputError: the file, or that of a run which it starts from, is damaged or gone.
    """
    return _digest_of(file, folder_of, (), {} if known is None else known)


def _digest_of(file: Path, folder_of: Callable[[str], Path], begun: tuple[Path, ...], known: dict[Path, str]) -> str:
    """Return the digest of a run from which the runs in the files `begun` start."""
    if file in known:
        return known[file]
    if len(begun) > _LONGEST_CHAIN:
        raise InputError(f"{begun[0]} starts from itself, or from a chain of more than {_LONGEST_CHAIN} runs.")
    config = read_yaml(file)
    try:
        del config["name"]
        criterion = _scoring_by_checkpoint(config)
        scored = criterion.pop("init_args", {}).get(_CHECKPOINT_ARGUMENT) if criterion else None
        before = [
            _digest_of(folder_of(checkpoint) / RUN_FILE, folder_of, (*begun, file), known) if checkpoint else None
            for checkpoint in (config["model"].pop("pretrained", None), scored)
        ]
        known[file] = _digest(config, *before)
        return known[file]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} is not the file of a run ({type(error).__name__}: {first_line(error)}).") from error


def _digest(config: Mapping[str, Any], pretrained: str | None, scored: str | None = None) -> str:
    """Return the SHA-256 of a configuration without the arguments that say where data lie."""
    decisive: dict[str, Any] = json.loads(json.dumps(config))
    for data in _data_sets(decisive):
        arguments = data.get("init_args", {})
        for argument in _MACHINE_ARGUMENTS:
            arguments.pop(argument, None)
        if not arguments:
            data.pop("init_args", None)
    before = [pretrained] if scored is None else [pretrained, scored]  # so older digests stay as they are
    return hashlib.sha256(json.dumps([decisive, *before], sort_keys=True).encode()).hexdigest()


def _scoring_by_checkpoint(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the criterion that scores the weights of a checkpoint, also inside of a control; None if there is none."""
    criterion = config["pruning"].get("criterion")
    while isinstance(criterion, dict) and criterion.get("class_path") != TRAINED_MAGNITUDE:
        criterion = criterion.get("init_args", {}).get("criterion")
    return criterion if isinstance(criterion, dict) else None


def _data_sets(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the data set to train on and, if there is another to score on, that one."""
    yield config["data"]
    scoring = config["pruning"].get("scoring_data")
    if scoring is not None:
        yield scoring
