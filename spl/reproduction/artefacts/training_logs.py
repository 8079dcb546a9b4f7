"""Training logs, in Figures 2, 4, 5, 7 and 8: loss and accuracy at 90 % against iteration."""

from collections.abc import Callable, Iterable
from typing import Any

from matplotlib.axes import Axes

from spl.reproduction.artefacts.artefact import Finding, Judgement, decide
from spl.reproduction.artefacts.compared_network import LINEAR, SPARSITY, Measurements
from spl.reproduction.drawing import STYLES, TEXT, draw_curve, label
from spl.reproduction.methods import LDI_CS, LDI_DENSE, LDI_SHUFFLED, Method
from spl.reproduction.results import Result
from spl.reproduction.samples import Curve, Difference, MissingResult, all_positive, describe

LOSS = "loss/train"
ACCURACY = "accuracy/train"
_ERROR = "test error in % of the final weights"
_MARGIN = 0.5  # points of test error that count as none
_CHANCE = 80.0  # % of test error: above it, a network counts as guessing among ten classes
_NAMES = {LOSS: "training loss", ACCURACY: "training accuracy"}


def training_rows(
    measured: Measurements, methods: Iterable[Method], tags: Iterable[str] = (LOSS, ACCURACY)
) -> list[dict[str, Any]]:
    """Return rows of what was logged during training, by iteration."""
    return [
        measured.row(method, _NAMES[tag], _sparsity(method), iteration, sample)
        for method in methods
        for tag in tags
        for iteration, sample in measured.log(method, tag).items()
    ]


def jsv_rows(measured: Measurements, methods: Iterable[Method]) -> list[dict[str, Any]]:
    """Return rows of the mean Jacobian singular value during training."""
    return [
        measured.row(method, "JSV mean", _sparsity(method), iteration, sample)
        for method in methods
        for iteration, sample in measured.jsv_log(method).items()
        if iteration > 0
    ]


def _sparsity(method: Method) -> float:
    return SPARSITY if method.criterion else 0.0


def draw_training(axes: Axes, measured: Measurements, methods: Iterable[Method], tag: str = LOSS) -> None:
    """Draw the training loss on a logarithmic axis, or the accuracy."""
    if tag == LOSS:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.02)
    _draw(axes, measured, {method: measured.log(method, tag) for method in methods})
    label(axes, "iteration", _NAMES[tag])


def draw_jsv_training(axes: Axes, measured: Measurements, methods: Iterable[Method]) -> None:
    """Draw the mean Jacobian singular value during training."""
    axes.set_yscale("log")
    _draw(axes, measured, {method: measured.jsv_log(method) for method in methods})
    label(axes, "iteration", "mean of JSV")


def _draw(axes: Axes, measured: Measurements, curves: dict[Method, Curve]) -> None:
    """Draw the curves, and name the seeds that diverged, which they leave out."""
    lost = []
    for method, curve in curves.items():
        draw_curve(axes, curve, STYLES[method])
        if seeds := measured.diverged(method):
            lost.append(f"{method}: without seed {', '.join(map(str, seeds))}, which diverged")
    axes.text(0.97, 0.08, "\n".join(lost), transform=axes.transAxes, ha="right", va="bottom", fontsize=TEXT - 2)


def average_loss(result: Result) -> float:
    """Return the mean training loss over all iterations; the lower it is, the faster the loss fell."""
    values = result.series(LOSS)[1]
    return float(values.mean()) if len(values) else float("nan")


