"""Correction: what brings a pruned network back before training, and what it reports."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from spl.errors import InputError
from spl.functional.seeds import Seeded
from spl.isometry.mean_field import layer_gains
from spl.isometry.residuals import isometry_residual, operator_residual
from spl.isometry.structure import floor_at_rank, structural_rank
from spl.masks.masks import Masks

Gain = Literal["mean_field"] | float


class Residuals(NamedTuple):
    """How far one layer is from isometry; see `spl.isometry.residuals`.

    Attributes:
        matrix: of the reshaped weight.
        operator: of the convolution; of a Linear layer, or a 1×1 convolution at stride 1, it equals `matrix`.
    """

    matrix: float
    operator: float


class Change(NamedTuple):
    """What a correction did to one layer, and how close it could have come.

    Attributes:
        before: the residuals of the pruned layer.
        after: those of the corrected one.
        floor: the least residual of a matrix under the layer's mask; see `isometry_floor`.
        rank: the structural rank of the mask.
        gain: σ, the singular value that was aimed at.
        moved: ‖ΔW‖ / ‖W‖, how far the weights went.
        vanished: how many kept weights went below 1e-4 of the layer's largest.
    """

    before: Residuals
    after: Residuals
    floor: float
    rank: int
    gain: float
    moved: float
    vanished: int

    def certificate(self) -> dict[str, float]:
        """The residual, the floor, and what else says how good the correction is, for the record of a run."""
        return {
            "before": self.before.matrix,
            "residual": self.after.matrix,
            "floor": self.floor,
            "rank": self.rank,
            "gain": self.gain,
            "moved": self.moved,
            "vanished": self.vanished,
        }


class Corrected(NamedTuple):
    """The masks after a correction, those it was given unless it draws others, and what it did to each layer."""

    masks: Masks
    changes: dict[str, Change]


@dataclass(frozen=True)
class PrunedLayer:
    """One pruned layer, to be corrected in place.

    Attributes:
        name: of its weight.
        weight: [out, in, ...], 0.0 where pruned.
        mask: bool, in its shape; what is kept.
        gain: σ, the singular value to bring it to.
        geometry: stride, dilation and groups of a convolution; empty of other layers.
    """

    name: str
    weight: Tensor
    mask: Tensor
    gain: float
    geometry: dict[str, Any] = field(default_factory=dict)

    @property
    def groups(self) -> int:
        """Into how many matrices the weight falls apart."""
        groups: int = self.geometry.get("groups", 1)
        return groups

    def residuals(self) -> Residuals:
        """How far it is from σ times an isometry, computed in float64."""
        exact = self.weight.double()
        matrix = float(isometry_residual(exact, self.gain, self.groups))
        shape = self.weight.shape[2:]
        if prod(shape) == 1 and prod(self.geometry.get("stride", ())) == 1:
            return Residuals(matrix, matrix)
        return Residuals(matrix, float(operator_residual(exact, self.gain, **self.geometry)))


class Correction(Seeded, ABC):
    """Changes the kept weights of a pruned network before training.

    One that draws has an attribute `seed`, and begins its stream at `start`; see `spl.functional.seeds.Seeded`.

    Args:
        gain: σ, the singular value to bring every layer to; mean_field for that of the activation which follows the
            layer: √2 for ReLU, 1 for none, 1.024 for tanh, and never more than √2, so that signals cannot explode
            whatever the activation; see `spl.isometry.mean_field.bounded_gain`. The paper's is 1 for every activation.

    Attributes:
        redraws: whether it draws masks of its own, which keep as many weights of each layer.
    """

    redraws: ClassVar[bool] = False

    def __init__(self, gain: Gain = "mean_field") -> None:
        if isinstance(gain, str) and gain not in get_args(get_args(Gain)[0]):
            raise InputError(f"gain must be mean_field or a positive number, got {gain!r}.")
        if not isinstance(gain, str) and not gain > 0:
            raise InputError(f"gain must be positive, got {gain}.")
        self.gain = gain

    def __call__(self, network: nn.Module, masks: Masks) -> Corrected:
        """Correct the weight matrices and kernels under `masks` in place; pruned entries are exactly 0.0 after it.

        Biases, normalization and layers without a mask are left alone. Shows a progress bar when it takes longer
        than a second.

        Args:
            network: the pruned network.
            masks: what is kept of its parameters, by their names.

        Raises:
            InputError: the masks do not fit the network, or weights are not finite.
        """
        layers = self._layers(network, masks)
        before = [_Before.of(layer, self.redraws) for layer in layers]
        self.correct_(layers)
        changes = {layer.name: given.change(layer) for layer, given in zip(layers, before, strict=True)}
        drawn = {layer.name: layer.mask.to(masks[layer.name].device) for layer in layers}
        return Corrected(Masks({**masks, **drawn}), changes)

    def _layers(self, network: nn.Module, masks: Masks) -> list[PrunedLayer]:
        parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
        masks.check_fits(parameters)
        gains = layer_gains(network) if isinstance(self.gain, str) else {}
        layers = []
        for name in masks:
            if masks[name].ndim > 1:
                weight = parameters[name]
                mask = masks[name].to(weight.device, copy=True)
                weight.masked_fill_(~mask, 0.0)
                if not bool(weight.isfinite().all()):
                    raise InputError(f"{name}: weights are NaN or infinite, and cannot be corrected: initialize anew.")
                gain = self.gain if not isinstance(self.gain, str) else gains.get(name, 1.0)
                layers.append(PrunedLayer(name, weight, mask, gain, convolution_geometry(network, name)))
        return layers

    @abstractmethod
    def correct_(self, layers: Sequence[PrunedLayer]) -> None:
        """Correct the weights of `layers` in place; one that draws other masks changes those too."""


@dataclass(frozen=True)
class _Before:
    """What must be known of a layer before it is corrected: masks may be drawn anew."""

    mask: Tensor
    kept: Tensor
    residuals: Residuals
    vanishing: int

    @classmethod
    def of(cls, layer: PrunedLayer, redraws: bool) -> "_Before":
        mask = layer.mask.clone() if redraws else layer.mask
        return cls(mask, layer.weight[layer.mask], layer.residuals(), _count_vanishing(layer))

    def change(self, layer: PrunedLayer) -> Change:
        """What has become of it."""
        rank = structural_rank(layer.mask, layer.groups)
        return Change(
            self.residuals,
            layer.residuals(),
            floor=floor_at_rank(layer.mask, rank, layer.gain, layer.groups),
            rank=rank,
            gain=layer.gain,
            moved=self._moved(layer),
            vanished=max(0, _count_vanishing(layer) - self.vanishing),
        )

    def _moved(self, layer: PrunedLayer) -> float:
        new, old = layer.weight[layer.mask].double(), self.kept.double()
        here = layer.weight[self.mask].double()
        square = (here - old).square().sum() + (new.square().sum() - here.square().sum()).clamp(min=0)
        return float((square / old.square().sum()).sqrt()) if old.any() else 0.0


def _count_vanishing(layer: PrunedLayer) -> int:
    """How many weights are kept and below 1e-4 of the largest."""
    kept = layer.weight[layer.mask].abs()
    return int((kept < 1e-4 * kept.max()).sum()) if len(kept) else 0


def convolution_geometry(network: nn.Module, name: str) -> dict[str, Any]:
    """stride, dilation and groups of the convolution whose weight is called `name`; empty where it is none.

    The packed projections of attention to queries, keys and values are three groups.
    """
    layer = network.get_submodule(name.rpartition(".")[0])
    if isinstance(layer, nn.MultiheadAttention):
        return {"groups": 3} if name.endswith("in_proj_weight") else {}
    if not isinstance(layer, _ConvNd):
        return {}
    return {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
