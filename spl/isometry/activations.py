"""The activation that runs behind each layer of a network, as the graph of one forward pass shows it."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from spl.functional.graph import Graph, sources
from spl.functional.layers import ACTIVATIONS, EMBEDDINGS, RECURRENT, WEIGHTS, is_weighted, prunable_names
from spl.functional.torch_private import tree_leaves
from spl.isometry.mean_field import bounded_gain
from spl.isometry.operations import (
    activation_of,
    constant_factor,
    is_constant,
    is_end,
    is_move,
    is_multiplication,
    is_product,
    is_sum,
    keeps_signal,
)
from spl.isometry.spans import Calls, Span, spans_of_calls, spans_of_products, watched

Activations = Mapping[str, nn.Module | None]
"""The activation behind each weight, by the weight's name; None for none. Names of weights that are not seen miss."""


def activations_behind(network: nn.Module, run: Callable[[], object]) -> dict[str, nn.Module | None]:
    """Return the activation that runs behind each weight matrix and kernel, by name; None where there is none.

    `run` is called once. From each weight, the walk goes through the autograd graph to the product of its layer, and on
    through bias, normalization, dropout, pooling, views and concatenation to the first activation. It finds functions
    (`F.relu`), modules that several layers share, and modules of any class that act on each element alone. It ends
    without an activation in these cases:

    - The next product, softmax, recurrent layer or loss comes first.
    - The signal is multiplied by another one, as the gated half of SwiGLU is. A sigmoid that multiplies another signal
      is a gate, as in squeeze-and-excitation, and counts as none.
    - The signal is added to another one, as at the end of a residual branch. The sum of two signals has the mean
      square of both, so each of them needs less gain, not more; `docs/isometry.md` has measurements.

    If several activations are behind one layer, in several branches or calls, the one with the smallest gain is
    returned, or None if its gain of 1 is smaller. A smaller gain is safe, because signals cannot explode from it.

    A weight is missing in the result if what is behind it is not seen: the walk met an operation that it does not know,
    or the result of `run` does not depend on the weight.

    Args:
        network: a module. No hooks are left on it.
        run: a forward pass of it whose result has a graph. What it changes is not given back; see
            `spl.functional.undisturbed.undisturbed`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.isometry.activations import activations_behind
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up, self.gate, self.down = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 3)
        ...     def forward(self, x):
        ...         return self.down(self.up(x) * nn.functional.silu(self.gate(x)))
        >>> block = Block()
        >>> activations_behind(block, lambda: block(torch.ones(1, 3)))
        {'up.weight': None, 'gate.weight': SiLU(), 'down.weight': None}
    """
    with watched(network) as calls, torch.enable_grad():
        result = run()
    return activations_of(network, calls, result)


def activations_of(network: nn.Module, calls: Calls, result: object) -> dict[str, nn.Module | None]:
    """Return the activation that ran behind each weight; see `activations_behind`.

    Args:
        network: the network.
        calls: what hooks saw while it ran; see `spl.isometry.spans.watched`.
        result: the result of the run.
    """
    outputs = [tensor for tensor in calls.outputs if tensor.requires_grad]
    graph = Graph(*(outputs or [tensor for tensor in tree_leaves(result) if isinstance(tensor, Tensor)]))
    walk = _Walk(graph, [*spans_of_calls(calls.calls), *spans_of_products(graph)], has_loss=not outputs)
    recurrent = {id(p) for m in network.modules() if isinstance(m, RECURRENT) for p in m.parameters(recurse=False)}
    behind: dict[str, nn.Module | None] = {}
    for name, parameter in network.named_parameters():
        if id(parameter) in recurrent:
            behind[name] = None
        elif parameter.ndim > 1 and (seen := walk.behind(parameter)):
            behind[name] = min(seen, key=_gain)
    return behind


def _gain(activation: nn.Module | None) -> float:
    return 1.0 if activation is None else bounded_gain(activation)


def activations_in_order(network: nn.Module) -> dict[str, nn.Module | None]:
    """Return the activation behind each weight by the order of the modules, for networks that cannot be run.

    It is the first activation that the network lists between the layer and the next layer. If it lists none there,
    and the layers are not neighbours in an `nn.Sequential`, an activation may be called as a function or be shared
    with other layers. Then the name of the weight is missing.

    Example:
        >>> from torch import nn
        >>> from spl.isometry.activations import activations_in_order
        >>> activations_in_order(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)))
        {'0.weight': ReLU(), '2.weight': None}
    """
    behind: dict[str, nn.Module | None] = {}
    last: str | None = None
    for path, module in network.named_modules():
        own = [*prunable_names(module, WEIGHTS), *prunable_names(module, EMBEDDINGS)]
        if is_weighted(module):
            if last is not None and not _is_chain(network, last, path):
                del behind[_weight(last)]
            last = path
            behind[_weight(path)] = None
        elif isinstance(module, ACTIVATIONS) and last is not None:
            behind[_weight(last)] = module
            last = None
        elif own:  # attention, recurrent layers and embeddings
            behind |= {f"{path}.{name}" if path else name: None for name in own}
    return behind


