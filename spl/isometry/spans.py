"""Parts of a network's graph that are one function: modules that act on each element, and products x · f(x)."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from spl.functional.graph import Graph, nodes_between, operation, sources
from spl.functional.torch_private import tree_leaves
from spl.isometry.elementwise import Elementwise, ignores_scale, is_activation
from spl.isometry.mean_field import bounded_gain
from spl.isometry.operations import (
    REDUCTIONS,
    constant_factor,
    is_constant,
    is_move,
    is_multiplication,
    is_product,
    is_sum,
)

Meaning = nn.Module | Literal["normalization", "unknown"]
Edge = tuple[Node, int]
_FAR = 50  # a hand-written activation has fewer operations


@dataclass(frozen=True)
class Span:
    """A part of a graph that computes one function of one signal.

    Attributes:
        starts: the operation that makes the signal, and those that only moved its numbers before.
        end: the operation that makes the result.
        inside: the operations of the function, `end` included.
        meaning: the activation that the function is, or what else it is.
    """

    starts: frozenset[Node]
    end: Node
    inside: frozenset[Node]
    meaning: Meaning


@dataclass(frozen=True)
class Call:
    """A call of a module: the operations that made its one input and its one output of the same shape."""

    module: nn.Module
    shape: torch.Size
    source: Node
    result: Node


class Calls:
    """What hooks saw while a network ran.

    Attributes:
        calls: the calls of modules without weight matrices, inner ones first.
        outputs: the tensors that the network itself returned.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.outputs: list[Tensor] = []
        self._sources: list[tuple[nn.Module, Tensor | None, Node | None]] = []

    def enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Note what a module gets, before it may change it in place."""
        tensor = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], Tensor) else None
        self._sources.append((module, tensor, None if tensor is None else tensor.grad_fn))

    def leave(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Note what a module returns."""
        while self._sources:
            entered, tensor, source = self._sources.pop()
            if entered is module:
                break
        else:
            return
        if tensor is None or source is None or not isinstance(output, Tensor) or output.shape != tensor.shape:
            return
        if output.grad_fn is not None and output.grad_fn is not source:
            self.calls.append(Call(module, tensor.shape, source, output.grad_fn))

    def end(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Note what the network returns."""
        self.outputs += [tensor for tensor in tree_leaves(output) if isinstance(tensor, Tensor)]


@contextmanager
def watched(network: nn.Module) -> Iterator[Calls]:
    """Note the calls of the modules of `network` inside the context."""
    calls = Calls()
    handles = []
    for module in network.modules():
        if isinstance(module, torch.jit.ScriptModule):  # takes no hooks
            continue
        if module is network:
            handles.append(module.register_forward_hook(calls.end))
        if all(parameter.ndim < 2 for parameter in module.parameters()):
            handles += [module.register_forward_pre_hook(calls.enter), module.register_forward_hook(calls.leave)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def spans_of_calls(calls: Iterable[Call]) -> Iterator[Span]:
    """Yield the calls of modules that are activations or normalizations, whatever their classes are."""
    known: dict[nn.Module, Meaning | None] = {}
    for call in calls:
        if call.module not in known:
            known[call.module] = _meaning(call)
        if (meaning := known[call.module]) is not None:
            starts = {call.source}
            node: Node | None = call.source
            while node is not None and is_move(node):  # an operation in place on a view is computed from its base
                node = next((source for source in sources(node) if source is not None), None)
                starts |= {node} if node is not None else set()
            inside = nodes_between(call.result, starts)
            if inside:
                yield Span(frozenset(starts), call.result, frozenset(inside), meaning)


def _meaning(call: Call) -> Meaning | None:
    if is_activation(call.module):
        return call.module if _has_slope(call.module) else "unknown"
    if next(call.module.children(), None) is None and ignores_scale(call.module, call.shape):
        return "normalization"
    return None


def _has_slope(module: nn.Module) -> bool:
    """Return whether a gain can be computed, which takes the derivative in float64."""
    try:
        return math.isfinite(bounded_gain(module))
    except Exception:  # its backward pass may be written by hand
        return False


def spans_of_products(graph: Graph) -> Iterator[Span]:
    """Yield the products x · f(x) of a signal and a function of itself: activations by hand, and normalizations."""
    for node in graph:
        if not is_multiplication(node) or len(sources(node)) != 2 or any(is_constant(s) for s in sources(node)):
            continue
        edges: list[Edge] = [(source, place) for source, place in node.next_functions if source is not None]
        for one, other in (edges, edges[::-1]):
            base = _base(one)
            if other != base and _depends_on_alone(other, base):
                inside = nodes_between(node, {base[0]})
                yield Span(frozenset({base[0]}), node, frozenset(inside), _by_hand(inside, base[0]))
                break


def _base(edge: Edge) -> Edge:
    """Return the signal of which an edge is a multiple."""
    while is_multiplication(edge[0]):
        signals = [(n, place) for n, place in edge[0].next_functions if n is not None and not is_constant(n)]
        if len(signals) != 1:
            return edge
        edge = signals[0]
    return edge


def _depends_on_alone(edge: Edge, base: Edge) -> bool:
    """Return whether what an edge carries is computed from `base` and constants, without a product of a layer."""
    seen: set[Edge] = set()
    waiting = [edge]
    is_found = False
    while waiting and len(seen) < _FAR:
        edge = waiting.pop()
        if edge == base:
            is_found = True
        elif edge not in seen and not is_constant(edge[0]):
            if is_product(edge[0]) or edge[0] is base[0]:
                return False
            seen.add(edge)
            waiting += [(node, place) for node, place in edge[0].next_functions if node is not None]
    return is_found and not waiting


_FORMS: dict[frozenset[str], Callable[[], nn.Module]] = {
    frozenset({"Erf"}): nn.GELU,
    frozenset({"Tanh", "Softplus"}): nn.Mish,
    frozenset({"Tanh", "Pow"}): lambda: nn.GELU("tanh"),
    frozenset({"Hardtanh"}): nn.Hardswish,
    frozenset({"Hardsigmoid"}): nn.Hardswish,
}


def _by_hand(inside: set[Node], base: Node) -> Meaning:
    """Return what a product x · f(x) is, by its operations."""
    functions = [n for n in inside if not (is_multiplication(n) or is_sum(n) or is_move(n) or operation(n) == "Rsub")]
    names = frozenset(operation(n) for n in functions)
    if names & REDUCTIONS:
        return "normalization"
    if names == {"Sigmoid"} and len(functions) == 1:
        slope, node = 1.0, sources(functions[0])[0]
        while node is not None and node is not base:
            factor = constant_factor(node) if is_multiplication(node) else None
            if factor is None:
                return "unknown"
            slope, node = slope * factor, next((s for s in sources(node) if s is not None), None)
        return nn.SiLU() if slope == 1 else Elementwise(lambda x: x * torch.sigmoid(slope * x))
    return _FORMS[names]() if names in _FORMS else "unknown"
