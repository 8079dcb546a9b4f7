"""What stacked runs must have in common, and what stacked training does not support."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import nn, optim

from spl.callbacks import CostLine, JacobianSpectrum, KeepMasks, LastCheckpoint, PruneAtInit, Requeue, SafeInterrupt
from spl.callbacks.trainer import callbacks_of
from spl.cli.save_config import SaveConfig
from spl.data import ImageDataModule
from spl.data.tensors import ImageTensors
from spl.errors import InputError
from spl.functional.torch_private import BatchNorm, DropoutNd, is_compiled
from spl.lightning_api import Callback, ModelCheckpoint, ModelSummary, ProgressBar, Trainer
from spl.reproduction.stacked.prepared_run import PreparedRun

ELEMENTWISE = (
    optim.SGD, optim.Adam, optim.AdamW, optim.Adamax, optim.NAdam, optim.RAdam, optim.RMSprop, optim.Adagrad,
    optim.Adadelta, optim.Rprop, optim.ASGD,
)  # fmt: skip
"""Optimizers that update each weight from its own gradients alone, so that stacking the weights changes nothing."""

SUPPORTED_CALLBACKS = (
    PruneAtInit, KeepMasks, CostLine, JacobianSpectrum, LastCheckpoint, SafeInterrupt, Requeue,
    SaveConfig, ModelSummary, ProgressBar,
)  # fmt: skip
"""Callbacks that have nothing left to do once a run is prepared, or whose work stacked training does itself."""


def check_compatible(runs: Sequence[PreparedRun]) -> None:
    """Refuse runs that cannot be stacked.

    Raises:
        InputError: there is no run, a run needs what stacked training does not support, or two runs differ in
            something that must be common.
    """
    if not runs:
        raise InputError("Stacked training needs at least one run, got none.")
    for run in runs:
        if reasons := _unsupported(run):
            raise InputError(f"{run.folder} cannot be stacked: {', '.join(reasons)}. Train it by `spl fit`.")
    first = runs[0]
    wanted = _settings(first)
    for run in runs[1:]:
        own = _settings(run)
        differing = [f"{name} ({own[name]} and {value})" for name, value in wanted.items() if own[name] != value]
        if not _equal_images(run.data.train, first.data.train):
            differing.append("the images they train on")
        if differing:
            raise InputError(
                f"{run.folder} and {first.folder} cannot be stacked because they differ in {', '.join(differing)}: "
                "stack only runs that agree in this."
            )


def can_be_stacked(network: nn.Module) -> bool:
    """Return whether copies of `network` can be stacked: it has no BatchNorm, no other state and no randomness."""
    return not _stateful_or_random_modules(network)


def _unsupported(run: PreparedRun) -> list[str]:
    """Return what stacked training would not do as the run itself does."""
    network, trainer = run.model.network, run.trainer
    modules = _stateful_or_random_modules(network)
    reasons = [f"its network has buffers or randomness in {', '.join(modules)}"] if modules else []
    optimizer = _optimizer(run)
    if type(optimizer) not in ELEMENTWISE:
        reasons.append(f"{type(optimizer).__name__} is not known to update each weight from its own gradients alone")
    if any(is_compiled(module) for module in network.modules()):
        reasons.append("its network is compiled")
    if trainer.precision != "32-true":
        reasons.append(f"its precision is {trainer.precision}, not 32-true")
    if trainer.gradient_clip_val:
        reasons.append("it clips gradients")
    if trainer.accumulate_grad_batches != 1:
        reasons.append("it accumulates gradients")
    if trainer.world_size != 1:
        reasons.append(f"it runs in {trainer.world_size} processes")
    return reasons + [f"it has the callback {name}" for name in _unsupported_callbacks(trainer)]


def _unsupported_callbacks(trainer: Trainer) -> list[str]:
    """Return the class names of callbacks whose work stacked training does not do."""

    def unsupported(callback: Callback) -> bool:
        if type(callback) is ModelCheckpoint:
            return (callback.monitor, callback.mode, callback.filename) != ("accuracy/val", "max", "best")
        return not isinstance(callback, SUPPORTED_CALLBACKS)

    return [type(callback).__name__ for callback in callbacks_of(trainer, Callback) if unsupported(callback)]


def _stateful_or_random_modules(network: nn.Module) -> list[str]:
    """Return the modules, by name and class, that do more than compute a function of their inputs and parameters."""
    return [f"{name} ({type(m).__name__})" for name, m in network.named_modules() if _is_stateful_or_random(m)]


def _is_stateful_or_random(module: nn.Module) -> bool:
    known = isinstance(module, BatchNorm | DropoutNd | nn.RReLU | nn.FractionalMaxPool2d)
    return known or next(module.buffers(recurse=False), None) is not None


def _optimizer(run: PreparedRun) -> optim.Optimizer:
    configured = run.model.configure_optimizers()
    optimizer: optim.Optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    return optimizer


def _arguments(data: ImageDataModule) -> dict[str, Any]:
    """Return the arguments that the data set was constructed with, as far as it keeps them."""
    return {name: getattr(data, name, None) for name in signature(type(data)).parameters}


def _equal_images(a: ImageTensors | None, b: ImageTensors | None) -> bool:
    """Return whether both hold the same images and labels on the same device."""
    if a is None or b is None or a is b:
        return a is b
    return a.images.device == b.images.device and torch.equal(a.labels, b.labels) and torch.equal(a.images, b.images)


def _settings(run: PreparedRun) -> dict[str, Any]:
    """Return what decides a training step and when training reports and ends, by the name used in error messages."""
    model, trainer = run.model, run.trainer
    optimizer = _optimizer(run)
    schedule = None if model.lr_scheduler is None else model.lr_scheduler(_optimizer(run))
    return {
        "the network": f"{model.network} {[tuple(p.shape) for p in model.network.parameters()]}",
        "the optimizer": f"{type(optimizer).__name__} {optimizer.defaults}",
        "the schedule": schedule and f"{type(schedule).__name__} {schedule.state_dict()} by {model.lr_interval}",
        "the data": f"{type(run.data).__name__} {_arguments(run.data)}",
        "the device": trainer.strategy.root_device,
        **{f"trainer.{name}": value for name, value in trainer_settings(trainer).items()},
    }


def trainer_settings(trainer: Trainer) -> dict[str, Any]:
    """Return when training ends and when it validates and reports, as arguments of a Trainer."""
    names = (
        "max_steps", "max_epochs", "log_every_n_steps", "limit_train_batches", "limit_val_batches",
        "limit_test_batches", "val_check_interval", "check_val_every_n_epoch",
    )  # fmt: skip
    return {name: getattr(trainer, name) for name in names}
