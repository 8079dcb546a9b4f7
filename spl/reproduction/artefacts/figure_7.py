"""Figure 7: signal propagation and training with ReLU and leaky ReLU."""

from functools import partial

from spl.reproduction.artefacts.artefact import Artefact, ArtefactReport, Finding
from spl.reproduction.artefacts.compared_network import ComparedNetwork, Measurements
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
    ACCURACY,
    draw_training,
    training_rows,
    trains_fastest,
    trains_like_dense,
)
from spl.reproduction.budgets import Budget
from spl.reproduction.methods import LDI_CS, LDI_CS_AI, LDI_DENSE, LDI_RAND, LDI_RAND_AI, VS_CS, mlp
from spl.reproduction.results import Results
from spl.reproduction.run import Run

_NETWORKS = (ComparedNetwork("ReLU", mlp("relu")), ComparedNetwork("leaky ReLU", mlp("leaky_relu")))
_METHODS = (LDI_DENSE, LDI_RAND, LDI_RAND_AI, VS_CS, LDI_CS, LDI_CS_AI)


class Figure7(Artefact):
    """Mean Jacobian singular values against sparsity, loss and accuracy at 90 %, of ReLU and leaky ReLU MLP-7."""

    name = "fig7"
    title = "Signal propagation and training behaviour with ReLU and leaky ReLU"

    def runs(self, budget: Budget) -> list[Run]:
        """Return runs like those of Figure 2, without magnitude pruning."""
        return [run for network in _NETWORKS for run in propagation_runs(budget, network, _METHODS)]

    def report(self, budget: Budget, results: Results) -> ArtefactReport:
        """Return one picture."""
        both = [Measurements(network, budget, results) for network in _NETWORKS]
        rows = []
        for measured in both:
            rows += propagation_rows(measured, _METHODS, ("mean",)) + training_rows(measured, _METHODS)
        draws = (draw_propagation, draw_training, partial(draw_training, tag=ACCURACY))
        findings = [finding for measured in both for finding in _findings(measured)]
        return ArtefactReport(rows, findings, {"": side_by_side(both, _METHODS, draws, 2.0)})


def _findings(measured: Measurements) -> list[Finding]:
    return [
        decreases(measured, LDI_CS),
        restores(measured, LDI_CS_AI),
        vanishes(measured, LDI_RAND),
        exceeds(measured, LDI_RAND_AI, LDI_RAND),
        exceeds(measured, LDI_CS, VS_CS, " (recalled)"),
        trains_fastest(measured, LDI_CS_AI, _METHODS),
        trains_like_dense(measured, LDI_CS_AI),
    ]
