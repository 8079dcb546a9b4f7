"""Journal: what is logged of each member, written to its own logger."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor

Entry = tuple[int, list[int], dict[str, list[float]]]


class Journal:
    """Scalars of the members by step; kept, so that a resumed population can write them into new loggers.

    Args:
        loggers: those of each member.
    """

    def __init__(self, loggers: Sequence[Sequence[Logger]]) -> None:
        self.loggers = loggers
        self.entries: list[Entry] = []

    def log(self, step: int, members: Sequence[int], scalars: Mapping[str, Tensor]) -> None:
        """Log of some members their values among those of all, [P] under each tag."""
        columns = {tag: values.tolist() for tag, values in scalars.items()}
        self._add((step, list(members), {tag: [values[m] for m in members] for tag, values in columns.items()}))

    def note(self, step: int, member: int, scalars: Mapping[str, float]) -> None:
        """Keep what was logged of one member by others."""
        self.entries.append((step, [member], {tag: [value] for tag, value in scalars.items()}))

    def replay(self, entries: Sequence[Any]) -> None:
        """Log the entries of an interrupted population again."""
        for step, members, scalars in entries:
            self._add((step, members, scalars))

    def _add(self, entry: Entry) -> None:
        self.entries.append(entry)
        step, members, scalars = entry
        for i, member in enumerate(members):
            for logger in self.loggers[member]:
                logger.log_metrics({tag: values[i] for tag, values in scalars.items()}, step=step)


class Tally:
    """Loss and accuracy of each member over the batches since the last report."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor, int]] = []

    def add(self, losses: Tensor, correct: Tensor, examples: int) -> None:
        """Mean losses [P] and numbers of correct predictions [P] of one batch."""
        self.batches.append((losses, correct, examples))

    def report(self, split: str) -> dict[str, Tensor]:
        """Both means [P] by tag; as in a single run, a batch whose loss is NaN does not count for the mean loss."""
        losses, correct, sizes = zip(*self.batches, strict=True)
        self.batches = []
        stacked = torch.stack(losses)
        weights = torch.tensor(sizes, device=stacked.device, dtype=stacked.dtype)[:, None]
        loss = (stacked * weights).nansum(0) / (weights * ~stacked.isnan()).sum(0)
        return {f"loss/{split}": loss, f"accuracy/{split}": torch.stack(correct).sum(0) / sum(sizes)}
