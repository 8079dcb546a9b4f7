"""The graph of operations that autograd keeps of a result: from parameters forward to what is computed from them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

_NUMBERED = re.compile(r"(Backward|Backwards)\d*$")


class Graph:
    """The autograd graph of one or more results, which can be walked in both directions.

    Autograd links each operation to those that made its inputs. This class adds the links to those that use its
    output. A graph holds its nodes, and so the tensors that they saved, as long as it exists.

    Args:
        results: tensors whose graph is taken. Tensors without a graph contribute nothing.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.functional.graph import Graph, operation
        >>> network = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        >>> graph = Graph(network(torch.ones(1, 3)).sum())
        >>> graph.reaches(network[0].weight), graph.reaches(torch.ones(2, requires_grad=True))
        (True, False)
        >>> [(operation(node), place) for node, place in graph.users(graph.leaf(network[0].bias))]
        [('Addmm', 0)]
    """

    def __init__(self, *results: Tensor) -> None:
        self._users: dict[Node, list[tuple[Node, int]]] = {}
        self._leaves: dict[int, Node] = {}
        waiting = [get_gradient_edge(result).node for result in results if result.requires_grad]
        while waiting:
            node = waiting.pop()
            if node in self._users:
                continue
            self._users[node] = []
            if (variable := getattr(node, "variable", None)) is not None:
                self._leaves[id(variable)] = node
            waiting += [source for source in sources(node) if source is not None]
        for node in list(self._users):
            for place, source in enumerate(sources(node)):
                if source is not None:
                    self._users[source].append((node, place))

    def __iter__(self) -> Iterator[Node]:
        return iter(self._users)

    def leaf(self, tensor: Tensor) -> Node | None:
        """Return the node that collects the gradient of a parameter or other leaf; None if no result depends on it."""
        return self._leaves.get(id(tensor))

    def reaches(self, tensor: Tensor) -> bool:
        """Return whether a result depends on a parameter or other leaf."""
        return id(tensor) in self._leaves

    def users(self, node: Node) -> list[tuple[Node, int]]:
        """Return the operations that use the output of `node`, each with the place of that output among its inputs."""
        return self._users[node]


def sources(node: Node) -> tuple[Node | None, ...]:
    """Return the nodes of the inputs of an operation, in order; None for an input without a graph.

    Example:
        >>> import torch
        >>> from spl.functional.graph import operation, sources
        >>> x = torch.ones(2, requires_grad=True)
        >>> [node and operation(node) for node in sources((x.exp() * 2).grad_fn)]
        ['Exp', None]
    """
    return tuple(source for source, _ in node.next_functions)


def operation(node: Node) -> str:
    """Return the name of the operation of a node: `Addmm` for `AddmmBackward0`.

    Example:
        >>> import torch
        >>> from spl.functional.graph import operation
        >>> operation(torch.ones(2, requires_grad=True).relu().grad_fn)
        'Relu'
    """
    return _NUMBERED.sub("", node.name().rpartition("::")[2])


def nodes_between(end: Node, starts: set[Node]) -> set[Node]:
    """Return the operations, `end` included, by which `end` is computed from the outputs of `starts`.

    Example:
        >>> import torch
        >>> from spl.functional.graph import nodes_between, operation
        >>> x = torch.ones(2, requires_grad=True).exp()
        >>> y = x * x.sigmoid()
        >>> sorted(operation(node) for node in nodes_between(y.grad_fn, {x.grad_fn}))
        ['Mul', 'Sigmoid']
    """
    between: dict[Node, bool] = {}
    for node in _ancestors_first(end, starts):
        between[node] = any(s in starts or between.get(s, False) for s in sources(node) if s is not None)
    return {node for node, lies in between.items() if lies}


def _ancestors_first(end: Node, stop: set[Node]) -> Iterator[Node]:
    """Yield `end` and what it is computed from, each after its own inputs, without going past the nodes `stop`."""
    seen: set[Node] = set()
    waiting = [(end, False)]
    while waiting:
        node, is_ready = waiting.pop()
        if is_ready:
            yield node
        elif node not in seen and node not in stop:
            seen.add(node)
            waiting.append((node, True))
            waiting += [(source, False) for source in sources(node) if source is not None]
