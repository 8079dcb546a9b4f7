"""Figure 3: neural architecture sculpting."""

from collections.abc import Mapping

from spl.reproduction.artefacts.artefact import Finding, Report
from spl.reproduction.artefacts.error_plot import error_plot
from spl.reproduction.artefacts.grid import ERRORS, Cell, Grid, Key, Measured, errors
from spl.reproduction.budgets import Budget
from spl.reproduction.markdown import table
from spl.reproduction.methods import LDI_CS_AI, LDI_DENSE, Choice, Experiment
from spl.reproduction.results import Results
from spl.reproduction.samples import Sample, all_positive

_BASE = "ResNet-20, dense"
_WIDEST = "same blocks, 8× wider"
# parameters before pruning in words, network, sparsity that leaves the base's 269,034
_SPARSE: dict[str, tuple[str, dict[str, int], float]] = {
    _WIDEST: ("17.0 M", {"blocks_per_stage": 3, "width_multiplier": 8}, 0.9841622),
    "a third of the blocks, 4× wider": ("1.16 M", {"blocks_per_stage": 1, "width_multiplier": 4}, 0.767254),
    "larger blocks, same width": ("560 k", {"blocks_per_stage": 3, "layers_per_block": 4}, 0.519591),
}


class Figure3(Grid):
    """Errors of ResNet-20 and of larger networks, pruned without labels to as many parameters."""

    name = "fig3"
    title = "Sculpting on CIFAR-10: errors of networks with 269k parameters, dense and pruned without labels"
    data = "CIFAR10"
    axes = ("network",)

    @property
    def cells(self) -> Mapping[Key, Cell]:
        """By network, the dense base first."""
        base = Cell(Experiment(_resnet({"blocks_per_stage": 3}), self.data), LDI_DENSE)
        sparse = {
            (name,): Cell(Experiment(_resnet(arguments), self.data, sparsity, targets="uniform"), LDI_CS_AI)
            for name, (_, arguments, sparsity) in _SPARSE.items()
        }
        return {(_BASE,): base} | sparse

    def report(self, budget: Budget, results: Results) -> Report:
        """Errors."""
        measured = self.measured(budget, results)
        best = errors(measured, "best")
        findings = [self._beat(budget, best), self._widest(budget, best)]
        rows = self.rows(measured, lambda result: {})
        return Report(
            rows,
            findings,
            {"": error_plot(measured, {(name,): label for name, label in _labels().items()})},
            [f"{ERRORS}\n\n{_table(measured)}"],
        )

    def _beat(self, budget: Budget, best: Mapping[Key, Sample]) -> Finding:
        gains = {name: best[_BASE,] - best[name,] for name in _SPARSE}
        return self.finding(
            budget,
            "Every sparse equivalent has a lower error than the dense base.",
            all_positive(gains.values()),
            "error, best, base less sparse: " + ", ".join(f"{gain:.2f} ({name})" for name, gain in gains.items()),
            best.values(),
        )

    def _widest(self, budget: Budget, best: Mapping[Key, Sample]) -> Finding:
        gains = {name: best[name,] - best[_WIDEST,] for name in _SPARSE if name != _WIDEST}
        return self.finding(
            budget,
            "The widest network has the lowest error of the sparse ones.",
            all_positive(gains.values()),
            "error, best, less that of the widest: "
            + ", ".join(f"{gain:.2f} ({name})" for name, gain in gains.items()),
            best.values(),
        )


def _resnet(arguments: dict[str, int]) -> Choice:
    return {"class_path": "spl.networks.ResNet", "init_args": arguments}


def _labels() -> dict[str, str]:
    sparse = {name: f"{name}\n{size}, pruned to 269 k" for name, (size, _, _) in _SPARSE.items()}
    return {_BASE: f"{_BASE}\n269 k"} | sparse


def _table(measured: Measured) -> str:
    best, final = errors(measured, "best"), errors(measured, "final")
    rows = [
        [label.replace("\n", ", "), f"{best[name,]:.2f}", f"{final[name,]:.2f}", best[name,].n]
        for name, label in _labels().items()
    ]
    headers = ["network", "error, best by validation", "error, final", "n"]
    return table(headers, rows)
