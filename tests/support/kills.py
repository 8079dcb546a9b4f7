"""Run fits in processes forked from one that has imported everything, and kill them without warning.

`python kills.py FOLDER SEED` prints the outcomes as JSON.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fits import classifier, fit, pruning
from pytorch_lightning import Callback, LightningModule, Trainer

from spl.callbacks import LastCheckpoint, StageListener
from spl.data import MNISTSample
from spl.isometry import ApproximateIsometry

EPOCHS, BATCHES, STAGES = 4, 15, 3
MOMENTS, KILLS = 20, 5
FILE = Path("checkpoints", "last.ckpt")
_FAR = 1 << 20  # more than the events of a fit


class Events(StageListener):
    """A callback that writes a byte to the pipe at every stage of pruning and at every step."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def on_stage(self, trainer: Trainer, pl_module: LightningModule, stage: Any) -> None:
        os.write(self.pipe, b".")

    def on_train_batch_end(self, *_: Any) -> None:
        os.write(self.pipe, b".")


def train(folder: Path, resume: Path | None, pipe: int) -> None:
    """Run a fit that writes a checkpoint in every epoch, also at its end."""
    model = classifier(lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 12, 0.5))
    callbacks: list[Callback] = [
        LastCheckpoint(),
        pruning(isometry=ApproximateIsometry(max_iterations=10)),
        Events(pipe),
    ]
    settings = {"max_epochs": EPOCHS, "limit_train_batches": BATCHES, "enable_checkpointing": True}
    fit(model, callbacks, resume, default_root_dir=folder, **settings)


def started(folder: Path, resume: Path | None, before: Callable[[int], None] | None) -> tuple[int, int]:
    """Start a process that trains; return its id and the pipe of its events."""
    here, there = os.pipe()
    process = os.fork()
    if process:
        os.close(there)
        return process, here
    code = 1
    try:
        if before:
            before(there)
        train(folder, resume, there)
        code = 0
    finally:
        os._exit(code)


def ended(process: int) -> int:
    """Wait for a process and return its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed(
    folder: Path, resume: Path | None, events: int, delay: float = 0.0, before: Callable[[int], None] | None = None
) -> bool:
    """Kill a fit after the given number of events and seconds; return whether it was killed before its end.

    Args:
        folder: the folder of the run.
        resume: the checkpoint to resume from.
        events: how many events to wait for.
        delay: how long to wait after them, in seconds.
        before: a function called in the process, with the pipe of its events, before the fit.
    """
    process, pipe = started(folder, resume, before)
    while events and (happened := os.read(pipe, events)):
        events -= len(happened)
    time.sleep(delay)
    os.kill(process, signal.SIGKILL)
    os.close(pipe)
    status = ended(process)
    assert status in (0, -signal.SIGKILL), f"the fit in {folder} failed by itself: {status}"
    return status != 0


def finished(folder: Path, resume: Path | None = None) -> dict[str, Any]:
    """Return the state that training depends on, after a fit that runs to its end."""
    process, pipe = started(folder, resume, None)
    status = ended(process)
    os.close(pipe)
    assert status == 0, f"the fit in {folder} failed by itself: {status}"
    checkpoint = torch.load(folder / FILE, weights_only=True)
    parts = ("state_dict", "masks", "optimizer_states", "lr_schedulers", "global_step", "epoch", "MNISTSample")
    return {part: checkpoint[part] for part in parts}


def same(a: Any, b: Any) -> bool:
    """Return whether two values are equal bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


def step(path: Path | None) -> int | None:
    """Return the step of a checkpoint; None without one."""
    return None if path is None else int(torch.load(path, weights_only=True)["global_step"])


def last(folder: Path, otherwise: Path | None = None) -> Path | None:
    """Return the last checkpoint of a run, or the one from which it was resumed."""
    return folder / FILE if (folder / FILE).exists() else otherwise


def at_random(folder: Path, whole: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Kill a fit at a random moment and resume it."""
    events, delay = draw.randrange(STAGES + EPOCHS * BATCHES), draw.uniform(0.0, 0.004)
    hit = killed(folder / "killed", None, events, delay)
    checkpoint = last(folder / "killed")
    equal = same(finished(folder / "resumed", checkpoint), whole)
    return {"events": events, "delay": delay, "killed": hit, "step": step(checkpoint), "equal": equal}


def again_and_again(folder: Path, whole: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Kill every attempt at a fit except the last."""
    checkpoint, steps = None, []
    for attempt in range(KILLS):
        assert killed(folder / str(attempt), checkpoint, draw.randrange(10, 25), draw.uniform(0.0, 0.004))
        checkpoint = last(folder / str(attempt), checkpoint)
        steps.append(step(checkpoint))
    return {"steps": steps, "equal": same(finished(folder / "resumed", checkpoint), whole)}


def while_writing(folder: Path, whole: dict[str, Any], moment: str) -> dict[str, Any]:
    """Kill a fit while it writes its second checkpoint."""
    count = 0

    def stop_there(pipe: int) -> None:
        """Stop when half of the file is written, all of it, or when the file is in place."""
        flush, replace = os.fsync, Path.replace

        def stop() -> None:
            os.write(pipe, b"." * _FAR)
            signal.pause()

        def fsync(file: int) -> None:
            nonlocal count
            count += 1
            if count == 2 and moment == "half":
                os.truncate(file, os.fstat(file).st_size // 2)
                stop()
            flush(file)

        def replaced(self: Path, target: Path) -> Path:
            if count == 2 and moment == "whole":
                stop()
            path = replace(self, target)
            if count == 2:
                stop()
            return path

        os.fsync, Path.replace = fsync, replaced  # type: ignore[method-assign]

    assert killed(folder / "killed", None, events=_FAR, before=stop_there)
    checkpoint = last(folder / "killed")
    found = {"files": sorted(path.name for path in (folder / "killed" / "checkpoints").iterdir())}
    equal = same(finished(folder / "resumed", checkpoint), whole)
    return found | {"step": step(checkpoint), "equal": equal}


def main(folder: Path, seed: int) -> dict[str, Any]:
    """Run all cases."""
    torch.set_num_threads(1)
    MNISTSample().load()  # read once for all processes
    whole = finished(folder / "whole")
    draw = random.Random(seed)
    return {
        "random": [at_random(folder / f"random{i}", whole, draw) for i in range(MOMENTS)],
        "repeated": again_and_again(folder / "repeated", whole, draw),
        "writing": {m: while_writing(folder / m, whole, m) for m in ("half", "whole", "in place")},
    }


if __name__ == "__main__":
    report = main(Path(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps(report))
