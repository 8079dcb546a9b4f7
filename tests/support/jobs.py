"""Run `spl fit` as a SLURM job, in processes forked from one that has imported everything, and send signals to them.

`python jobs.py FOLDER` prints the outcome as JSON.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from commands import SMALL, command
from kills import ended, same

from spl.classifier import SparseClassifier
from spl.criteria import ConnectionSensitivity
from spl.data import MNISTSample

FIT = ["fit", *SMALL, "--trainer.max_epochs", 3, "--test_after_fit", "false"]
PAIR = ["--trainer.strategy", "ddp", "--trainer.devices", 2, "--seed_everything", "true"]
PAIR += ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "lightning_logs", "--trainer.logger.name", "csv"]
JOB = {"SLURM_JOB_ID": "1234", "SLURM_JOB_NAME": "prune", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"}
JOB |= {"SLURM_NODEID": "0"}


def tell(pipe: int) -> None:
    """Write a byte before every scoring and every step; the signal sent in response then arrives during it."""
    score, step = ConnectionSensitivity.__call__, SparseClassifier.training_step

    def scored(self: Any, subject: Any) -> Any:
        os.write(pipe, b".")
        time.sleep(0.05)
        return score(self, subject)

    def stepped(self: Any, batch: Any, batch_idx: int) -> Any:
        os.write(pipe, b".")
        time.sleep(0.005)
        return step(self, batch, batch_idx)

    ConnectionSensitivity.__call__, SparseClassifier.training_step = scored, stepped  # type: ignore[method-assign]


def started(folder: Path, environment: dict[str, str], arguments: list[Any], pipe: int | None) -> int:
    """Start a process with the command, which reports its events to the pipe."""
    if process := os.fork():
        return process
    code = 1
    try:
        os.chdir(folder)
        os.environ.update(environment)
        if pipe is not None:
            tell(pipe)
        found = command(*FIT, *arguments)
        Path(f"said{environment.get('SLURM_PROCID', 0)}.txt").write_text(found.output + found.errors)
        code = found.code
    finally:
        os._exit(code)


def run(
    folder: Path,
    environment: dict[str, str],
    number: int | None = None,
    events: int = 0,
    at: int = 0,
    to: tuple[int, ...] = (0,),
) -> dict[str, Any]:
    """Run the command in as many processes as SLURM has tasks.

    Args:
        folder: the working folder.
        environment: the variables that SLURM sets.
        number: the signal to send.
        events: how many events to wait for before sending it.
        at: the process whose events are counted.
        to: the processes that receive the signal.
    """
    size = int(environment.get("SLURM_NTASKS", 1))
    arguments = PAIR if size > 1 else []
    here, there = os.pipe()
    processes = []
    for rank in range(size):
        own = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} if environment else {}
        pipe = there if number and rank == at else None
        processes.append(started(folder, environment | own, arguments, pipe))
    os.close(there)
    while events:
        events -= len(os.read(here, events))
    if number:
        for rank in to:
            os.kill(processes[rank], number)
    statuses = [ended(process) for process in processes]
    os.close(here)
    checkpoints = list(folder.rglob("last.ckpt"))
    newest = max(checkpoints, key=lambda path: path.stat().st_mtime_ns, default=None)
    state = torch.load(newest, weights_only=True) if newest else {"global_step": None}
    config = yaml.safe_load((newest.parent.parent / "config.yaml").read_text()) if newest else {"ckpt_path": None}
    said = (folder / "said0.txt").read_text()
    found = {"step": state["global_step"], "from": config["ckpt_path"], "state": state}
    return {"statuses": statuses, "said": said} | found


def main(folder: Path) -> dict[str, Any]:
    """Run jobs of one and of two processes; some are ended several times, during scoring and steps, others are not."""
    torch.set_num_threads(1)
    MNISTSample().load()
    assert command(*FIT, "--print_config").code == 0  # builds the parsers once for all processes
    one, two = folder / "one", folder / "two"
    again = [{"SLURM_RESTART_COUNT": str(count)} for count in range(1, 4)]
    job = JOB | tools(one)
    starts = [
        run(one, job, signal.SIGTERM, events=1),
        run(one, job | again[0], signal.SIGTERM, events=1 + 51),
        run(one, job | again[1], signal.SIGUSR1, events=10),
        run(one, job | again[2]),
        run(one, job | {"SLURM_JOB_ID": "99"} | again[0], signal.SIGTERM, events=1),
    ]
    job = JOB | tools(two) | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "MASTER_ADDR": "127.0.0.1"}
    pairs = [
        run(two, port(job), signal.SIGTERM, events=1, to=(0, 1)),
        run(two, port(job | again[0]), signal.SIGUSR1, events=1 + 21, at=1, to=(1,)),
        run(two, port(job | again[1])),
    ]
    (folder / "alone").mkdir()
    return {
        "one": told(one, starts) | {"equal": equal(starts[3], run(folder / "alone", {}))},
        "two": told(two, pairs) | {"equal": equal(pairs[2], run(two, port(job | {"SLURM_JOB_ID": "99"})))},
    }


def tools(folder: Path) -> dict[str, str]:
    """Write stand-ins for the tools of SLURM; return the PATH that finds them."""
    (folder / "tools").mkdir(parents=True)
    for tool in ("scontrol", "srun"):
        (folder / "tools" / tool).write_text(f'#!/bin/sh\necho "$@" >> {folder / tool}\n')
        (folder / "tools" / tool).chmod(0o755)
    return {"PATH": f"{folder / 'tools'}:{os.environ['PATH']}"}


def port(environment: dict[str, str]) -> dict[str, str]:
    """Return the environment with a free port at which the processes meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return environment | {"MASTER_PORT": str(probe.getsockname()[1])}


def equal(*ends: dict[str, Any]) -> bool:
    """Return whether two fits ended with the same weights, masks, optimizer state and schedule."""
    parts = ("state_dict", "masks", "optimizer_states", "lr_schedulers", "global_step")
    return same(*({part: end["state"][part] for part in parts} for end in ends))


def told(folder: Path, starts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the outcome of a job."""
    return {
        "starts": [{key: start[key] for key in ("statuses", "said", "step", "from")} for start in starts],
        "scontrol": (folder / "scontrol").read_text().splitlines(),
        "checkpoints": sorted(str(path.relative_to(folder)) for path in folder.rglob("*.ckpt")),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
