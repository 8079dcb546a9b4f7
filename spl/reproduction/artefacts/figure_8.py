"""Figure 8: training of VGG16 on CIFAR-10."""

from spl.reproduction.artefacts.artefact import Artefact, ArtefactReport
from spl.reproduction.artefacts.compared_network import ComparedNetwork, Measurements
from spl.reproduction.artefacts.training_logs import (
    ACCURACY,
    LOSS,
    draw_training,
    generalizes_best,
    training_rows,
    trains_fastest,
)
from spl.reproduction.budgets import Budget
from spl.reproduction.drawing import method_legend, panels
from spl.reproduction.methods import LDI_CS_AI, PAPER
from spl.reproduction.results import Results
from spl.reproduction.run import Run

_VGG16 = ComparedNetwork("VGG16", {"class_path": "spl.networks.VGG16", "init_args": {}}, "CIFAR10")


class Figure8(Artefact):
    """Loss and accuracy during training of VGG16 on CIFAR-10 at 90 %, by method."""

    name = "fig8"
    title = "Training behaviour of VGG16 on CIFAR-10"
    data = "CIFAR10"

    def runs(self, budget: Budget) -> list[Run]:
        """Return trained runs of all of the paper's methods."""
        return [run for method in PAPER for run in _VGG16.runs(budget, method)]

    def report(self, budget: Budget, results: Results) -> ArtefactReport:
        """Return a picture with the loss on the left and the accuracy on the right."""
        measured = Measurements(_VGG16, budget, results)
        figure, axes = panels(1, 2, 3.2)
        for panel, tag in zip(axes[0], (LOSS, ACCURACY), strict=True):
            draw_training(panel, measured, PAPER, tag)
        method_legend(figure, PAPER)
        findings = [trains_fastest(measured, LDI_CS_AI, PAPER), generalizes_best(measured, LDI_CS_AI, PAPER)]
        return ArtefactReport(training_rows(measured, PAPER), findings, {"": figure})
