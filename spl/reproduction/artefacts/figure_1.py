"""Figure 1: sparsity patterns, and the connection sensitivities that decide them."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spl.reproduction.artefacts.artefact import Artefact, ArtefactReport, Finding, Judgement, decide
from spl.reproduction.artefacts.compared_network import LINEAR, SPARSITY, TANH, ComparedNetwork
from spl.reproduction.budgets import Budget
from spl.reproduction.drawing import SPARSITY_LABEL, TEXT, WIDTH, label, panels
from spl.reproduction.methods import LDI_CS, Experiment
from spl.reproduction.results import Result, Results
from spl.reproduction.run import Run
from spl.reproduction.samples import MissingResult

_HIDDEN = ("fc2", "fc3", "fc4", "fc5", "fc6")  # 100×100
_LAYERS = ("fc1", *_HIDDEN, "fc7")
_LATER = ("fc4", "fc5", "fc6")
_BOX: Any = {props: {"color": "#0072B2", "linewidth": 1.2} for props in ("boxprops", "whiskerprops", "capprops")}
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_INITIALIZER = {"class_path": "spl.initializers.Gaussian", "init_args": {"variance": 1.0}}  # SG(γ = 1)


class Figure1(Artefact):
    """Masks of the hidden layers by sparsity, and connection sensitivities by layer, initialized by SG(1)."""

    name = "fig1"
    title = "Layerwise sparsity patterns and connection sensitivities"
    reads_events = True

    def describe_budget(self, budget: Budget) -> str:
        """Return the budget without iterations, because nothing is trained."""
        return f"budget {budget.name}: 1 run a sparsity, not trained"

    def runs(self, budget: Budget) -> list[Run]:
        """Return the runs of one seed, untrained."""
        return [_planned_run(budget, network, sparsity) for network in (LINEAR, TANH) for sparsity in budget.sparsities]

    def report(self, budget: Budget, results: Results) -> ArtefactReport:
        """Return findings, and pictures of masks and of sensitivities."""
        finished = {network: _finished(budget, results, network) for network in (LINEAR, TANH)}
        rows: list[dict[str, Any]] = []
        for network, by_sparsity in finished.items():
            for sparsity, result in by_sparsity.items():
                for layer, share in result.layer_sparsity().items():
                    rows.append(_row(network, sparsity, layer, "layer sparsity", share))
            for layer, values in _quantiles(by_sparsity).items():
                for quantile, value in zip(_QUANTILES, values, strict=True):
                    rows.append(_row(network, 0.0, layer, f"{100 * quantile:g} % quantile of log10 s", value))
        linear, tanh = finished[LINEAR], finished[TANH]
        findings = [_uniform(linear), _starved(tanh), _less_uniform(linear, tanh)]
        figures = {"_masks": _draw_masks(budget, finished), "_sensitivities": _draw_sensitivities(finished)}
        return ArtefactReport(rows, findings, figures)


def _planned_run(budget: Budget, network: ComparedNetwork, sparsity: float) -> Run:
    experiment = Experiment(network.config, sparsity=sparsity, initializer=_INITIALIZER, trained=False)
    return experiment.run(budget, LDI_CS, 0)


def _finished(budget: Budget, results: Results, network: ComparedNetwork) -> dict[float, Result]:
    """Return the finished runs by sparsity."""
    runs = {sparsity: _planned_run(budget, network, sparsity) for sparsity in budget.sparsities}
    return {sparsity: results[run.digest] for sparsity, run in runs.items() if run.digest in results}


def _row(network: ComparedNetwork, sparsity: float, layer: str, statistic: str, value: float) -> dict[str, Any]:
    return {
        "network": network.name,
        "sparsity": sparsity,
        "layer": layer,
        "statistic": statistic,
        "value": value,
        "n": 1,
    }


def _quantiles(by_sparsity: dict[float, Result]) -> dict[str, np.ndarray]:
    """Return quantiles of log10 s by layer; the scores s are those of the dense network, equal at all sparsities."""
    for result in by_sparsity.values():
        return {layer: _quantiles_of(*histogram) for layer, histogram in sorted(result.saliency().items())}
    return {}


def _quantiles_of(limits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the quantiles of a histogram, interpolated linearly within its bins."""
    quantiles: np.ndarray = np.interp(_QUANTILES, counts.cumsum() / counts.sum(), limits)
    return quantiles


