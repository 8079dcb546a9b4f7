"""The graph of a network's operations, traced by torch.fx, with the value of each for an example."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter, getitem
from typing import Any

import torch
from torch import Tensor, fx, nn

from spl.errors import InputError


@dataclass(frozen=True)
class Traced:
    """A network as a graph of operations.

    Attributes:
        network: the graph, with nodes in the order of execution, and the modules that it calls.
        values: the value of each node for the example.
    """

    network: fx.GraphModule
    values: dict[fx.Node, Any]

    def module(self, node: fx.Node) -> nn.Module | None:
        """Return the module that a node calls; None where it calls a function."""
        return self.network.get_submodule(str(node.target)) if node.op == "call_module" else None


def trace(network: nn.Module, example: Tensor) -> Traced:
    """Trace the operations that `network` does for `example`.

    Branches that depend only on shapes are taken as for the example.

    Args:
        network: the network, in evaluation mode, on the device of the example.
        example: one batch of inputs.

    Raises:
        InputError: torch.fx cannot trace the network.
    """
    tracer = _Tracer(example)
    try:
        with torch.no_grad():
            graph = tracer.trace(network)
    except Exception as error:
        raise InputError(
            f"torch.fx cannot trace {type(network).__name__}: {error}. Its forward must take one tensor, and have no "
            "branches that depend on values."
        ) from error
    traced = fx.GraphModule(network, graph, f"Compact{type(network).__name__}")
    graph.eliminate_dead_code()
    return Traced(traced, tracer.values)


class _Tracer(fx.Tracer):
    """A tracer that runs every operation on an example, which decides branches that depend on shapes."""

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.example = example
        self.values: dict[fx.Node, Any] = {}
        self.running = False

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> fx.Proxy:
        """Return the proxy of an operation, once its value is known."""
        if kind == "call_method" and target in ("item", "tolist"):
            raise fx.proxy.TraceError("it reads the numbers in a tensor")
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        node = proxy.node
        self.running = True
        given, by_name = fx.node.map_arg((node.args, node.kwargs), self._value)
        self.values[node] = self._result(kind, target, given, by_name)
        self.running = False
        return proxy

    def _value(self, node: fx.Node) -> Any:
        if node not in self.values:  # a constant of the network, for which there never was a proxy
            self.values[node] = self._result(node.op, node.target, (), {})
        return self.values[node]

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Trace a module, or run it while an operation is run."""
        return forward(*args, **kwargs) if self.running else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        """Return the proxy of a module's attribute, or the attribute itself while an operation is run."""
        return attr_val if self.running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def _result(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        if kind == "placeholder":
            return self.example if not self.values else args[0]
        if kind == "output":
            return args[0]
        if kind == "get_attr":
            return attrgetter(target)(self.root)
        if kind == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        call: Callable[..., Any] = self.root.get_submodule(target) if kind == "call_module" else target
        return call(*args, **kwargs)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Decide a branch as for the example."""
        value = self.values[obj.node]
        if isinstance(value, Tensor):
            raise fx.proxy.TraceError("a branch depends on the numbers in a tensor")
        return bool(value)

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        """Iterate over as many elements as there are for the example."""
        count = len(self.values[obj.node])
        return iter([self.create_proxy("call_function", getitem, (obj, i), {}) for i in range(count)])
