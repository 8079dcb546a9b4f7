"""Readers that leave, commands beside each other, machines without room: checkpoints stay, or one line says why."""

import errno
import multiprocessing
import multiprocessing.synchronize
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from commands import command
from forking import python
from lightning_utilities.core.rank_zero import rank_zero_only

from attacks import QUICK, refused
from spl.callbacks import SafeInterrupt
from spl.cli.advice import advice
from spl.cli.run_logger import RunLogger
from spl.reproduction import executors
from spl.reproduction.execution import _new_folder
from spl.reproduction.executors import LocalProcesses, start_job
from spl.reproduction.job import Group, Job, PlannedRun
from spl.reproduction.results import Results

LONG = [
    *QUICK,
    "--trainer.limit_train_batches",
    1.0,
    "--trainer.max_epochs",
    10_000,
    "--trainer.enable_progress_bar",
    "true",
]
FIRST = Path("lightning_logs/quickstart/version_0")


def spl(*args, **options):
    """Start the command in a process of its own."""
    return subprocess.Popen([*python(), "-m", "spl", *map(str, args)], text=True, **options)


def wait_for(file, process, seconds=60):
    end = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < end, f"{file} was not written"
        assert process.poll() is None, f"ended with {process.returncode}"
        time.sleep(0.05)


