"""The graph of a network's operations, traced by torch.fx, with the value of each for an example."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from operator import attrgetter, getitem
from typing import Any

import torch
from torch import Tensor, fx, nn

from spl.errors import InputError, first_line
from spl.export.compaction.functional_layers import use_layers_
from spl.functional.torch_private import BatchNorm, ConvNd, forget_tracer, tree_leaves, write_counts

_ANY = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)  # what the forward of a module without one takes


@dataclass(frozen=True)
class Traced:
    """A network as a graph of operations.

    Attributes:
        network: the graph, with nodes in the order of execution, and the modules that it calls.
        values: the value of each node for the example.
        identities: the nodes that return their input as it is, such as stochastic depth in evaluation mode.
        overwritten: by node, earlier nodes whose values it overwrites although they are read later.
    """

    network: fx.GraphModule
    values: dict[fx.Node, Any]
    identities: set[fx.Node]
    overwritten: dict[fx.Node, list[fx.Node]]

    def eliminate_dead_code(self) -> None:
        """Remove the nodes whose values nothing reads, except those that overwrite what is read later."""
        self.network.graph.eliminate_dead_code(lambda node: node in self.overwritten or node.is_impure())

    def module(self, node: fx.Node) -> nn.Module | None:
        """Return the module that a node calls; None where it calls a function."""
        return self.network.get_submodule(str(node.target)) if node.op == "call_module" else None

    def describe(self, node: fx.Node) -> str:
        """Return the name and class of the module that a node calls, or the name of the function and of its module."""
        module = self.module(node)
        if module is not None:
            return f"{node.target} ({type(module).__name__})"
        within = next(reversed(node.meta.get("nn_module_stack", {})), "")
        return str(getattr(node.target, "__name__", node.target)) + (f" in {within}" if within else "")

    def shared_modules(self) -> set[nn.Module]:
        """Return the modules with parameters that are used in more than one place."""
        uses = Counter(str(node.target) for node in self.network.graph.nodes if node.op == "call_module")
        owners = Counter(id(p) for module in self.network.modules() for p in module.parameters(recurse=False))
        owners.update(id(self.values[node]) for node in self.network.graph.nodes if node.op == "get_attr")
        called = {name: self.network.get_submodule(name) for name in uses}
        return {
            module
            for name, module in called.items()
            if any(uses[name] > 1 or owners[id(p)] > 1 for p in module.parameters())
        }


def trace(network: nn.Module, example: Tensor) -> Traced:
    """Trace the operations that `network` does for `example`.

    Branches that depend only on shapes are taken as for the example.

    Args:
        network: the network, in evaluation mode, on the device of the example.
        example: one batch of inputs.

    Raises:
        InputError: torch.fx cannot trace the network, or it has no forward.
    """
    if all(taken.kind in _ANY for taken in signature(network.forward).parameters.values()):
        raise InputError(
            f"{type(network).__name__} has no forward that takes its input: give it one, such as "
            "`def forward(self, x): return self.net(x)`, through which channels can be followed."
        )
    tracer = _Tracer(example)
    try:
        with torch.no_grad():
            graph = tracer.trace(network)
    except Exception as error:
        raise InputError(
            f"torch.fx cannot trace {type(network).__name__}: {first_line(error).rstrip('.')}{tracer.place()}. To be "
            "made compact, a network must take one tensor and have no branches that depend on values. Export it as it "
            "is, without a trace: --to dense, or spl.export.save_program or save_onnx."
        ) from error
    forget_tracer(graph)
    traced = fx.GraphModule(network, graph, f"Compact{type(network).__name__}")
    use_layers_(traced, network, tracer.values)
    overwritten = _overwritten(graph, tracer.values, tracer.writes)
    found = Traced(traced, tracer.values, tracer.identities, overwritten)
    found.eliminate_dead_code()
    return found


class _Tracer(fx.Tracer):
    """A tracer that runs every operation on an example, which decides branches that depend on shapes."""

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.example = example
        self.values: dict[fx.Node, Any] = {}
        self.identities: set[fx.Node] = set()
        self.writes: dict[fx.Node, list[Tensor]] = {}
        self.running = False

    def place(self) -> str:
        """Return in which module the trace is; empty if it is in the network itself."""
        name = next(reversed(self.module_stack), "")
        return f", in {name} ({type(self.root.get_submodule(name)).__name__})" if name else ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is taken as it is; one with a forward of its own is traced inside."""
        if isinstance(m, nn.Linear | ConvNd | BatchNorm) and not any(True for _ in m.children()):
            methods = [getattr(m, name, None) for name in ("forward", "_conv_forward")]
            return all(method.__module__.startswith("torch.nn.") for method in methods if method is not None)
        return super().is_leaf_module(m, module_qualified_name)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> fx.Proxy:
        """Return the proxy of an operation, once its value is known."""
        if kind == "call_method" and target in ("item", "tolist"):
            raise fx.proxy.TraceError("it reads the numbers in a tensor")
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        node = proxy.node
        self.running = True
        given, by_name = fx.node.map_arg((node.args, node.kwargs), self._value)
        tensors = [leaf for leaf in tree_leaves((given, by_name)) if isinstance(leaf, Tensor)]
        before = write_counts(tensors)
        self.values[node] = self._result(kind, target, given, by_name)
        written = [t for t, count, now in zip(tensors, before, write_counts(tensors), strict=True) if count != now]
        if written:
            self.writes[node] = written
        elif kind != "output" and given and self.values[node] is given[0]:
            self.identities.add(node)
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
            if self.values and not args:
                raise fx.proxy.TraceError(f"its forward takes a second argument, {target}")
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


def _overwritten(
    graph: fx.Graph, values: Mapping[fx.Node, Any], writes: Mapping[fx.Node, list[Tensor]]
) -> dict[fx.Node, list[fx.Node]]:
    """Return, for each node that writes to tensors, the earlier nodes that share their memory and are read later."""
    nodes = list(graph.nodes)
    found = {}
    for place, writer in enumerate(nodes):
        if writer not in writes:
            continue
        memory = {tensor.untyped_storage().data_ptr() for tensor in writes[writer]}
        earlier = {
            node
            for node in nodes[:place]
            if isinstance(value := values.get(node), Tensor) and value.untyped_storage().data_ptr() in memory
        }
        if any(earlier & {*node.all_input_nodes} for node in nodes[place + 1 :]):
            found[writer] = list(earlier)
    return found
