"""What is logged of each stacked run, written to the run's own loggers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from spl.lightning_api import Logger

Entry = tuple[int, list[int], dict[str, list[float]]]
"""A step, the indices of runs, and the values of these runs under each tag."""


class Journal:
    """The logged scalars of all runs; they are kept, so that resumed runs can write them into new loggers.

    Args:
        loggers: the loggers of each run.
    """

    def __init__(self, loggers: Sequence[Sequence[Logger]]) -> None:
        self.loggers = loggers
        self.entries: list[Entry] = []

    def log(self, step: int, runs: Sequence[int], scalars: Mapping[str, Tensor]) -> None:
        """Log the values of some runs.

        Args:
            step: the training step.
            runs: the indices of the runs to log.
            scalars: Tensors [P] with the values of all P runs, by tag.
        """
        columns = {tag: values.tolist() for tag, values in scalars.items()}
        self._add((step, list(runs), {tag: [values[r] for r in runs] for tag, values in columns.items()}))

    def note(self, step: int, run: int, scalars: Mapping[str, float]) -> None:
        """Keep values of one run that a callback has logged already."""
        self.entries.append((step, [run], {tag: [value] for tag, value in scalars.items()}))

    def replay(self, entries: Sequence[Any]) -> None:
        """Log the entries of an interrupted training again."""
        for step, runs, scalars in entries:
            self._add((step, runs, scalars))

    def _add(self, entry: Entry) -> None:
        self.entries.append(entry)
        step, runs, scalars = entry
        for i, run in enumerate(runs):
            for logger in self.loggers[run]:
                logger.log_metrics({tag: values[i] for tag, values in scalars.items()}, step=step)


class Tally:
    """The losses and correct predictions of each run over the batches since the last report."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor, int]] = []

    def add(self, losses: Tensor, correct: Tensor, examples: int) -> None:
        """Add a batch.

        Args:
            losses: Tensor [P] of mean losses.
            correct: Tensor [P] of the numbers of correct predictions.
            examples: the number of examples in the batch.
        """
        self.batches.append((losses, correct, examples))

    def report(self, split: str) -> dict[str, Tensor]:
        """Return the mean loss and accuracy [P] by tag, and start again.

        As in a single run, a batch with the loss NaN does not count for the mean loss.
        """
        losses, correct, sizes = zip(*self.batches, strict=True)
        self.batches = []
        stacked = torch.stack(losses)
        weights = torch.tensor(sizes, device=stacked.device, dtype=stacked.dtype)[:, None]
        loss = (stacked * weights).nansum(0) / (weights * ~stacked.isnan()).sum(0)
        return {f"loss/{split}": loss, f"accuracy/{split}": torch.stack(correct).sum(0) / sum(sizes)}
