"""The private attributes of Lightning that callbacks need, gathered in one place; all were read in Lightning 2.6.6."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch import nn

from spl.lightning_api import Callback, ClusterEnvironment, CombinedLoader, Trainer, progress, sized_len
from spl.lightning_api import _CheckpointConnector as CheckpointConnector
from spl.lightning_api import _MultiProcessingLauncher as MultiProcessingLauncher


def cluster_environment(trainer: Trainer) -> ClusterEnvironment | None:
    """Return how the Trainer knows the cluster that it runs on; strategies for one device do not tell it."""
    environment: ClusterEnvironment | None = trainer._accelerator_connector.cluster_environment
    return environment


def trains_in_copies(trainer: Trainer) -> bool:
    """Return whether the Trainer trains copies of module and callbacks, in processes that it spawns or forks.

    Only the weights and the logged metrics come back from there.
    """
    return isinstance(trainer.strategy.launcher, MultiProcessingLauncher)


def logged_step(trainer: Trainer) -> int:
    """Return the number under which Lightning logs the current training step."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def training_loader(trainer: Trainer) -> Any:
    """Return the training DataLoader, or a collection of several, as the user made it.

    `Trainer.train_dataloader` has one only when training begins, and then the part of this process.
    """
    return trainer.fit_loop._data_source.dataloader()


@contextmanager
def showing(trainer: Trainer, loader: Any) -> Iterator[None]:
    """Let `train_dataloader` and `num_training_batches` of a Trainer tell of a loader, before its fit loop has one."""
    loop = trainer.fit_loop
    before = loop._combined_loader, loop.max_batches
    if loop._combined_loader is None:
        loop._combined_loader = loader if isinstance(loader, CombinedLoader) else CombinedLoader(loader)
        length = None if isinstance(loader, Mapping | list | tuple | CombinedLoader) else sized_len(loader)
        limit = trainer.limit_train_batches
        if length is not None:
            loop.max_batches = min(length, limit) if isinstance(limit, int) else int(length * limit)
    try:
        yield
    finally:
        loop._combined_loader, loop.max_batches = before


def averaged_network(callback: Callback) -> nn.Module | None:
    """Return the network whose weights a WeightAveraging or StochasticWeightAveraging averages; None for any other."""
    average = getattr(callback, "_average_model", None)
    return average if isinstance(average, nn.Module) else None


@cache
def methods_of_progress() -> frozenset[str]:
    """Return the names of the methods of Lightning's counters, which take any attribute that a checkpoint has."""
    classes = [cls for cls in vars(progress).values() if isinstance(cls, type)]
    return frozenset(name for cls in classes for name in dir(cls) if callable(getattr(cls, name)))


class _NamedCheckpoints(CheckpointConnector):
    """Lightning's connector, which reads `hpc_ckpt_N.ckpt` only where the user asks for it by the word hpc."""

    _asked = False

    def _parse_ckpt_path(self, state_fn: Any, ckpt_path: Any, *args: Any, **kwargs: Any) -> Any:
        self._asked = ckpt_path == "hpc"
        return super()._parse_ckpt_path(state_fn, ckpt_path, *args, **kwargs)

    @property
    def _hpc_resume_path(self) -> str | None:
        return super()._hpc_resume_path if self._asked else None


def ignore_stray_checkpoints(trainer: Trainer) -> None:
    """Let a new Trainer start from no checkpoint that it was not given.

    Under SLURM, Lightning would resume from any `hpc_ckpt_N.ckpt` in the Trainer's folder, whichever job wrote it. The
    callback `Requeue` writes no such files.
    """
    trainer._checkpoint_connector = _NamedCheckpoints(trainer)
