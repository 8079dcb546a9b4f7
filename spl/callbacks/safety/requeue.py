"""A callback that requeues a SLURM job before its time is up, so that it goes on later."""

import os
import signal
import subprocess
from pathlib import Path
from types import FrameType
from typing import Any

from spl.callbacks.base import SplCallback
from spl.callbacks.lightning_private import cluster_environment
from spl.callbacks.trainer import run_folder, runs_folder
from spl.errors import InputError
from spl.files import read_text, read_yaml
from spl.lightning_api import LightningModule, SIGTERMException, SLURMEnvironment, Trainer


class Requeue(SplCallback):
    """A callback that, under SLURM, ends a fit on SIGTERM or SIGUSR1 and requeues its job.

    It acts if the `SLURMEnvironment` has `auto_requeue`. SLURM sends SIGUSR1 90 seconds before the time is up if asked
    to by `#SBATCH --signal=USR1@90`. The fit ends between two steps, with the checkpoint of `SafeInterrupt`, which must
    come before this callback. The first of several processes requeues the job. Lightning alone would save in the middle
    of a step, into a folder that all runs share, and requeue on SIGUSR1 only.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> from spl.callbacks import LastCheckpoint, Requeue, SafeInterrupt
        >>> callbacks = [SafeInterrupt(), Requeue(), LastCheckpoint()]
        >>> trainer = Trainer(callbacks=callbacks, logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Record the run's folder for this job and install the signal handlers, before anything is scored."""
        super().setup(trainer, pl_module, stage)
        environment = cluster_environment(trainer)
        if stage == "fit" and isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            if trainer.is_global_zero and (folder := run_folder(trainer)):
                _record(folder, _runs_of_job(trainer.default_root_dir))
            end = _end if trainer.is_global_zero else _ignore
            handlers = {signal.SIGTERM: end, environment.requeue_signal or signal.SIGUSR1: _terminate}
            self._previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Requeue the job; the checkpoint has been written by then."""
        if self._previous and isinstance(exception, SIGTERMException) and trainer.is_global_zero:
            command = ["scontrol", "requeue", _job()]
            try:
                status = subprocess.run(command, check=False).returncode
            except FileNotFoundError:
                status = 127
            if status == 0:
                exception.code = 0  # the job goes on: a batch script must not take this for a failure
            print(f"\n{' '.join(command)}: {f'failed with status {status}' if status else 'done'}.", flush=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def is_requeued() -> bool:
    """Return whether SLURM has started this job again."""
    return "SLURM_RESTART_COUNT" in os.environ and SLURMEnvironment.detect()


def requeued_checkpoint(root: str | Path | None, config: dict[str, Any]) -> Path | None:
    """Return the last checkpoint that this job wrote before SLURM started it again, or None if there is none.

    Args:
        root: the Trainer's `default_root_dir`.
        config: the configuration of the fit; a job may have several fits, and each goes on from its own checkpoint.
    """
    runs = _runs_of_job(root)
    folders = map(Path, reversed(_lines(runs)))
    found = (folder / "checkpoints" / "last.ckpt" for folder in folders if _has_config(folder, config))
    return next(filter(Path.is_file, found), None)


def _lines(file: Path) -> list[str]:
    """Return the lines of a file; none if there is no such file, or it is no text."""
    try:
        return read_text(file).splitlines()
    except InputError:
        return []


def _runs_of_job(root: str | Path | None) -> Path:
    """Return the file in which a job lists the folders of its runs, wherever their logger puts them."""
    return runs_folder(root) / f"slurm_{_job()}.txt"


def _record(folder: Path, runs: Path) -> None:
    runs.parent.mkdir(parents=True, exist_ok=True)
    with runs.open("a") as stream:
        stream.write(f"{folder.absolute()}\n")


def _has_config(folder: Path, config: dict[str, Any]) -> bool:
    """Return whether the run in a folder has this configuration."""
    try:
        asked = read_yaml(folder / "config.yaml")
    except InputError:  # there is none, or it is damaged or half, because the disk was full or the job was killed
        return False
    return isinstance(asked, dict) and bool(asked | {"ckpt_path": None} == config | {"ckpt_path": None})


def _job() -> str:
    """Return the name of this job for `scontrol`."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _end(number: int, frame: FrameType | None) -> None:
    """End a fit that has nothing to save yet; the handler of `SafeInterrupt` replaces this one later."""
    raise SIGTERMException


def _ignore(number: int, frame: FrameType | None) -> None:
    """Ignore the signal, so that the first process, which may wait for this one, can reach its end and requeue."""


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGTERM)
