"""The figures of a comparison: accuracy and signal propagation against sparsity, and training losses."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spl.compare.comparison import Measured, accuracy, jsv
from spl.compare.methods import ComparedMethod
from spl.reproduction.drawing import (
    COLORS,
    TEXT,
    Style,
    curve_style,
    draw_curve,
    draw_level,
    label,
    legend,
    panels,
)
from spl.reproduction.results import Result
from spl.reproduction.samples import Curve

_LINES = ("-", "--", "-.", (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)))
_MARKERS = "os^DvPX*"
_DENSE = curve_style("#000000", "-", "")
_COLUMNS = 3  # of axes beside each other
_LEGEND_COLUMNS = 5
_CLOSE = 0.07  # of the axis, within which two labels of ticks would touch
_LOGARITHMIC_FROM = 0.5  # sparsities from here on are drawn by the logarithm of the density

Styles = Mapping[ComparedMethod, Style]


def method_styles(methods: Sequence[ComparedMethod]) -> Styles:
    """Return a style for each method: black for the dense network, and colours that differ for the colour-blind too."""
    styles: dict[ComparedMethod, Style] = {}
    for method in methods:
        i = sum(not other.is_dense for other in styles)
        own = curve_style(COLORS[i % len(COLORS)], _LINES[i % len(_LINES)], _MARKERS[i % len(_MARKERS)])
        styles[method] = _DENSE if method.is_dense else own
    return styles


def figures(measured: Measured) -> dict[str, Figure]:
    """Return the figures by the names of their files."""
    return {
        "accuracy": _against_sparsity(measured, accuracy, "test accuracy [%]", "linear"),
        "jsv": _against_sparsity(measured, jsv, "mean Jacobian singular value at the start", "log"),
        "loss": _losses(measured),
    }


def _against_sparsity(measured: Measured, number: Callable[[Result], float], title: str, scale: str) -> Figure:
    """Draw a number against sparsity, or by method where there is one sparsity."""
    comparison = measured.comparison
    if len(comparison.sparsities) == 1:
        return _by_method(measured, number, title, scale)
    figure, axes = panels(1, 1, 3.6)
    styles, panel = method_styles(comparison.methods), axes[0, 0]
    curves = {method: measured.curve(method, number) for method in styles}
    shown = any(0 < mean < math.inf for curve in curves.values() for mean in curve.mean)
    panel.set_yscale(scale if shown else "linear")  # without a positive number, a logarithmic axis has no limits
    place = _places(comparison.sparsities)
    for method, style in styles.items():
        curve = curves[method]
        if not method.is_dense:
            draw_curve(panel, _moved(curve, place), style)
        elif 0.0 in curve:
            draw_level(panel, curve[0.0], style)
    _mark(panel, comparison.sparsities, place)
    label(panel, "sparsity [%]", title)
    _legend(figure, styles)
    return figure


def _by_method(measured: Measured, number: Callable[[Result], float], title: str, scale: str) -> Figure:
    """Draw a row for each method: the mean with its standard deviation, and a small mark for each run."""
    comparison = measured.comparison
    figure, axes = panels(1, 1, 0.9 + 0.32 * len(comparison.methods))
    panel = axes[0, 0]
    panel.set_xscale(scale)
    for row, (method, style) in enumerate(method_styles(comparison.methods).items()):
        sample = measured.sample(method, comparison.sparsities_of(method)[0], number)
        if not sample.n or not math.isfinite(sample.mean) or (scale == "log" and sample.mean <= 0):
            text = f"{sample.mean:g}" if sample.n else "no result"  # the axis cannot show it
            panel.text(0.01, row, text, transform=panel.get_yaxis_transform(), va="center", fontsize=TEXT - 1)
            continue
        look = {"color": style["color"], "marker": style["marker"] or "o", "linestyle": "none"}
        panel.errorbar(sample.mean, row, xerr=np.nan_to_num(sample.std), capsize=3, markersize=5, **look)
        panel.plot(sample.values, [row + 0.28] * sample.n, ".", color=style["color"], markersize=3)
    panel.set_yticks(range(len(comparison.methods)), [method.label for method in comparison.methods])
    panel.set_ylim(len(comparison.methods) - 0.4, -0.6)
    label(
        panel,
        f"{title}, mean ± standard deviation, and each run",
        "",
        f"sparsity {_percent(comparison.sparsities[0])} %",
    )
    return figure


def _losses(measured: Measured) -> Figure:
    """Draw the training losses by iteration, in axes for each sparsity that all show the dense network."""
    comparison = measured.comparison
    sparsities = comparison.sparsities
    columns = min(_COLUMNS, len(sparsities))
    rows = math.ceil(len(sparsities) / columns)
    figure, axes = panels(rows, columns, 0.7 + (2.3 if columns > 1 else 2.9) * rows, sharex=True, sharey=True)
    styles = method_styles(comparison.methods)
    for i, panel in enumerate(axes.flat):
        if i >= len(sparsities):
            panel.remove()
            continue
        panel.set_yscale("log")
        for method, style in styles.items():
            draw_curve(panel, measured.log(method, 0.0 if method.is_dense else sparsities[i]), style)
        below, left = i + columns >= len(sparsities), i % columns == 0
        panel.tick_params(labelbottom=below)
        label(
            panel,
            "iteration" if below else "",
            "training loss" if left else "",
            f"sparsity {_percent(sparsities[i])} %",
        )
    _legend(figure, styles)
    return figure


def _legend(figure: Figure, styles: Styles) -> None:
    columns = math.ceil(len(styles) / math.ceil(len(styles) / _LEGEND_COLUMNS))  # rows of about the same length
    legend(figure, {method.label: style for method, style in styles.items()}, columns)


def _places(sparsities: Sequence[float]) -> Callable[[float], float]:
    """Return the function of a sparsity that places it on the axis: high ones by the logarithm of the density."""
    if min(sparsities) >= _LOGARITHMIC_FROM:
        return lambda sparsity: -math.log10(1 - sparsity)
    return lambda sparsity: sparsity


def _moved(curve: Curve, place: Callable[[float], float]) -> Curve:
    moved = Curve(curve.what, {})
    moved.update({place(x): sample for x, sample in curve.items()})
    return moved


def _mark(panel: Axes, sparsities: Sequence[float], place: Callable[[float], float]) -> None:
    """Draw a tick at each sparsity, and its label unless it would touch the one before."""
    places = [place(sparsity) for sparsity in sparsities]
    span, last, labels = places[-1] - places[0], -math.inf, []
    for x, sparsity in zip(places, sparsities, strict=True):
        free = x - last > _CLOSE * span
        labels.append(_percent(sparsity) if free else "")
        last = x if free else last
    panel.set_xticks(places, labels, fontsize=TEXT - 1)
    panel.set_xlim(places[0] - 0.05 * span, places[-1] + 0.05 * span)


def _percent(sparsity: float) -> str:
    return f"{100 * sparsity:.6g}"
