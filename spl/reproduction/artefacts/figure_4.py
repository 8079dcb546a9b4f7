"""Figure 4: Figure 2 in full, with all statistics of signal propagation, loss and accuracy."""

from functools import partial

from spl.reproduction.artefacts.artefact import ArtefactReport, Finding
from spl.reproduction.artefacts.compared_network import Measurements, NetworkFigure
from spl.reproduction.artefacts.comparison import side_by_side
from spl.reproduction.artefacts.figure_2 import ALL, WITH_BEYOND
from spl.reproduction.artefacts.signal_propagation import (
    STATISTICS,
    draw_propagation,
    propagation_rows,
    propagation_runs,
    worsens,
)
from spl.reproduction.artefacts.training_logs import ACCURACY, LOSS, draw_training, generalizes_best, training_rows
from spl.reproduction.budgets import Budget
from spl.reproduction.methods import LDI_CS, LDI_CS_AI, PAPER
from spl.reproduction.results import Results
from spl.reproduction.run import Run

_PROPAGATION = [partial(draw_propagation, statistic=statistic) for statistic in STATISTICS]
_TRAINING = [partial(draw_training, tag=tag) for tag in (LOSS, ACCURACY)]


class Figure4(NetworkFigure):
    """All statistics of the Jacobian singular values, loss and accuracy of linear and tanh MLP-7."""

    name = "fig4"
    paper_title = "Signal propagation, all statistics, and training behaviour with accuracy"

    def runs(self, budget: Budget) -> list[Run]:
        """Return the runs of Figure 2."""
        return [run for network in self.networks for run in propagation_runs(budget, network, ALL)]

    def report(self, budget: Budget, results: Results) -> ArtefactReport:
        """Return pictures of the paper's methods, and of those beyond."""
        both = [Measurements(network, budget, results) for network in self.networks]
        rows = []
        for measured in both:
            rows += propagation_rows(measured, ALL) + training_rows(measured, ALL)
        figures = {
            "_signal_propagation": side_by_side(both, PAPER, _PROPAGATION, 1.6),
            "_training": side_by_side(both, PAPER, _TRAINING),
            "_signal_propagation_beyond": side_by_side(both, WITH_BEYOND, _PROPAGATION, 1.6),
            "_training_beyond": side_by_side(both, WITH_BEYOND, _TRAINING),
        }
        findings = self.findings(finding for measured in both for finding in _findings(measured))
        return ArtefactReport(rows, findings, figures)


def _findings(measured: Measurements) -> list[Finding]:
    return [
        worsens(measured, LDI_CS),
        generalizes_best(measured, LDI_CS_AI, PAPER),
    ]
