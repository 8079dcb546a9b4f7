"""Sharded weights: prune before a strategy shards them, and refuse what needs whole ones."""

from collections.abc import Callable

import torch.distributed
from torch.distributed.tensor import DTensor

from spl.errors import InputError
from spl.lightning_api import FSDPStrategy, LightningModule, ModelParallelStrategy, Trainer


def shards(trainer: Trainer) -> bool:
    """Return whether weights are sharded after `configure_model` (FSDP2, FSDP), before a checkpoint is restored.

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
            f"PruneAtInit does not support {type(strategy).__name__}, which rearranges the weights so that masks do "
            "not fit them: use trainer.strategy auto, ddp or single_device, or where weights are to be sharded "
            "ModelParallelStrategy (FSDP2) or fsdp."
        )
    return strategy.restore_checkpoint_after_setup


def check_whole(trainer: Trainer, name: str, remedy: str) -> None:
    """Refuse a callback that measures on one process if the strategy shards the weights: it would hang.

    Args:
        trainer: the Trainer with the strategy.
        name: the name of the callback.
        remedy: what to do instead, for the message.

    Raises:
        InputError: the strategy shards the weights.
    """
    if trainer.strategy.restore_checkpoint_after_setup:
        raise InputError(
            f"{name} measures on one process, which has only a shard of the weights after "
            f"{type(trainer.strategy).__name__} has split them: {remedy}."
        )


def before_sharding(trainer: Trainer, pl_module: LightningModule, prune: Callable[[], None]) -> None:
    """Let `prune` run once, right before the module's `configure_model`, on whole weights that all processes share.

    Raises:
        InputError: when it runs, the weights do not exist yet or are sharded already.
    """
    configure = pl_module.configure_model

    def pruned_first() -> None:  # a function of ours, or Lightning would not call it if the class has none
        del pl_module.configure_model  # so that the class's own is found again
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
