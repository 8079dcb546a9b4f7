"""The scores of SynFlow for a network that loses weights round by round."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from spl.functional.linearized import (
    absolute_state,
    batch_norm_scale,
    forwards,
    linear_forwards,
    one_example,
    scales,
    times,
)
from spl.functional.substitution import substituted

_SEARCH_INTERVAL = 5
"""The rounds from one search for dead channels to the next."""

_PATCHES_ABOVE = 4
"""The ratio of channels to positions above which a convolution is faster as a product of patches."""

_LAST_FROM = 1
"""The ratio of channels to positions from which `torch.channels_last` is the faster memory format."""

_DROP_BELOW = 0.9
"""Dead channels are dropped where fewer than this share of a layer's products are left."""


class SynapticFlow:
    """The synaptic flow |w| ⊙ ∂R/∂|w| through each weight, computed again and again while weights become 0.

    R is that of `spl.functional.linearized.path_gradients`. Costly work is done once for all rounds or not at all:
    absolute weights and scores keep their memory, channels that carry no flow any more drop out of the products, and
    convolutions with many more channels than positions are computed as products of their patches.

    Args:
        network: the network. Its parameters are read in each round; weights and scores that are 0 stay 0.
        names: the names of the parameters to score. Biases carry no flow, and their score is 0.
        inputs: Tensor [N, ...]; only its shape counts.
    """

    def __init__(self, network: nn.Module, names: Iterable[str], inputs: Tensor) -> None:
        parameters = dict(network.named_parameters())
        self.network = network
        self.ones = one_example(inputs)
        self.scored = {name: parameters[name] for name in names}
        owners = {id(parameter): name for name, parameter in self.scored.items()}
        self.layers: dict[str, _FlowLayer] = {}
        self.forwards = linear_forwards(network)
        for module in network.modules():
            name = owners.get(id(getattr(module, "weight", None)))
            if name is not None and _is_product(module):
                layer = self.layers.setdefault(name, _FlowLayer(module.weight))
                self.forwards[module] = partial(layer.forward, module)
            elif name is None and scales(module):
                self.forwards[module] = partial(times, batch_norm_scale(module).detach())
        self.others = [n for n in self.scored if n not in self.layers and n.rpartition(".")[2] != "bias"]
        replaced = {path for path, module in network.named_modules() if module in self.forwards}
        self.state = {n: t for n, t in absolute_state(network).items() if n.rpartition(".")[0] not in replaced}
        self.rounds = 0

    def scores(self) -> dict[str, Tensor]:
        """Return the scores, 0 where a weight is 0; the next call overwrites them."""
        self.rounds += 1
        layers = list(self.layers.values())
        others = {n: self.scored[n].detach().double().abs().requires_grad_() for n in self.others}
        leaves = [*others.values(), *(layer.begin() for layer in layers)]

        def backpropagate(linear: nn.Module) -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(linear(self.ones).sum(), leaves, allow_unused=True)

        with torch.enable_grad(), forwards(self.forwards):
            gradients = substituted(self.network, self.state | others, backpropagate)
        scores = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in self.scored.items() if n not in self.layers}
        for (name, other), gradient in zip(others.items(), gradients, strict=False):
            if gradient is not None:
                scores[name] = gradient.mul_(other.detach())
        for (name, layer), gradient in zip(self.layers.items(), gradients[len(others) :], strict=True):
            scores[name] = layer.end(gradient, drop=self.rounds % _SEARCH_INTERVAL == 0)
        return {name: scores[name] for name in self.scored}


def _is_product(module: nn.Module) -> TypeGuard[nn.Linear | nn.Conv2d]:
    """Return whether the output of a module is one product of its weight with patches of its input."""
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    # attention reads the weight of its output projection (such a Linear layer), and never calls the layer
    return isinstance(module, nn.Linear) and not isinstance(module, NonDynamicallyQuantizableLinear)


