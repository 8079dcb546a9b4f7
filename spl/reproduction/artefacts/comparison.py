"""Figures that compare networks side by side, with all methods on each."""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spl.reproduction.artefacts.compared_network import Measurements
from spl.reproduction.drawing import TEXT, method_legend, panels
from spl.reproduction.methods import Method

Draw = Callable[[Axes, Measurements, Sequence[Method]], None]


def side_by_side(
    measured: Sequence[Measurements], methods: Sequence[Method], draws: Sequence[Draw], row_height: float = 2.3
) -> Figure:
    """Draw a column of axes for each network, and a row with a common vertical axis for each function in `draws`.

    Args:
        measured: the measurements of each network.
        methods: the methods to compare.
        draws: functions that draw the methods of a network into axes, and label both axes.
        row_height: the height of a row in inches.
    """
    figure, axes = panels(len(draws), len(measured), 0.6 + row_height * len(draws), sharey="row")
    for draw, row in zip(draws, axes, strict=True):
        for panel, one in zip(row, measured, strict=True):
            draw(panel, one, methods)
        for panel in row[1:]:
            panel.set_ylabel("")
    for upper, lower in zip(axes[:-1].flat, axes[1:].flat, strict=True):
        if upper.get_xlabel() == lower.get_xlabel():
            upper.set_xlabel("")
    for panel, one in zip(axes[0], measured, strict=True):
        panel.set_title(one.network.name, fontsize=TEXT)
    method_legend(figure, methods)
    return figure
