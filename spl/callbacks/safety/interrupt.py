"""A callback that ends a fit between two steps on Ctrl-C, SIGTERM and SIGHUP, with a checkpoint to resume from."""

import signal
import time
from contextlib import suppress
from types import FrameType
from typing import Any

import torch

from spl.callbacks.base import SplCallback
from spl.callbacks.safety.last_checkpoint import save_last
from spl.callbacks.trainer import run_folder
from spl.lightning_api import LightningModule, SIGTERMException, Trainer, rank_zero_only


class SafeInterrupt(SplCallback):
    """A callback that, on Ctrl-C, SIGTERM or SIGHUP, finishes the step, saves `checkpoints/last.ckpt` and stops.

    SIGHUP comes from a terminal that is closed. Under `nohup`, or where the program handles it, it changes nothing.

    The checkpoint is in the run's folder. A step is one of the optimizer, because no checkpoint contains gradients that
    wait for more batches. Several processes all stop after the same step, whichever of them receives the signal, and
    whenever; they exchange what they have received about once a second. A second Ctrl-C stops at once. The exit status
    of the first process is 143 after SIGTERM and 129 after SIGHUP, as a shell expects; Lightning's is 1 after Ctrl-C.

    Lightning alone would stop wherever it is on Ctrl-C, even in the middle of an optimizer step. On SIGTERM, it
    broadcasts inside the signal handler, while other processes may be adding up gradients.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> from spl.callbacks import LastCheckpoint, SafeInterrupt
        >>> trainer = Trainer(callbacks=[SafeInterrupt(), LastCheckpoint()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self._received = 0
        self._step = 0
        self._previous: dict[int, Any] = {}
        self._exchanges = _Exchanges()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the signals of an earlier fit, after which Lightning has restored the handlers."""
        super().setup(trainer, pl_module, stage)
        self._received, self._previous, self._exchanges = 0, {}, _Exchanges()

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers, as soon as Lightning has installed its own."""
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers, if there was no sanity check."""
        self._listen()

    def _listen(self) -> None:
        for number in _signals() - self._previous.keys():
            try:
                self._previous[number] = signal.signal(number, self._receive)
            except ValueError:  # not in the main thread, where signals arrive
                return

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = max(self._received, number)
        _say("Stopping after this step; another Ctrl-C stops at once.")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Record the number of steps so far."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop here if any process has received a signal."""
        if trainer.global_step > self._step and (number := self._signal(trainer)):
            path = save_last(trainer)
            if trainer.is_global_zero and (folder := run_folder(trainer)):
                _say(f"Interrupted. To go on: spl fit --config {folder / 'config.yaml'} --ckpt_path {path}")
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            # Lightning kills all processes of a run if one that it has started ends with another status than 0
            raise SIGTERMException(128 + number if trainer.is_global_zero else 0)

    def _signal(self, trainer: Trainer) -> int:
        """Return the signal that ends the fit here, or 0 for none."""
        return self._received if trainer.world_size == 1 else self._exchanges.highest(trainer, self._received)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the previous signal handlers after an error, which ends fit without `teardown`."""
        if not isinstance(exception, KeyboardInterrupt):  # Lightning has disabled further ones
            self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def _signals() -> set[int]:
    """Return the signals that end a fit."""
    stops: set[int] = {signal.SIGINT, signal.SIGTERM}
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # Windows has none
        stops.add(signal.SIGHUP)
    return stops


class _Exchanges:
    """The exchanges between processes of the signals that they have received.

    An exchange takes as long as a step of a small network. As their clocks differ, the processes count the steps that
    take about a second.
    """

    def __init__(self) -> None:
        self._steps, self._left = 1, 1
        self._last = time.monotonic()

    def highest(self, trainer: Trainer, received: int) -> int:
        """Return the highest signal that any process has received, or 0; all processes call this after every step.

        Between two exchanges it returns 0.
        """
        self._left -= 1
        if self._left:
            return 0
        mine = torch.tensor([received, time.monotonic() - self._last], device=trainer.strategy.root_device)
        number, seconds = trainer.strategy.reduce(mine, reduce_op="max").tolist()
        self._steps = self._left = max(1, int(self._steps / max(seconds, 0.5)))  # at most twice as many as before
        self._last = time.monotonic()
        return int(number)


@rank_zero_only
def _say(text: str) -> None:
    """Print a line, unless nobody reads stdout, or the signal came in the middle of another line."""
    with suppress(OSError, RuntimeError):
        print(f"\n{text}", flush=True)
