"""Artefact: a figure or table of the paper, the runs that it needs, and what they show."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

from spl.reproduction.budgets import Budget
from spl.reproduction.results import Results
from spl.reproduction.run import Run
from spl.reproduction.samples import MissingResult


@dataclass(frozen=True)
class Finding:
    """Something that the paper says, and whether these runs agree.

    Attributes:
        statement: the paper's finding, in one sentence.
        holds: whether it does here; None where these runs cannot tell, for want of results or of budget.
        measured: by how much, with n.
    """

    statement: str
    holds: bool | None
    measured: str


Judgement = tuple[bool | None, str]  # whether it holds, and by how much


def decide(statement: str, judge: Callable[[], Judgement], conclusive: bool = True) -> Finding:
    """The finding of `judge`; undecided, and said so, where results are missing or the budget is too small.

    Args:
        statement: what the paper says.
        judge: looks at the results; may raise `MissingResult`.
        conclusive: whether the budget is large enough to tell.
    """
    try:
        holds, measured = judge()
    except MissingResult as missing:
        return Finding(statement, None, f"no result of {missing}")
    if not conclusive:
        return Finding(statement, None, f"{measured}; too few iterations to tell")
    return Finding(statement, holds, measured)


@dataclass(frozen=True)
class ArtefactReport:
    """What the finished runs of an artefact show.

    Attributes:
        rows: the numbers, one dictionary a row of the CSV, with the same keys in all.
        findings: what of the paper they agree with.
        figures: pictures, by a suffix of their file's name, empty for the only one.
        tables: markdown, which puts ours beside the paper's.
    """

    rows: Sequence[dict[str, Any]]
    findings: Sequence[Finding]
    figures: dict[str, Figure] = field(default_factory=dict)
    tables: Sequence[str] = ()


class Artefact(ABC):
    """A figure or table of the paper.

    Attributes:
        name: fig1 … fig8, table1 … table4.
        title: what it shows.
        data: the data set that decides its protocol: MNIST or CIFAR10.
    """

    name: str
    title: str
    data: str = "MNIST"

    def spent(self, budget: Budget) -> str:
        """The budget, as it stands on the pictures."""
        return budget.describe(self.data)

    @abstractmethod
    def runs(self, budget: Budget) -> list[Run]:
        """The runs that it needs, without those that they start from; each digest once or several times."""

    @abstractmethod
    def report(self, budget: Budget, results: Results) -> ArtefactReport:
        """What the finished ones of `runs` show; those that are missing are left out."""
