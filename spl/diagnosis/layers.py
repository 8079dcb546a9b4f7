"""The measurements of each layer of a sparse network: its mask, its distance from isometry, its signals."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spl.functional.layers import ACTIVATIONS
from spl.functional.torch_private import ConvNd, ConvTransposeNd
from spl.isometry import isometry_residual
from spl.isometry.structure import isometry_floor

_SLOPE_EXAMPLES = 5  # the examples at which the spectrum of a Linear layer is computed
_PIXELS = 16  # the most pixels a side of the images on which the spectrum of a convolution is computed


class LayerSpectrum(NamedTuple):
    """The singular values of a layer's Jacobian D W, where D holds the slopes of the activation module that follows.

    Attributes:
        mean: the mean of the singular values, 1 under layerwise dynamical isometry.
        min: the smallest singular value.
        max: the largest singular value.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.diagnosis import diagnose
        >>> from spl.initializers import Orthogonal
        >>> network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
        >>> Orthogonal()(network)
        >>> diagnosis = diagnose(network, None, torch.randn(20, 4), torch.randint(3, (20,)))
        >>> diagnosis.layers["0.weight"].jacobian
        LayerSpectrum(mean=1.00, min=1.00, max=1.00)
    """

    mean: float
    min: float
    max: float


@dataclass(frozen=True)
class LayerDiagnosis:
    """The measurements of one layer.

    Attributes:
        weights: the number of weights, without biases.
        kept: the number of weights that are kept.
        on_paths: the number of kept weights that lie on an input-output path.
        dead_inputs: the number of input units or channels that lost every weight into this layer.
        dead_outputs: the number of output units or channels that lost every weight from the layer's input.
        residual: ‖V Vᵀ − σ² I‖_F; see `spl.isometry.isometry_residual`.
        floor: the smallest residual that the layer's mask allows.
        jacobian: the spectrum of D W. For a Linear layer it is exact at five examples. For a convolution it is the
            spectrum of the operator on images of at most 16 pixels a side, whose borders wrap around, times the
            root-mean-square slope.
        signal: the root mean square of the layer's output, before the activation, over units and examples.
        gradient: ‖∂L/∂W‖ over the kept weights, where L is the mean cross-entropy.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.diagnosis import diagnose
        >>> from spl.masks import Masks
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
        >>> masks = Masks({"0.weight": torch.tensor([[True, True], [False, False]])})
        >>> masks.apply_(dict(network.named_parameters()))
        >>> layers = diagnose(network, masks, torch.randn(9, 2), torch.randint(2, (9,))).layers
        >>> layers["0.weight"].kept, layers["0.weight"].dead_outputs, layers["0.weight"].floor
        (2, 1, 1.0)
        >>> layers["2.weight"].kept, layers["2.weight"].on_paths, layers["2.weight"].effective_sparsity
        (4, 2, 0.5)
    """

    weights: int
    kept: int
    on_paths: int
    dead_inputs: int
    dead_outputs: int
    residual: float
    floor: float
    jacobian: LayerSpectrum
    signal: float
    gradient: float

    @property
    def sparsity(self) -> float:
        """The share of weights that are pruned."""
        return 1.0 - self.kept / self.weights

    @property
    def effective_sparsity(self) -> float:
        """The share of weights that lie on no input-output path."""
        return 1.0 - self.on_paths / self.weights

    @property
    def collapsed(self) -> bool:
        """Whether the layer has lost every weight."""
        return self.kept == 0


@dataclass
class _Pass:
    """The record of one layer in a forward pass."""

    input_shape: torch.Size
    output: Tensor
    slopes: Tensor | None = None


@dataclass
class _Recorder:
    """A recorder of the last pass of every layer, and of the slopes of the activation that follows the layer."""

    passes: dict[nn.Module, _Pass] = field(default_factory=dict)
    last: _Pass | None = None

    @contextmanager
    def attached(self, network: nn.Module, layers: set[nn.Module]) -> Iterator[None]:
        hooks = []
        for module in network.modules():
            if module in layers:
                hooks.append(module.register_forward_hook(self._layer))
            elif isinstance(module, ACTIVATIONS):
                hooks.append(module.register_forward_pre_hook(self._activation))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _layer(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.last = self.passes[layer] = _Pass(inputs[0].shape, output.detach().clone())

    def _activation(self, activation: Any, inputs: tuple[Tensor, ...]) -> None:
        if self.last is not None and self.last.output.shape == inputs[0].shape:
            x = inputs[0].detach().clone().requires_grad_()
            (self.last.slopes,) = torch.autograd.grad(activation.forward(x.clone()).sum(), x)
        self.last = None


def measure_layers(
    network: nn.Module,
    masks: Mapping[str, Tensor],
    on_paths: Mapping[str, Tensor],
    inputs: Tensor,
    labels: Tensor,
    gains: Mapping[str, float],
) -> dict[str, LayerDiagnosis]:
    """Measure the layers whose weights `masks` names, with `network` as it is, in the mode that it is in.

    Args:
        network: a pruned network that maps [N, ...] to logits [N, C].
        masks: bool tensors, by the name of the weight.
        on_paths: bool tensors in the shapes of the masks: which weights lie on an input-output path.
        inputs: Tensor [N, ...] of examples.
        labels: Tensor [N] of the examples' classes.
        gains: σ, the singular value that a layer is compared with, by the name of its weight; 1 by default.
    """
    weights = {name: p for name, p in network.named_parameters() if name in masks}
    modules: dict[str, Any] = {name: network.get_submodule(name.rpartition(".")[0]) for name in masks}
    recorder = _Recorder()
    with recorder.attached(network, set(modules.values())):
        loss = F.cross_entropy(network(inputs), labels)
    gradients = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
    layers = {}
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        mask, module = masks[name].to(weight.device), modules[name]
        seen = recorder.passes.get(module, _Pass(mask.shape, torch.zeros(1)))  # a network may skip a layer
        groups = getattr(module, "groups", 1)
        gain = gains.get(name, 1.0)
        live = weight.detach().double().masked_fill(~mask, 0.0)
        dead_outputs, dead_inputs = _dead_sides(mask, module)
        layers[name] = LayerDiagnosis(
            weights=mask.numel(),
            kept=int(mask.sum()),
            on_paths=int(on_paths[name].sum()),
            dead_inputs=dead_inputs,
            dead_outputs=dead_outputs,
            residual=float(isometry_residual(live, gain, groups)),
            floor=isometry_floor(mask, gain, groups),
            jacobian=_jacobian(live, module, seen),
            signal=float(seen.output.double().square().mean().sqrt()),
            gradient=float(gradient.detach().double().masked_fill(~mask, 0.0).norm()),
        )
    return layers


def _dead_sides(mask: Tensor, module: Any) -> tuple[int, int]:
    """Return how many outputs, and how many inputs, have lost every weight."""
    groups = getattr(module, "groups", 1)
    kept = mask.reshape(groups, len(mask) // groups, mask.shape[1], -1).any(3)  # [groups, rows, columns]
    rows, columns = (int((~kept.any(axis)).sum()) for axis in (2, 1))
    return (columns, rows) if isinstance(module, ConvTransposeNd) else (rows, columns)


def _jacobian(weight: Tensor, module: Any, seen: _Pass) -> LayerSpectrum:
    """Return the spectrum of D W; see `LayerDiagnosis.jacobian`."""
    if isinstance(module, ConvNd):
        slope = 1.0 if seen.slopes is None else float(seen.slopes.double().square().mean().sqrt())
        sizes = [min(size, _PIXELS) for size in seen.input_shape[-(weight.ndim - 2) :]]
        values = slope * _operator_values(weight, sizes, module.stride, module.dilation, module.groups)
    elif seen.slopes is None:
        values = _values(weight)
    else:
        slopes = seen.slopes.double().flatten(0, -2)[:_SLOPE_EXAMPLES]
        values = _values(slopes[:, :, None] * weight)
    return LayerSpectrum(float(values.mean()), float(values.min()), float(values.max()))


def _operator_values(weight: Tensor, sizes: list[int], stride: Any, dilation: Any, groups: int) -> Tensor:
    """Return the singular values of a convolution on images whose borders wrap around.

    The sides of the images are `sizes`, rounded up to multiples of the stride. At each frequency the transform of the
    kernel is a matrix [out, in]. A stride folds s frequencies of each axis into one, in which each is an input of its
    own, and divides by √s.
    """
    spectrum = weight.reshape(groups, -1, *weight.shape[1:]).to(torch.complex128)
    for size, s, d in zip(sizes, stride, dilation, strict=True):
        n = s * -(-size // s)
        taps = torch.arange(spectrum.shape[3], dtype=torch.float64, device=weight.device)
        angles = torch.outer(torch.arange(n, dtype=torch.float64, device=weight.device), d * taps) * (-2 * torch.pi / n)
        moved = torch.tensordot(spectrum, torch.polar(torch.ones_like(angles), angles), ([3], [1]))
        folded = moved.unflatten(-1, (s, n // s))  # [groups, out, in, taps..., frequencies..., s, n/s]
        spectrum = folded.movedim(-2, 3).flatten(2, 3)
    matrices = spectrum.flatten(3).movedim(3, 0)
    values: Tensor = _values(matrices) / prod(stride) ** 0.5
    return values


def _values(matrices: Tensor) -> Tensor:
    """Return the singular values of matrices [..., m, n], from the eigenvalues of their smaller Gram matrices.

    If an entry of these is not finite, return a single NaN.
    """
    wide = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mH
    gram = wide @ wide.mH
    if not bool(gram.isfinite().all()):
        return torch.full((1,), torch.nan)
    values: Tensor = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    return values
