"""A pruned layer as corrections see it, and its distances from isometry."""

import math
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spl.functional.layers import RECURRENT, WEIGHTS, gates, is_transposed, prunable_names
from spl.functional.precision import full_precision
from spl.functional.self_attention import SelfAttention
from spl.functional.torch_private import ConvNd
from spl.isometry.residuals import isometry_residual, operator_residual

_LARGE = 2**17  # the residuals of a weight with more entries are computed without its empty rows and columns


class Residuals(NamedTuple):
    """The distances of one layer from isometry; see `isometry_residual` and `operator_residual`.

    Attributes:
        matrix: the residual of the weight, reshaped to a matrix.
        operator: the residual of the convolution. For a Linear layer, or a 1×1 convolution at stride 1, it equals
            `matrix`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.isometry import EdgeOfChaos
        >>> from spl.masks import Masks
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Conv2d(2, 3, kernel_size=3))
        >>> masks = Masks({"0.weight": torch.rand(3, 2, 3, 3) < 0.5})
        >>> EdgeOfChaos()(network, masks).changes["0.weight"].after
        Residuals(matrix=0.80, operator=1.62)
    """

    matrix: float
    operator: float


@dataclass(frozen=True)
class PrunedLayer:
    """A pruned layer, to be corrected in place.

    Attributes:
        name: the name of the layer's weight.
        weight: Tensor [out, in, ...], 0.0 where it is pruned.
        mask: bool tensor in the shape of the weight, True where it is kept.
        gain: σ, the singular value to bring the layer to.
        geometry: the stride, dilation and groups of a convolution; empty for other layers.
        gain_of_dense: whether `gain` is that of the layer before pruning, because no theory gives one.

    Example:
        >>> import torch
        >>> from spl.isometry import PrunedLayer
        >>> weight = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> layer = PrunedLayer("fc1.weight", weight, mask=weight != 0, gain=1.0)
        >>> layer.residuals()
        Residuals(matrix=8.0, operator=8.0)
    """

    name: str
    weight: Tensor
    mask: Tensor
    gain: float
    geometry: dict[str, Any] = field(default_factory=dict)
    gain_of_dense: bool = False

    @property
    def groups(self) -> int:
        """The number of matrices that the weight consists of, one for each group of the layer."""
        groups: int = self.geometry.get("groups", 1)
        return groups

    def residuals(self) -> Residuals:
        """Return the distances of the layer from σ times an isometry.

        They are computed in float64, except the one of a large convolution in float32, whose relative error is below
        1e-5.
        """
        is_large = self.weight.numel() > _LARGE and self.groups == 1 and bool(self.mask.any())
        live = self._live_part() if is_large else self.weight
        matrix = float(isometry_residual(live.double(), self.gain, self.groups))
        shape, strides = self.weight.shape[2:], prod(self.geometry.get("stride", ()))
        matrix = self._with_lost_part(matrix, live, prod(shape))
        if prod(shape) == 1 and strides == 1:
            return Residuals(matrix, matrix)
        is_fast = is_large and live.dtype == torch.float32
        with full_precision():
            operator = float(operator_residual(live if is_fast else live.double(), self.gain, **self.geometry))
        return Residuals(matrix, self._with_lost_part(operator, live, strides))

    def _live_part(self) -> Tensor:
        """Return the weight without the outputs and inputs that keep no entry."""
        outputs, inputs = self.mask.flatten(1).any(1), self.mask.transpose(0, 1).flatten(1).any(1)
        return self.weight[outputs][:, inputs]

    def _with_lost_part(self, residual: float, live: Tensor, columns: int) -> float:
        """Return the residual of the weight, given that of its live part.

        Each singular value that the live part has not is 0, which adds σ⁴ to the square.

        Args:
            residual: the residual of `live`.
            live: the weight without some outputs and inputs.
            columns: the number of columns that each input has in the matrix.
        """
        n, live_n = (min(w.shape[0], w.shape[1] * columns) for w in (self.weight, live))
        return math.sqrt(residual**2 + (n - live_n) * self.gain**4) if live_n < n else residual


def is_matrix_or_known(network: nn.Module, name: str, weight: Tensor) -> bool:
    """Return whether it is known of which matrices a weight consists.

    A weight of three or more axes consists of other matrices in each kind of layer, so its layer must be known.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.isometry.pruned_layer import is_matrix_or_known
        >>> network = nn.ModuleDict({"a": nn.Conv1d(4, 2, 3), "b": nn.Bilinear(4, 3, 2)})
        >>> [is_matrix_or_known(network, name, network.get_parameter(name)) for name in ("a.weight", "b.weight")]
        [True, False]
    """
    path, _, own = name.rpartition(".")
    return weight.ndim < 3 or own in prunable_names(network.get_submodule(path), WEIGHTS)


def oriented(network: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """Return a weight, or its mask, as [out, in, ...]: a view of it if its layer keeps it as [in, out].

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.isometry.pruned_layer import oriented
        >>> network = nn.Sequential(nn.Linear(4, 2))
        >>> oriented(network, "0.weight", network[0].weight).shape
        torch.Size([2, 4])
    """
    return tensor.mT if is_transposed(network.get_submodule(name.rpartition(".")[0])) else tensor


def wide_matrix(tensor: Tensor) -> Tensor:
    """Return a weight or a mask [out, in, ...] as a matrix, transposed if it has more rows than columns.

    Example:
        >>> import torch
        >>> from spl.isometry.pruned_layer import wide_matrix
        >>> wide_matrix(torch.ones(8, 2, 3)).shape
        torch.Size([6, 8])
    """
    matrix = tensor.flatten(1)
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT


def convolution_geometry(network: nn.Module, name: str) -> dict[str, Any]:
    """Return the stride, dilation and groups of the layer whose weight is called `name`, if it is a convolution.

    For other layers the result is empty, except that the packed query, key and value projections of attention count
    as three groups, and the gates of recurrent layers as one each.

    Example:
        >>> from torch import nn
        >>> from spl.isometry.pruned_layer import convolution_geometry
        >>> network = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, groups=2), nn.Flatten(), nn.Linear(8, 2))
        >>> convolution_geometry(network, "0.weight")
        {'stride': (2, 2), 'dilation': (1, 1), 'groups': 2}
        >>> convolution_geometry(network, "2.weight")
        {}
    """
    path, _, own = name.rpartition(".")
    layer = network.get_submodule(path)
    if isinstance(layer, nn.MultiheadAttention | SelfAttention):
        return {"groups": 3} if own == "in_proj_weight" else {}
    if isinstance(layer, RECURRENT):
        return {"groups": gates(layer, own)}
    if not isinstance(layer, ConvNd):
        return {}
    return {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
