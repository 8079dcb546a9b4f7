"""Pictures of measured spectra."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

# Okabe & Ito's colour-blind safe colours; line styles tell the curves apart in black and white
_STYLES: dict[str, dict[str, Any]] = {
    "dense": {"color": "#000000", "linestyle": "-"},
    "pruned": {"color": "#D55E00", "linestyle": "--"},
    "corrected": {"color": "#0072B2", "linestyle": "-."},
}


def compare_spectra(spectra: Mapping[str, Tensor], title: str = "") -> Figure:
    """Distributions of Jacobian singular values, one curve per stage, over a logarithmic axis.

    Args:
        spectra: singular values of any shape, by stage: dense, pruned, corrected. Zeros and NaN are left out.
        title: above the axes.
    """
    figure = Figure(figsize=(6.4, 3.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    for stage, values in spectra.items():
        positive = np.sort(values[values > 0].flatten().cpu().numpy())
        if not len(positive):
            continue
        share = np.arange(1, len(positive) + 1) / len(positive)
        axes.step(positive, share, where="post", label=f"{stage}, mean {positive.mean():.3g}", **_STYLES[stage])
    axes.set_xscale("log")
    axes.set_ylim(0, 1)
    axes.set_xlabel("singular value s of the input-output Jacobian")
    axes.set_ylabel("share of values ≤ s")
    axes.grid(alpha=0.3)
    axes.set_title(title)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    return figure
