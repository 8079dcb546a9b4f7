"""Table 3: pruning without labels."""

from collections.abc import Iterable, Mapping

from spl.reproduction.artefacts.artefact import ArtefactReport, Finding
from spl.reproduction.artefacts.error_plot import error_plot
from spl.reproduction.artefacts.grid import ERRORS, IN_BRACKETS, Cell, Grid, Key, comparison_table, errors
from spl.reproduction.budgets import Budget
from spl.reproduction.methods import LDI_CS, Experiment, mlp
from spl.reproduction.results import Results
from spl.reproduction.samples import Difference, Sample, all_positive

_DEPTHS = (3, 5, 7)
_RECALLED = {
    "labels": (2.46, 2.43, 2.61),
    "prediction_logits": (3.31, 3.38, 3.60),
    "prediction_softmax": (3.11, 3.37, 3.56),
    "uniform": (2.77, 2.77, 2.94),
}


class Table3(Grid):
    """Errors of tanh MLP-3, 5 and 7, by the targets that the scoring loss compares predictions with."""

    name = "table3"
    title = "Pruning without labels: errors of tanh MLP-K on MNIST, pruned to 90 %, by the targets of the scoring loss"
    axes = ("targets", "depth")

    @property
    def cells(self) -> Mapping[Key, Cell]:
        """The cells by targets and depth."""
        return {
            (targets, depth): Cell(Experiment(mlp("tanh", depth), targets=targets), LDI_CS)
            for targets in _RECALLED
            for depth in _DEPTHS
        }

    def report(self, budget: Budget, results: Results) -> ArtefactReport:
        """Return the errors."""
        measured = self.measured(budget, results)
        final, best = errors(measured, "final"), errors(measured, "best")
        paper = {
            (targets, depth): error
            for targets, row in _RECALLED.items()
            for depth, error in zip(_DEPTHS, row, strict=True)
        }
        tables = [
            f"{ERRORS} {IN_BRACKETS}\n\nBest by validation, by depth K:\n\n{comparison_table(best, paper)}",
            f"Final, by depth K:\n\n{comparison_table(final, paper)}",
        ]
        findings = [self._labels(budget, best), self._cost(budget, best), self._uniform(budget, best)]
        labels = {(targets, depth): f"MLP-{depth}, {targets}" for depth in _DEPTHS for targets in _RECALLED}
        figures = {"": error_plot(measured, labels, paper)}
        return ArtefactReport(self.rows(measured, lambda result: {}), findings, figures, tables)

    def _labels(self, budget: Budget, best: Mapping[Key, Sample]) -> Finding:
        losses = _losses(best, [targets for targets in _RECALLED if targets != "labels"], "labels")
        return self.finding(
            budget,
            "Labels give a lower error than each of the targets without labels.",
            all_positive(losses.values()),
            f"best error minus that with labels: {_listed(losses)}",
            best.values(),
        )

    def _cost(self, budget: Budget, best: Mapping[Key, Sample]) -> Finding:
        losses = _losses(best, ["uniform"], "labels")
        return self.finding(
            budget,
            "The uniform target costs at most half a percentage point (the paper's, recalled: 0.31 to 0.34).",
            all(loss.mean <= 0.5 for loss in losses.values()),
            f"best error minus that with labels: {_listed(losses)}",
            best.values(),
        )

    def _uniform(self, budget: Budget, best: Mapping[Key, Sample]) -> Finding:
        losses = _losses(best, ["prediction_logits", "prediction_softmax"], "uniform")
        return self.finding(
            budget,
            "The uniform target gives a lower error than the network's own prediction, as logits or as softmax.",
            all_positive(losses.values()),
            f"best error minus that with the uniform target: {_listed(losses)}",
            best.values(),
        )


def _losses(best: Mapping[Key, Sample], targets: Iterable[str], reference: str) -> dict[Key, Difference]:
    """Return how much higher the error is than with the reference."""
    return {(t, depth): best[t, depth] - best[reference, depth] for t in targets for depth in _DEPTHS}


def _listed(losses: Mapping[Key, Difference]) -> str:
    rows = [
        f"{targets} " + ", ".join(f"{losses[targets, depth]:.2f}" for depth in _DEPTHS)
        for targets in dict.fromkeys(targets for targets, _ in losses)
    ]
    return f"{'; '.join(rows)} (K = 3, 5, 7)"
