"""The process of a job: `python -m spl.reproduction.worker JOB.json`; its output is the job's log."""

import hashlib
import os
import platform
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

import spl
from spl import lightning_api
from spl.callbacks.lightning_private import ignore_stray_checkpoints
from spl.callbacks.safety.checkpoint_io import WholeCheckpoints
from spl.callbacks.trainer import run_folder
from spl.classifier import SparseClassifier
from spl.cli.fit import run as run_command
from spl.cli.repeated_fit import RepeatedFitCLI
from spl.errors import InputError
from spl.lightning_api import LightningDataModule, Trainer
from spl.networks.loading.plain import class_paths
from spl.reproduction.deadline import note_pace, note_skipped
from spl.reproduction.events import check_events, scalars_of
from spl.reproduction.executors import UNTIL_STDIN_ENDS
from spl.reproduction.job import Job, PlannedRun
from spl.reproduction.results import Result
from spl.reproduction.run import RUN_FILE
from spl.reproduction.stacked import prepare, train

_QUIET: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False
)
_REFUSED = 2  # exit status of a parser that refuses its input; Lightning exits with others when asked to stop
_CHECKPOINTS = {"final": "last.ckpt", "best": "best.ckpt"}


class _Fit(RepeatedFitCLI):
    """`spl fit` that moves the run's own YAML into its folder before it begins."""

    def __init__(self, *args: Any, run_yaml: Path, **kwargs: Any) -> None:
        self.run_yaml = run_yaml
        super().__init__(*args, **kwargs)

    def before_fit(self) -> None:
        """Move the YAML."""
        _move_run_yaml(self.run_yaml, self.folder)

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        folder = run_folder(self.trainer)
        assert folder is not None
        return folder


def _move_run_yaml(run_yaml: Path, folder: Path) -> None:
    shutil.move(run_yaml, folder / RUN_FILE)


def work(file: Path) -> list[str]:
    """Make the runs of the job in `file`, write their results, and return the names of the runs that failed.

    A run that fails says why in the log, and the others go on. A run that would not end before the deadline is skipped.
    """
    failed, job = [], Job.read(file)
    for group in job.groups:
        failed += (_make_stacked if group.together else _make_one_by_one)(group.runs, job, file)
    return failed


def _has_time(runs: Sequence[PlannedRun], together: bool, job: Job, file: Path) -> bool:
    """Return whether runs should end before the deadline of the job; note them as skipped if not."""
    if job.may_begin(runs, together):
        return True
    for run in runs:
        print(f"{run.config['name']} is left for the next command: it would not end in time.", flush=True)
    note_skipped(file, [run.digest for run in runs])
    return False


def _write_yaml(run: PlannedRun, file: Path) -> Path:
    path = file.with_suffix(f".{run.digest[:12]}.yaml")
    path.write_text(f"# spl fit --config {RUN_FILE}\n{yaml.safe_dump(run.config, sort_keys=False)}")
    return path


def _make_one_by_one(runs: Sequence[PlannedRun], job: Job, file: Path) -> list[str]:
    failed = []
    for run in runs:
        if not _has_time([run], False, job, file):
            continue
        start = time.monotonic()
        try:
            run_yaml = _write_yaml(run, file)
            earlier = [folder for folder in map(Path, run.attempts) if _can_go_on(folder)]
            resume = ["--ckpt_path", str(_last_checkpoint(earlier[-1]))] if earlier else []
            cli = run_command(_Fit, ["fit", "--config", str(run_yaml), *resume], run_yaml=run_yaml)
            _finish(run, [*earlier, cli.folder], cli.model, cli.datamodule, file, time.monotonic() - start, 1)
            if not earlier:
                note_pace(file, run.cost(together=False), time.monotonic() - start)
        except (Exception, SystemExit) as error:
            _report_failure(error)
            failed.append(run.config["name"])
    return failed


def _report_failure(error: BaseException) -> None:
    """Print why a run failed; raise the error again if the run was asked to stop, which ends the job."""
    if isinstance(error, SystemExit) and error.code != _REFUSED:
        raise error
    traceback.print_exception(error)


def _can_go_on(folder: Path) -> bool:
    """Return whether an attempt has left a checkpoint to go on from, and events that can be read."""
    try:
        WholeCheckpoints().load_checkpoint(_last_checkpoint(folder))
        check_events(folder)
    except InputError as error:
        print(f"{folder} is not gone on with: {error}", flush=True)
        return False
    return True


