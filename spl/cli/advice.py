"""What the `spl` command says of an error: one message with the remedy, where what was given is to blame."""

import errno
import traceback

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.core import saving
from pytorch_lightning.trainer.connectors import checkpoint_connector

from spl.errors import InputError, first_line

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOST = ("Connection closed by peer", "Connection reset by peer")  # what gloo says
_READERS = (saving.__name__, checkpoint_connector.__name__)


def advice(error: BaseException) -> str | None:
    """The message for the user; None for an error of another kind, whose traceback tells more.

    Errors of this package and of Lightning that address the user, which the parser may have wrapped in its own, speak
    for themselves. Of others a full disk and a checkpoint that cannot be taken up have a remedy; and where one process
    has lost another, that one says why.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InputError | MisconfigurationException):
            return str(cause)
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return f"{cause}: make room, and start again or go on from the last checkpoint with --ckpt_path."
        if isinstance(cause, RuntimeError) and any(words in str(cause) for words in _LOST):
            return "Another process of this run has ended, and this one with it: what that one says is the reason."
        cause = cause.__cause__
    if _was_restoring(error):
        return (
            f"The checkpoint cannot be taken up ({reason(error)}): it is of another configuration, or was changed "
            "after it was written. Use the config.yaml of its run, or give another checkpoint."
        )
    return None


def reason(error: BaseException) -> str:
    """What went wrong, in a line, with its type."""
    kind, line = type(error).__name__, first_line(error)
    return line if line == kind else f"{kind}: {line}"


def _was_restoring(error: BaseException) -> bool:
    """Whether Lightning raised it, or what it called, while taking up a checkpoint."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(f.f_globals.get("__name__") in _READERS and _restores(f.f_code.co_name) for f in frames)


def _restores(function: str) -> bool:
    return "restore" in function or "resume" in function or "load" in function
