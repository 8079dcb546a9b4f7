"""The stages of a network on its way to training, and how callbacks hear of them."""

from pytorch_lightning import Callback, LightningModule, Trainer

from spl.callbacks.trainer import callbacks_of
from spl.sparsify import Stage


class StageListener(Callback):
    """A callback that is told when the network is dense, pruned and corrected, before training begins."""

    def on_stage(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Called on every process with the weights of `stage` in place."""


def announce(trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
    """Tell every listener of the Trainer."""
    for listener in callbacks_of(trainer, StageListener):
        listener.on_stage(trainer, pl_module, stage)
