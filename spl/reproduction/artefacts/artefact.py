"""The artefacts, which are figures and tables of the paper: the runs that they need, and what these show."""

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
    """A finding of the paper, and whether these runs agree.

    Attributes:
        statement: the paper's finding, in one sentence.
        holds: whether it holds here; None if these runs cannot tell, for lack of results or of budget.
        measured: what was measured, with n.
    """

    statement: str
    holds: bool | None
    measured: str


Judgement = tuple[bool | None, str]
"""Whether a finding holds, and what was measured."""


def decide(statement: str, judge: Callable[[], Judgement], conclusive: bool = True) -> Finding:
    """Return the finding of `judge`, left open where results are missing or the budget is too small.

    Args:
        statement: what the paper says.
        judge: function that looks at the results; it may raise `MissingResult`.
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
    """A report of what the finished runs of an artefact show.

    Attributes:
        rows: the numbers, one dictionary per row of the CSV, all with the same keys.
        findings: the findings of the paper, and whether the runs agree.
        figures: the pictures, by a suffix of the file name, which is empty for the only picture.
        tables: markdown that puts our numbers beside the paper's.
    """

    rows: Sequence[dict[str, Any]]
    findings: Sequence[Finding]
    figures: dict[str, Figure] = field(default_factory=dict)
    tables: Sequence[str] = ()


class Artefact(ABC):
    """A figure or table of the paper.

    Attributes:
        name: fig1 … fig8, table1 … table4.
        title: what the artefact shows.
        data: the data set that decides its protocol: MNIST or CIFAR10.
        flags: the flags of `spl reproduce` that ask for it, besides its name.
        reads_events: whether it reads the events of its runs, besides their results.
    """

    name: str
    title: str
    data: str = "MNIST"
    flags: str = ""
    reads_events: bool = False

    def describe_budget(self, budget: Budget) -> str:
        """Return the description of the budget on the pictures."""
        return budget.describe(self.data)

    @abstractmethod
    def runs(self, budget: Budget) -> list[Run]:
        """Return the runs that the artefact needs, some perhaps twice, without those that they start from."""

    @abstractmethod
    def report(self, budget: Budget, results: Results) -> ArtefactReport:
        """Return what the finished ones of `runs` show; missing runs are left out."""
