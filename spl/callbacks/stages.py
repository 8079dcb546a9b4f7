"""The stages of a network before training, and callbacks that are called at each."""

from spl.callbacks.base import SplCallback
from spl.callbacks.trainer import callbacks_of
from spl.lightning_api import LightningModule, Trainer
from spl.sparsify import Stage


class StageListener(SplCallback):
    """A callback that is called when the network is dense, pruned and corrected, before training begins.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> from pytorch_lightning.demos.boring_classes import BoringModel
        >>> from spl import PruneAtInit
        >>> from spl.callbacks import StageListener
        >>> class CountWeights(StageListener):
        ...     def on_stage(self, trainer, pl_module, stage):
        ...         print(stage, int(pl_module.layer.weight.count_nonzero()))
        >>> quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        >>> callbacks = [PruneAtInit(sparsity=0.5), CountWeights()]
        >>> Trainer(callbacks=callbacks, max_steps=1, enable_checkpointing=False, **quiet).fit(BoringModel())
        dense 64
        pruned 32
        corrected 32
    """

    def on_stage(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Act on the network with the weights of `stage`; called on every process."""

    def on_masks_moved(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act on the network after `MoveMasks` has moved its masks in training; called on every process."""


def announce(trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
    """Call `on_stage` of every StageListener among the callbacks of the Trainer.

    Example:
        >>> from pytorch_lightning import LightningModule, Trainer
        >>> from spl.callbacks.stages import StageListener, announce
        >>> class Print(StageListener):
        ...     def on_stage(self, trainer, pl_module, stage):
        ...         print(stage)
        >>> trainer = Trainer(callbacks=[Print()], logger=False, enable_checkpointing=False, accelerator="cpu")
        >>> announce(trainer, LightningModule(), "pruned")
        pruned
    """
    for listener in callbacks_of(trainer, StageListener):
        listener.on_stage(trainer, pl_module, stage)