def _last_checkpoint(folder: Path) -> Path:
    return folder / "checkpoints" / _CHECKPOINTS["final"]


def _make_stacked(runs: Sequence[PlannedRun], job: Job, file: Path) -> list[str]:
    if not _has_time(runs, True, job, file):
        return []
    failed, stacked = [], []
    start = time.monotonic()
    for run in runs:
        run_yaml = _write_yaml(run, file)
        try:
            stacked.append((run, prepare(["--config", str(run_yaml)], partial(_move_run_yaml, run_yaml))))
        except (Exception, SystemExit) as error:
            _report_failure(error)
            failed.append(run.config["name"])
    if not stacked:
        return failed
    try:
        checkpoint = _stack_checkpoint([run for run, _ in stacked], file)
        resumed = checkpoint.exists()
        train([prepared for _, prepared in stacked], checkpoint)
    except Exception:  # a network may do what a stack of it cannot
        traceback.print_exc()
        print("These networks cannot train together: each is trained alone instead.", flush=True)
        return failed + _make_one_by_one([run for run, _ in stacked], job, file)
    seconds = (time.monotonic() - start) / len(stacked)
    for run, prepared in stacked:
        try:
            _finish(run, [prepared.folder], prepared.model, prepared.data, file, seconds, len(stacked))
            if not resumed:
                note_pace(file, run.cost(together=True), (time.monotonic() - start) / len(stacked))
        except Exception:
            traceback.print_exc()
            failed.append(run.config["name"])
    return failed


def _stack_checkpoint(runs: list[PlannedRun], file: Path) -> Path:
    """Return the file that keeps the state of these runs while they train, and where a later job of them finds it."""
    digest = hashlib.sha256(" ".join(run.digest for run in runs).encode()).hexdigest()
    return file.parent.parent / f"{digest}.ckpt"


def _finish(
    run: PlannedRun,
    folders: list[Path],
    model: SparseClassifier,
    data: LightningDataModule,
    file: Path,
    seconds: float,
    together: int,
) -> None:
    """Test the checkpoints in the last of the run's folders, write the result, and count the run as finished.

    Args:
        run: the run.
        folders: the folders of the attempts that it resumed, and last the folder in which it was finished.
        model: the model that was trained, whose network its checkpoints may name.
        data: the data set to test on.
        file: the file of the job.
        seconds: the time that the run took.
        together: the number of runs that were trained together.
    """
    folder = folders[-1]
    checkpoints = {which: folder / "checkpoints" / name for which, name in _CHECKPOINTS.items()}
    trust = class_paths(model.network_config)
    test = {which: _test(path, trust, data, run) for which, path in checkpoints.items() if path.is_file()}
    record = _environment() | {"seconds": seconds, "population": together}
    Result(folder, run.digest, test, scalars_of(folders), record).write()
    with file.with_suffix(".done").open("a") as stream:
        stream.write(f"{run.digest}\n")


def _test(checkpoint: Path, trust: list[str], data: LightningDataModule, run: PlannedRun) -> dict[str, float]:
    """Return the loss and accuracy of a checkpoint on the test set."""
    wanted = run.config["trainer"]
    settings: dict[str, Any] = {
        key: wanted[key] for key in ("accelerator", "devices", "limit_test_batches") if key in wanted
    }
    model = SparseClassifier.load_from_checkpoint(checkpoint, trust=trust)
    trainer = Trainer(**_QUIET, **settings)
    ignore_stray_checkpoints(trainer)
    (metrics,) = trainer.test(model, datamodule=data, verbose=False)
    return {name.removesuffix("/test"): value for name, value in metrics.items()}


def _environment() -> dict[str, Any]:
    """Return on what device, with which versions and when a run was made."""
    versions = {"spl": spl.__version__, "torch": torch.__version__}
    versions |= {"pytorch-lightning": lightning_api.version(), "python": platform.python_version()}
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {platform.machine()}",
        "threads": torch.get_num_threads(),
        "versions": versions,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _end_with_stdin() -> None:
    """Interrupt this process, as Ctrl-C would, when nobody holds the other end of stdin any more."""
    while os.read(sys.stdin.fileno(), 1024):  # without the lock of a buffer, which would abort an exit meanwhile
        pass
    print("The command that started this job is gone: the job stops, and the next command resumes it.", flush=True)
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    if sys.argv[2:] == [UNTIL_STDIN_ENDS]:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    failed = work(Path(sys.argv[1]))
    print("".join(f"failed: {name}\n" for name in failed), end="", flush=True)
    sys.exit(1 if failed else 0)
