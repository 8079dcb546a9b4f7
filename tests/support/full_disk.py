"""Run `spl` on a disk that fills up: a small private tmpfs of this process, or else a limit on the size of files.

`python full_disk.py FOLDER` prints the outcome as JSON.
"""

import contextlib
import ctypes
import json
import os
import resource
import socket
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from commands import SMALL, command

from spl.callbacks import LastCheckpoint
from spl.data import MNISTSample

FIT = ["fit", *SMALL, "--trainer.limit_train_batches", 5, "--trainer.max_epochs", 4]
_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000


def mounted(folder: Path) -> bool:
    """Mount a private tmpfs of 2 MB, which needs no privileges if the kernel allows it; return whether it worked."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEW_USER | _NEW_MOUNTS):
        return False
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    return libc.mount(b"none", bytes(folder), b"tmpfs", 0, b"size=2m") == 0


def fill(folder: Path, real: bool, limit: int = 70000) -> None:
    """Fill the disk, or limit every file to `limit` bytes, by default half a checkpoint."""
    if not real:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return
    with contextlib.suppress(OSError), (folder / "filler").open("ab", buffering=0) as filler:
        while filler.write(bytes(1024)):
            pass


def forked(*works: Callable[[], Any]) -> list[Any]:
    """Run each of `works` in its own process, all at the same time, and return the results."""
    pipes, processes = [], []
    for work in works:
        here, there = os.pipe()
        process = os.fork()
        if process == 0:
            try:
                os.write(there, json.dumps(work()).encode())
            finally:
                os._exit(0)
        os.close(there)
        pipes.append(here)
        processes.append(process)
    found = []
    for pipe, process in zip(pipes, processes, strict=True):
        with os.fdopen(pipe) as stream:
            found.append(json.loads(stream.read()))
        os.waitpid(process, 0)
    return found


def files(folder: Path) -> dict[str, int]:
    """Return the sizes of the files by name."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def fit(folder: Path, real: bool, after: int, *more: object) -> dict[str, Any]:
    """Run a fit whose disk is full after the given number of checkpoints, or from the start if it is -1."""
    write, written = LastCheckpoint._write, [0]

    def counted(self: LastCheckpoint, trainer: Any) -> None:
        if written[0] == after and trainer.is_global_zero:
            fill(folder, real)
        write(self, trainer)
        written[0] += 1

    LastCheckpoint._write = counted
    os.chdir(folder)
    if after < 0:
        fill(folder, real)
    ended = command(*FIT, *more)
    return {"code": ended.code, "errors": ended.errors, "files": files(folder)}


def alone(folder: Path, after: int) -> dict[str, Any]:
    """Run a fit of one process, and an export from it."""
    real = mounted(folder)
    found = {"real": real} | fit(folder, real, after)
    last = folder / "lightning_logs" / "quickstart" / "version_0" / "checkpoints" / "last.ckpt"
    if last.exists():
        found["step"] = torch.load(last, weights_only=True)["global_step"]
        fill(folder, real, limit=4096)
        exported = command("export", "--ckpt_path", last, "--to", "sparse", "--output", folder / "x.pt")
        found["export"] = {"code": exported.code, "errors": exported.errors, "files": files(folder)}
    return found


def together(folder: Path) -> list[dict[str, Any]]:
    """Run a fit of two processes; the first one writes, and has no space left after one checkpoint."""
    real = mounted(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    os.environ |= {"NODE_RANK": "0", "WORLD_SIZE": "2"}

    def one(rank: str) -> dict[str, Any]:
        os.environ["LOCAL_RANK"] = rank
        return fit(folder, real, 1, "--trainer.strategy", "ddp", "--trainer.devices", 2)

    return forked(partial(one, "0"), partial(one, "1"))


def main(folder: Path) -> dict[str, Any]:
    """Run all cases."""
    torch.set_num_threads(1)
    MNISTSample().load()
    places = [Path(tempfile.mkdtemp(dir=folder)) for _ in range(4)]
    report: dict[str, Any] = {}
    for place, after in zip(places, (-1, 0, 1), strict=False):
        (report[str(after)],) = forked(partial(alone, place, after))
    (report["together"],) = forked(partial(together, places[-1]))
    return report


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
