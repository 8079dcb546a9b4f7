"""The check that a traced network computes what the network does, and the first layer where it does not."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from spl.errors import InputError
from spl.export.compaction.tracing import Traced
from spl.export.comparison import relative_difference, rounding_limit
from spl.functional.torch_private import tree_leaves
from spl.functional.undisturbed import undisturbed

TOLERANCE = 1e-3
"""The largest difference, relative to the largest output; rounding errors are far below, mistakes far above."""


def check_trace(traced: Traced, network: nn.Module, inputs: Tensor, expected: object) -> None:
    """Refuse a traced network that computes something else than the network.

    Args:
        traced: the traced network, which shares the modules of `network`.
        network: the network, in evaluation mode.
        inputs: one batch of inputs.
        expected: the outputs of the network for them.

    Raises:
        InputError: the outputs differ by more than rounding explains. The message names the first layer of which this
            can be said.
    """
    with undisturbed(traced.network), torch.no_grad():
        difference = relative_difference(traced.network(inputs), expected)
    most = rounding_limit(network, inputs, expected, TOLERANCE, difference)
    if difference <= most:
        return
    names = {str(node.target) for node in traced.network.graph.nodes if node.op == "call_module"}
    of_layers, of_traced_layers = (_layer_outputs(own, names, inputs) for own in (network, traced.network))
    differing = (
        f"{name} ({type(network.get_submodule(name)).__name__})"
        for name, own in of_layers.items()
        if name in of_traced_layers and not relative_difference(of_traced_layers[name], own) <= most
    )
    raise InputError(
        f"A compact {type(network).__name__} would differ by {difference:.3g} of its largest output: its forward does "
        "something that torch.fx does not see, such as asking for the type of a value or reading a global variable. "
        f"The first difference is in {next(differing, 'what follows the last layer')}. Export the network dense: --to "
        "dense, or spl.export.save_program or save_onnx."
    )


def _layer_outputs(network: nn.Module, names: set[str], inputs: Tensor) -> dict[str, Any]:
    """Return the outputs of a network's modules of these names, in the order of the first calls."""
    found: dict[str, Any] = {}

    def keep(name: str, output: object) -> None:  # a copy, because the next module may overwrite it
        found.setdefault(name, [leaf.clone() for leaf in tree_leaves(output) if isinstance(leaf, Tensor)])

    def hook(name: str, module: nn.Module) -> RemovableHandle:
        return module.register_forward_hook(lambda _, given, output: keep(name, output))

    modules = dict(network.named_modules(remove_duplicate=False))
    with undisturbed(network), torch.no_grad():
        handles = [hook(name, modules[name]) for name in names if name in modules]
        network(inputs)
        for handle in handles:
            handle.remove()
    return found
