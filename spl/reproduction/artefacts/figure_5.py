"""Figure 5: how much longer it takes to train networks that are pruned at random or by magnitude."""

from functools import partial

from spl.reproduction.artefacts.artefact import Artefact, ArtefactReport
from spl.reproduction.artefacts.compared_network import LINEAR, TANH, Measurements
from spl.reproduction.artefacts.comparison import side_by_side
from spl.reproduction.artefacts.training_logs import ACCURACY, LOSS, draw_training, slower, training_rows
from spl.reproduction.budgets import Budget
from spl.reproduction.methods import LDI_CS, LDI_MAG, LDI_RAND
from spl.reproduction.results import Results
from spl.reproduction.run import Run

_METHODS = (LDI_RAND, LDI_MAG, LDI_CS)


class Figure5(Artefact):
    """Training logs of random and magnitude pruning beside connection sensitivity, at 90 %."""

    name = "fig5"
    title = "Extended training logs of random and magnitude pruning"

    def runs(self, budget: Budget) -> list[Run]:
        """Return the trained ones of the runs of Figure 2."""
        return [run for network in (LINEAR, TANH) for method in _METHODS for run in network.runs(budget, method)]

    def report(self, budget: Budget, results: Results) -> ArtefactReport:
        """Return a picture of loss and accuracy against iterations on a logarithmic axis."""
        both = [Measurements(network, budget, results) for network in (LINEAR, TANH)]
        figure = side_by_side(both, _METHODS, [partial(draw_training, tag=tag) for tag in (LOSS, ACCURACY)])
        for axes in figure.axes:
            axes.set_xscale("log")
        rows = [row for measured in both for row in training_rows(measured, _METHODS)]
        findings = [slower(measured, method, LDI_CS) for measured in both for method in (LDI_RAND, LDI_MAG)]
        return ArtefactReport(rows, findings, {"": figure})
