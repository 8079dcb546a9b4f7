"""The base class of the callbacks, which refuse a Trainer of the package of Lightning that spl does not use."""

from spl.errors import InputError
from spl.lightning_api import Callback, LightningModule, Trainer, mismatch


class SplCallback(Callback):
    """A callback that refuses a Trainer, or loggers, of the package of Lightning that spl does not use.

    A Trainer calls any object that has the methods of a callback. But what the callbacks of spl look for would not be
    found, such as the TensorBoardLogger of the other package.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the Trainer and its loggers, before anything runs.

        Raises:
            InputError: they belong to the other package.
        """
        check_package(trainer)


def check_package(trainer: Trainer) -> None:
    """Refuse a Trainer of the package of Lightning that spl does not use, and loggers of it.

    Example:
        >>> from spl.callbacks.base import check_package
        >>> from spl.lightning_api import Trainer
        >>> check_package(Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"))
    """
    for part in (trainer, *trainer.loggers):
        if message := mismatch(part):
            raise InputError(message)
