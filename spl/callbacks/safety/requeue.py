"""Requeue: a job that SLURM is about to end goes back into the queue, and there goes on."""

import os
import signal
import subprocess
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException

from spl.callbacks.lightning_private import cluster_environment
from spl.callbacks.trainer import run_folder, runs_folder


class Requeue(Callback):
    """Under SLURM, where `SLURMEnvironment` has `auto_requeue`, ends a fit on SIGTERM and requeues its job.

    So it does on SIGUSR1, which `#SBATCH --signal=USR1@90` sends 90 seconds before the time is up. The fit ends between
    two steps, with the checkpoint of `SafeInterrupt`, which comes before this callback. Lightning alone would save in
    the middle of a step, into a folder that all runs share, and requeue on SIGUSR1 only. Of several processes the first
    requeues.
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """List the run among this job's, and listen, before anything is scored."""
        environment = cluster_environment(trainer)
        if stage == "fit" and isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            if trainer.is_global_zero and (folder := run_folder(trainer)):
                _list(folder, _runs_of_job(trainer.default_root_dir))
            end = _end if trainer.is_global_zero else _stay
            handlers = {signal.SIGTERM: end, environment.requeue_signal or signal.SIGUSR1: _terminate}
            self._previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Requeue, once the checkpoint is written."""
        if self._previous and isinstance(exception, SIGTERMException) and trainer.is_global_zero:
            command = ["scontrol", "requeue", _job()]
            try:
                status = subprocess.run(command, check=False).returncode
            except FileNotFoundError:
                status = 127
            print(f"\n{' '.join(command)}: {f'failed with status {status}' if status else 'done'}.", flush=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def is_requeued() -> bool:
    """Whether SLURM has started this job again."""
    return "SLURM_RESTART_COUNT" in os.environ and SLURMEnvironment.detect()


def requeued_checkpoint(root: str | Path | None, config: dict[str, Any]) -> Path | None:
    """The last checkpoint of this job, which SLURM has started again; None where there is nothing to go on from.

    Args:
        root: the Trainer's `default_root_dir`.
        config: of the fit; a job may have several, and each goes on from its own.
    """
    runs = _runs_of_job(root)
    folders = map(Path, reversed(runs.read_text().splitlines() if runs.is_file() else []))
    found = (folder / "checkpoints" / "last.ckpt" for folder in folders if _is_of(folder, config))
    return next(filter(Path.is_file, found), None)


def _runs_of_job(root: str | Path | None) -> Path:
    """Where a job lists the folders of its runs, wherever their logger puts them."""
    return runs_folder(root) / f"slurm_{_job()}.txt"


def _list(folder: Path, runs: Path) -> None:
    runs.parent.mkdir(parents=True, exist_ok=True)
    with runs.open("a") as stream:
        stream.write(f"{folder.absolute()}\n")


def _is_of(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a run is of this configuration."""
    yaml_file = folder / "config.yaml"
    asked = (yaml.safe_load(yaml_file.read_text()) if yaml_file.is_file() else None) or {}  # empty after a full disk
    return bool(asked | {"ckpt_path": None} == config | {"ckpt_path": None})


def _job() -> str:
    """The name by which `scontrol` knows it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _end(number: int, frame: FrameType | None) -> None:
    """End a fit that has nothing to save yet; as soon as it has, `SafeInterrupt` is told instead."""
    raise SIGTERMException


def _stay(number: int, frame: FrameType | None) -> None:
    """Be there where processes meet, for the first of them to get to its end, and to requeue."""


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGTERM)
