"""`spl fit` for a process that fits many networks."""

from typing import Any, ClassVar

from spl.callbacks import FiniteLoss
from spl.cli.fit import SplCLI
from spl.data import ImageDataModule
from spl.data.images import Splits


class RepeatedFitCLI(SplCLI):
    """An `SplCLI` that knows fit alone, for a process that fits many networks one after the other.

    It differs from `SplCLI` in three ways. It has no other subcommand, so that its parser is made in a fifth of the
    time. Images that the previous fit has read are not read again. And a network that diverges is trained to the end,
    because that it did is a result too.
    """

    default_callbacks = tuple(callback for callback in SplCLI.default_callbacks if callback is not FiniteLoss)
    _images: ClassVar[dict[str, Splits]] = {}  # those read last, by the configuration of the data and the device

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the one subcommand, fit."""
        return {"fit": SplCLI.subcommands()["fit"]}

    def fit(self, **kwargs: Any) -> None:
        """Fit, on the images in memory if they are the same."""
        datamodule, source = self.datamodule, f"{self.config['fit'].data} {self.trainer.strategy.root_device}"
        if isinstance(datamodule, ImageDataModule) and source in self._images:
            datamodule.share(self._images[source])
        self.trainer.fit(**kwargs)
        if isinstance(datamodule, ImageDataModule) and datamodule.splits is not None:
            self._images.clear()
            self._images[source] = datamodule.splits
