"""Member: a run of `spl fit` that stands before its first training step."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer

from spl.callbacks import JacobianSpectrum, Summary
from spl.callbacks.trainer import callbacks_of, run_folder
from spl.classifier import SparseClassifier
from spl.cli.fit import RepeatedFitCLI, run
from spl.data import ImageDataModule
from spl.errors import InputError


@dataclass(frozen=True, eq=False)
class Member:
    """What `spl fit` has in hand the moment training would start.

    Attributes:
        model: initialized, pruned and corrected.
        trainer: with the run's settings, its callbacks and its logger; it trains nothing itself.
        data: read and split; `data.seed` decides the training order.
        folder: the run's own, with config.yaml, pruning.yaml and spectra.png.
        tested: whether the run asks for the test set after fit.
    """

    model: SparseClassifier
    trainer: Trainer
    data: ImageDataModule
    folder: Path
    tested: bool

    @property
    def spectrum(self) -> JacobianSpectrum:
        """What measures the run."""
        (spectrum,) = callbacks_of(self.trainer, JacobianSpectrum)
        return spectrum


def prepare(args: list[str], announce: Callable[[Path], None] = lambda folder: None) -> Member:
    """`spl fit ARGS` up to the first training step, of which none is made; nothing is tested.

    Seeded, initialized, pruned, corrected, spectra measured and logged, config.yaml and pruning.yaml written.

    Args:
        args: of `spl fit`, such as ["--config", "run.yaml", "--seed_everything", "1"].
        announce: is told the run's folder before anything is computed.

    Raises:
        InputError: what `spl fit` refuses, and a run without a folder or on other data than images.
    """
    cli = run(_Preparation, ["fit", *args], announce=announce)
    folder = run_folder(cli.trainer)
    assert folder is not None
    return Member(cli.model, cli.trainer, cli.datamodule, folder, cli.test_after_fit)


class _Preparation(RepeatedFitCLI):
    """`spl fit` that returns where training would begin."""

    def __init__(self, *args: Any, announce: Callable[[Path], None], **kwargs: Any) -> None:
        self.announce = announce
        super().__init__(*args, **kwargs)

    @property
    def test_after_fit(self) -> bool:
        return bool(self._get(self.config_init, "test_after_fit"))

    def before_fit(self) -> None:
        """Let fit make no step."""
        folder = run_folder(self.trainer)
        if folder is None:
            raise InputError("A member of a population needs a folder of its own: leave trainer.logger out.")
        if not isinstance(self.datamodule, ImageDataModule):
            raise InputError(
                f"A population trains on an ImageDataModule, got {type(self.datamodule).__name__}: train it by "
                "`spl fit`."
            )
        self.announce(folder)
        self.limit_train_batches = self.trainer.limit_train_batches
        self.trainer.limit_train_batches = self.trainer.num_sanity_val_steps = 0
        callbacks = [c for c in callbacks_of(self.trainer, Callback) if not isinstance(c, Summary)]
        self.trainer.callbacks = callbacks  # type: ignore[attr-defined]

    def after_fit(self) -> None:
        """Draw the spectra, as the start of training would, and give the settings back."""
        self.trainer.limit_train_batches = self.limit_train_batches
        for spectrum in callbacks_of(self.trainer, JacobianSpectrum):
            spectrum.on_train_start(self.trainer, self.model)
