"""Functions that callbacks use to ask their Trainer for callbacks, data and folders."""

from pathlib import Path
from typing import TypeVar

from pytorch_lightning import Callback, LightningDataModule, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.loggers.logger import DummyLogger

C = TypeVar("C", bound=Callback)


def callbacks_of(trainer: Trainer, kind: type[C]) -> list[C]:
    """Return the callbacks of a Trainer that are instances of `kind`."""
    callbacks: list[Callback] = getattr(trainer, "callbacks")  # noqa: B009 (set without a declaration)
    return [callback for callback in callbacks if isinstance(callback, kind)]


def add_callback(trainer: Trainer, callback: Callback, behind: Callback) -> None:
    """Add a callback to the Trainer right behind another one, unless it has one of that class."""
    callbacks = callbacks_of(trainer, Callback)
    if not any(type(other) is type(callback) for other in callbacks):
        place = next((i for i, other in enumerate(callbacks, 1) if other is behind), len(callbacks))
        trainer.callbacks.insert(place, callback)  # type: ignore[attr-defined]


def datamodule_of(trainer: Trainer) -> LightningDataModule | None:
    """Return the DataModule of a Trainer, or None if it has none."""
    datamodule: LightningDataModule | None = getattr(trainer, "datamodule")  # noqa: B009 (set without a declaration)
    return datamodule


def runs_folder(root: str | Path | None) -> Path:
    """Return the folder below the Trainer's `default_root_dir` for runs whose logger has no folder of its own."""
    return Path(root or ".", "lightning_logs")


def run_folder(trainer: Trainer) -> Path | None:
    """Return the folder of the run's logs, and make it if needed; None if nothing is logged.

    Nothing is logged without a logger and with `fast_dev_run`. The first process may call this alone, while
    `Trainer.log_dir` waits for the others.
    """
    logger: Logger | None = trainer.logger
    if logger is None or isinstance(logger, DummyLogger):
        return None
    folder = Path(logger.log_dir or logger.save_dir or trainer.default_root_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
