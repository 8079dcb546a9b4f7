"""The messages that the `spl` command prints for errors that the user can do something about."""

import errno
import traceback

from spl.errors import InputError, first_line
from spl.lightning_api import MisconfigurationException, checkpoint_connector, saving

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNUSABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
_UNUSABLE |= {errno.ENOENT, errno.EEXIST, errno.ENXIO}
_LOST = ("Connection closed by peer", "Connection reset by peer")  # messages of gloo
_READERS = (saving.__name__, checkpoint_connector.__name__)


def advice(error: BaseException) -> str | None:
    """Return a message for the user with a remedy, or None for other errors, which need a traceback.

    An `InputError` of this package or a MisconfigurationException of Lightning has such a message itself, also if the
    parser has wrapped it in an error of its own. There are remedies as well for a full disk, for a path that cannot be
    used, and for a checkpoint that cannot be restored. If a process has lost another one, the message refers to that
    one.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InputError | MisconfigurationException):
            return str(cause)
        if _is_shared_memory_full(cause):
            return "Shared memory is full: make room in /dev/shm, or use DataLoaders with num_workers=0."
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return f"{cause}: make room, and start again or go on from the last checkpoint with --ckpt_path."
        if isinstance(cause, OSError) and cause.errno in _UNUSABLE and cause.filename is not None:
            return f"{_shortened(cause)}: it cannot be used. Give another path, or the rights to use this one."
        if getattr(cause, "errno", None) == errno.EAGAIN or "can't start new thread" in str(cause):
            return (
                f"No further process or thread can be started ({first_line(cause)}): end some, use fewer --jobs, "
                "--trainer.devices or workers of DataLoaders, or raise the limit (ulimit -u)."
            )
        if _is_no_text(cause):
            return f"A file or a path is no text in UTF-8 ({first_line(cause)}): give another one."
        if isinstance(cause, IndexError) and str(cause).startswith("Target "):  # torch's cross-entropy
            return (
                f"A label is not among the outputs of the network ({first_line(cause)}): labels are whole numbers from "
                "0. Correct them, or give the network as many outputs as there are classes, and --model.num_classes."
            )
        if isinstance(cause, RuntimeError) and any(words in str(cause) for words in _LOST):
            return "Another process of this run has ended, and this one with it: its message gives the reason."
        cause = cause.__cause__
    if "_parse_ckpt_path" in _functions(error):
        return f"{first_line(error)} Give --ckpt_path the path of a checkpoint."
    if _was_restoring(error):
        return (
            f"The checkpoint cannot be restored ({reason(error)}): it belongs to another configuration, or was changed "
            "after it was written. Use the config.yaml of its run, or give another checkpoint."
        )
    return None


def reason(error: BaseException) -> str:
    """Return the type and the first line of the message of an error, in one line."""
    kind, line = type(error).__name__, first_line(error)
    return line if line == kind else f"{kind}: {line}"


def _is_shared_memory_full(error: BaseException) -> bool:
    """Return whether a tensor or a semaphore, which processes share, found no room."""
    if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
        return _passed_through(error, "multiprocessing")
    return isinstance(error, RuntimeError) and "allocate shared memory" in str(error)


def _is_no_text(error: BaseException) -> bool:
    """Return whether a configuration is not in UTF-8, or a path has bytes that no path can have."""
    if isinstance(error, UnicodeDecodeError):
        return _passed_through(error, "jsonargparse")
    return isinstance(error, ValueError) and any(words in str(error) for words in ("null byte", "surrogates not"))


def _passed_through(error: BaseException, package: str) -> bool:
    """Return whether a function of a package was running when the error was raised."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(str(frame.f_globals.get("__name__")).startswith(package) for frame in frames)


def _shortened(error: OSError) -> str:
    name = str(error.filename)
    return f"{error.strerror}: {name if len(name) <= 300 else f'{name[:100]}… ({len(name)} characters)'}"


def _was_restoring(error: BaseException) -> bool:
    """Return whether the error was raised while Lightning restored a checkpoint."""
    return any(word in function for function in _functions(error) for word in ("restore", "resume", "load"))


def _functions(error: BaseException) -> list[str]:
    """Return the names of Lightning's functions for checkpoints through which an error was raised."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return [frame.f_code.co_name for frame in frames if frame.f_globals.get("__name__") in _READERS]
