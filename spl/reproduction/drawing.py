"""Drawing of curves with bands in one style per method, for print: colour-blind safe, readable in black and white."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from spl.reproduction.methods import (
    LDI_CS,
    LDI_CS_AI,
    LDI_CS_EOI,
    LDI_DENSE,
    LDI_MAG,
    LDI_RAND,
    LDI_RAND_AI,
    LDI_SHUFFLED,
    LDI_SYNFLOW,
    VS_CS,
    Method,
)
from spl.reproduction.samples import Curve, Sample

WIDTH = 7.0  # inches: the width of a page's text
TEXT = 8  # points: the size of labels; ticks and legends have one less
SPARSITY_LABEL = r"sparsity $\bar\kappa$ [%]"
_CUT = 0.1  # times the mean: on a logarithmic axis, bands reach no lower

# Okabe & Ito's colours; line style and marker distinguish methods that share one
_BLACK, _ORANGE, _SKY, _GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
_BLUE, _VERMILION, _PURPLE = "#0072B2", "#D55E00", "#CC79A7"
COLORS = (_BLUE, _VERMILION, _GREEN, _ORANGE, _PURPLE, _SKY)  # the order in which curves without a fixed style get them
Style = dict[str, Any]


def curve_style(color: str, linestyle: Any, marker: str) -> Style:
    """Return the style of a curve."""
    return {"color": color, "linestyle": linestyle, "marker": marker, "markersize": 4, "linewidth": 1.3}


STYLES: dict[Method, Style] = {
    LDI_DENSE: curve_style(_BLACK, "-", ""),
    LDI_MAG: curve_style(_PURPLE, (0, (3, 1, 1, 1, 1, 1)), "D"),
    LDI_RAND: curve_style(_ORANGE, ":", "v"),
    LDI_RAND_AI: curve_style(_VERMILION, "--", "^"),
    VS_CS: curve_style(_GREEN, "-.", "s"),
    LDI_CS: curve_style(_SKY, "--", "o"),
    LDI_CS_AI: curve_style(_BLUE, "-", "o"),
    LDI_CS_EOI: curve_style(_GREEN, (0, (6, 1)), "P"),
    LDI_SYNFLOW: curve_style(_VERMILION, (0, (1, 1)), "X"),
    LDI_SHUFFLED: curve_style(_PURPLE, "-.", "*"),
}
NETWORK_STYLES = (curve_style(_BLUE, "-", "o"), curve_style(_VERMILION, "--", "s"))  # for one curve per network


def panels(rows: int, columns: int, height: float, **sharing: Any) -> tuple[Figure, Any]:
    """Make a figure as wide as a page's text, and return it with its axes [rows, columns].

    Args:
        rows: the number of rows of axes.
        columns: the number of columns of axes.
        height: the height in inches.
        sharing: keyword arguments of `Figure.subplots`, such as sharey.
    """
    figure = Figure(figsize=(WIDTH, height), dpi=150, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **sharing)
    for panel in axes.flat:
        panel.tick_params(which="both", labelsize=TEXT - 1)
        panel.grid(alpha=0.25, linewidth=0.5)
    return figure, axes


def label(axes: Axes, x: str = "", y: str = "", title: str = "") -> None:
    """Label the axes."""
    axes.set_xlabel(x, fontsize=TEXT)
    axes.set_ylabel(y, fontsize=TEXT)
    axes.set_title(title, fontsize=TEXT)


def draw_curve(axes: Axes, curve: Curve, style: Style) -> None:
    """Draw the means, with a band of ± one standard deviation.

    Where the means are not finite, or not positive on a logarithmic axis, the symbol ∞ or 0 on the edge of the axes
    stands for them. A sample of one value has no band.
    """
    x, mean, std = curve.x, curve.mean, np.nan_to_num(curve.std)
    if not len(x):
        return
    logarithmic = axes.get_yscale() == "log"
    shown = np.isfinite(mean) & ((mean > 0) | (not logarithmic))
    axes.plot(x, np.where(shown, mean, np.nan), markevery=1 if len(x) <= 10 else 0.12, **style)
    lower = np.maximum(mean - std, _CUT * mean) if logarithmic else mean - std
    axes.fill_between(x, lower, mean + std, where=shown & (std > 0), color=style["color"], alpha=0.2, linewidth=0)
    _draw_symbols(axes, x[np.isposinf(mean)], 0.96, r"$\infty$", style)
    _draw_symbols(axes, x[~shown & (mean <= 0)], 0.04, "$0$", style)


def _draw_symbols(axes: Axes, x: np.ndarray, height: float, symbol: str, style: Style) -> None:
    """Draw a symbol for values that the axes cannot show, at a height in units of the axes."""
    look = {"transform": axes.get_xaxis_transform(), "marker": symbol, "markersize": 6}
    if len(x):
        axes.plot(x, np.full(len(x), height), **style | look | {"linestyle": ""})


def draw_level(axes: Axes, level: Sample, style: Style) -> None:
    """Draw a horizontal line at the mean, with a band of ± one standard deviation."""
    axes.axhline(level.mean, **style)
    if level.std > 0:
        cut = _CUT * level.mean if axes.get_yscale() == "log" else -np.inf
        lower = max(level.mean - level.std, cut)
        axes.axhspan(lower, level.mean + level.std, color=style["color"], alpha=0.12, linewidth=0)


def legend(figure: Figure, styles: dict[str, Style], columns: int = 4) -> None:
    """Draw one legend for all axes, above them."""
    handles = [Line2D([], [], label=name, **style) for name, style in styles.items()]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        fontsize=TEXT - 1,
        handlelength=3.5,
    )


def method_legend(figure: Figure, methods: Iterable[Method]) -> None:
    """Draw the legend of methods."""
    legend(figure, {str(method): STYLES[method] for method in methods})
