"""A Python whose processes are forked from one that has imported torch, Lightning and spl: no process waits for that.

`[*python(), SCRIPT, ARGUMENT, ...]` and `[*python(), "-m", MODULE, ARGUMENT, ...]` are commands for `subprocess`, and
do what they do for `sys.executable`. Output, environment, folder, signals and the exit status are those of the command.
"""

import atexit
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NoReturn

ADDRESS = "SPL_TESTS_FORK_FROM"  # the environment variable with the path of the server's socket
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def python() -> list[str]:
    """Return how its commands begin. The first call starts the server, which ends with this process."""
    os.environ[ADDRESS] = server("prepare")
    return [sys.executable, "-IS", __file__]


@cache
def server(prepare: str) -> str:
    """Start a server that calls the function named `prepare` first, and return its address."""
    folder = tempfile.TemporaryDirectory(prefix="spl-")
    address = os.path.join(folder.name, "socket")
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__, "--serve", address, prepare],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )

    def stop() -> None:
        server.communicate()
        folder.cleanup()

    atexit.register(stop)
    if not server.stdout.readline():
        raise RuntimeError("the process from which those of tests are forked has failed")
    return address


# The command


def ask(arguments: list[str]) -> int:
    """Have the server run a command, pass signals on to it, and return its exit status, negative for a signal."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[ADDRESS])
        socket.send_fds(connection, [b"."], [0, 1, 2])
        wanted = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
        connection.sendall(json.dumps(wanted).encode() + b"\n")
        with connection.makefile() as answers:
            process = int(answers.readline())
            for number in PASSED_ON:
                signal.signal(number, lambda number, _: os.kill(process, number))
            return int(answers.readline())


# The server


def serve(address: str) -> dict:
    """Fork a process for each command until whoever started this ends; in such a process, return its command."""
    events = selectors.DefaultSelector()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno())
    for readable in (sys.stdin, listener, woken):
        events.register(readable, selectors.EVENT_READ)
    print("ready", flush=True)
    running: dict[int, socket.socket] = {}
    while True:
        for event, _ in events.select():
            if event.fileobj is sys.stdin:
                for process in running:
                    kill(process)
                sys.exit()
            elif event.fileobj is listener:
                connection, _ = listener.accept()
                _, streams, *_ = socket.recv_fds(connection, 1, 3)
                wanted = json.loads(connection.makefile().readline())
                process = os.fork()
                if process == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    os.setsid()
                    for number, stream in enumerate(streams):
                        os.dup2(stream, number)
                    for opened in (events, listener, woken, wakes, connection, *running.values()):
                        opened.close()
                for stream in streams:
                    os.close(stream)
                if process == 0:
                    return wanted
                running[process] = connection
                connection.sendall(f"{process}\n".encode())
                events.register(connection, selectors.EVENT_READ)
            elif event.fileobj is woken:
                woken.recv(4096)
                for process, status in ended():
                    connection = running.pop(process)
                    with suppress(KeyError):
                        events.unregister(connection)
                    with suppress(OSError), connection:
                        connection.sendall(f"{status}\n".encode())
            else:  # a command that was killed
                events.unregister(event.fileobj)
                for process, connection in running.items():
                    if connection is event.fileobj:
                        kill(process)


def ended() -> list[tuple[int, int]]:
    """Return the processes that have ended, and their exit status."""
    found = []
    with suppress(ChildProcessError):
        while (waited := os.waitpid(-1, os.WNOHANG))[0]:
            found.append((waited[0], os.waitstatus_to_exitcode(waited[1])))
    return found


def kill(process: int) -> None:
    """Kill a process and those of its session."""
    for send in (os.kill, os.killpg):
        with suppress(ProcessLookupError):
            send(process, signal.SIGKILL)


def become(wanted: dict, executable: str) -> NoReturn:
    """Run a command as a process of its own would, and end without the seconds that freeing every import takes."""
    status = 0
    try:
        run(wanted, executable)
    except SystemExit as stopped:
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
        status = 1 if isinstance(stopped.code, str) else stopped.code or 0
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    end(status)


def run(wanted: dict, executable: str) -> None:
    """Run a script or a module."""
    os.environ.clear()
    os.environ.update(wanted["environment"])
    os.chdir(wanted["folder"])
    sys.executable = executable
    first, *others = wanted["arguments"]
    if first == "-m":
        sys.argv = others
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *others]
        runpy.run_path(first, run_name="__main__")


def end(status: int) -> NoReturn:
    """End this process with an exit status, by a signal if it is negative."""
    if status < 0:
        with suppress(OSError):  # of those that nobody can handle
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def prepare() -> None:
    """Import what most of the processes need, and read the digits."""
    if os.environ.get("SPL_TEST_LIGHTNING") == "lightning":
        import lightning_for_pytorch_lightning  # noqa: F401

    import matplotlib.backends.backend_agg  # noqa: F401
    import torch.distributed.fsdp
    import torch.utils.tensorboard  # noqa: F401
    from commands import command  # noqa: F401

    import spl.reproduction.worker  # noqa: F401
    from spl.data import MNISTSample

    MNISTSample().load()


def prepare_without_lightning() -> None:
    """Import what takes seconds, but neither Lightning nor what of spl needs it: each process chooses a Lightning."""
    import_module("pytorch_lightning")
    for name in [*sys.modules]:
        if name.startswith(("pytorch_lightning", "lightning_fabric")):  # what they have imported stays
            del sys.modules[name]
    for name in ("matplotlib.backends.backend_agg", "torch.utils.tensorboard", "mlxtend.data", "jsonargparse"):
        import_module(name)
    for name in ("diagnosis", "export", "sparsify"):
        import_module(f"spl.{name}")
    assert import_module("spl.lightning_api")._chosen is None


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        globals()[sys.argv[3]]()
        gc.freeze()  # what is shared by all processes is not written to
        same = Path(sys.argv[2]).with_name("python")  # for processes that start others by sys.executable
        same.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{__file__}" "$@"\n')
        same.chmod(0o755)
        become(serve(sys.argv[2]), str(same))
    else:
        end(ask(sys.argv[1:]))
