"""Engines: where jobs run. Processes of this machine, over its accelerators; or a cluster, by submitit."""

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from spl.errors import InputError

COMMAND = [sys.executable, "-m", "spl.reproduction.worker"]
_POLL = 1.0  # seconds


class Executor(ABC):
    """Runs the processes of jobs."""

    @abstractmethod
    def run(self, files: Sequence[Path]) -> Iterator[list[Path]]:
        """Run the jobs in `files`: every second or so, those that have ended since, however they ended."""


def start_job(file: Path, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start the process of the job in `file`, whose output goes to the log beside it."""
    with file.with_suffix(".log").open("ab") as log:
        # in a session of its own, where Ctrl-C does not reach it but through its parent
        return subprocess.Popen(
            [*COMMAND, str(file)], stdout=log, stderr=log, env=dict(environment), start_new_session=True
        )


class LocalProcesses(Executor):
    """Processes of this machine, as many at a time as asked for; accelerators, if there are any, in turn.

    Args:
        count: processes at a time; None for one an accelerator, or one a core where there is none.
    """

    def __init__(self, count: int | None = None) -> None:
        if count is not None and count < 1:
            raise InputError(f"jobs must be at least 1, got {count}.")
        accelerators = torch.cuda.device_count()
        self.count = count or accelerators or os.cpu_count() or 1
        self._slots: SimpleQueue[str | None] = SimpleQueue()
        for slot in range(self.count):
            self._slots.put(_visible_device(slot % accelerators) if accelerators else None)
        self._running: set[subprocess.Popen[bytes]] = set()

    def run(self, files: Sequence[Path]) -> Iterator[list[Path]]:
        """See `Executor`. When it is closed early, by Ctrl-C, jobs are asked to stop, and waited for."""
        with ThreadPoolExecutor(self.count) as pool:
            futures: dict[Future[None], Path] = {pool.submit(self._work, file): file for file in files}
            try:
                while futures:
                    ended, _ = wait(futures, _POLL, FIRST_COMPLETED)
                    yield [futures.pop(future) for future in ended]
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(self._running):
                    process.send_signal(signal.SIGINT)

    def _work(self, file: Path) -> None:
        device = self._slots.get()
        threads = max(1, (os.cpu_count() or 1) // self.count)
        environment = {"OMP_NUM_THREADS": str(threads)} | os.environ  # where that says so, fewer
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        process = start_job(file, environment)
        self._running.add(process)
        process.wait()
        self._running.discard(process)
        self._slots.put(device)


def _visible_device(index: int) -> str:
    """The accelerator `index` of those that this process may see, in its parent's terms."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[index] if visible else str(index)


class Cluster(Executor):
    """Jobs of a cluster, submitted by submitit (`pip install 'spl[cluster]'`).

    Args:
        kind: slurm; or local, which is this machine without a scheduler.
        folder: for submitit's own files and logs, on a file system that all machines share.
        parameters: of `submitit.AutoExecutor.update_parameters`: timeout_min, slurm_partition, gpus_per_node, …
    """

    def __init__(self, kind: str, folder: Path, parameters: Mapping[str, Any]) -> None:
        try:
            import submitit
        except ImportError as error:
            raise InputError("--cluster needs submitit: pip install 'spl[cluster]'.") from error
        try:
            self._submitit = submitit.AutoExecutor(folder=folder, cluster=kind)
            self._submitit.update_parameters(**parameters)
        except Exception as error:
            raise InputError(f"--cluster {kind} cannot be used: {error}") from error

    def run(self, files: Sequence[Path]) -> Iterator[list[Path]]:
        """See `Executor`. When it is closed early, jobs are taken back."""
        with self._submitit.batch():
            submitted = [self._submitit.submit(_run_job, file.absolute()) for file in files]
        jobs = dict(zip(files, submitted, strict=True))
        try:
            while jobs:
                time.sleep(_POLL)
                ended = [file for file, job in jobs.items() if job.done()]
                for file in ended:
                    del jobs[file]
                yield ended
        finally:
            for job in jobs.values():
                job.cancel()


def _run_job(file: Path) -> int:
    """The process of a job, from which SLURM's words about its own are kept.

    By them Lightning would make as many ranks as it has tasks, and near its time limit have all runs started again.
    What a job has not finished, the next `spl reproduce` goes on with.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return start_job(file, environment).wait()
