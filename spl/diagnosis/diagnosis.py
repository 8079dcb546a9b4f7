"""The diagnosis of a sparse network: one page of measurements, and a verdict whether it will train."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from textwrap import fill
from typing import Any, Self

import torch
from torch import Tensor, nn

from spl.diagnosis.layers import LayerDiagnosis, LayerSpectrum, measure_layers
from spl.diagnosis.paths import find_paths
from spl.diagnosis.trial import STEPS, trial_loss
from spl.diagnosis.verdict import Evidence, Verdict, judge
from spl.functional.text_table import Column, terminal_width, text_table
from spl.functional.undisturbed import undisturbed
from spl.functional.wrappers import unwrapped
from spl.jacobian import Spectrum, singular_values
from spl.masks.masks import Masks
from spl.pruning import prunable_parameters

_HEADERS = ["layer", "weights", "kept", "sparsity", "off path", "dead in", "out", "residual", "floor"]
_HEADERS += ["DW mean", "min", "max", "signal", "gradient"]
_SHORT = {"off path": "off"}


@dataclass(frozen=True)
class Diagnosis:
    """The measurements of a sparse network and the verdict that follows from them; as a string, it is a page.

    Attributes:
        layers: the measurements of each layer, by the name of its weight, from input to output.
        jacobian: the spectrum of the input-output Jacobian.
        evidence: the quantities that the verdict rests on.
        verdict: whether the network will train, why, and what to change.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.diagnosis import Diagnosis, diagnose
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> diagnosis = diagnose(network, None, torch.randn(20, 4), torch.randint(3, (20,)))
        >>> diagnosis.layers["0.weight"].residual, diagnosis.sparsity, diagnosis.effective_sparsity
        (1.02, 0.0, 0.0)
        >>> Diagnosis.from_json(diagnosis.to_json()) == diagnosis
        True
    """

    layers: dict[str, LayerDiagnosis]
    jacobian: Spectrum
    evidence: Evidence
    verdict: Verdict

    @property
    def sparsity(self) -> float:
        """The sparsity over all layers: the share of weights that are pruned."""
        return 1.0 - sum(layer.kept for layer in self.layers.values()) / self._weights

    @property
    def effective_sparsity(self) -> float:
        """The effective sparsity over all layers: the share of weights on no input-output path."""
        return 1.0 - sum(layer.on_paths for layer in self.layers.values()) / self._weights

    @property
    def _weights(self) -> int:
        return sum(layer.weights for layer in self.layers.values())

    def to_json(self) -> str:
        """Return the diagnosis as JSON; infinite numbers and NaN, which JSON cannot represent, become strings."""
        return json.dumps(_encoded(asdict(self)), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the diagnosis that `to_json` wrote."""
        read = _decoded(json.loads(text))
        layers = {
            name: LayerDiagnosis(**layer | {"jacobian": LayerSpectrum(**layer["jacobian"])})
            for name, layer in read["layers"].items()
        }
        return cls(layers, Spectrum(**read["jacobian"]), Evidence(**read["evidence"]), Verdict(**read["verdict"]))

    def __str__(self) -> str:
        rows = [_row(name, layer) for name, layer in self.layers.items()]
        kept = sum(layer.kept for layer in self.layers.values())
        off = kept - sum(layer.on_paths for layer in self.layers.values())
        rows.append(
            ["total", str(self._weights), str(kept), f"{self.sparsity:.4f}", str(off), *[""] * (len(_HEADERS) - 5)]
        )
        cells = zip(*rows, strict=True)
        columns = [Column(t, c, _SHORT.get(t, "")) for t, c in zip(_HEADERS, cells, strict=True)]
        table = text_table(columns)
        width = min(terminal_width() - 1, max(map(len, table.splitlines())))
        e = self.evidence
        statistics = ", ".join(f"{name} {value:.3g}" for name, value in self.jacobian.as_dict().items())
        findings = [
            f"Effective sparsity {self.effective_sparsity:.4f}: weights on no input-output path count as lost.",
            f"Input-output Jacobian (batch_norm: batch): {statistics}.",
            f"Outputs reached: {e.reached} of {e.outputs}. Variance of the input seen: {e.seen:.0%}.",
            f"Loss of a copy after a trial of {STEPS} steps: {e.trial:.3g}."
            + (" The network is a linear classifier." if e.linear else ""),
        ]
        texts = [fill(text, terminal_width() - 1) for text in findings]
        return "\n".join([table, "", *texts, "", fill(str(self.verdict), width)])


