"""SafeInterrupt: Ctrl-C and SIGTERM end a fit between two steps, with a checkpoint that goes on from there."""

import signal
import time
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException

from spl.callbacks.safety.last_checkpoint import save_last
from spl.callbacks.trainer import run_folder


class SafeInterrupt(Callback):
    """On the first Ctrl-C or SIGTERM finish the step, save `checkpoints/last.ckpt` in the run's folder, and stop.

    A step is one of the optimizer: gradients that wait for more batches are in no checkpoint. Of several processes
    all stop after the same step, whichever of them the signal reaches, and whenever; they ask each other once a second.
    A second Ctrl-C stops at once.

    Lightning alone would stop wherever Ctrl-C falls, in the middle of an optimizer step too; and on SIGTERM broadcasts
    from within the signal's handler, where other processes may be adding up gradients.
    """

    def __init__(self) -> None:
        self._received = 0
        self._step = 0
        self._previous: dict[int, Any] = {}
        self._meetings = _Meetings()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget what ended an earlier fit, after which Lightning has given the signals back."""
        self._received, self._previous, self._meetings = 0, {}, _Meetings()

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen, as soon as Lightning does."""
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen, where nothing was checked."""
        self._listen()

    def _listen(self) -> None:
        for number in {signal.SIGINT, signal.SIGTERM} - self._previous.keys():
            try:
                self._previous[number] = signal.signal(number, self._receive)
            except ValueError:  # not the main thread: no signals arrive here
                return

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = max(self._received, number)
        _say("Stopping after this step; another Ctrl-C stops at once.")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note how many steps there were."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop here if any process was asked to."""
        if trainer.global_step > self._step and (number := self._asked(trainer)):
            path = save_last(trainer)
            if trainer.is_global_zero and (folder := run_folder(trainer)):
                _say(f"Interrupted. Go on: spl fit --config {folder / 'config.yaml'} --ckpt_path {path}")
            raise KeyboardInterrupt if number == signal.SIGINT else SIGTERMException

    def _asked(self, trainer: Trainer) -> int:
        """The signal that ends the fit here; 0 for none."""
        return self._received if trainer.world_size == 1 else self._meetings.highest(trainer, self._received)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


class _Meetings:
    """Where processes tell each other what signals they have received: one takes as long as a step of a small network.

    They cannot go by their clocks, which differ, and so count the steps of about a second.
    """

    def __init__(self) -> None:
        self._steps, self._left = 1, 1
        self._last = time.monotonic()

    def highest(self, trainer: Trainer, received: int) -> int:
        """To be called after every step: the highest signal that any of them has received; 0 for none, or between."""
        self._left -= 1
        if self._left:
            return 0
        mine = torch.tensor([received, time.monotonic() - self._last], device=trainer.strategy.root_device)
        number, seconds = trainer.strategy.reduce(mine, reduce_op="max").tolist()
        self._steps = self._left = max(1, int(self._steps / max(seconds, 0.5)))  # at most twice as many
        self._last = time.monotonic()
        return int(number)


@rank_zero_only
def _say(text: str) -> None:
    print(f"\n{text}", flush=True)
