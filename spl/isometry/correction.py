"""The base class of corrections, which change a pruned network before training."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import FrozenInstanceError, replace
from typing import ClassVar, Literal, NamedTuple, Self, get_args

from torch import nn

from spl.errors import InputError
from spl.functional.seeds import Seeded
from spl.functional.wrappers import unwrapped
from spl.isometry.activations import Activations, activations_in_order
from spl.isometry.change import Before, Change, norm_of
from spl.isometry.mean_field import bounded_gain, has_critical_gain
from spl.isometry.pruned_layer import PrunedLayer, convolution_geometry, is_matrix_or_known, oriented
from spl.masks.masks import Masks

Gain = Literal["mean_field"] | float


class Corrected(NamedTuple):
    """The result of a correction.

    Attributes:
        masks: the masks after the correction; the given ones, unless the correction draws its own.
        changes: the change of each layer, by the name of its weight.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.isometry import EdgeOfChaos
        >>> from spl.masks import Masks
        >>> network = nn.Sequential(nn.Linear(3, 2))
        >>> corrected = EdgeOfChaos()(network, Masks({"0.weight": torch.ones(2, 3, dtype=torch.bool)}))
        >>> corrected.masks["0.weight"].all().item(), list(corrected.changes)
        (True, ['0.weight'])
    """

    masks: Masks
    changes: dict[str, Change]


class Correction(Seeded, ABC):
    """A change of the kept weights of a pruned network before training.

    A correction that draws random numbers has an attribute `seed`, and its random stream begins at `start`; see
    `spl.functional.seeds.Seeded`.

    Args:
        gain: σ, the singular value to bring every layer to. With `mean_field` it depends on the activation that runs
            behind the layer: √2 for ReLU, 1.024 for tanh, 1 for none. No gain keeps signals of all sizes in networks
            of GELU, SiLU, Softplus and the like (see `spl.isometry.mean_field.has_critical_gain`). There, σ is the
            root-mean-square singular value that the layer had before pruning, so that the correction gives back what
            pruning has taken and leaves the rest to the initialization. But it is at least 1, because networks that
            start with less do not train, and at most `bounded_gain`, so that signals cannot explode. The paper's σ is
            1 for every activation.

    Attributes:
        redraws: whether the correction draws masks of its own, which keep as many weights of each layer.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.isometry import Correction
        >>> from spl.masks import Masks
        >>> class UnitRows(Correction):
        ...     def correct_(self, layers):
        ...         for layer in layers:
        ...             layer.weight.div_(layer.weight.norm(dim=1, keepdim=True) / layer.gain)
        >>> network = nn.Sequential(nn.Linear(3, 2))
        >>> masks = Masks({"0.weight": torch.ones(2, 3, dtype=torch.bool)})
        >>> masks, changes = UnitRows(gain=2.0)(network, masks)
        >>> network[0].weight.norm(dim=1).tolist()
        [2.00, 2.00]
    """

    redraws: ClassVar[bool] = False
    gain: Gain = "mean_field"  # for subclasses that have an __init__ of their own
    _activations: Activations | None = None
    _norms: Mapping[str, float] = {}

    def __init__(self, gain: Gain = "mean_field") -> None:
        if isinstance(gain, str) and gain not in get_args(get_args(Gain)[0]):
            raise InputError(f"gain must be mean_field or a positive number, got {gain!r}.")
        if not isinstance(gain, str) and not gain > 0:
            raise InputError(f"gain must be positive, got {gain}.")
        self.gain = gain

    def knowing(self, activations: Activations | None, norms: Mapping[str, float]) -> Self:
        """Return a copy of the correction that knows the network as it was before pruning.

        Args:
            activations: the activation behind each weight, by name, None for none; see
                `spl.isometry.activations.activations_behind`. Without them, the order of the network's modules decides.
            norms: the Frobenius norm of each weight before pruning, by name. Without them, it is that of the weights
                as they are. This is too little if the pruned entries are 0 already, but σ is never below 1.
        """
        twin = copy(self)
        twin._activations, twin._norms = activations, norms
        return twin

    def __call__(self, network: nn.Module, masks: Masks) -> Corrected:
        """Correct the weight matrices and kernels under `masks` in place; pruned entries are exactly 0.0 afterwards.

        Biases, normalization layers, layers without a mask and weights of three or more axes in layers that are not
        known stay as they are. A progress bar appears if it takes longer than a second.

        Args:
            network: the pruned network.
            masks: the masks of its parameters, by parameter name.

        Raises:
            InputError: the masks do not fit the network, or weights are not finite.
        """
        network = unwrapped(network)
        layers = self._layers(network, masks)
        before = [Before.of(layer, self.redraws) for layer in layers]
        self._correct(layers)
        changes = {layer.name: given.change(layer) for layer, given in zip(layers, before, strict=True)}
        drawn = {layer.name: oriented(network, layer.name, layer.mask).to(masks[layer.name].device) for layer in layers}
        return Corrected(Masks({**masks, **drawn}), changes)

    def singular_value_count(self, layer: PrunedLayer) -> int:
        """Return how many singular values, σ each, a corrected layer has: ‖V‖² is σ² times as much."""
        rows, columns = layer.weight.shape[0] // layer.groups, layer.weight[0].numel()
        return layer.groups * min(rows, columns)

    def _layers(self, network: nn.Module, masks: Masks) -> list[PrunedLayer]:
        parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
        masks.check_fits(parameters)
        activations = activations_in_order(network) if self._activations is None else self._activations
        layers = []
        unknown, unseen = [], []
        for name in masks:
            if masks[name].ndim > 1:
                weight = parameters[name]
                mask = masks[name].to(weight.device, copy=True)
                norm = self._norms[name] if name in self._norms else norm_of(weight)
                weight.masked_fill_(~mask, 0.0)
                if not bool(weight.isfinite().all()):
                    raise InputError(f"{name}: weights are NaN or infinite, and cannot be corrected: initialize anew.")
                if not is_matrix_or_known(network, name, weight):
                    unknown.append(name)
                    continue
                if name not in activations:
                    unseen.append(name)
                weight, mask = (oriented(network, name, tensor) for tensor in (weight, mask))
                layer = PrunedLayer(name, weight, mask, 1.0, convolution_geometry(network, name))
                layers.append(self._with_gain(layer, activations.get(name), norm))
        if unknown:
            warnings.warn(
                f"{type(self).__name__} leaves {', '.join(unknown)} as pruning left it: it is not known of which "
                "matrices a weight of this shape consists.",
                stacklevel=3,
            )
        if unseen and isinstance(self.gain, str):
            warnings.warn(
                f"{type(self).__name__} does not see which activation is behind {', '.join(unseen)}, and takes the "
                "gain 1 there, as behind a layer without an activation. If there is one, name the gain of all layers, "
                "such as gain=2**0.5 for ReLU, or say which activations there are by knowing(): "
                "spl.isometry.activations.activations_behind finds them in one forward pass.",
                stacklevel=3,
            )
        return layers

    def _with_gain(self, layer: PrunedLayer, activation: nn.Module | None, norm: float) -> PrunedLayer:
        if not isinstance(self.gain, str):
            return replace(layer, gain=self.gain)
        if activation is None:
            return layer
        bound = bounded_gain(activation)
        if has_critical_gain(activation):
            return replace(layer, gain=bound)
        count = self.singular_value_count(layer)
        largest = bound * math.sqrt(layer.weight.shape[0] / count)  # the rows have the bound at most
        gain = min(max(1.0, norm / math.sqrt(count)), largest)
        return replace(layer, gain=gain, gain_of_dense=True)

    def _correct(self, layers: Sequence[PrunedLayer]) -> None:
        """Correct the weights, set pruned entries back to 0.0, and check what is left."""
        try:
            self.correct_(layers)
        except FrozenInstanceError as error:
            raise InputError(
                f"{type(self).__name__}.correct_ assigns to an attribute of a layer: change its tensors in place "
                "instead, such as layer.weight.mul_(2) or layer.weight.copy_(weight)."
            ) from error
        for layer in layers:
            layer.weight.masked_fill_(~layer.mask, 0.0)
            if not bool(layer.weight.isfinite().all()):
                raise InputError(
                    f"{type(self).__name__}.correct_ made weights of {layer.name} NaN or infinite: a layer may have "
                    "outputs that keep no weight, so mind divisions by 0."
                )

    @abstractmethod
    def correct_(self, layers: Sequence[PrunedLayer]) -> None:
        """Correct the weights of `layers` in place, and their masks too if the correction redraws them.

        The weights are detached, so gradients are not recorded. Pruned entries are set back to 0.0 afterwards.
        """
