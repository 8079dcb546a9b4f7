"""LastCheckpoint: the newest state of every fit, whatever else is kept."""

from pytorch_lightning.callbacks import ModelCheckpoint


class LastCheckpoint(ModelCheckpoint):
    """Writes `checkpoints/last.ckpt` in the run's folder after every epoch, and at the end.

    The `save_last` of a ModelCheckpoint that keeps the best is as old as the best.
    """

    def __init__(self) -> None:
        super().__init__(filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