def _row(name: str, layer: LayerDiagnosis) -> list[str]:
    off = layer.kept - layer.on_paths
    shares = [f"{layer.sparsity:.4f}", str(off), str(layer.dead_inputs), str(layer.dead_outputs)]
    isometry = [f"{layer.residual:.3f}", f"{layer.floor:.3f}"]
    signals = [f"{value:.2g}" for value in (*layer.jacobian, layer.signal, layer.gradient)]
    return [name.removesuffix(".weight"), str(layer.weights), str(layer.kept), *shares, *isometry, *signals]


def diagnose(
    network: nn.Module,
    masks: Masks | None,
    inputs: Tensor,
    labels: Tensor,
    gains: Mapping[str, float] | None = None,
    chunk: int = 250,
    limits: Mapping[str, float] | None = None,
) -> Diagnosis:
    """Measure a sparse network as it is, and judge whether it will train. The network is left as it was found.

    The spectrum of the input-output Jacobian is over all examples; layers are measured at the first `chunk` of them.
    A copy of the weights takes a hundred trial steps; see `spl.diagnosis.trial`. BatchNorm normalizes by the
    statistics of the examples, as it will in training, and not by the initial running statistics.

    Args:
        network: a pruned network that maps [N, ...] to logits [N, C].
        masks: the masks of its parameters; None for a dense network.
        inputs: Tensor [N, ...] of examples on the network's device.
        labels: Tensor [N] of the examples' classes.
        gains: σ, the singular value that a layer is compared with, by the name of its weight; 1 by default.
        chunk: the number of examples at which layers are measured, and for the Jacobian at a time. Memory grows with
            it. The trial has batches of 100.
        limits: the sparsity from which a layer is empty, by the name of its weight, if it is known.

    Raises:
        InputError: the masks do not fit the network, it has no Linear or convolutional layers, or its output is not
            [N, C].

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import Magnitude
        >>> from spl.diagnosis import diagnose
        >>> from spl.pruning import prune
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> masks = prune(network, Magnitude(), sparsity=0.5)
        >>> masks.apply_(dict(network.named_parameters()))
        >>> diagnosis = diagnose(network, masks, torch.randn(20, 4), torch.randint(3, (20,)))
        >>> diagnosis.verdict.answer, diagnosis.verdict.reason
        ('Trains poorly', 'only 7 weights for each output lie on a path through the network')
    """
    network = unwrapped(network)
    parameters = prunable_parameters(network)
    kept = {name: torch.ones_like(p, dtype=torch.bool) for name, p in parameters.items()}
    if masks is not None:
        masks.check_fits(dict(network.named_parameters()))
        kept |= {name: mask for name, mask in masks.items() if name in parameters}
    paths = find_paths(network, kept, inputs)
    first = inputs[:chunk], labels[:chunk]
    with undisturbed(network, "batch"):
        layers = measure_layers(network, kept, paths.weights, *first, gains or {})
        right = network(first[0]).argmax(1) == first[1]
        linear = _is_linear(network, first[0])
        loss = trial_loss(network, Masks(kept), inputs, labels)
    spectrum = Spectrum.of(singular_values(network, inputs, chunk, "batch"))
    collapsed = [name for name, layer in layers.items() if layer.collapsed]
    evidence = Evidence(
        outputs=paths.outputs.numel(),
        reached=int(paths.outputs.sum()),
        collapsed=", ".join(name.removesuffix(".weight") for name in collapsed),
        limit=min((limits[name] for name in collapsed if limits and name in limits), default=None),
        seen=_share_of_variance(inputs, paths.inputs),
        signal=spectrum.max,
        trial=loss,
        linear=linear,
        size=sum(layer.on_paths for layer in layers.values()) / paths.outputs.numel(),
        accuracy=float(right.float().mean()),
    )
    return Diagnosis(layers, spectrum, evidence, judge(evidence))


def _is_linear(network: nn.Module, inputs: Tensor) -> bool:
    """Return whether the output at the mean of two examples is the mean of their outputs, to a thousandth."""
    outputs = network(inputs).detach()
    between = network((inputs + inputs.flip(0)) / 2).detach()
    error = between - (outputs + outputs.flip(0)) / 2
    return bool(error.norm() <= 1e-3 * (outputs - outputs.mean(0)).norm())


def _share_of_variance(inputs: Tensor, reached: Tensor) -> float:
    """Return the share of the variance over examples that is in the reached inputs.

    If no input varies, return the share of inputs that are reached.
    """
    variance = inputs.double().var(0, correction=0)
    variance = variance if bool(variance.any()) else torch.ones_like(variance)
    return float(variance[reached].sum() / variance.sum())


def _encoded(value: Any) -> Any:
    """Replace numbers that are not finite by strings, and named tuples by dictionaries."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: _encoded(item) for key, item in value.items()}
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _decoded(value: Any) -> Any:
    """Replace the strings of numbers that are not finite by the numbers: the inverse of `_encoded`."""
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    return float(value) if value in ("inf", "-inf", "nan") else value