def _weight(path: str) -> str:
    return f"{path}.weight" if path else "weight"


def _is_chain(network: nn.Module, one: str, other: str) -> bool:
    """Return whether two layers are called one after the other, by `nn.Sequential` alone."""
    one_path, other_path = one.split("."), other.split(".")
    shared = next(depth for depth, steps in enumerate(zip(one_path, other_path, strict=False)) if len(set(steps)) > 1)
    holders = [path[:depth] for path in (one_path, other_path) for depth in range(shared, len(path))]
    return all(isinstance(network.get_submodule(".".join(holder)), nn.Sequential) for holder in holders)


class _Walk:
    """A walk through the graph of a network from its weights forward.

    Args:
        graph: the graph of what the network returned, or of a loss.
        spans: the parts of the graph that are one function.
        has_loss: whether the graph goes on behind the network, into a loss. There, an operation such as ReLU counts
            as an activation only if a product follows.
    """

    def __init__(self, graph: Graph, spans: Iterable[Span], has_loss: bool) -> None:
        self._graph = graph
        self._has_loss = has_loss
        self._spans: dict[Node, list[Span]] = {}
        for span in spans:
            for start in span.starts:
                self._spans.setdefault(start, []).append(span)

    def behind(self, weight: Tensor) -> list[nn.Module | None]:
        """Return the activations behind the layers of a weight, None for none; an empty list if they are not seen."""
        leaf = self._graph.leaf(weight)
        return [activation for product in self._products(leaf) for activation in self._follow(product)]

    def _products(self, leaf: Node | None) -> Iterator[Node]:
        """Yield the products in which a weight takes part, transposed or cast or multiplied by a constant."""
        waiting = [] if leaf is None else [leaf]
        seen: set[Node] = set()
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            for user, place in self._graph.users(node):
                if is_product(user):
                    yield user
                elif is_move(user) or (is_multiplication(user) and _others_are_constant(user, place)):
                    waiting.append(user)

    def _follow(self, product: Node) -> Iterator[nn.Module | None]:
        """Yield the first activations behind a product, and None for every other end of the signal."""
        waiting, seen = [product], {product}
        while waiting:
            node = waiting.pop()
            users = self._graph.users(node)
            if not users:
                yield None
            for user, place in users:
                span = self._span(node, user)
                after = user if span is None else span.end
                if after in seen:
                    continue
                seen.add(after)
                if span is not None and isinstance(span.meaning, nn.Module):
                    yield None if self._is_gate(span.meaning, after) else span.meaning
                elif span is not None and span.meaning == "normalization":
                    waiting.append(after)
                elif span is not None:
                    continue
                elif is_product(user) or is_end(user):
                    yield None
                elif (activation := activation_of(user)) is not None:
                    is_in_loss = self._has_loss and not self._leads_to_product(user)
                    yield None if is_in_loss or self._is_gate(activation, user) else activation
                elif is_multiplication(user) and not _others_are_constant(user, place):
                    yield None
                elif is_multiplication(user) or keeps_signal(user):
                    waiting.append(user)
                elif is_sum(user):
                    yield from [] if _others_are_constant(user, place) else [None]
                    waiting += [user] if _others_are_constant(user, place) else []

    def _span(self, node: Node, user: Node) -> Span | None:
        """Return the largest function that begins with `user`, of the output of `node`."""
        spans = [span for span in self._spans.get(node, ()) if user in span.inside]
        return max(spans, key=lambda span: len(span.inside), default=None)

    def _is_gate(self, activation: nn.Module, node: Node) -> bool:
        """Return whether the output of an activation, which lies between 0 and 1, multiplies another signal."""
        return _lies_in_unit_interval(activation) and any(
            is_multiplication(user) and (not _others_are_constant(user, place) or constant_factor(user) is None)
            for user, place in self._behind(node, lambda user: not keeps_signal(user) and not is_sum(user))
        )

    def _leads_to_product(self, node: Node) -> bool:
        return any(is_product(user) for user, _ in self._behind(node, is_product))

    def _behind(self, node: Node, is_last: Callable[[Node], bool]) -> Iterator[tuple[Node, int]]:
        """Yield all users behind a node, with the places of their inputs, and go on from those that are not last."""
        waiting, seen = [node], {node}
        while waiting:
            for user, place in self._graph.users(waiting.pop()):
                yield user, place
                if user not in seen and not is_last(user):
                    seen.add(user)
                    waiting.append(user)


def _others_are_constant(user: Node, place: int) -> bool:
    return all(is_constant(source) for number, source in enumerate(sources(user)) if number != place)


@torch.no_grad()
def _lies_in_unit_interval(activation: nn.Module) -> bool:
    y = activation(torch.linspace(-30, 30, 61, dtype=torch.float64))
    return bool(y.min() >= -0.01 and y.max() <= 1.01)