def final_loss(result: Result) -> float:
    """Return the mean training loss over the last tenth of the iterations."""
    values = result.series(LOSS)[1]
    return float(values[-max(1, len(values) // 10) :].mean()) if len(values) else float("nan")


def trains_fastest(measured: Measurements, best: Method, methods: Iterable[Method]) -> Finding:
    """Judge whether the training loss of `best` is the lowest on average over the iterations."""
    what = "training loss, the mean over all iterations"
    return _first(measured, best, methods, average_loss, what, "trains fastest")


def generalizes_best(measured: Measurements, best: Method, methods: Iterable[Method]) -> Finding:
    """Judge whether the test error of `best` is the lowest."""
    return _first(measured, best, methods, Result.error, _ERROR, "generalizes best")


def _first(
    measured: Measurements,
    best: Method,
    methods: Iterable[Method],
    number: Callable[[Result], float],
    what: str,
    verb: str,
) -> Finding:
    """Judge whether `best` has the lowest number among the methods that prune at initialization.

    The text lists all methods by their numbers, the lowest first.
    """

    def judge() -> Judgement:
        samples = {best: measured.measure(best, number)}
        missing = []
        for method in methods:
            try:
                samples[method] = measured.measure(method, number)
            except MissingResult:
                missing.append(str(method))
        order = sorted(samples, key=lambda method: samples[method].mean)
        text = f"{what}: " + ", ".join(f"{method} {describe(samples[method])}" for method in order)
        rivals = [method for method in order if method.criterion and not method.pretrained and method != best]
        gains = {rival: samples[rival] - samples[best] for rival in rivals}
        close = [f"{rival} ({gain:.2g})" for rival, gain in gains.items() if gain.positive is None]
        text += f"; no result of {', '.join(missing)}" if missing else ""
        text += f"; cannot be told from {best}: {', '.join(close)}" if close else ""
        return all_positive(gains.values()) if rivals else None, text

    statement = f"{measured.network.name}: of the networks pruned at initialization, {best} {verb}"
    return decide(statement, judge, measured.trained)


def trains_like_dense(measured: Measurements, method: Method) -> Finding:
    """Judge whether the training loss ends no higher than that of the dense network."""

    def judge() -> Judgement:
        sparse, dense = measured.measure(method, final_loss), measured.measure(LDI_DENSE, final_loss)
        rate = ", at a tenth of the learning rate" if measured.network == LINEAR else ""
        higher = (sparse - dense).positive
        text = f"final training loss {describe(sparse)}, dense {describe(dense)}{rate}, {sparse - dense:.2g}"
        return None if higher is None else not higher, text

    return decide(f"{measured.network.name}: {method} trains to the loss of LDI-Dense", judge, measured.trained)


def survives_shuffling(measured: Measurements) -> Finding:
    """Judge whether shuffling the masks within their layers costs less than half a percentage point of test error."""

    def judge() -> Judgement:
        own, shuffled = measured.measure(LDI_CS, Result.error), measured.measure(LDI_SHUFFLED, Result.error)
        cost = shuffled - own
        cheap = Difference(_MARGIN - cost.mean, cost.error).positive
        return cheap, f"{_ERROR}: {describe(own)}, shuffled {describe(shuffled)}, {cost:.2g}"

    statement = (
        f"{measured.network.name}, beyond the paper: shuffling the masks of LDI-CS within their layers costs less than "
        f"{_MARGIN:g} points of test error, as in Frankle et al. 2021"
    )
    return decide(statement, judge, measured.trained)


def slower(measured: Measurements, method: Method, reference: Method) -> Finding:
    """Judge whether a method takes longer to the training loss that `reference` has after a tenth of the iterations."""

    def judge() -> Judgement:
        goal, curve = measured.log(reference, LOSS), measured.log(method, LOSS)
        if not goal or not curve:
            raise MissingResult(curve.what if goal else goal.what)
        tenth = next(x for x in goal if x >= max(goal) / 10)
        target = goal[tenth].mean
        reached = next((x for x, sample in curve.items() if sample.mean <= target), None)
        n = min(sample.n for sample in (goal[tenth], *curve.values()))
        when = f"is reached after {reached:,.0f}" if reached else f"is not reached within {max(curve):,.0f}"
        return reached is None or reached > tenth, (
            f"a training loss of {target:.3g}, which {reference} has after {tenth:,.0f} iterations, {when} (n = {n})"
        )

    statement = f"{measured.network.name}: {method} takes longer to train than {reference}"
    return decide(statement, judge, measured.trained)


def untrainable(measured: Measurements, method: Method) -> Finding:
    """Judge whether networks stay near chance."""

    def judge() -> Judgement:
        error = measured.measure(method, Result.error)
        return error.mean > _CHANCE, f"{_ERROR}: {describe(error)}"

    return decide(f"{measured.network.name}: networks pruned by {method} do not learn", judge, measured.trained)
