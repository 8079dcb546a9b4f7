"""Synaptic flow through a network that loses weights round by round."""

from collections.abc import Iterable
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.grad import conv2d_input

from spl.linearized import absolute_state, forwards, linear_forwards, one_example

_WORTH = 0.9  # channels are dropped where that spares a tenth of the products


class Flow:
    """|w| ⊙ ∂R/∂|w| of `spl.linearized.path_gradients`, again and again while weights become 0.

    What takes the time of a round is done once or not at all: absolute weights and scores stay where they are in
    memory, no gradient is taken with respect to a weight (scores are products of what flows into a layer and what
    flows back into it), and channels through which nothing flows any more drop out of the products.

    Args:
        network: the network, whose parameters are read in each round; what is 0 stays 0.
        names: of the parameters to score; biases carry no flow, and score 0.
        inputs: [N, ...]; only its shape counts.
    """

    def __init__(self, network: nn.Module, names: Iterable[str], inputs: Tensor) -> None:
        self.network = network
        self.names = list(names)
        self.ones = one_example(inputs)
        self.forwards = linear_forwards(network)
        self.layers: dict[str, _Layer] = {}
        owners = {id(parameter): name for name, parameter in network.named_parameters()}
        for module in network.modules():
            if _is_product(module) and owners[id(module.weight)] in self.names:
                layer = self.layers.setdefault(owners[id(module.weight)], _Layer(module.weight))
                self.forwards[module] = partial(layer.forward, module)
        self.others = [n for n in self.names if n not in self.layers and n.rpartition(".")[2] != "bias"]
        replaced = {path for path, module in network.named_modules() if module in self.forwards}
        self.state = {n: t for n, t in absolute_state(network).items() if n.rpartition(".")[0] not in replaced}

    def scores(self) -> dict[str, Tensor]:
        """The scores, 0 where a weight is 0; they share their memory with those of the next call."""
        parameters = dict(self.network.named_parameters())
        others = {n: parameters[n].detach().double().abs().requires_grad_() for n in self.others}
        pulse = self.ones.new_zeros((), requires_grad=True)
        for layer in self.layers.values():
            layer.begin(pulse)
        with torch.enable_grad(), forwards(self.forwards):
            total = functional_call(self.network, self.state | others, (self.ones,)).sum()
        _, *gradients = torch.autograd.grad(total, [pulse, *others.values()], allow_unused=True, materialize_grads=True)
        scores = {n: torch.zeros_like(parameters[n], dtype=torch.float64) for n in self.names if n not in self.layers}
        scores |= {name: layer.end() for name, layer in self.layers.items()}
        scores |= {n: g.mul_(w.detach()) for (n, w), g in zip(others.items(), gradients, strict=True)}
        return {name: scores[name] for name in self.names}


def _is_product(module: nn.Module) -> TypeGuard[nn.Linear | nn.Conv2d]:
    """Whether its output is one product of its weight with patches of its input."""
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)


