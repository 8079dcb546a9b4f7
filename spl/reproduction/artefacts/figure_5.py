"""Figure 5: how much longer networks pruned at random or by magnitude take to train."""

from spl.reproduction.artefacts.artefact import Artefact, Report
from spl.reproduction.artefacts.subject import LINEAR, TANH, Measurements
from spl.reproduction.artefacts.training_logs import ACCURACY, LOSS, draw_training, slower, training_rows
from spl.reproduction.budgets import Budget
from spl.reproduction.drawing import method_legend, panels
from spl.reproduction.methods import LDI_CS, LDI_MAG, LDI_RAND
from spl.reproduction.results import Results
from spl.reproduction.run import Run

_METHODS = (LDI_RAND, LDI_MAG, LDI_CS)


class Figure5(Artefact):
    """Training logs of random and magnitude pruning beside connection sensitivity, at 90 %."""

    name = "fig5"
    title = "Extended training logs of random and magnitude pruning"

    def runs(self, budget: Budget) -> list[Run]:
        """Those of Figure 2 that are trained."""
        return [run for subject in (LINEAR, TANH) for method in _METHODS for run in subject.runs(budget, method)]

    def report(self, budget: Budget, results: Results) -> Report:
        """Loss and accuracy against the logarithm of iterations."""
        figure, axes = panels(2, 2, 5.0, sharex=True, sharey="row")
        rows, findings = [], []
        for column, subject in enumerate((LINEAR, TANH)):
            measured = Measurements(subject, budget, results)
            rows += training_rows(measured, _METHODS)
            findings += [slower(measured, method, LDI_CS) for method in (LDI_RAND, LDI_MAG)]
            for panel, tag in zip(axes[:, column], (LOSS, ACCURACY), strict=True):
                draw_training(panel, measured, _METHODS, tag)
                panel.set_xscale("log")
        method_legend(figure, _METHODS)
        return Report(rows, findings, {"": figure})
