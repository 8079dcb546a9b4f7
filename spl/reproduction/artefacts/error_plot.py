"""The error plot: test errors of experiments, a row each, beside the paper's."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from spl.reproduction.artefacts.grid import Key, Measured, errors
from spl.reproduction.drawing import TEXT, WIDTH

# Okabe & Ito's blue and vermilion; filled and open markers distinguish them in black and white
_LOOKS: dict[str, dict[str, Any]] = {
    "best": {"label": "best by validation", "color": "#0072B2", "marker": "o"},
    "final": {"label": "final weights", "color": "#D55E00", "marker": "s", "markerfacecolor": "white"},
}
_RECALLED: dict[str, Any] = {"label": "the paper's, recalled", "color": "black", "marker": "|", "markersize": 12}
_OFFSET = 0.13  # of a row, by which the markers lie above and below its middle


def error_plot(measured: Measured, labels: Mapping[Key, str], recalled: Mapping[Key, float] | None = None) -> Figure:
    """Draw mean test errors with their standard deviations, and a small mark for each run.

    Args:
        measured: the finished runs by experiment.
        labels: the labels of the rows, from the top.
        recalled: the paper's errors in %, if it has any.
    """
    figure = Figure(figsize=(WIDTH, 0.9 + 0.36 * len(labels)), layout="constrained")
    axes = figure.subplots()
    places = {key: float(i) for i, key in enumerate(labels)}
    for which, offset in (("best", -_OFFSET), ("final", _OFFSET)):
        look = _LOOKS[which]
        samples = {key: sample for key, sample in errors(measured, which).items() if sample.n}
        means, deviations = ([getattr(s, name) for s in samples.values()] for name in ("mean", "std"))
        heights = [places[key] + offset for key in samples]
        axes.errorbar(means, heights, xerr=deviations, linestyle="none", capsize=3, markersize=5, **look)
        for height, sample in zip(heights, samples.values(), strict=True):
            axes.plot(sample.values, [height + offset] * sample.n, ".", color=look["color"], markersize=3)
    if recalled:
        axes.plot(list(recalled.values()), [places[key] for key in recalled], linestyle="none", **_RECALLED)
    axes.set_yticks(list(places.values()), list(labels.values()))
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.tick_params(labelsize=TEXT - 1)
    axes.set_xlabel("test error [%]: mean ± standard deviation, and each run", fontsize=TEXT)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=TEXT - 1)
    return figure
