"""Table 4: transfer of sparsity from one data set to another."""

from collections.abc import Mapping
from typing import Any

from spl.reproduction.artefacts.artefact import ArtefactReport, Finding
from spl.reproduction.artefacts.error_plot import error_plot
from spl.reproduction.artefacts.grid import ERRORS, IN_BRACKETS, Cell, Grid, Key, comparison_table, errors
from spl.reproduction.budgets import Budget
from spl.reproduction.methods import LDI_CS, Experiment
from spl.reproduction.results import Results
from spl.reproduction.samples import Difference, Sample, all_positive

_NETWORK = {"class_path": "spl.networks.LeNet300", "init_args": {"activation": "tanh"}}
_SPARSITY = 0.97
_RECALLED = {  # pruned on, trained on, targets
    ("MNIST", "MNIST", "labels"): 2.42,
    ("MNIST", "MNIST", "uniform"): 2.94,
    ("FashionMNIST", "MNIST", "labels"): 2.66,
    ("FashionMNIST", "MNIST", "uniform"): 2.80,
    ("FashionMNIST", "FashionMNIST", "labels"): 11.90,
    ("FashionMNIST", "FashionMNIST", "uniform"): 13.01,
    ("MNIST", "FashionMNIST", "labels"): 14.17,
    ("MNIST", "FashionMNIST", "uniform"): 13.39,
}
_OTHER = {"MNIST": "FashionMNIST", "FashionMNIST": "MNIST"}


class Table4(Grid):
    """Errors of LeNet-300-100, pruned on MNIST or Fashion-MNIST and trained on either."""

    name = "table4"
    title = "Transfer of sparsity: errors of tanh LeNet-300-100, pruned to 97 % on one data set and trained on another"
    axes = ("pruned_on", "trained_on", "targets")

    @property
    def cells(self) -> Mapping[Key, Cell]:
        """The cells by the data set to prune on, the data set to train on, and the targets."""
        return {key: Cell(_experiment(*key), LDI_CS) for key in _RECALLED}

    def report(self, budget: Budget, results: Results) -> ArtefactReport:
        """Return the errors."""
        measured = self.measured(budget, results)
        final, best = errors(measured, "final"), errors(measured, "best")
        tables = [
            f"{ERRORS} {IN_BRACKETS} Data sets: pruned on → trained on; scored with labels, and without (uniform).\n\n"
            f"Best by validation:\n\n{_table(best)}",
            f"Final:\n\n{_table(final)}",
        ]
        findings = [self._labels(budget, best), self._without(budget, best)]
        labels = {key: f"{key[0]} → {key[1]}, {key[2]}" for key in _RECALLED}
        figures = {"": error_plot(measured, labels, dict(_RECALLED))}
        return ArtefactReport(self.rows(measured, lambda result: {}), findings, figures, tables)

    def _labels(self, budget: Budget, best: Mapping[Key, Sample]) -> Finding:
        losses = _losses(best, "labels")
        return self.finding(
            budget,
            "With labels, a network pruned on the other data set has a higher error than one pruned on its own "
            "(the paper's, recalled: by 0.24 on MNIST and 2.27 on Fashion-MNIST).",
            all_positive(losses.values()),
            _listed(losses),
            best.values(),
        )

    def _without(self, budget: Budget, best: Mapping[Key, Sample]) -> Finding:
        losses, labelled = _losses(best, "uniform"), _losses(best, "labels")
        return self.finding(
            budget,
            "Without labels, pruning on the other data set costs less than with labels "
            "(the paper's, recalled: −0.14 on MNIST and 0.38 on Fashion-MNIST).",
            all_positive(labelled[trained] - loss for trained, loss in losses.items()),
            _listed(losses),
            best.values(),
        )


def _experiment(pruned: str, trained: str, targets: str) -> Experiment:
    scoring_data = None if pruned == trained else pruned
    return Experiment(_NETWORK, trained, _SPARSITY, targets, scoring_data)


def _losses(best: Mapping[Key, Sample], targets: str) -> dict[str, Difference]:
    """Return how much higher the error is when pruned on the other data set, by the data set to train on."""
    return {t: best[other, t, targets] - best[t, t, targets] for t, other in _OTHER.items()}


def _listed(losses: Mapping[str, Difference]) -> str:
    return "best error, increase when pruned on the other: " + ", ".join(f"{t} {d:.2f}" for t, d in losses.items())


def _table(samples: Mapping[Key, Sample]) -> str:
    def flat(numbers: Mapping[Key, Any]) -> dict[Key, Any]:
        return {(f"{pruned} → {trained}", targets): number for (pruned, trained, targets), number in numbers.items()}

    return comparison_table(flat(samples), flat(_RECALLED))
