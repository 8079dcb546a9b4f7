"""SafeInterrupt: Ctrl-C and SIGTERM end a fit between two steps, with a checkpoint that goes on from there."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException

from spl.callbacks.run import run_folder


class SafeInterrupt(Callback):
    """On the first Ctrl-C finish the step, save `checkpoints/last.ckpt` in the run's folder, and stop.

    Lightning alone would stop wherever the signal falls, in the middle of an optimizer step too. A second Ctrl-C
    stops at once. With several processes Lightning's own way stands, because they would stop at different steps;
    the checkpoint of the last epoch is then the one to go on from.
    """

    def __init__(self) -> None:
        self._requested = False
        self._previous: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for Ctrl-C."""
        if trainer.world_size == 1:
            try:
                self._previous = signal.signal(signal.SIGINT, self._request)
            except ValueError:  # not the main thread: no signals arrive here
                self._previous = None

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
        print("\nStopping after this step; Ctrl-C again stops at once.", flush=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop here if asked to."""
        if self._requested:
            self._save(trainer)
            raise KeyboardInterrupt

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """SIGTERM reaches us here, between two steps."""
        if isinstance(exception, SIGTERMException) and trainer.world_size == 1:
            self._save(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give Ctrl-C back."""
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step > 0 and (folder := run_folder(trainer)):
            path = folder / "checkpoints" / "last.ckpt"
            trainer.save_checkpoint(path, weights_only=False)
            print(f"\nInterrupted. Go on: spl fit --config {folder / 'config.yaml'} --ckpt_path {path}", flush=True)


@contextmanager
def interruptible(trainer: Trainer) -> Iterator[None]:
    """Let Ctrl-C arrive as KeyboardInterrupt, which Lightning turns into an exit or swallows, by its version."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
    if trainer.interrupted:
        signal.signal(signal.SIGINT, handler)  # which Lightning has switched off
        raise KeyboardInterrupt
