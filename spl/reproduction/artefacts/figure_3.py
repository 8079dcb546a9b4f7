"""Figure 3: neural architecture sculpting."""

from collections.abc import Mapping

from spl.pruning import keep_count, prunable_parameters
from spl.reproduction.artefacts.artefact import ArtefactReport, Finding
from spl.reproduction.artefacts.error_plot import error_plot
from spl.reproduction.artefacts.grid import ERRORS, Cell, Grid, Key, Measured, errors
from spl.reproduction.budgets import Budget
from spl.reproduction.markdown import table
from spl.reproduction.methods import LDI_CS_AI, LDI_DENSE, Choice, Experiment
from spl.reproduction.results import Results
from spl.reproduction.run import Run
from spl.reproduction.samples import Sample, all_positive

_BASE = "ResNet-20, dense"
_WIDEST = "same blocks, 8× wider"
# each network, and the sparsity that leaves as many parameters as the base has, 269,034
_SPARSE: dict[str, tuple[dict[str, int], float]] = {
    _WIDEST: ({"blocks_per_stage": 3, "width_multiplier": 8}, 0.9841622),
    "a third of the blocks, 4× wider": ({"blocks_per_stage": 1, "width_multiplier": 4}, 0.767254),
    "larger blocks, same width": ({"blocks_per_stage": 3, "layers_per_block": 4}, 0.519591),
}


class Figure3(Grid):
    """Errors of ResNet-20, and of larger networks that are pruned without labels to as many parameters."""

    name = "fig3"
    title = "Sculpting on CIFAR-10: errors of networks with 269k parameters, dense and pruned without labels"
    data = "CIFAR10"
    axes = ("network",)

    @property
    def cells(self) -> Mapping[Key, Cell]:
        """The cells by network, the dense base first."""
        base = Cell(Experiment(_resnet({"blocks_per_stage": 3}), self.data), LDI_DENSE)
        sparse = {
            (name,): Cell(Experiment(_resnet(arguments), self.data, sparsity, targets="uniform"), LDI_CS_AI)
            for name, (arguments, sparsity) in _SPARSE.items()
        }
        return {(_BASE,): base} | sparse

    def report(self, budget: Budget, results: Results) -> ArtefactReport:
        """Return the errors."""
        measured = self.measured(budget, results)
        best = errors(measured, "best")
        findings = [self._beat(budget, best), self._widest(budget, best)]
        labels = self._labels(budget)
        return ArtefactReport(
            self.rows(measured, lambda result: {}),
            findings,
            {"": error_plot(measured, labels)},
            [f"{ERRORS}\n\n{_table(measured, labels)}"],
        )

    def _labels(self, budget: Budget) -> dict[Key, str]:
        """Return each network's name and its parameters at the budget's width, before and after pruning."""
        return {key: f"{key[0]}\n{_sizes(cell.runs(budget)[0])}" for key, cell in self.cells.items()}

    def _beat(self, budget: Budget, best: Mapping[Key, Sample]) -> Finding:
        gains = {name: best[_BASE,] - best[name,] for name in _SPARSE}
        return self.finding(
            budget,
            "Every sparse equivalent has a lower error than the dense base.",
            all_positive(gains.values()),
            "best error, base minus sparse: " + ", ".join(f"{gain:.2f} ({name})" for name, gain in gains.items()),
            best.values(),
        )

    def _widest(self, budget: Budget, best: Mapping[Key, Sample]) -> Finding:
        gains = {name: best[name,] - best[_WIDEST,] for name in _SPARSE if name != _WIDEST}
        return self.finding(
            budget,
            "The widest network has the lowest error of the sparse ones.",
            all_positive(gains.values()),
            "best error minus that of the widest: " + ", ".join(f"{gain:.2f} ({name})" for name, gain in gains.items()),
            best.values(),
        )


def _resnet(arguments: dict[str, int]) -> Choice:
    return {"class_path": "spl.networks.ResNet", "init_args": arguments}


def _sizes(run: Run) -> str:
    """Return sizes such as 17.0 M, pruned to 269 k, with biases but without normalization."""
    size = sum(p.numel() for p in prunable_parameters(run.build_network(), include_bias=True).values())
    sparsity = run.config["pruning"]["sparsity"]
    return _short_number(size) + (f", pruned to {_short_number(keep_count(size, sparsity))}" if sparsity else "")


def _short_number(number: int) -> str:
    """Return a number with three digits, such as 17.0 M or 269 k."""
    value, unit = (number / 1e6, "M") if number >= 1e6 else (number / 1e3, "k")
    return f"{value:#.3g}".rstrip(".") + f" {unit}"


def _table(measured: Measured, labels: Mapping[Key, str]) -> str:
    best, final = errors(measured, "best"), errors(measured, "final")
    rows = [
        [label.replace("\n", ", "), f"{best[key]:.2f}", f"{final[key]:.2f}", best[key].n]
        for key, label in labels.items()
    ]
    headers = ["network", "error, best by validation", "error, final", "n"]
    return table(headers, rows)
