"""Figures of measured spectra."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

# colours of Okabe & Ito, safe for colour-blind readers; line styles distinguish the curves in black and white
_STYLES: dict[str, dict[str, Any]] = {
    "dense": {"color": "#000000", "linestyle": "-"},
    "pruned": {"color": "#D55E00", "linestyle": "--"},
    "corrected": {"color": "#0072B2", "linestyle": "-."},
}


def compare_spectra(spectra: Mapping[str, Tensor], title: str = "") -> Figure:
    """Draw the cumulative distributions of Jacobian singular values, one curve per stage, over a logarithmic axis.

    Args:
        spectra: singular values of any shape, by stage: dense, pruned, corrected. Zeros, which a logarithmic axis
            cannot show, count as smaller than all others; NaN are left out.
        title: the text above the axes.

    Example:
        >>> import torch
        >>> from spl.callbacks.reporting.figures import compare_spectra
        >>> figure = compare_spectra({"dense": torch.tensor([0.5, 1.5]), "pruned": torch.tensor([0.0, 0.2])})
        >>> [line.get_label() for line in figure.axes[0].get_lines()]
        ['dense, mean 1', 'pruned, mean 0.1']
    """
    figure = Figure(figsize=(6.4, 3.6), dpi=150)
    axes = figure.subplots()
    for stage, values in spectra.items():
        ordered = np.sort(values[values.isfinite()].flatten().cpu().numpy())
        zeros = int((ordered <= 0).sum())
        if zeros == len(ordered):
            continue
        share = np.arange(1, len(ordered) + 1) / len(ordered)
        label = f"{stage}, mean {ordered.mean():.3g}"
        axes.step(ordered[zeros:], share[zeros:], where="post", label=label, **_STYLES[stage])
    axes.set_xscale("log")
    axes.tick_params(axis="x", which="minor", labelsize=6)  # labelled if few decades are shown; larger ones touch
    axes.set_ylim(0, 1)
    axes.set_xlabel("singular value s of the input-output Jacobian")
    axes.set_ylabel("share of values ≤ s")
    axes.grid(alpha=0.3)
    axes.set_title(title)
    legend = bool(axes.get_legend_handles_labels()[0])
    if legend:
        # above the axes, because every corner may be covered by a curve
        figure.legend(frameon=False, loc="upper center", ncols=len(spectra), fontsize="small")
    # labels always have the same size here: a layout engine would draw everything twice to find these numbers
    lines = title.count("\n") + 1 if title else 0
    top = 0.974 - 0.056 * lines - (0.081 if legend else 0)
    figure.subplots_adjust(left=0.087, right=0.9935, bottom=0.139, top=top)
    return figure


def draw(figure: Figure) -> NDArray[np.uint8]:
    """Return the pixels of a figure, an array [H, W, 3].

    Example:
        >>> from matplotlib.figure import Figure
        >>> from spl.callbacks.reporting.figures import draw
        >>> draw(Figure(figsize=(2, 1), dpi=100)).shape
        (100, 200, 3)
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
