"""The progress of a run in a log file, where a bar that is redrawn many times a second would fill pages."""

import sys
import time
from collections.abc import Callable
from typing import Any

from spl.lightning_api import LightningModule, ProgressBar, TQDMProgressBar, Trainer


class LogProgress(ProgressBar):
    """A progress bar that prints one line at a time: at most one in thirty seconds, and one when training ends.

    Args:
        seconds: the shortest time between two lines.
        clock: tells the time in seconds.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> from pytorch_lightning.demos.boring_classes import BoringModel
        >>> from spl.cli.progress import LogProgress
        >>> quiet = dict.fromkeys(("logger", "enable_model_summary", "enable_checkpointing"), False)
        >>> trainer = Trainer(callbacks=[LogProgress()], max_steps=2, limit_val_batches=0, accelerator="cpu", **quiet)
        >>> trainer.fit(BoringModel())
        Epoch 0: 2 of 64 batches, step 2, 0:00:00
    """

    def __init__(self, seconds: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seconds = seconds
        self._clock = clock
        self._start = self._last = clock()
        self._enabled = True
        self._batches = self._epoch = 0
        self._total: float = 0.0

    def disable(self) -> None:
        """Print nothing."""
        self._enabled = False

    def enable(self) -> None:
        """Print lines again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the time."""
        self._start = self._last = self._clock()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line if it is time for one."""
        self._batches, self._epoch, self._total = batch_idx + 1, trainer.current_epoch, trainer.num_training_batches
        if self._is_time():
            self._print(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the last line of training."""
        if self._batches:
            self._print(trainer, pl_module)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Print how many batches were evaluated if it is time for a line."""
        self._count(trainer, batch_idx)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Print how many batches were evaluated if it is time for a line."""
        self._count(trainer, batch_idx)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Print how many batches were evaluated if it is time for a line, and if this is not a part of training."""
        if not trainer.training:
            self._count(trainer, batch_idx)

    def _is_time(self) -> bool:
        now = self._clock()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True

    def _count(self, trainer: Trainer, batch_idx: int) -> None:
        if self._enabled and not trainer.sanity_checking and self._is_time():
            print(f"{(trainer.state.fn or 'run').capitalize()}: {batch_idx + 1} batches", flush=True)

    def _print(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print where training is: epoch, batches, steps, time and metrics."""
        if not self._enabled:
            return
        of = f" of {self._total}" if self._total != float("inf") else ""
        metrics = {name: value for name, value in self.get_metrics(trainer, pl_module).items() if name != "v_num"}
        values = "".join(f", {name} {value:.4g}" for name, value in metrics.items() if isinstance(value, int | float))
        minutes, seconds = divmod(round(self._clock() - self._start), 60)
        where = f"Epoch {self._epoch}: {self._batches}{of} batches, step {trainer.global_step}"
        print(f"{where}, {minutes // 60}:{minutes % 60:02}:{seconds:02}{values}", flush=True)


def progress_bar() -> ProgressBar:
    """Return a bar for a terminal, and `LogProgress` for a log file. The bar of rich would print nothing to a file."""
    return TQDMProgressBar(refresh_rate=10) if sys.stdout.isatty() else LogProgress()
