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
        self._trains = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Mark the run as this job's, and listen, before anything is scored."""
        signals = _signals(trainer)
        if stage == "fit" and signals:
            if trainer.is_global_zero and (folder := run_folder(trainer)):
                (folder / _MARK).write_text(_job())
            self._previous = {number: signal.signal(number, self._end) for number in signals}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on there is something to save, and Lightning ends the fit between two steps on SIGTERM."""
        self._trains = True

    def _end(self, number: int, frame: FrameType | None) -> None:
        if not self._trains:
            raise SIGTERMException
        if number != signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)

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
        self._previous, self._trains = {}, False


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


def _signals(trainer: Trainer) -> set[int]:
    """Those on which to requeue; none where SLURM does not run it, or is not asked to."""
    environment = trainer._accelerator_connector.cluster_environment
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
        return set()
    return {signal.SIGTERM, environment.requeue_signal or signal.SIGUSR1}
