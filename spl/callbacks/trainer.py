"""Functions that callbacks use to ask their Trainer for callbacks, data and folders."""

from pathlib import Path
from typing import TypeVar

from spl.lightning_api import Callback, DummyLogger, LightningDataModule, Logger, Trainer

C = TypeVar("C", bound=Callback)


def callbacks_of(trainer: Trainer, kind: type[C]) -> list[C]:
    """Return the callbacks of a Trainer that are instances of `kind`.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> from spl.callbacks import FiniteLoss
        >>> from spl.callbacks.trainer import callbacks_of
        >>> trainer = Trainer(callbacks=[FiniteLoss()], logger=False, enable_checkpointing=False, accelerator="cpu")
        >>> len(callbacks_of(trainer, FiniteLoss))
        1
    """
    callbacks: list[Callback] = getattr(trainer, "callbacks")  # noqa: B009 (set without a declaration)
    return [callback for callback in callbacks if isinstance(callback, kind)]


def add_callback(trainer: Trainer, callback: Callback, behind: Callback) -> None:
    """Add a callback to the Trainer right behind another one, unless it has one of that class."""
    callbacks = callbacks_of(trainer, Callback)
    if not any(type(other) is type(callback) for other in callbacks):
        place = next((i for i, other in enumerate(callbacks, 1) if other is behind), len(callbacks))
        trainer.callbacks.insert(place, callback)  # type: ignore[attr-defined]


def datamodule_of(trainer: Trainer) -> LightningDataModule | None:
    """Return the DataModule of a Trainer, or None if it has none.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> from spl.callbacks.trainer import datamodule_of
        >>> datamodule_of(Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")) is None
        True
    """
    datamodule: LightningDataModule | None = getattr(trainer, "datamodule")  # noqa: B009 (set without a declaration)
    return datamodule


def runs_folder(root: str | Path | None) -> Path:
    """Return the folder below the Trainer's `default_root_dir` for runs whose logger has no folder of its own.

    Example:
        >>> from spl.callbacks.trainer import runs_folder
        >>> runs_folder("experiments").as_posix()
        'experiments/lightning_logs'
    """
    return Path(root or ".", "lightning_logs")


def run_folder(trainer: Trainer) -> Path | None:
    """Return the folder of the run's logs, and make it if needed; None if nothing is logged.

    Nothing is logged without a logger and with `fast_dev_run`. The first process may call this alone, while
    `Trainer.log_dir` waits for the others.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> from spl.callbacks.trainer import run_folder
        >>> run_folder(Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")) is None
        True
    """
    logger: Logger | None = trainer.logger
    if logger is None or isinstance(logger, DummyLogger):
        return None
    folder = Path(logger.log_dir or logger.save_dir or trainer.default_root_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
