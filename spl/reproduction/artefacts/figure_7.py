"""Figure 7: signal propagation and training with ReLU and leaky ReLU."""

from spl.reproduction.artefacts.artefact import Artefact, Finding, Report
from spl.reproduction.artefacts.signal_propagation import (
    decreases,
    draw_propagation,
    exceeds,
    propagation_rows,
    propagation_runs,
    restores,
    vanishes,
)
from spl.reproduction.artefacts.subject import Measurements, Subject
from spl.reproduction.artefacts.training_logs import (
    ACCURACY,
    LOSS,
    draw_training,
    training_rows,
    trains_fastest,
    trains_like_dense,
)
from spl.reproduction.budgets import Budget
from spl.reproduction.drawing import method_legend, panels
from spl.reproduction.methods import LDI_CS, LDI_CS_AI, LDI_DENSE, LDI_RAND, LDI_RAND_AI, VS_CS, mlp
from spl.reproduction.results import Results
from spl.reproduction.run import Run

_SUBJECTS = (Subject("ReLU", mlp("relu")), Subject("leaky ReLU", mlp("leaky_relu")))
_METHODS = (LDI_DENSE, LDI_RAND, LDI_RAND_AI, VS_CS, LDI_CS, LDI_CS_AI)


class Figure7(Artefact):
    """Mean Jacobian singular values against sparsity, loss and accuracy at 90 %, of ReLU and leaky ReLU MLP-7."""

    name = "fig7"
    title = "Signal propagation and training behaviour with ReLU and leaky ReLU"

    def runs(self, budget: Budget) -> list[Run]:
        """As Figure 2's, without magnitude."""
        return [run for subject in _SUBJECTS for run in propagation_runs(budget, subject, _METHODS)]

    def report(self, budget: Budget, results: Results) -> Report:
        """A row of axes for each activation."""
        figure, axes = panels(2, 3, 4.8, sharex="col", sharey="col")
        rows, findings = [], []
        for subject, (left, middle, right) in zip(_SUBJECTS, axes, strict=True):
            measured = Measurements(subject, budget, results)
            rows += propagation_rows(measured, _METHODS, ("mean",)) + training_rows(measured, _METHODS)
            findings += _findings(measured)
            draw_propagation(left, measured, _METHODS)
            draw_training(middle, measured, _METHODS, LOSS)
            draw_training(right, measured, _METHODS, ACCURACY)
        method_legend(figure, _METHODS)
        return Report(rows, findings, {"": figure})


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
