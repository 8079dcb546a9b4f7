"""Whole weights: the moment before a strategy shards them, and what cannot do without."""

from collections.abc import Callable

import torch.distributed
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from torch.distributed.tensor import DTensor

from spl.errors import InputError


def shards(trainer: Trainer) -> bool:
    """Whether weights are sharded after `configure_model` (FSDP2, FSDP), and a checkpoint is restored after that.

    Raises:
        InputError: the strategy shards them in a way that masks cannot follow.
    """
    strategy = trainer.strategy
    if isinstance(strategy, FSDPStrategy):
        if not strategy.kwargs["use_orig_params"]:
            raise InputError(
                "Masks need the parameters of the module, which FSDP hides with use_orig_params=False: leave it out."
            )
    elif strategy.restore_checkpoint_after_setup and not isinstance(strategy, ModelParallelStrategy):
        raise InputError(
            f"PruneAtInit does not support {type(strategy).__name__}, which lays the weights out anew, where masks do "
            "not follow: use trainer.strategy auto, ddp or single_device, or where weights are to be sharded "
            "ModelParallelStrategy (FSDP2) or fsdp."
        )
    return strategy.restore_checkpoint_after_setup


def check_whole(trainer: Trainer, name: str, remedy: str) -> None:
    """Refuse a callback that measures on one process where the strategy shards the weights, for it would hang.

    Args:
        trainer: whose strategy it is.
        name: of the callback.
        remedy: what to do instead.

    Raises:
        InputError: the strategy shards the weights.
    """
    if trainer.strategy.restore_checkpoint_after_setup:
        raise InputError(
            f"{name} measures on one process, which has but a shard of the weights once "
            f"{type(trainer.strategy).__name__} has cut them: {remedy}."
        )


def before_sharding(trainer: Trainer, pl_module: LightningModule, prune: Callable[[], None]) -> None:
    """Let `prune` run right before the module's `configure_model`, once, on whole weights equal in all processes.

    Raises:
        InputError: then, where the weights are not there yet or are sharded already.
    """
    configure = pl_module.configure_model

    def pruned_first() -> None:  # unlike what it replaces, or Lightning would not call it where that is its own
        del pl_module.configure_model  # the class's own is back
        _bring_together(trainer, pl_module)
        prune()
        configure()

    pl_module.configure_model = pruned_first  # type: ignore[method-assign]


@torch.no_grad()
def _bring_together(trainer: Trainer, pl_module: LightningModule) -> None:
    """Put the module on its device, with the weights and buffers of the first process."""
    for name, parameter in pl_module.named_parameters():
        if parameter.is_meta or isinstance(parameter, DTensor):
            raise InputError(
                f"{name} has no whole weights to score when configure_model begins: make the layers in __init__, and "
                "shard them in configure_model."
            )
    pl_module.to(trainer.strategy.root_device)
    for tensor in (*pl_module.parameters(), *pl_module.buffers()):
        torch.distributed.broadcast(tensor, 0)
