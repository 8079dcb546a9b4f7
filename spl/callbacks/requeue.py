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

from spl.callbacks.run import run_folder

_MARK = "slurm_job"


class Requeue(Callback):
    """Under SLURM, where `SLURMEnvironment` has `auto_requeue`, ends a fit on SIGTERM and requeues its job.

    So it does on SIGUSR1, which `#SBATCH --signal=USR1@90` sends 90 seconds before the time is up. The fit ends between
    two steps, with the checkpoint of `SafeInterrupt`, which comes before this callback. Lightning alone would save in
    the middle of a step, into a folder that all runs share, and requeue on SIGUSR1 only.
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Mark the run as this job's, and listen, before anything is scored."""
        environment = trainer._accelerator_connector.cluster_environment
        if stage == "fit" and isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            if trainer.is_global_zero and (folder := run_folder(trainer)):
                (folder / _MARK).write_text(_job())
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


def requeued_checkpoint(runs: Path, config: dict[str, Any]) -> Path | None:
    """The last checkpoint of this job, which SLURM has started again; None where there is nothing to go on from.

    Args:
        runs: folder of the folders of runs.
        config: of the fit; a job may have several, and each goes on from its own.
    """
    found = [path for path in runs.glob("*/checkpoints/last.ckpt") if _is_of(path.parent.parent, config)]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def _is_of(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a run is of this job and configuration."""
    mark, yaml_file = folder / _MARK, folder / "config.yaml"
    if not mark.is_file() or not yaml_file.is_file() or mark.read_text() != _job():
        return False
    asked = yaml.safe_load(yaml_file.read_text()) or {}  # empty after a full disk
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
