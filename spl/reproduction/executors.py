"""Executors, which run jobs: as processes of this machine, over its accelerators, or on a cluster, by submitit."""

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
from spl.reproduction.deadline import note_skipped
from spl.reproduction.job import Job

COMMAND = [sys.executable, "-m", "spl.reproduction.worker"]
UNTIL_STDIN_ENDS = "--until-stdin-ends"
_POLL = 1.0  # seconds


class Executor(ABC):
    """An executor: it runs the processes of jobs.

    Attributes:
        count: the number of processes among which short work is divided.
        sharing: the number of processes that share an accelerator at a time.
    """

    count: int = 1
    sharing: int = 1

    @abstractmethod
    def run(self, files: Sequence[Path]) -> Iterator[list[Path]]:
        """Run the jobs in `files`; yield every second or so those that have ended since, however they ended."""


def _has_time(file: Path) -> bool:
    """Return whether a run of the job in `file` should end before the deadline; note all as skipped if none does."""
    job = Job.read(file)
    if job.has_time():
        return True
    note_skipped(file, job.digests)
    return False


def start_job(file: Path, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start the process of the job in `file`; its output goes to the log beside the file.

    The process ends with this one, however this one ends: with it goes the pipe that is the other's stdin.
    """
    with file.with_suffix(".log").open("ab") as log:
        # in a session of its own, so that Ctrl-C reaches it only through its parent
        return subprocess.Popen(
            [*COMMAND, str(file), UNTIL_STDIN_ENDS],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=dict(environment),
            start_new_session=True,
        )


def _wait(process: "subprocess.Popen[bytes]") -> int:
    """Wait for the process of a job, and return its exit status."""
    status = process.wait()
    assert process.stdin is not None
    process.stdin.close()
    return status


class LocalProcesses(Executor):
    """Processes of this machine, which share its accelerators in turn, if there are any.

    Args:
        count: the number of processes at a time; None for one per accelerator or, without accelerators, one per core.
    """

    def __init__(self, count: int | None = None) -> None:
        if count is not None and count < 1:
            raise InputError(f"jobs must be at least 1, got {count}.")
        accelerators = torch.cuda.device_count()
        self.count = count or accelerators or os.cpu_count() or 1
        self.sharing = -(-self.count // accelerators) if accelerators else 1
        self._slots: SimpleQueue[str | None] = SimpleQueue()
        for slot in range(self.count):
            self._slots.put(_visible_device(slot % accelerators) if accelerators else None)
        self._running: set[subprocess.Popen[bytes]] = set()

    def run(self, files: Sequence[Path]) -> Iterator[list[Path]]:
        """Run the jobs, see `Executor`; if it is closed early, by Ctrl-C, ask the jobs to stop and wait for them."""
        with ThreadPoolExecutor(self.count) as pool:
            futures: dict[Future[None], Path] = {pool.submit(self._work, file): file for file in files}
            try:
                while futures:
                    ended, _ = wait(futures, _POLL, FIRST_COMPLETED)
                    for future in ended:
                        future.result()  # raises what kept a process from starting
                    yield [futures.pop(future) for future in ended]
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(self._running):
                    process.send_signal(signal.SIGINT)

    def _work(self, file: Path) -> None:
        device = self._slots.get()
        try:
            if _has_time(file):
                process = start_job(file, self._environment(device))
                self._running.add(process)
                _wait(process)
                self._running.discard(process)
        finally:
            self._slots.put(device)

    def _environment(self, device: str | None) -> dict[str, str]:
        """Return the environment of a process on a device."""
        threads = max(1, (os.cpu_count() or 1) // self.count)
        environment = {"OMP_NUM_THREADS": str(threads)} | os.environ  # which may ask for fewer
        return environment if device is None else environment | {"CUDA_VISIBLE_DEVICES": device}


def _visible_device(index: int) -> str:
    """Return the name of the accelerator that this process sees as `index`, for CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[index] if visible else str(index)


class Cluster(Executor):
    """Jobs of a cluster, submitted by submitit (`pip install 'spl-lightning[cluster]'`).

    Args:
        kind: slurm, or local for this machine without a scheduler.
        folder: the folder of submitit's own files and logs, on a file system that all machines share.
        parameters: arguments of `submitit.AutoExecutor.update_parameters`: timeout_min, slurm_partition,
            gpus_per_node, …
    """

    def __init__(self, kind: str, folder: Path, parameters: Mapping[str, Any]) -> None:
        try:
            import submitit
        except ImportError as error:
            raise InputError("--cluster needs submitit: pip install 'spl-lightning[cluster]'.") from error
        try:
            self._submitit = submitit.AutoExecutor(folder=folder, cluster=kind)
            self._submitit.update_parameters(**parameters)
        except Exception as error:
            raise InputError(f"--cluster {kind} cannot be used: {error}") from error

    def run(self, files: Sequence[Path]) -> Iterator[list[Path]]:
        """Run the jobs, see `Executor`; if it is closed early, cancel them."""
        with self._submitit.batch():
            submitted = [self._submitit.submit(_run_job, file.absolute()) for file in files]
        jobs, cancelled = dict(zip(files, submitted, strict=True)), set[Path]()
        try:
            while jobs:
                time.sleep(_POLL)
                waiting = [file for file in jobs if not file.with_suffix(".log").exists()]  # in the scheduler's queue
                for file in waiting:
                    if file not in cancelled and not _has_time(file):
                        jobs[file].cancel()
                        cancelled.add(file)
                ended = [file for file, job in jobs.items() if job.done()]
                for file in ended:
                    del jobs[file]
                yield ended
        finally:
            for job in jobs.values():
                job.cancel()


def _run_job(file: Path) -> int:
    """Run the process of a job without SLURM's environment variables, and return its exit status.

    By these variables Lightning would start as many ranks as the job has tasks, and requeue the job near its time
    limit, which starts all runs again. The next `spl reproduce` resumes what a job has not finished.
    """
    if not _has_time(file):
        return 0
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return _wait(start_job(file, environment))
