"""What members must have in common, and what a population cannot train."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, ModelSummary, ProgressBar
from torch import nn, optim
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from spl.callbacks import JacobianSpectrum, LastCheckpoint, PruneAtInit, Requeue, SafeInterrupt
from spl.callbacks.trainer import callbacks_of
from spl.cli.fit import SaveConfig
from spl.data import ImageDataModule
from spl.data.tensors import ImageTensors
from spl.errors import InputError
from spl.reproduction.stacked.prepared_run import Member

ELEMENTWISE = (
    optim.SGD, optim.Adam, optim.AdamW, optim.Adamax, optim.NAdam, optim.RAdam, optim.RMSprop, optim.Adagrad,
    optim.Adadelta, optim.Rprop, optim.ASGD,
)  # fmt: skip
"""Optimizers that treat each weight by its own gradients alone, so that stacked weights make no difference."""

OWN = (PruneAtInit, JacobianSpectrum, LastCheckpoint, SafeInterrupt, Requeue, SaveConfig, ModelSummary, ProgressBar)
"""Callbacks that have done their part when a member is prepared, or whose part the population takes."""


def check(members: Sequence[Member]) -> None:
    """Refuse members that cannot be trained as one.

    Raises:
        InputError: there are none; one has what a population does not support; two differ in what must be common.
    """
    if not members:
        raise InputError("A population needs at least one member, got none.")
    for member in members:
        if reasons := _unsupported(member):
            raise InputError(
                f"{member.folder} cannot train in a population: {', '.join(reasons)}. Train it by `spl fit`."
            )
    first = members[0]
    wanted = _settings(first)
    for member in members[1:]:
        own = _settings(member)
        differing = [f"{name} ({own[name]} and {value})" for name, value in wanted.items() if own[name] != value]
        if not _equal_images(member.data.train, first.data.train):
            differing.append("the images they train on")
        if differing:
            raise InputError(
                f"{member.folder} and {first.folder} cannot train in one population, for they differ in "
                f"{', '.join(differing)}: make populations of runs that agree."
            )


def can_be_stacked(network: nn.Module) -> bool:
    """Whether copies of `network` can be trained as one: it has neither BatchNorm nor other state, nor randomness."""
    return not _coupled(network)


def _unsupported(member: Member) -> list[str]:
    """What of a run a population would not do as the run itself does."""
    network, trainer = member.model.network, member.trainer
    coupled = _coupled(network)
    reasons = [f"its network has buffers or randomness in {', '.join(coupled)}"] if coupled else []
    optimizer = _optimizer(member)
    if type(optimizer) not in ELEMENTWISE:
        reasons.append(f"{type(optimizer).__name__} is not known to treat each weight alone")
    if any(module._compiled_call_impl for module in network.modules()):
        reasons.append("its network is compiled")
    if trainer.precision != "32-true":
        reasons.append(f"its precision is {trainer.precision}, not 32-true")
    if trainer.gradient_clip_val:
        reasons.append("it clips gradients")
    if trainer.accumulate_grad_batches != 1:
        reasons.append("it accumulates gradients")
    if trainer.world_size != 1:
        reasons.append(f"it runs in {trainer.world_size} processes")
    return reasons + [f"it has the callback {name}" for name in _foreign_callbacks(trainer)]


def _foreign_callbacks(trainer: Trainer) -> list[str]:
    """Callbacks whose part a population does not take."""

    def foreign(callback: Callback) -> bool:
        if type(callback) is ModelCheckpoint:
            return (callback.monitor, callback.mode, callback.filename) != ("accuracy/val", "max", "best")
        return not isinstance(callback, OWN)

    return [type(callback).__name__ for callback in callbacks_of(trainer, Callback) if foreign(callback)]


def _coupled(network: nn.Module) -> list[str]:
    """The modules, by name and class, that do more than compute a function of their inputs and parameters."""
    return [f"{name} ({type(m).__name__})" for name, m in network.named_modules() if _has_state_or_chance(m)]


def _has_state_or_chance(module: nn.Module) -> bool:
    chance = isinstance(module, _BatchNorm | _DropoutNd | nn.RReLU | nn.FractionalMaxPool2d)
    return chance or next(module.buffers(recurse=False), None) is not None


def _optimizer(member: Member) -> optim.Optimizer:
    made = member.model.configure_optimizers()
    optimizer: optim.Optimizer = made["optimizer"] if isinstance(made, dict) else made
    return optimizer


def _arguments(data: ImageDataModule) -> dict[str, Any]:
    """What it was made with, as far as it keeps it."""
    return {name: getattr(data, name, None) for name in signature(type(data)).parameters}


def _equal_images(a: ImageTensors | None, b: ImageTensors | None) -> bool:
    """Whether both are the same images and labels on the same device."""
    if a is None or b is None or a is b:
        return a is b
    return a.images.device == b.images.device and torch.equal(a.labels, b.labels) and torch.equal(a.images, b.images)


def _settings(member: Member) -> dict[str, Any]:
    """What decides a step, and when training ends and reports, by the words for it."""
    model, trainer = member.model, member.trainer
    optimizer = _optimizer(member)
    schedule = None if model.lr_scheduler is None else model.lr_scheduler(_optimizer(member))
    return {
        "the network": f"{model.network} {[tuple(p.shape) for p in model.network.parameters()]}",
        "the optimizer": f"{type(optimizer).__name__} {optimizer.defaults}",
        "the schedule": schedule and f"{type(schedule).__name__} {schedule.state_dict()} by {model.lr_interval}",
        "the data": f"{type(member.data).__name__} {_arguments(member.data)}",
        "the device": trainer.strategy.root_device,
        **{f"trainer.{name}": value for name, value in trainer_settings(trainer).items()},
    }


def trainer_settings(trainer: Trainer) -> dict[str, Any]:
    """When training, validation and reports come, and when all ends, as arguments of a Trainer."""
    names = (
        "max_steps", "max_epochs", "log_every_n_steps", "limit_train_batches", "limit_val_batches",
        "limit_test_batches", "val_check_interval", "check_val_every_n_epoch",
    )  # fmt: skip
    return {name: getattr(trainer, name) for name in names}