def _draw_masks(budget: Budget, finished: dict[ComparedNetwork, dict[float, Result]]) -> Figure:
    """Draw the masks; white is kept, black is pruned."""
    rows, columns = len(budget.sparsities), len(_HIDDEN)
    figure = Figure(figsize=(WIDTH, 0.4 + 0.66 * rows), dpi=200, layout="constrained")
    halves: Any = figure.subfigures(1, 2)
    for half, (network, by_sparsity) in zip(halves, finished.items(), strict=True):
        half.suptitle(network.name, fontsize=TEXT)
        half.supylabel(SPARSITY_LABEL, fontsize=TEXT)
        axes = half.subplots(rows, columns, squeeze=False)
        for line, sparsity in zip(axes, budget.sparsities, strict=True):
            masks = by_sparsity[sparsity].masks() if sparsity in by_sparsity else {}
            line[0].set_ylabel(f"{100 * sparsity:g}", fontsize=TEXT - 1)
            for panel, layer in zip(line, _HIDDEN, strict=True):
                panel.set(xticks=[], yticks=[], box_aspect=1, frame_on=layer in masks)
                if layer in masks:
                    panel.imshow(masks[layer], cmap="gray", vmin=0, vmax=1, interpolation="none")
        for panel, layer in zip(axes[0], _HIDDEN, strict=True):
            panel.set_title(layer, fontsize=TEXT - 1)
    return figure


def _draw_sensitivities(finished: dict[ComparedNetwork, dict[float, Result]]) -> Figure:
    """Draw a box for each layer: quartiles and median, whiskers from 5 to 95 %."""
    figure, axes = panels(1, 2, 2.8, sharey=True)
    for panel, (network, by_sparsity) in zip(axes[0], finished.items(), strict=True):
        quantiles = _quantiles(by_sparsity)
        names = ("whislo", "q1", "med", "q3", "whishi")
        boxes = [{"label": layer} | dict(zip(names, values, strict=True)) for layer, values in quantiles.items()]
        if boxes:
            panel.bxp(boxes, showfliers=False, medianprops={"color": "#000000", "linewidth": 1.6}, **_BOX)
        label(panel, "layer", r"$\log_{10}$ connection sensitivity", network.name)
    return figure


def _layers(by_sparsity: dict[float, Result], network: ComparedNetwork, sparsity: float = SPARSITY) -> dict[str, float]:
    if sparsity not in by_sparsity:
        raise MissingResult(f"{network.name} at κ̄ = {100 * sparsity:g} %")
    return by_sparsity[sparsity].layer_sparsity()


def _spread(layers: dict[str, float]) -> float:
    hidden = [layers[layer] for layer in _HIDDEN]
    return max(hidden) - min(hidden)


def _in_words(layers: dict[str, float]) -> str:
    return ", ".join(f"{layer} {layers[layer]:.4f}" for layer in _LAYERS if layer in layers)


def _uniform(linear: dict[float, Result]) -> Finding:
    def judge() -> Judgement:
        layers = _layers(linear, LINEAR)
        return _spread(layers) < 0.1, f"layer sparsity at κ̄ = 90 % {_in_words(layers)} (n = 1)"

    return decide("linear: the sparsity of the hidden layers is uniform, within 0.1", judge)


def _starved(tanh: dict[float, Result]) -> Finding:
    def judge() -> Judgement:
        layers = _layers(tanh, TANH)
        few = all(layers[layer] > 0.98 for layer in _LATER)
        return few, f"layer sparsity at κ̄ = 90 % {_in_words(layers)} (n = 1)"

    statement = "tanh: at κ̄ = 90 % only a few parameters are left in later layers, fc4 to fc6, less than 2 % of each"
    return decide(statement, judge)


def _less_uniform(linear: dict[float, Result], tanh: dict[float, Result]) -> Finding:
    def judge() -> Judgement:
        common = [sparsity for sparsity in linear if sparsity in tanh]
        if not common:
            raise MissingResult("linear and tanh at the same κ̄")
        spreads = {k: (_spread(_layers(linear, LINEAR, k)), _spread(_layers(tanh, TANH, k))) for k in common}
        words = ", ".join(f"{100 * k:g} %: {one:.3f} and {two:.3f}" for k, (one, two) in spreads.items())
        return all(two > one for one, two in spreads.values()), f"max − min of linear and tanh {words} (n = 1)"

    return decide("The sparsity of the hidden layers is less uniform for tanh than for linear, at every κ̄", judge)
