"""FitCLI: `spl fit` for a process that fits many networks, one after the other."""

from typing import Any, ClassVar

from spl.callbacks import FiniteLoss
from spl.cli.fit import SplCLI
from spl.data import ImageDataModule
from spl.data.images import Splits


class FitCLI(SplCLI):
    """`spl fit` alone: its parser is made in a fifth of the time, the images of the fit before are not read again.

    A network that diverges is trained to the end: that it did is a result too.
    """

    default_callbacks = tuple(callback for callback in SplCLI.default_callbacks if callback is not FiniteLoss)
    _kept: ClassVar[dict[str, Splits]] = {}  # the images that were read last, by how and where to

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the one subcommand, fit."""
        return {"fit": SplCLI.subcommands()["fit"]}

    def fit(self, **kwargs: Any) -> None:
        """Fit, from images in memory where they are there."""
        data, source = self.datamodule, f"{self.config['fit'].data} {self.trainer.strategy.root_device}"
        if isinstance(data, ImageDataModule) and source in self._kept:
            data.share(self._kept[source])
        self.trainer.fit(**kwargs)
        if isinstance(data, ImageDataModule) and data.splits is not None:
            self._kept.clear()
            self._kept[source] = data.splits
