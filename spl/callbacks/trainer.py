"""What callbacks ask of their Trainer."""

from pathlib import Path
from typing import TypeVar

from pytorch_lightning import Callback, LightningDataModule, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.loggers.logger import DummyLogger

C = TypeVar("C", bound=Callback)


def callbacks_of(trainer: Trainer, kind: type[C]) -> list[C]:
    """Its callbacks of one kind."""
    callbacks: list[Callback] = getattr(trainer, "callbacks")  # noqa: B009 (set without a declaration)
    return [callback for callback in callbacks if isinstance(callback, kind)]


def add_callback(trainer: Trainer, callback: Callback, behind: Callback) -> None:
    """Add a callback to the Trainer right behind another one, unless it has one of that class."""
    callbacks = callbacks_of(trainer, Callback)
    if not any(type(other) is type(callback) for other in callbacks):
        place = next((i for i, other in enumerate(callbacks, 1) if other is behind), len(callbacks))
        trainer.callbacks.insert(place, callback)  # type: ignore[attr-defined]


def datamodule_of(trainer: Trainer) -> LightningDataModule | None:
    """The DataModule that it was given."""
    datamodule: LightningDataModule | None = getattr(trainer, "datamodule")  # noqa: B009 (set without a declaration)
    return datamodule


def runs_folder(root: str | Path | None) -> Path:
    """Where runs are logged below the Trainer's `default_root_dir`, unless a logger of its own has another place."""
    return Path(root or ".", "lightning_logs")


def run_folder(trainer: Trainer) -> Path | None:
    """The folder of its logs, made if need be; None where nothing is logged (no logger, `fast_dev_run`).

    For the process that logs, alone: `Trainer.log_dir` would wait there for the others.
    """
    logger: Logger | None = trainer.logger
    if logger is None or isinstance(logger, DummyLogger):
        return None
    folder = Path(logger.log_dir or logger.save_dir or trainer.default_root_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
