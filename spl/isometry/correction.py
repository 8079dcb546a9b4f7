"""Correction: what brings a pruned network back before training, and what it reports."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from tqdm import tqdm

from spl.errors import InputError
from spl.isometry.residuals import isometry_residual, operator_residual
from spl.masks import Masks


class Residuals(NamedTuple):
    """How far one layer is from isometry; see `spl.isometry.residuals`.

    Attributes:
        matrix: of the reshaped weight.
        operator: of the convolution; of a Linear layer, or a 1×1 convolution at stride 1, it equals `matrix`.
    """

    matrix: float
    operator: float


class Change(NamedTuple):
    """The residuals of one layer before and after correction."""

    before: Residuals
    after: Residuals


class Correction(ABC):
    """Changes the kept weights of a pruned network, layer by layer, before training.

    Args:
        gain: σ, the singular value to bring every layer to.
    """

    def __init__(self, gain: float = 1.0) -> None:
        if not gain > 0:
            raise InputError(f"gain must be positive, got {gain}.")
        self.gain = gain

    def __call__(self, network: nn.Module, masks: Masks) -> dict[str, Change]:
        """Correct the weight matrices and kernels under `masks` in place; pruned entries are exactly 0.0 after it.

        Biases, normalization and layers without a mask are left alone. Shows a progress bar when it takes longer
        than a second.

        Args:
            network: the pruned network.
            masks: what is kept of its parameters, by their names.

        Returns:
            The residuals of each corrected layer before and after.
        """
        parameters = dict(network.named_parameters())
        masks.check_fits(parameters)
        names = [name for name in masks if masks[name].ndim > 1]
        changes = {}
        for name in tqdm(names, desc="Isometry", unit="layer", delay=1, leave=False, disable=None):
            weight, mask = parameters[name].detach(), masks[name].to(parameters[name].device)
            geometry = convolution_geometry(network, name)
            weight.masked_fill_(~mask, 0.0)
            before = self._residuals(weight, geometry)
            self.correct_(weight, mask, geometry)
            changes[name] = Change(before, self._residuals(weight, geometry))
        return changes

    @abstractmethod
    def correct_(self, weight: Tensor, mask: Tensor, geometry: dict[str, Any]) -> None:
        """Correct one layer in place.

        Args:
            weight: [out, in, ...], 0.0 where pruned.
            mask: bool, in its shape.
            geometry: see `convolution_geometry`.
        """

    def _residuals(self, weight: Tensor, geometry: dict[str, Any]) -> Residuals:
        exact = weight.double()
        matrix = isometry_residual(exact, self.gain, geometry.get("groups", 1))
        return Residuals(float(matrix), float(operator_residual(exact, self.gain, **geometry)))


def convolution_geometry(network: nn.Module, name: str) -> dict[str, Any]:
    """stride, dilation and groups of the convolution whose weight is called `name`; empty where it is none."""
    layer = network.get_submodule(name.rpartition(".")[0])
    if not isinstance(layer, _ConvNd):
        return {}
    return {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
