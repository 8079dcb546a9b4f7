"""Signal propagation, in Figures 2, 4, 6 and 7: Jacobian singular values against sparsity."""

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes

from spl.reproduction.artefacts.artefact import Finding, Judgement, decide
from spl.reproduction.artefacts.compared_network import SPARSITY, ComparedNetwork, Measurements
from spl.reproduction.budgets import Budget
from spl.reproduction.drawing import SPARSITY_LABEL, STYLES, draw_curve, draw_level, label
from spl.reproduction.methods import LDI_DENSE, Method
from spl.reproduction.run import Run
from spl.reproduction.samples import Curve, Difference, all_positive, describe

STATISTICS = ("mean", "std", "max", "min", "condition")
_AT = f"at κ̄ = {100 * SPARSITY:g} %"
_RESTORED = (0.8, 1.25)  # ratios to the dense network's value that count as equal
_VANISHED = 0.01  # ratio to the dense network's value below which signals have vanished


def propagation_runs(budget: Budget, network: ComparedNetwork, methods: Iterable[Method]) -> list[Run]:
    """Return runs of all methods at all sparsities, trained at 90 %."""
    runs = []
    for method in methods:
        for sparsity in dict.fromkeys((SPARSITY, *budget.sparsities)) if method.criterion else (SPARSITY,):
            runs += network.runs(budget, method, sparsity)
    return runs


def propagation_rows(
    measured: Measurements, methods: Iterable[Method], statistics: Iterable[str] = STATISTICS
) -> list[dict[str, Any]]:
    """Return rows of statistics of Jacobian singular values by sparsity, before training."""
    return [
        measured.row(method, f"JSV {statistic}", sparsity, 0, sample)
        for method in methods
        for statistic in statistics
        for sparsity, sample in measured.jsv(method, statistic).items()
    ]


def draw_propagation(axes: Axes, measured: Measurements, methods: Iterable[Method], statistic: str = "mean") -> None:
    """Draw a statistic against sparsity; the dense network is a horizontal line."""
    axes.set_yscale("log")
    for method in methods:
        curve = measured.jsv(method, statistic)
        if method.criterion is None:
            if 0.0 in curve:
                draw_level(axes, curve[0.0], STYLES[method])
        else:
            draw_curve(axes, in_percent(curve), STYLES[method])
    label(axes, SPARSITY_LABEL, statistic_label(statistic))


def statistic_label(statistic: str) -> str:
    """Return the label of an axis with this statistic."""
    return "condition number" if statistic == "condition" else f"{statistic} of JSV"


def in_percent(curve: Curve) -> Curve:
    """Return the same curve by sparsity in %."""
    percent = Curve(curve.what, {})
    percent.update({100 * x: sample for x, sample in curve.items()})
    return percent


def decreases(measured: Measurements, method: Method) -> Finding:
    """Judge whether the mean JSV falls from each sparsity to the next."""

    def judge() -> Judgement:
        curve = measured.jsv(method)
        text = f"mean JSV {describe(curve[0.0])} dense, {describe(curve[SPARSITY])} {_AT}"
        steps = {now: curve[before] - curve[now] for before, now in pairwise(curve)}
        return all_positive(steps.values()), text + _exceptions(steps)

    return decide(f"{measured.network.name}: with {method}, the mean JSV falls as κ̄ grows", judge)


def restores(measured: Measurements, method: Method, remark: str = "") -> Finding:
    """Judge whether the mean JSV is that of the dense network at every sparsity; one seed cannot tell."""

    def judge() -> Judgement:
        curve = measured.jsv(method)
        dense, at = curve[0.0], curve[SPARSITY]
        ratios = {x: sample.mean / dense.mean for x, sample in curve.items() if x > 0}
        worst = max(ratios, key=lambda x: abs(ratios[x] - 1))
        holds = all(_RESTORED[0] <= ratio <= _RESTORED[1] for ratio in ratios.values())
        return holds if at.n > 1 else None, (
            f"{ratios[SPARSITY]:.3g} times the dense network's {_AT}: {describe(at)} of {describe(dense)}; "
            f"furthest at κ̄ = {100 * worst:g} %: {ratios[worst]:.3g} times"
        )

    statement = f"{measured.network.name}: {method} brings the mean JSV back to that of the dense network{remark}"
    return decide(statement, judge)


def vanishes(measured: Measurements, method: Method) -> Finding:
    """Judge whether the mean JSV at 90 % is below a hundredth of the dense network's; one seed cannot tell."""

    def judge() -> Judgement:
        dense, at = measured.jsv(LDI_DENSE)[0.0], measured.jsv(method)[SPARSITY]
        share = at.mean / dense.mean
        vanished = share < _VANISHED if at.n > 1 else None
        return vanished, f"mean JSV {describe(at)} {_AT}, {share:.2g} times the dense network's"

    return decide(f"{measured.network.name}: signals vanish in networks pruned by {method}", judge)


def exceeds(measured: Measurements, more: Method, less: Method, remark: str = "") -> Finding:
    """Judge whether the mean JSV of one method is above that of another at every sparsity."""

    def judge() -> Judgement:
        upper, lower = measured.jsv(more), measured.jsv(less)
        text = f"mean JSV {describe(upper[SPARSITY])} against {describe(lower[SPARSITY])} {_AT}"
        gains = {x: upper[x] - lower[x] for x in upper if x > 0 and x in lower}
        return all_positive(gains.values()), text + _exceptions(gains)

    statement = f"{measured.network.name}: signals propagate better with {more} than with {less}{remark}"
    return decide(statement, judge)


def worsens(measured: Measurements, method: Method) -> Finding:
    """Judge whether the condition number grows from the dense network to 90 %."""

    def judge() -> Judgement:
        curve = measured.jsv(method, "condition")
        dense, at = curve[0.0], curve[SPARSITY]
        grows = True if math.isinf(at.mean) else (at - dense).positive
        return grows, f"condition number {describe(dense)} dense, {describe(at)} {_AT}"

    return decide(f"{measured.network.name}: with {method}, singular values spread as κ̄ grows", judge)


def _exceptions(differences: Mapping[float, Difference]) -> str:
    """Return in words at which sparsities a difference is not above 0, or within its error."""
    texts = []
    for positive, words in ((False, "not"), (None, "unclear")):
        where = [f"{100 * x:g} %" for x, difference in differences.items() if difference.positive is positive]
        texts += [f"; {words} at κ̄ = {', '.join(where)}"] if where else []
    return "".join(texts)
