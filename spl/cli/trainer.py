"""The Trainer of the `spl` command, which can stop before its first step."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spl.callbacks import Diagnose, JacobianSpectrum, Summary
from spl.callbacks.trainer import callbacks_of
from spl.lightning_api import Callback, Trainer


class SplTrainer(Trainer):
    """A Trainer that can stop before its first step, to diagnose a network or to hand it on."""

    @contextmanager
    def without_steps(self) -> Iterator[None]:
        """Let `fit` do everything up to its first step, and then return; it prints no summary.

        The callback Summary and the sanity check stay away afterwards too.
        """
        limit = self.limit_train_batches
        self.limit_train_batches = self.num_sanity_val_steps = 0
        self.callbacks = [c for c in callbacks_of(self, Callback) if not isinstance(c, Summary)]
        try:
            yield
        finally:
            self.limit_train_batches = limit

    def diagnose(self, **kwargs: Any) -> None:
        """Say whether a sparse network will train: prepare it as fit does, or load a checkpoint, and measure it."""
        (spectrum,) = callbacks_of(self, JacobianSpectrum)
        with self.without_steps(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The dirpath has changed")  # of checkpoints, but none is written
            self.callbacks = [*callbacks_of(self, Callback), Diagnose(spectrum.examples, spectrum.chunk)]
            self.fit(**kwargs)
