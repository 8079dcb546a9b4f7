"""Training logs: loss and accuracy against iteration at 90 %, what Figures 2, 4, 5, 7 and 8 share."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from matplotlib.axes import Axes

from spl.reproduction.artefacts.artefact import Finding
from spl.reproduction.artefacts.judgement import Judgement, judged
from spl.reproduction.artefacts.subject import LINEAR, SPARSITY, Measurements
from spl.reproduction.curves import Curve, Missing, Statistic
from spl.reproduction.drawing import STYLES, draw_curve, label
from spl.reproduction.methods import LDI_CS, LDI_DENSE, LDI_SHUFFLED, Method
from spl.reproduction.results import Result

LOSS = "loss/train"
ACCURACY = "accuracy/train"
_NAMES = {LOSS: "training loss", ACCURACY: "training accuracy"}


def training_rows(
    measured: Measurements, methods: Iterable[Method], tags: Iterable[str] = (LOSS, ACCURACY)
) -> list[dict[str, Any]]:
    """What was logged during training, by iteration."""
    return [
        measured.row(method, _NAMES[tag], _sparsity(method), iteration, s)
        for method in methods
        for tag in tags
        for iteration, s in measured.log(method, tag).items()
    ]


def jsv_rows(measured: Measurements, methods: Iterable[Method]) -> list[dict[str, Any]]:
    """The mean Jacobian singular value during training."""
    return [
        measured.row(method, "JSV mean", _sparsity(method), iteration, s)
        for method in methods
        for iteration, s in measured.jsv_log(method).items()
        if iteration > 0
    ]


def _sparsity(method: Method) -> float:
    return SPARSITY if method.criterion else 0.0


def draw_training(axes: Axes, measured: Measurements, methods: Iterable[Method], tag: str = LOSS) -> None:
    """Training loss on a logarithmic axis, or accuracy."""
    if tag == LOSS:
        axes.set_yscale("log")
    _draw(axes, {method: measured.log(method, tag) for method in methods})
    label(axes, "iteration", _NAMES[tag])


def draw_jsv_training(axes: Axes, measured: Measurements, methods: Iterable[Method]) -> None:
    """The mean Jacobian singular value during training."""
    axes.set_yscale("log")
    _draw(axes, {method: measured.jsv_log(method) for method in methods})
    label(axes, "iteration", "mean of JSV")


def _draw(axes: Axes, curves: dict[Method, Curve]) -> None:
    for method, curve in curves.items():
        draw_curve(axes, curve, STYLES[method])


def average_loss(result: Result) -> float:
    """Training loss over all iterations: the lower, the faster it fell."""
    values = result.series(LOSS)[1]
    return float(values.mean()) if len(values) else float("nan")


def final_loss(result: Result) -> float:
    """Training loss over the last tenth of the iterations."""
    values = result.series(LOSS)[1]
    return float(values[-max(1, len(values) // 10) :].mean()) if len(values) else float("nan")


def trains_fastest(measured: Measurements, best: Method, methods: Iterable[Method]) -> Finding:
    """Whether the training loss of `best` is the lowest of the sparse networks', on average over the iterations."""
    what = "training loss, the mean over all iterations"
    return _first(measured, best, methods, average_loss, what, "trains fastest")


def learns_best(measured: Measurements, best: Method, methods: Iterable[Method]) -> Finding:
    """Whether the test error of `best` is the lowest of the sparse networks'."""
    what = "test error in % of the final weights"
    return _first(measured, best, methods, Result.error, what, "generalizes best")


def _first(
    measured: Measurements,
    best: Method,
    methods: Iterable[Method],
    value: Callable[[Result], float],
    what: str,
    verb: str,
) -> Finding:
    """Whether `best` has the lowest of a value among the sparse networks; all are named in their order."""

    def judge() -> Judgement:
        found = {best: measured.measure(best, value)}
        missing = []
        for method in methods:
            try:
                found[method] = measured.measure(method, value)
            except Missing:
                missing.append(str(method))
        order = sorted(found, key=lambda method: found[method].mean)
        text = f"{what}: " + ", ".join(f"{method} {found[method]}" for method in order)
        sparse = [method for method in order if method.criterion is not None]
        without = f"; no result of {', '.join(missing)}" if missing else ""
        return (sparse[0] == best) if len(sparse) > 1 else None, text + without

    return judged(f"{measured.subject.name}: of the sparse networks, {best} {verb}", judge, measured.trained)


def trains_like_dense(measured: Measurements, method: Method) -> Finding:
    """Whether the training loss ends as low as that of the dense network, within their standard deviations."""

    def judge() -> Judgement:
        sparse, dense = measured.measure(method, final_loss), measured.measure(LDI_DENSE, final_loss)
        rate = ", at a tenth of the learning rate" if measured.subject == LINEAR else ""
        return not above(sparse, dense), f"final training loss {sparse}, dense {dense}{rate}"

    return judged(f"{measured.subject.name}: {method} trains to the loss of LDI-Dense", judge, measured.trained)


def matches_shuffled(measured: Measurements) -> Finding:
    """Whether shuffling the masks inside their layers changes the test error, beyond its standard deviation."""

    def judge() -> Judgement:
        own, shuffled = (measured.measure(m, Result.error) for m in (LDI_CS, LDI_SHUFFLED))
        text = f"test error in % of the final weights: {own}, shuffled {shuffled}"
        if own.n < 2 or shuffled.n < 2:
            return None, text
        return not above(shuffled, own), text

    statement = (
        f"{measured.subject.name}, beyond the paper: masks shuffled inside their layers do as well as those of "
        "connection sensitivity, as Frankle et al. 2021 found"
    )
    return judged(statement, judge, measured.trained)


def above(one: Statistic, other: Statistic) -> bool:
    """Whether a mean is above another by more than the standard deviation of their difference."""
    margin = math.hypot(*(s.std for s in (one, other) if s.n > 1))
    return one.mean > other.mean + margin


def slower(measured: Measurements, method: Method, reference: Method) -> Finding:
    """Whether a method takes longer than `reference` to the training loss that this has after a tenth of them."""

    def judge() -> Judgement:
        goal, curve = measured.log(reference, LOSS), measured.log(method, LOSS)
        if not goal or not curve:
            raise Missing(curve.what if goal else goal.what)
        tenth = next(x for x in goal if x >= max(goal) / 10)
        target = goal[tenth].mean
        reached = next((x for x, s in curve.items() if s.mean <= target), None)
        n = min(goal[tenth].n, min(s.n for s in curve.values()))
        text = f"a training loss of {target:.3g}, which {reference} has after {tenth:,.0f} iterations, is reached "
        when = f"after {reached:,.0f}" if reached else f"not within {max(curve):,.0f}"
        return reached is None or reached > tenth, f"{text}{when} (n = {n})"

    statement = f"{measured.subject.name}: {method} takes longer to train than {reference}"
    return judged(statement, judge, measured.trained)


def untrainable(measured: Measurements, method: Method) -> Finding:
    """Whether networks stay near chance."""

    def judge() -> Judgement:
        error = measured.measure(method, Result.error)
        return error.mean > 80, f"test error in % of the final weights: {error}"

    return judged(f"{measured.subject.name}: networks pruned by {method} do not learn", judge, measured.trained)
