"""The stages of a network before training, and callbacks that are called at each."""

from pytorch_lightning import Callback, LightningModule, Trainer

from spl.callbacks.trainer import callbacks_of
from spl.sparsify import Stage


class StageListener(Callback):
    """A callback that is called when the network is dense, pruned and corrected, before training begins."""

    def on_stage(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Act on the network with the weights of `stage`; called on every process."""


def announce(trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
    """Call `on_stage` of every StageListener among the callbacks of the Trainer."""
    for listener in callbacks_of(trainer, StageListener):
        listener.on_stage(trainer, pl_module, stage)