class _FlowLayer:
    """An absolute weight [out, in, ...], of which only the rows and columns that carry flow are multiplied."""

    def __init__(self, parameter: Tensor) -> None:
        self.parameter = parameter
        self.rows = torch.arange(parameter.shape[0], device=parameter.device)
        self.columns = torch.arange(parameter.shape[1], device=parameter.device)
        self.scores = torch.empty(parameter.shape, dtype=torch.float64, device=parameter.device)
        self.weight, self.gradient = torch.empty_like(self.scores), self.scores
        self.is_whole, self.has_gradient = True, False

    def begin(self) -> Tensor:
        """Return the absolute weights of this round, as a leaf of the graph."""
        weight = self.parameter.detach()
        if not self.is_whole:
            weight = weight.index_select(0, self.rows).index_select(1, self.columns)
        self.weight.copy_(weight).abs_()
        self.has_gradient = False
        self.leaf = self.weight.detach().requires_grad_()
        return self.leaf

    def forward(self, module: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
        """Return the layer's output, without bias."""
        axis = -1 if isinstance(module, nn.Linear) else 1
        x = x.to(self.leaf.dtype)  # the network may cast its signals
        x = x if self.is_whole else x.index_select(axis, self.columns)
        product = _Product.apply(x, self.leaf, self) if isinstance(module, nn.Linear) else self._convolved(module, x)
        return self._spread(product, axis)

    def _convolved(self, module: nn.Conv2d, x: Tensor) -> Tensor:
        kernel, dilation, stride = module.kernel_size, module.dilation, module.stride
        padding = cast(tuple[int, ...], module.padding)
        window = zip(x.shape[2:], kernel, dilation, padding, stride, strict=True)
        sides = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in window]
        positions = math.prod(sides)
        if len(self.weight) <= _PATCHES_ABOVE * positions:
            order = torch.channels_last if len(self.weight) >= _LAST_FROM * positions else torch.contiguous_format
            images, kernels = (tensor.contiguous(memory_format=order) for tensor in (x, self.leaf))
            return F.conv2d(images, kernels, None, stride, padding, dilation)
        patches = F.unfold(x, kernel, dilation, padding, stride)
        output: Tensor = _Product.apply(patches.mT, self.leaf, self).mT.unflatten(-1, sides)
        return output

    def _spread(self, y: Tensor, axis: int) -> Tensor:
        """Put the rows that carry flow among zeros for those that do not."""
        if self.is_whole:
            return y
        shape = list(y.shape)
        shape[axis] = len(self.scores)
        return y.new_zeros(shape).index_copy(axis, self.rows, y)

    def add_(self, back: Tensor, x: Tensor) -> None:
        """Add backᵀ x, summed over positions, to the gradient."""
        gradient = self.gradient.view(len(self.weight), -1)
        torch.addmm(gradient, back.flatten(0, -2).mT, x.flatten(0, -2), beta=float(self.has_gradient), out=gradient)
        self.has_gradient = True

    def end(self, gradient: Tensor | None, drop: bool) -> Tensor:
        """Return the scores; if `drop` is set, later rounds leave out the rows and columns without flow."""
        if gradient is not None and self.has_gradient:  # modules that share the weight: some as patches, some not
            self.gradient.add_(gradient).mul_(self.weight)
        elif self.has_gradient:
            self.gradient.mul_(self.weight)
        else:
            torch.mul(self.weight, 0.0 if gradient is None else gradient, out=self.gradient)
        if not self.is_whole:
            self.scores[self.rows[:, None], self.columns] = self.gradient
        if drop:
            self._drop_dead()
        return self.scores

    def _drop_dead(self) -> None:
        flat = self.gradient.flatten(1)
        rows = flat.amax(1) > 0
        columns = flat.amax(0).view(len(self.columns), -1).amax(1) > 0
        if 0 < int(rows.sum()) * int(columns.sum()) < _DROP_BELOW * rows.numel() * columns.numel():
            self.rows, self.columns = self.rows[rows], self.columns[columns]
            self.weight = self.scores.new_empty(len(self.rows), len(self.columns), *self.scores.shape[2:])
            self.gradient, self.is_whole = torch.empty_like(self.weight), False


class _Product(torch.autograd.Function):
    """The product x Wᵀ, which adds the gradient of W to the memory of the scores."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, leaf: Tensor, layer: _FlowLayer) -> Tensor:
        ctx.x, ctx.layer = x, layer
        return F.linear(x, leaf.flatten(1))

    @staticmethod
    def backward(ctx: Any, *backs: Tensor) -> tuple[Tensor | None, None, None]:
        ctx.layer.add_(backs[0], ctx.x)
        return backs[0] @ ctx.layer.weight.flatten(1) if ctx.needs_input_grad[0] else None, None, None
