"""Table 1: how the scale of the initial weights decides what connection sensitivity keeps."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from spl.reproduction.artefacts.artefact import ArtefactReport, Finding
from spl.reproduction.artefacts.error_plot import error_plot
from spl.reproduction.artefacts.grid import ERRORS, Cell, Grid, Key, Measured, errors
from spl.reproduction.budgets import Budget
from spl.reproduction.markdown import table
from spl.reproduction.methods import LDI_CS, Experiment, mlp
from spl.reproduction.results import Result, Results
from spl.reproduction.samples import Sample

_STATISTICS = ("mean", "std", "condition")
_SMALL, _LARGE = (1e-4, 1e-3, 1e-2, 1e-1), (1e0, 1e1)
_MIDDLE = slice(2, 6)  # layers 3 to 6
_FAILED = 80.0  # % of error: above it, training has failed; guessing one of ten digits gives about 90


class _Row(NamedTuple):
    mean: float
    std: float
    condition: float
    sparsity: tuple[float, ...]
    error: float


_RECALLED = {
    1e-4: _Row(2.46e-7, 9.90e-8, 4.66, (0.97, 0.80, 0.80, 0.80, 0.80, 0.81, 0.48), 2.66),
    1e-3: _Row(5.74e-4, 2.45e-4, 8.54, (0.97, 0.80, 0.80, 0.80, 0.80, 0.81, 0.48), 2.67),
    1e-2: _Row(4.49e-1, 2.51e-1, 51.4, (0.96, 0.80, 0.80, 0.80, 0.81, 0.81, 0.49), 2.67),
    1e-1: _Row(23.0, 25.6, 2.9e4, (0.96, 0.81, 0.82, 0.82, 0.82, 0.80, 0.45), 2.61),
    1e0: _Row(1.03e3, 2.61e3, 3.3e11, (0.85, 0.88, 0.99, 1.0, 1.0, 1.0, 0.91), 90.2),
    1e1: _Row(3.67e4, 2.64e5, float("inf"), (0.84, 0.95, 1.0, 1.0, 1.0, 1.0, 1.0), 90.2),
}

_NOTE = (
    "Tanh MLP-7 on MNIST, weights from N(0, γ), pruned to 90 % by connection sensitivity: statistics of the Jacobian "
    "singular values (JSV) before pruning, and the share of weights removed of each layer, means over seeds. The "
    f"paper's rows are recalled and not looked up. {ERRORS}"
)


class Table1(Grid):
    """Spectra, sparsity of each layer, and error for γ from 1e-4 to 10."""

    name = "table1"
    title = "Jacobian singular values, sparsity of each layer, and error, against the scale γ of the initial weights"
    axes = ("variance",)

    @property
    def cells(self) -> Mapping[Key, Cell]:
        """The cells by γ."""
        return {(variance,): Cell(_experiment(variance), LDI_CS) for variance in _RECALLED}

    def report(self, budget: Budget, results: Results) -> ArtefactReport:
        """Return spectra, sparsities and errors."""
        measured = self.measured(budget, results)
        findings = [self._flat(budget, measured), self._fails(budget, measured)]
        findings += [self._spectra(budget, measured), self._sparsities(budget, measured)]
        labels = {key: f"γ = {key[0]:g}" for key in measured}
        figure = error_plot(measured, labels, {key: _RECALLED[key[0]].error for key in measured})
        figure.axes[0].set_xscale("log")
        return ArtefactReport(self.rows(measured, _numbers), findings, {"": figure}, [f"{_NOTE}\n\n{_table(measured)}"])

    def _flat(self, budget: Budget, measured: Measured) -> Finding:
        small = {key[0]: sample for key, sample in errors(measured, "best").items() if key[0] in _SMALL}
        means = [sample.mean for sample in small.values()]
        return self.finding(
            budget,
            "The error does not depend on γ up to 0.1: the largest is at most a tenth above the smallest.",
            max(means) <= 1.1 * min(means),
            "best error: " + _by_variance(small),
            small.values(),
        )

    def _fails(self, budget: Budget, measured: Measured) -> Finding:
        large = {key[0]: sample for key, sample in errors(measured, "best").items() if key[0] in _LARGE}
        return self.finding(
            budget,
            f"From γ = 1 on, training fails: the error is above {_FAILED:g} %.",
            all(sample.mean > _FAILED for sample in large.values()),
            "best error: " + _by_variance(large),
            large.values(),
        )

    def _spectra(self, budget: Budget, measured: Measured) -> Finding:
        means = {key[0]: _jsv(seeds.values(), "mean") for key, seeds in measured.items()}
        deviations = {variance: sample.mean / _RECALLED[variance].mean - 1 for variance, sample in means.items()}
        worst = max(deviations, key=lambda variance: abs(deviations[variance]))
        return self.finding(
            budget,
            "The mean JSV before pruning agree with the paper's, recalled, within 10 %.",
            abs(deviations[worst]) <= 0.1,
            f"largest deviation {deviations[worst]:+.1%}, at γ = {worst:g}",
            means.values(),
        )

    def _sparsities(self, budget: Budget, measured: Measured) -> Finding:
        middle = {
            key[0]: [sample.mean for sample in _layers(seeds.values())[_MIDDLE]] for key, seeds in measured.items()
        }
        even = max((s for variance in _SMALL for s in middle[variance]), default=float("nan"))
        empty = min((s for variance in _LARGE for s in middle[variance]), default=float("nan"))
        samples = [_jsv(seeds.values(), "mean") for seeds in measured.values()]
        return self.finding(
            budget,
            "Layers 3 to 6 lose at most 85 % of their weights up to γ = 0.1, and at least 97 % from γ = 1 on.",
            even <= 0.85 and empty >= 0.97,
            f"{even:.1%} at most, and {empty:.1%} at least",
            samples,
        )


def _experiment(variance: float) -> Experiment:
    initializer = {"class_path": "spl.initializers.Gaussian", "init_args": {"variance": variance}}
    return Experiment(mlp("tanh"), initializer=initializer)


def _jsv(results: Iterable[Result], statistic: str) -> Sample:
    return Sample.of(results, lambda result: result.jsv(statistic, "dense"))


def _layers(results: Iterable[Result]) -> Sequence[Sample]:
    """Return the sparsities of each layer, without layers if nothing is measured."""
    columns = zip(*(result.layer_sparsity().values() for result in results), strict=True)
    return [Sample(values) for values in columns]


def _numbers(result: Result) -> dict[str, float]:
    spectra = {f"jsv_{statistic}": result.jsv(statistic, "dense") for statistic in _STATISTICS}
    return spectra | {f"sparsity_{layer}": sparsity for layer, sparsity in result.layer_sparsity().items()}


def _by_variance(samples: Mapping[float, Sample]) -> str:
    return ", ".join(f"{sample:.2f} (γ = {variance:g})" for variance, sample in samples.items())


def _table(measured: Measured) -> str:
    final, best = errors(measured, "final"), errors(measured, "best")
    rows = []
    for key, seeds in measured.items():
        paper = _RECALLED[key[0]]
        recalled = [f"{getattr(paper, statistic):.3g}" for statistic in _STATISTICS] + [_spaced(paper.sparsity)]
        ours = [f"{_jsv(seeds.values(), statistic):.3g}" for statistic in _STATISTICS]
        ours.append(_spaced(sample.mean for sample in _layers(seeds.values())))
        rows.append([f"{key[0]:g}", "recalled", *recalled, f"{paper.error:g}", ""])
        rows.append(["", f"ours, n = {len(seeds)}", *ours, f"{best[key]:.2f}", f"{final[key]:.2f}"])
    headers = ["γ", "", "JSV mean", "std", "condition", "sparsity of layers 1 to 7", "error, best", "error, final"]
    return table(headers, rows)


def _spaced(sparsities: Iterable[float]) -> str:
    return " ".join(f"{sparsity:.2f}" for sparsity in sparsities)