class _Layer:
    """A matrix or kernel [out, in, ...] without sign, of which only rows and columns that carry flow are multiplied."""

    def __init__(self, parameter: Tensor) -> None:
        self.parameter = parameter
        self.rows = torch.arange(parameter.shape[0], device=parameter.device)
        self.columns = torch.arange(parameter.shape[1], device=parameter.device)
        self.scores = torch.empty(parameter.shape, dtype=torch.float64, device=parameter.device)
        self.weight, self.product = torch.empty_like(self.scores), self.scores
        self.used = False

    @property
    def is_whole(self) -> bool:
        """Whether no row and no column has been dropped."""
        return self.product is self.scores

    def begin(self, pulse: Tensor) -> None:
        """Read the weights; `pulse` is what every output depends on."""
        self.pulse, self.used = pulse, False
        weight = self.parameter.detach()
        if not self.is_whole:
            weight = weight.index_select(0, self.rows).index_select(1, self.columns)
        self.weight.copy_(weight).abs_()

    def forward(self, module: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
        """The layer's output, without bias."""
        output: Tensor = _Product.apply(x, self.pulse, self, module)
        return output

    def add(self, back: Tensor, patches: Tensor) -> None:
        """Add δ xᵀ, the sum over positions, to the gradient."""
        gradient = self.product.view(len(self.weight), -1)
        torch.addmm(gradient, back, patches.mT, beta=float(self.used), out=gradient)
        self.used = True

    def end(self) -> Tensor:
        """The scores; from now on without the rows and columns that have none."""
        if not self.used:
            self.product.zero_()
        self.product.mul_(self.weight)
        if not self.is_whole:
            self.scores[self.rows[:, None], self.columns] = self.product
        flat = self.product.flatten(1)
        rows = flat.amax(1) > 0
        columns = flat.amax(0).view(len(self.columns), -1).amax(1) > 0
        if 0 < int(rows.sum()) * int(columns.sum()) < _WORTH * rows.numel() * columns.numel():
            self.rows, self.columns = self.rows[rows], self.columns[columns]
            self.weight = self.scores.new_empty(len(self.rows), len(self.columns), *self.scores.shape[2:])
            self.product = torch.empty_like(self.weight)
        return self.scores


class _Product(torch.autograd.Function):
    """A layer's output, as one matrix product; what flows back into it becomes the layer's scores."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pulse: Tensor, layer: _Layer, module: nn.Linear | nn.Conv2d) -> Tensor:
        axis = -1 if isinstance(module, nn.Linear) else 1
        x_live = _selected(x, axis, layer.columns)
        patches, positions = _patches(module, x_live)
        ctx.layer, ctx.module, ctx.axis, ctx.patches, ctx.shapes = layer, module, axis, patches, (x.shape, x_live.shape)
        product = (layer.weight.flatten(1) @ patches).view(-1, *positions)
        return _spread(product.movedim(0, axis), axis, layer.rows, len(layer.scores))

    @staticmethod
    def backward(ctx: Any, *flows: Tensor) -> tuple[Tensor | None, None, None, None]:
        layer, module, (shape, live) = ctx.layer, ctx.module, ctx.shapes
        back = _selected(flows[0], ctx.axis, layer.rows)
        layer.add(back.movedim(ctx.axis, 0).flatten(1), ctx.patches)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        if isinstance(module, nn.Linear):
            gradient = back @ layer.weight
        else:
            how = module.stride, module.padding, module.dilation
            gradient = conv2d_input(live, layer.weight, back.contiguous(), *how)  # type: ignore[no-untyped-call]
        return _spread(gradient, ctx.axis, layer.columns, shape[ctx.axis]), None, None, None


def _selected(x: Tensor, axis: int, index: Tensor) -> Tensor:
    return x if len(index) == x.shape[axis] else x.index_select(axis, index)


def _spread(x: Tensor, axis: int, index: Tensor, size: int) -> Tensor:
    """The inverse of `_selected`, with zeros between."""
    if len(index) == size:
        return x
    shape = list(x.shape)
    shape[axis] = size
    return x.new_zeros(shape).index_copy(axis, index, x)


def _patches(module: nn.Linear | nn.Conv2d, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """What each output is a product with, [in · kernel, positions], and the shape of the positions."""
    if isinstance(module, nn.Linear):
        return x.reshape(-1, x.shape[-1]).mT, tuple(x.shape[:-1])
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    (top, left) = (int(p) for p in module.padding)
    x = nn.functional.pad(x, (left, left, top, top)).contiguous()
    taps = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True)]
    n, c, h, w = x.stride()
    sizes = (x.shape[1], *kernel, len(x), *taps)
    strides = (c, h * dilation[0], w * dilation[1], n, h * stride[0], w * stride[1])
    patches = x.as_strided(sizes, strides).reshape(x.shape[1] * kernel[0] * kernel[1], -1)
    return patches, (len(x), *taps)
