"""The graph of a network's operations, by torch.fx, with what each gives for an example."""

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
        network: has the modules that the graph calls; its nodes are in the order of execution.
        values: what each node gave for the example.
    """

    network: fx.GraphModule
    values: dict[fx.Node, Any]

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that the node calls; None where it calls a function."""
        return self.network.get_submodule(str(node.target)) if node.op == "call_module" else None


def trace(network: nn.Module, example: Tensor) -> Traced:
    """The operations that `network` does for `example`.

    Branches that depend on shapes alone are taken as they are for the example.

    Args:
        network: in evaluation mode, on the device of the example.
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
            f"torch.fx cannot trace {type(network).__name__}: {error}. Make its forward free of branches that depend "
            "on values, of one tensor argument."
        ) from error
    traced = fx.GraphModule(network, graph, f"Compact{type(network).__name__}")
    graph.eliminate_dead_code()
    return Traced(traced, tracer.values)


class _Tracer(fx.Tracer):
    """Runs every operation on an example while it is traced, which decides branches over shapes."""

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.example = example
        self.values: dict[fx.Node, Any] = {}
        self.running = False

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> fx.Proxy:
        """The proxy, once what it stands for is known."""
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
        """Trace it, unless it is run."""
        return forward(*args, **kwargs) if self.running else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        """What stands for a module's attribute: where the module is run, itself."""
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
        """Which way a branch goes."""
        value = self.values[obj.node]
        if isinstance(value, Tensor):
            raise fx.proxy.TraceError("a branch depends on the numbers in a tensor")
        return bool(value)

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        """As many as there are for the example."""
        count = len(self.values[obj.node])
        return iter([self.create_proxy("call_function", getitem, (obj, i), {}) for i in range(count)])
