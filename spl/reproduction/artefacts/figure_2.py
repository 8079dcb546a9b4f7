"""Figure 2: signal propagation and training of sparse networks."""

from spl.reproduction.artefacts.artefact import ArtefactReport, Finding
from spl.reproduction.artefacts.compared_network import TANH, Measurements, NetworkFigure
from spl.reproduction.artefacts.comparison import side_by_side
from spl.reproduction.artefacts.signal_propagation import (
    decreases,
    draw_propagation,
    exceeds,
    propagation_rows,
    propagation_runs,
    restores,
    vanishes,
)
from spl.reproduction.artefacts.training_logs import (
    LOSS,
    draw_jsv_training,
    draw_training,
    jsv_rows,
    survives_shuffling,
    training_rows,
    trains_fastest,
    trains_like_dense,
    untrainable,
)
from spl.reproduction.budgets import Budget
from spl.reproduction.methods import (
    BEYOND,
    LDI_CS,
    LDI_CS_AI,
    LDI_CS_EOI,
    LDI_DENSE,
    LDI_RAND,
    LDI_RAND_AI,
    LDI_SYNFLOW,
    PAPER,
    VS_CS,
)
from spl.reproduction.results import Results
from spl.reproduction.run import Run

ALL = PAPER + BEYOND
WITH_BEYOND = (LDI_DENSE, LDI_CS, LDI_CS_AI, *BEYOND)  # methods beyond the paper, and those to compare them with


class Figure2(NetworkFigure):
    """Mean Jacobian singular values against sparsity, and training loss at 90 %, of linear and tanh MLP-7."""

    name = "fig2"
    paper_title = "Signal propagation and training behaviour of sparse networks"

    def runs(self, budget: Budget) -> list[Run]:
        """Return runs of all methods at all sparsities."""
        return [run for network in self.networks for run in propagation_runs(budget, network, ALL)]

    def report(self, budget: Budget, results: Results) -> ArtefactReport:
        """Return pictures of the paper's methods, of those beyond, and of singular values during training."""
        both = [Measurements(network, budget, results) for network in self.networks]
        rows = []
        for measured in both:
            rows += propagation_rows(measured, ALL, ("mean",))
            rows += training_rows(measured, ALL, (LOSS,)) + jsv_rows(measured, ALL)
        figures = {
            "": side_by_side(both, PAPER, (draw_propagation, draw_training)),
            "_beyond": side_by_side(both, WITH_BEYOND, (draw_propagation, draw_training)),
            "_jsv_during_training": side_by_side(both, PAPER, (draw_jsv_training,)),
        }
        findings = self.findings(finding for measured in both for finding in _findings(measured))
        return ArtefactReport(rows, findings, figures)


def _findings(measured: Measurements) -> list[Finding]:
    beyond = ", beyond the paper"
    return [
        decreases(measured, LDI_CS),
        restores(measured, LDI_CS_AI),
        vanishes(measured, LDI_RAND),
        exceeds(measured, LDI_RAND_AI, LDI_RAND),
        exceeds(measured, LDI_CS, VS_CS, " (recalled)"),
        trains_fastest(measured, LDI_CS_AI, PAPER),
        trains_like_dense(measured, LDI_CS_AI),
        *([untrainable(measured, LDI_RAND)] if measured.network is TANH else []),
        restores(measured, LDI_CS_EOI, beyond),
        exceeds(measured, LDI_SYNFLOW, LDI_CS, beyond),
        survives_shuffling(measured),
    ]
