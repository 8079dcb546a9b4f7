"""A grid: an artefact of cells, each of them one experiment that is repeated over seeds."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from spl.reproduction.artefacts.artefact import Artefact, Finding
from spl.reproduction.budgets import Budget
from spl.reproduction.markdown import table
from spl.reproduction.methods import Experiment, Method
from spl.reproduction.results import Result, Results
from spl.reproduction.run import Run
from spl.reproduction.samples import Sample

Key = tuple[Any, ...]
Measured = Mapping[Key, Mapping[int, Result]]

_ENOUGH_ITERATIONS = 1000  # with fewer, nothing has been learned that could agree or disagree with the paper

ERRORS = (
    "Test errors in %, mean ± standard deviation over seeds, of the final weights, and of the checkpoint that is best "
    "by validation accuracy, which has not seen the test set. The paper reports the best test accuracy over its "
    "checkpoints."
)
IN_BRACKETS = "In brackets the paper's values, recalled and not looked up."


@dataclass(frozen=True)
class Cell:
    """One experiment with one method."""

    experiment: Experiment
    method: Method

    def runs(self, budget: Budget) -> list[Run]:
        """Return one run per seed, from 0."""
        return self.experiment.runs(budget, self.method)


class Grid(Artefact):
    """An artefact of cells, each of them one experiment that is repeated over seeds.

    Attributes:
        axes: the names of what distinguishes cells, which are columns of the CSV.
    """

    axes: tuple[str, ...]

    @property
    @abstractmethod
    def cells(self) -> Mapping[Key, Cell]:
        """The cells, by their values of `axes`."""

    def runs(self, budget: Budget) -> list[Run]:
        """Return the runs of all cells."""
        return [run for cell in self.cells.values() for run in cell.runs(budget)]

    def measured(self, budget: Budget, results: Results) -> Measured:
        """Return the finished runs of each cell, by seed."""
        return {
            key: {seed: results[run.digest] for seed, run in enumerate(cell.runs(budget)) if run.digest in results}
            for key, cell in self.cells.items()
        }

    def rows(self, measured: Measured, numbers: Callable[[Result], dict[str, Any]]) -> list[dict[str, Any]]:
        """Return one row per run: its values of `axes`, its seed, its `numbers`, its errors."""
        return [
            dict(zip(self.axes, key, strict=True)) | {"seed": seed} | numbers(result) | _test_errors(result)
            for key, seeds in measured.items()
            for seed, result in seeds.items()
        ]

    def finding(
        self, budget: Budget, statement: str, holds: bool | None, measured: str, samples: Collection[Sample]
    ) -> Finding:
        """Return a finding; it is left open unless the budget trains networks and each sample has two runs.

        Args:
            budget: the budget.
            statement: what the paper says.
            holds: whether it holds, if these runs can tell.
            measured: what was measured.
            samples: the samples that decide the finding.
        """
        conclusive = budget.protocol(self.data).iterations >= _ENOUGH_ITERATIONS and all(s.n > 1 for s in samples)
        counts = [sample.n for sample in samples]
        if not min(counts):
            return Finding(statement, None, "not measured in every cell")
        n = f"n = {min(counts)}" + (f" to {max(counts)}" if max(counts) > min(counts) else "")
        return Finding(statement, holds if conclusive else None, f"{measured}; {n}")


def errors(measured: Measured, which: str) -> dict[Key, Sample]:
    """Return the test errors of each cell in %, final or best."""
    return {key: Sample.of(seeds.values(), lambda result: result.error(which)) for key, seeds in measured.items()}


def comparison_table(samples: Mapping[Key, Sample], recalled: Mapping[Key, float]) -> str:
    """Return a markdown table with a row and a column of each key; the cells have our value (the paper's)."""
    columns = dict.fromkeys(column for _, column in samples)
    rows = [
        [row, *(f"{samples[row, column]:.2f} ({recalled[row, column]:.2f})" for column in columns)]
        for row in dict.fromkeys(row for row, _ in samples)
    ]
    return table(["", *map(str, columns)], rows)


def _test_errors(result: Result) -> dict[str, float]:
    return {"error_final": result.error(), "error_best": result.error("best")}
