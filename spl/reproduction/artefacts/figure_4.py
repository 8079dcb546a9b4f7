"""Figure 4: Figure 2 in full, all statistics of signal propagation, loss and accuracy."""

from matplotlib.figure import Figure

from spl.reproduction.artefacts.artefact import Artefact, Finding, Report
from spl.reproduction.artefacts.figure_2 import ALL, BESIDE
from spl.reproduction.artefacts.signal_propagation import (
    STATISTICS,
    draw_propagation,
    propagation_rows,
    propagation_runs,
    worsens,
)
from spl.reproduction.artefacts.subject import LINEAR, TANH, Measurements
from spl.reproduction.artefacts.training_logs import ACCURACY, LOSS, draw_training, learns_best, training_rows
from spl.reproduction.budgets import Budget
from spl.reproduction.drawing import method_legend, panels
from spl.reproduction.methods import LDI_CS, LDI_CS_AI, PAPER, Method
from spl.reproduction.results import Results
from spl.reproduction.run import Run


class Figure4(Artefact):
    """All statistics of the Jacobian singular values, loss and accuracy of linear and tanh MLP-7."""

    name = "fig4"
    title = "Signal propagation, all statistics, and training behaviour with accuracy"

    def runs(self, budget: Budget) -> list[Run]:
        """Those of Figure 2."""
        return [run for subject in (LINEAR, TANH) for run in propagation_runs(budget, subject, ALL)]

    def report(self, budget: Budget, results: Results) -> Report:
        """The paper's methods, and those beyond."""
        both = [Measurements(subject, budget, results) for subject in (LINEAR, TANH)]
        rows = []
        for measured in both:
            rows += propagation_rows(measured, ALL) + training_rows(measured, ALL)
        figures = {
            "_signal_propagation": _draw_propagation(both, PAPER),
            "_training": _draw_training(both, PAPER),
            "_signal_propagation_beyond": _draw_propagation(both, BESIDE),
            "_training_beyond": _draw_training(both, BESIDE),
        }
        return Report(rows, [finding for measured in both for finding in _findings(measured)], figures)


def _draw_propagation(both: list[Measurements], methods: tuple[Method, ...]) -> Figure:
    figure, axes = panels(len(STATISTICS), 2, 8.6, sharex=True, sharey="row")
    for statistic, pair in zip(STATISTICS, axes, strict=True):
        for measured, panel in zip(both, pair, strict=True):
            draw_propagation(panel, measured, methods, statistic)
    for panel in axes.flat:
        panel.label_outer()
    method_legend(figure, methods)
    return figure


def _draw_training(both: list[Measurements], methods: tuple[Method, ...]) -> Figure:
    figure, axes = panels(2, 2, 5.0, sharex=True, sharey="row")
    for tag, pair in zip((LOSS, ACCURACY), axes, strict=True):
        for measured, panel in zip(both, pair, strict=True):
            draw_training(panel, measured, methods, tag)
    method_legend(figure, methods)
    return figure


def _findings(measured: Measurements) -> list[Finding]:
    return [
        worsens(measured, LDI_CS),
        learns_best(measured, LDI_CS_AI, PAPER),
    ]
