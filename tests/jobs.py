"""`spl fit` as a job of SLURM, in processes forked from one that has imported everything, and signals to them.

`python jobs.py FOLDER` prints what became of it, as JSON.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from commands import SMALL, command
from kills import ended, same

from spl.criteria import ConnectionSensitivity
from spl.data import MNISTSample
from spl.module import SparseClassifier

FIT = ["fit", *SMALL, "--trainer.max_epochs", 3, "--test_after_fit", "false"]
JOB = {"SLURM_JOB_ID": "1234", "SLURM_JOB_NAME": "prune", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"}
JOB |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


def tell(pipe: int) -> None:
    """Write a byte before every scoring and every step; the signal that it brings falls into what follows."""
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


def run(folder: Path, environment: dict[str, str], number: int | None = None, events: int = 0) -> dict[str, Any]:
    """The command in a process of its own, and a signal so many events after its start."""
    here, there = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.chdir(folder)
            os.environ.update(environment)
            if number:
                tell(there)
            found = command(*FIT)
            Path("said.txt").write_text(found.output + found.errors)
            code = found.code
        finally:
            os._exit(code)
    os.close(there)
    while events:
        events -= len(os.read(here, events))
    if number:
        os.kill(process, number)
    status = ended(process)
    os.close(here)
    checkpoints = list(folder.glob("lightning_logs/quickstart/*/checkpoints/last.ckpt"))
    newest = max(checkpoints, key=lambda path: path.stat().st_mtime_ns, default=None)
    state = torch.load(newest, weights_only=True) if newest else {"global_step": None}
    return {"status": status, "said": (folder / "said.txt").read_text(), "step": state["global_step"], "state": state}


def main(folder: Path) -> dict[str, Any]:
    """A job that is ended three times, in scoring and in two steps, and one that is not."""
    torch.set_num_threads(1)
    MNISTSample().load()
    assert command(*FIT, "--print_config").code == 0  # parsers, once for all
    job, alone = folder / "job", folder / "alone"
    (job / "tools").mkdir(parents=True)
    alone.mkdir()
    for tool in ("scontrol", "srun"):
        (job / "tools" / tool).write_text(f'#!/bin/sh\necho "$@" >> {job / tool}\n')
        (job / "tools" / tool).chmod(0o755)
    environment = JOB | {"PATH": f"{job / 'tools'}:{os.environ['PATH']}"}
    starts = [
        run(job, environment, signal.SIGTERM, events=1),
        run(job, environment | {"SLURM_RESTART_COUNT": "1"}, signal.SIGTERM, events=1 + 51),
        run(job, environment | {"SLURM_RESTART_COUNT": "2"}, signal.SIGUSR1, events=10),
        run(job, environment | {"SLURM_RESTART_COUNT": "3"}),
        run(job, environment | {"SLURM_JOB_ID": "99", "SLURM_RESTART_COUNT": "1"}, signal.SIGTERM, events=1),
    ]
    whole = run(alone, {})
    parts = ("state_dict", "masks", "optimizer_states", "lr_schedulers", "global_step")
    equal = same(*({part: done["state"][part] for part in parts} for done in (starts[3], whole)))
    return {
        "starts": [{key: start[key] for key in ("status", "said", "step")} for start in starts],
        "equal": equal,
        "scontrol": (job / "scontrol").read_text().splitlines(),
        "checkpoints": sorted(str(path.relative_to(job)) for path in job.rglob("*.ckpt")),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
