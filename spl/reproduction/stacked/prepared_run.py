"""A prepared run: a run of `spl fit` that is ready for its first training step."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spl.callbacks import JacobianSpectrum
from spl.callbacks.trainer import callbacks_of, run_folder
from spl.classifier import SparseClassifier
from spl.cli.fit import run
from spl.cli.repeated_fit import RepeatedFitCLI
from spl.cli.trainer import SplTrainer
from spl.data import ImageDataModule
from spl.errors import InputError
from spl.lightning_api import Trainer


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """A run of `spl fit` that is ready for its first training step.

    Attributes:
        model: the network, initialized, pruned and corrected.
        trainer: a Trainer with the run's settings, callbacks and logger; it trains nothing itself.
        data: the data set, read and split; `data.seed` decides the training order.
        folder: the run's own folder, with config.yaml, pruning.yaml and spectra.png.
        tested: whether the run asks for an evaluation on the test set after fit.
    """

    model: SparseClassifier
    trainer: Trainer
    data: ImageDataModule
    folder: Path
    tested: bool

    @property
    def spectrum(self) -> JacobianSpectrum:
        """The callback that measures the run's Jacobian singular values."""
        (spectrum,) = callbacks_of(self.trainer, JacobianSpectrum)
        return spectrum


def prepare(args: list[str], announce: Callable[[Path], None] = lambda folder: None) -> PreparedRun:
    """Run `spl fit ARGS` up to the first training step, which is not made; nothing is tested.

    The network is seeded, initialized, pruned and corrected, its spectra are measured and logged, and config.yaml and
    pruning.yaml are written.

    Args:
        args: the arguments of `spl fit`, such as ["--config", "run.yaml", "--seed_everything", "1"].
        announce: called with the run's folder before anything is computed.

    Raises:
        InputError: `spl fit` refuses the arguments, or the run has no folder or trains on other data than images.
    """
    cli = run(_Preparation, ["fit", *args], announce=announce)
    folder = run_folder(cli.trainer)
    assert folder is not None
    return PreparedRun(cli.model, cli.trainer, cli.datamodule, folder, cli.test_after_fit)


class _Preparation(RepeatedFitCLI):
    """`spl fit` that returns where training would begin."""

    def __init__(self, *args: Any, announce: Callable[[Path], None], **kwargs: Any) -> None:
        self.announce = announce
        super().__init__(*args, **kwargs)

    @property
    def test_after_fit(self) -> bool:
        return bool(self._get(self.config_init, "test_after_fit"))

    def before_fit(self) -> None:
        """Refuse a run that cannot be stacked, and announce its folder."""
        folder = run_folder(self.trainer)
        if folder is None:
            raise InputError("A run that is stacked with others needs a folder of its own: leave trainer.logger out.")
        if not isinstance(self.datamodule, ImageDataModule):
            raise InputError(
                f"Runs that are stacked train on an ImageDataModule, got {type(self.datamodule).__name__}: train this "
                "run by `spl fit`."
            )
        self.announce(folder)

    def fit(self, **kwargs: Any) -> None:
        """Fit without a step."""
        assert isinstance(self.trainer, SplTrainer)
        with self.trainer.without_steps():
            super().fit(**kwargs)

    def after_fit(self) -> None:
        """Draw the spectra, as the start of training would."""
        for spectrum in callbacks_of(self.trainer, JacobianSpectrum):
            spectrum.on_train_start(self.trainer, self.model)