# Readers that leave


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_fit_whose_output_nobody_reads_goes_on_until_it_is_stopped_and_leaves_its_checkpoint(number):
    with spl("fit", *LONG, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        process.stdout.readline()
        process.stdout.close()  # as `| head -1` does
        wait_for(FIRST / "checkpoints/best.ckpt", process)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    step = torch.load(FIRST / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert step > 0


@pytest.mark.parametrize("args", [["--help"], ["fit", "--help"], ["fit", *QUICK]], ids=["overview", "help", "fit"])
def test_a_command_whose_reader_has_left_ends_well(args):
    with spl(*args, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0, errors
    assert "Broken" not in errors
    assert "Traceback" not in errors


def test_without_stdout_and_stderr_a_fit_ends_well():
    closed = "import os, sys\nfor number in (1, 2):\n    os.close(number)\nsys.stdout = sys.stderr = None\n"
    Path("closed.py").write_text(f"{closed}from spl.__main__ import main\nmain(sys.argv[1:])\nos._exit(0)\n")
    assert subprocess.run([*python(), "closed.py", "fit", *map(str, QUICK)], timeout=60).returncode == 0
    assert (FIRST / "checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "no reader"), RuntimeError("reentrant call")])
def test_a_signal_is_received_where_nothing_can_be_printed(monkeypatch, error):
    class Unwritable:
        def write(self, text):
            raise error

    monkeypatch.setattr(sys, "stdout", Unwritable())
    callback = SafeInterrupt()
    callback._receive(signal.SIGTERM, None)
    assert callback._received == signal.SIGTERM


@pytest.mark.parametrize("what", [["--help"], ["fit", "--help"], ["reproduce", "--help"], ["summary", "--help"]])
def test_ctrl_c_while_python_imports_ends_in_one_line(monkeypatch, what):
    def import_(name, *args, **kwargs):
        if name.startswith(("spl.", "importlib.metadata")):
            raise KeyboardInterrupt
        return original(name, *args, **kwargs)

    original = __import__
    monkeypatch.setattr("builtins.__import__", import_)
    ended = command(*what)
    assert (ended.code, ended.errors) == (130, "\nInterrupted.\n")


# Commands beside each other


def test_fits_that_start_at_once_get_folders_of_their_own():
    processes = [spl("fit", *QUICK, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    names = {f"version_{n}" for n in range(3)}
    assert {folder.name for folder in FIRST.parent.iterdir()} == names
    assert all((FIRST.parent / name / "checkpoints/last.ckpt").is_file() for name in names)


def test_loggers_of_many_threads_take_different_versions():
    FIRST.parent.mkdir(parents=True)
    (FIRST.parent / "version_3").write_text("a file of the user")
    with ThreadPoolExecutor(8) as pool:
        loggers = list(pool.map(lambda _: RunLogger("lightning_logs", name="quickstart"), range(24)))
        versions = list(pool.map(lambda logger: logger.version, loggers))
    assert sorted(versions) == [n for n in range(25) if n != 3]
    assert (FIRST.parent / "version_3").read_text() == "a file of the user"


def test_only_the_first_process_of_a_fit_makes_a_folder(monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert RunLogger("lightning_logs", name="quickstart").version == 0
    assert not Path("lightning_logs").exists()


def test_of_fits_that_are_told_one_folder_all_but_one_are_refused():
    logger = [
        "--trainer.logger",
        "TensorBoardLogger",
        "--trainer.logger.save_dir",
        "logs",
        "--trainer.logger.version",
        7,
    ]
    processes = [spl("fit", *QUICK, *logger, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(3)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 2, 2]
    assert sum("config.yaml exists already" in text for text in errors) == 2
    assert not any("Traceback" in text.split("Seed set")[1] for text in errors), errors


def test_a_second_reproduction_waits_for_its_turn_and_a_killed_one_leaves_no_lock():
    hold = "from pathlib import Path\nfrom spl.reproduction.session import alone\n"
    hold += "with alone(Path('lightning_logs/reproduction'), 'spl reproduce'):\n"
    hold += "    print('held', flush=True)\n    input()\n"
    Path("hold.py").write_text(hold)
    process = subprocess.Popen([*python(), "hold.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        refused("Another `spl reproduce` is making runs in lightning_logs/reproduction", *_nothing())
        assert command("reproduce", "fig1", "--dry-run").code == 0
    finally:
        process.kill()
        process.communicate()
    end = time.monotonic() + 10  # until the process that was forked is gone
    while "Another" in (errors := command(*_nothing()).errors) and time.monotonic() < end:
        time.sleep(0.1)
    assert "Another" not in errors


def _nothing():
    """Return a reproduction that ends before it makes a run: its data cannot be read."""
    Path("data").touch()
    return "reproduce", "fig1", "--budget", "smoke", "--data.root", "data/x", "--jobs", 1


def test_a_job_ends_with_a_checkpoint_when_its_command_is_killed(monkeypatch):
    config = {"name": "long", "data": "spl.data.MNISTSample", "model": {"network": "spl.networks.LeNet300"}}
    config["trainer"] = {"max_epochs": 10_000, "accelerator": "cpu"}
    config["pruning"] = {"sparsity": 0.9, "isometry": None, "batches": 2}
    file = Job("000", [Group([PlannedRun("0" * 64, config, [])], together=False)]).write(Path.cwd())
    monkeypatch.setattr(executors, "COMMAND", [*python(), "-m", "spl.reproduction.worker"])
    best = Path("lightning_logs/long/version_0/checkpoints/best.ckpt")
    with start_job(file, os.environ) as process:
        wait_for(best, process)
        process.stdin.close()  # as the kernel does when a process is killed
        assert process.wait(60) != 0
    assert best.with_name("last.ckpt").is_file()
    assert "the job stops, and the next command resumes it" in Path("000.log").read_text()


# Machines without room, and clocks


LEAST = """
import os, resource, sys, tempfile
from spl.__main__ import main
import spl.cli.fit
if os.getuid() == 0:  # for whom no such limit holds
    os.chdir(tempfile.mkdtemp(prefix="spl-"))
    os.chown(".", 64999, 64999)
    os.setresuid(64999, 64999, 64999)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
main(sys.argv[1:])
"""


def test_where_no_thread_can_be_started_one_line_names_the_limit():
    Path("least.py").write_text(LEAST)
    words = [*python(), "least.py", "fit", *map(str, QUICK)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2, ended.stderr
    assert "spl: error: No further process or thread can be started" in ended.stderr
    assert "ulimit -u" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_job_that_is_gone_does_not_keep_the_others_waiting(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(LocalProcesses(1).run([tmp_path / "000.json", tmp_path / "001.json"]))


@pytest.mark.parametrize(
    "error", [BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), RuntimeError("can't start new thread")]
)
def test_processes_that_cannot_be_started_end_a_reproduction_with_advice(monkeypatch, error, tmp_path):
    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(subprocess, "Popen", fails)
    with pytest.raises(type(error)) as raised:
        list(LocalProcesses(1).run([Job(name, []).write(tmp_path) for name in ("000", "001")]))
    assert "ulimit -u" in advice(raised.value)


def test_a_semaphore_without_room_is_one_of_full_shared_memory(monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(multiprocessing.synchronize._multiprocessing, "SemLock", full)
    with pytest.raises(OSError, match="No space") as raised:
        multiprocessing.Lock()
    assert "num_workers=0" in advice(raised.value)
    assert "make room, and start again" in advice(OSError(errno.ENOSPC, "No space left on device"))


def test_a_full_shared_memory_is_named():
    error = RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")
    outer = ValueError("a worker failed")
    outer.__cause__ = error
    assert "num_workers=0" in advice(outer)


def test_a_clock_that_goes_back_harms_no_fit_and_no_reproduction(monkeypatch):
    now = iter(range(2_000_000_000, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    assert command("fit", *QUICK).code == 0
    monkeypatch.setattr(time, "strftime", lambda *_: "20260101-000000")
    assert [_new_folder(Path("jobs")).name for _ in range(3)] == [f"20260101-000000{end}" for end in ("", "-2", "-3")]


def test_the_newest_attempt_of_a_run_is_that_of_the_highest_version(monkeypatch):
    monkeypatch.setattr("spl.reproduction.results.digest_of", lambda file, known: "one")
    for version in (10, 9, 2):  # the older, the later its time
        folder = Path(f"runs/a/version_{version}")
        folder.mkdir(parents=True)
        (folder / "run.yaml").write_text("{}")
        os.utime(folder / "run.yaml", (0, 1000 - version))
    assert [folder.name for folder in Results(Path("runs")).unfinished["one"]] == [
        "version_2",
        "version_9",
        "version_10",
    ]
