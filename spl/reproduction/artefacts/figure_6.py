"""Figure 6: signal propagation in pretrained networks pruned by magnitude."""

from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spl.reproduction.artefacts.artefact import ArtefactReport, Finding, Judgement, decide
from spl.reproduction.artefacts.compared_network import Measurements, NetworkFigure
from spl.reproduction.artefacts.signal_propagation import (
    STATISTICS,
    in_percent,
    propagation_rows,
    propagation_runs,
    statistic_label,
)
from spl.reproduction.budgets import Budget
from spl.reproduction.drawing import NETWORK_STYLES, SPARSITY_LABEL, Style, draw_curve, label, legend, panels
from spl.reproduction.methods import LDI_DENSE, LDI_MAG
from spl.reproduction.results import Results
from spl.reproduction.run import Run
from spl.reproduction.samples import Curve, MissingResult, Sample, describe


class Figure6(NetworkFigure):
    """All statistics of the Jacobian singular values against sparsity, of pretrained networks pruned by magnitude."""

    name = "fig6"
    paper_title = "Signal propagation under magnitude pruning of pretrained networks"

    def runs(self, budget: Budget) -> list[Run]:
        """Return the dense runs, and those pruned by magnitude at all sparsities."""
        methods = (LDI_DENSE, LDI_MAG)
        return [run for network in self.networks for run in propagation_runs(budget, network, methods)]

    def report(self, budget: Budget, results: Results) -> ArtefactReport:
        """Return the statistics; κ̄ = 0 is shown both at initialization (LDI-Dense) and pretrained (LDI-Mag)."""
        both = [Measurements(network, budget, results) for network in self.networks]
        rows = [row for measured in both for row in propagation_rows(measured, (LDI_DENSE, LDI_MAG))]
        findings = self.findings(
            f for m in both for f in (_abrupt(m, pretrained=False), _abrupt(m, pretrained=True), _scattered(m))
        )
        return ArtefactReport(rows, findings, {"": _draw(both)})


def _draw(both: list[Measurements]) -> Figure:
    figure, axes = panels(2, 3, 4.4)
    for statistic, panel in zip(STATISTICS, axes.flat, strict=False):
        panel.set_yscale("log")
        for measured, style in zip(both, NETWORK_STYLES, strict=False):
            _draw_statistic(panel, measured, statistic, style)
        label(panel, SPARSITY_LABEL, statistic_label(statistic))
    axes.flat[-1].remove()
    names: dict[str, Style] = {}
    for measured, style in zip(both, NETWORK_STYLES, strict=False):
        names[f"{measured.network.name}, pretrained"] = style
        names[f"{measured.network.name}, at initialization"] = _at_initialization(style)
    legend(figure, names)
    return figure


def _draw_statistic(axes: Axes, measured: Measurements, statistic: str, style: Style) -> None:
    draw_curve(axes, in_percent(measured.jsv(LDI_MAG, statistic)), style)
    draw_curve(axes, measured.jsv(LDI_DENSE, statistic), _at_initialization(style))


def _at_initialization(style: Style) -> Style:
    return style | {"linestyle": "", "markerfacecolor": "white", "markersize": 6}


def _abrupt(measured: Measurements, pretrained: bool) -> Finding:
    """Judge whether the singular values change most in the step from 0 to the lowest sparsity."""

    def judge() -> Judgement:
        curve = measured.jsv(LDI_MAG, "std")
        first = min((x for x in curve if x > 0), default=measured.budget.sparsities[0])
        start = curve[0.0] if pretrained else measured.jsv(LDI_DENSE, "std")[0.0]
        step = _factor(start, curve[first])
        later = [_factor(one, other) for one, other in pairwise(sample for x, sample in curve.items() if x > 0)]
        if not later:
            raise MissingResult(f"{curve.what} above {100 * first:g} %")
        return step > max(later), (
            f"std of JSV {describe(start)} to {describe(curve[first])} at κ̄ = {100 * first:g} %, "
            f"a factor of {step:.3g}; later steps change it by at most {max(later):.3g}"
        )

    since, remark = ("the pretrained network", ", beyond the paper") if pretrained else ("initialization", "")
    statement = f"{measured.network.name}{remark}: the JSV change most between {since} and the lowest sparsity"
    return decide(statement, judge, measured.trained)


def _factor(one: Sample, other: Sample) -> float:
    """Return the factor by which two means differ, at least 1; infinite if one is 0."""
    low, high = sorted((one.mean, other.mean))
    return high / low if low > 0 else float("inf")


def _scattered(measured: Measurements) -> Finding:
    """Judge whether the JSV have a high standard deviation at every sparsity."""

    def judge() -> Judgement:
        shares = {x: std / mean for x, mean, std in _paired(measured.jsv(LDI_MAG), measured.jsv(LDI_MAG, "std"))}
        if not shares:
            raise MissingResult(measured.jsv(LDI_MAG).what)
        least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
        dense = [std / mean for _, mean, std in _paired(measured.jsv(LDI_DENSE), measured.jsv(LDI_DENSE, "std"))]
        if not dense:
            raise MissingResult(measured.jsv(LDI_DENSE).what)
        n = min(sample.n for sample in measured.jsv(LDI_MAG).values())
        return shares[least] > 2 * dense[0], (
            f"std / mean from {shares[least]:.2g} (κ̄ = {100 * least:g} %) to {shares[most]:.2g} "
            f"(κ̄ = {100 * most:g} %); {dense[0]:.2g} at initialization (n = {n})"
        )

    statement = (
        f"{measured.network.name}: the JSV are not concentrated (std / mean is more than twice that at initialization)"
    )
    return decide(statement, judge, measured.trained)


def _paired(means: Curve, stds: Curve) -> list[tuple[float, float, float]]:
    return [(x, mean.mean, stds[x].mean) for x, mean in means.items() if mean.mean > 0 and x in stds]
