"""Compact networks: smaller, without the units and channels that their masks have killed, and with equal outputs."""

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from spl.errors import InputError
from spl.export.compaction.channel_flow import ChannelFlow
from spl.export.compaction.direct_calls import call_directly_
from spl.export.compaction.liveness import find_liveness
from spl.export.compaction.report import CompactionReport, LayerReport, find_reasons, make_report
from spl.export.compaction.shrinking import shrink_
from spl.export.compaction.trace_check import TOLERANCE, check_trace
from spl.export.compaction.tracing import trace
from spl.export.comparison import random_inputs, relative_difference, rounding_limit
from spl.export.cost import network_cost, pruned_copy
from spl.functional.undisturbed import undisturbed
from spl.masks.masks import Masks

__all__ = ["CompactResult", "CompactionReport", "LayerReport", "compact", "compact_"]


@dataclass(frozen=True)
class CompactResult:
    """A compact network.

    Attributes:
        network: the network, in evaluation mode; its modules keep their names.
        report: the cost, before and after.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.export import compact
        >>> network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> masks = Masks({"0.weight": torch.tensor([[True], [True], [False], [False]]).expand(4, 3)})
        >>> result = compact(network, masks, torch.randn(5, 3))
        >>> result.network.get_parameter("2.weight").shape
        torch.Size([2, 2])
    """

    network: fx.GraphModule
    report: CompactionReport


def compact(network: nn.Module, masks: Masks, example_input: Tensor) -> CompactResult:
    """Return a smaller network, without the units and channels that its masks have killed, with equal outputs.

    A network that torch.fx cannot trace is refused, such as those of Hugging Face. `save_program` and `save_onnx` write
    it as it is.

    Outputs are those in evaluation mode. A unit is removed if nothing reads it any more, or if it is constant
    because it reads nothing but constants; its contribution to the layers that read it moves into their biases. Linear
    layers, convolutions, BatchNorm, sums, concatenations and padded shortcuts are adjusted.

    A channel of a sum, such as a residual stream, is computed only by the addends in which it varies, and the constants
    of the others are added. An addend that is constant in all channels, such as a dead residual block, is removed.
    Channels of products, and of sums over different shapes, are removed together or not at all. Where a convolution
    pads with zeros, a constant other than 0 is not constant at the border. One such channel stays there to carry all of
    them. Operations that are not known to keep channels separate keep all channels that they read.

    Heads of self-attention without a mask are removed as a whole: if nothing reads them, or if their values are
    constant. An `nn.MultiheadAttention` becomes a `SelfAttention`, whose parameters have the same names.

    The outputs for the example, and for random inputs like it, are compared: those of each tensor may differ by 1e-3 of
    its largest number, or in half precision by ten rounding units.

    Args:
        network: the network, which maps one batch of inputs to outputs and which torch.fx can trace; it is not changed.
        masks: the masks, by parameter name; pruned weights count as 0.
        example_input: one batch of inputs, on the network's device. Its sizes beyond the batch may matter to the trace
            (branches that depend on them), but not to what is removed.

    Raises:
        InputError: a mask does not fit the network, torch.fx cannot trace it, or the traced network computes something
            else.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.export import compact
        >>> network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> masks = Masks({"0.weight": torch.tensor([[True], [True], [False], [False]]).expand(4, 3)})
        >>> result = compact(network, masks, torch.randn(5, 3))
        >>> result.network.get_parameter("0.weight").shape  # two of four units are left
        torch.Size([2, 3])
        >>> masks.apply_(dict(network.named_parameters()))
        >>> inputs = torch.randn(8, 3)
        >>> torch.allclose(result.network(inputs), network(inputs), atol=1e-6)
        True
    """
    return compact_(pruned_copy(network, masks), masks, example_input)


def compact_(pruned: nn.Module, masks: Masks, example_input: Tensor) -> CompactResult:
    """Do what `compact` does to a network in evaluation mode with pruned weights of 0, which is used up.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.export.compaction import compact_
        >>> from spl.export.cost import pruned_copy
        >>> network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> masks = Masks({"0.weight": torch.tensor([[True], [True], [False], [False]]).expand(4, 3)})
        >>> compact_(pruned_copy(network, masks), masks, torch.randn(5, 3)).report.after.parameters
        14
    """
    before = network_cost(pruned, example_input)
    with undisturbed(pruned), torch.no_grad():
        batches = [example_input, random_inputs(example_input, len(example_input))]
        expected = [pruned(inputs) for inputs in batches]
        traced = trace(pruned, example_input)
        flow = ChannelFlow(traced)
    check_trace(traced, pruned, batches[1], expected[1])
    liveness = find_liveness(flow)
    why = find_reasons(flow, liveness, masks)
    shrink_(flow, liveness)
    smaller = flow.traced.network
    call_directly_(smaller)
    with undisturbed(smaller), torch.no_grad():
        outputs = [smaller(inputs) for inputs in batches]
        difference = max(map(relative_difference, outputs, expected))
        limits = [rounding_limit(smaller, x, y, TOLERANCE, difference) for x, y in zip(batches, outputs, strict=True)]
    if not difference <= max(limits):
        raise InputError(
            f"A compact {type(pruned).__name__} would differ by {difference:.3g} of its largest output, because a unit "
            "was removed that matters. Leave the layers whose units do not act one by one out of pruning (exclude=), "
            "or export the network dense: --to dense, or spl.export.save_program or save_onnx."
        )
    return CompactResult(smaller, make_report(before, network_cost(smaller, example_input), why, difference))
