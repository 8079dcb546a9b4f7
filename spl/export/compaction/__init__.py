"""Networks without what their masks have killed: smaller, and equal in what they compute."""

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from spl.errors import InputError
from spl.export.compaction.channel_flow import ChannelFlow
from spl.export.compaction.liveness import find_liveness
from spl.export.compaction.report import CompactionReport, LayerReport, find_reasons, make_report
from spl.export.compaction.shrinking import shrink_
from spl.export.compaction.tracing import trace
from spl.export.comparison import relative_difference, tolerance
from spl.export.cost import network_cost, pruned_copy
from spl.functional.undisturbed import undisturbed
from spl.masks.masks import Masks

__all__ = ["CompactResult", "CompactionReport", "LayerReport", "compact", "compact_"]

_TOLERANCE = 1e-3  # of the largest output; rounding is far below, a mistake far above


@dataclass(frozen=True)
class CompactResult:
    """A compact network.

    Attributes:
        network: in evaluation mode; its modules have the names that they had.
        report: what it costs, before and after.
    """

    network: fx.GraphModule
    report: CompactionReport


def compact(network: nn.Module, masks: Masks, example_input: Tensor) -> CompactResult:
    """Return a network without the units and channels that its masks have killed, of equal outputs when it evaluates.

    A unit goes that nothing reads any more, or that is a constant, for it reads nothing but constants: what layers
    would read from it moves into their biases. Linear layers, convolutions, BatchNorm, sums, concatenations and
    padded shortcuts are adjusted. A channel of a sum, such as a residual stream, is computed by those of its addends
    alone in which it varies, and the constants of the others are added; what adds nothing but constants, such as a
    dead residual block, goes whole. Channels of products, and of sums over different shapes, go together. Where a
    convolution pads with zeros, a constant other than 0 is none at the border; one such channel stays there to carry
    all of them. Operations that are not known to leave channels apart keep all channels that they read.

    Outputs for the example are compared: of each tensor they may differ by 1e-3 of its largest number, or in half
    precision by ten units of rounding.

    Args:
        network: maps one batch of inputs to outputs; torch.fx must be able to trace it. Left as it was found.
        masks: by the names of its parameters; pruned weights count as 0.
        example_input: one batch of inputs, on the network's device. Its size beyond the batch may matter to what is
            traced (branches that depend on it), but not to what is removed.

    Raises:
        InputError: a mask does not fit, torch.fx cannot trace the network, or it computes something else when traced.
    """
    return compact_(pruned_copy(network, masks), masks, example_input)


def compact_(pruned: nn.Module, masks: Masks, example_input: Tensor) -> CompactResult:
    """Do what `compact` does to a network whose pruned weights are 0, in evaluation mode, which is used up by it."""
    before = network_cost(pruned, example_input)
    with undisturbed(pruned), torch.no_grad():
        expected = pruned(example_input)
        flow = ChannelFlow(trace(pruned, example_input))
    liveness = find_liveness(flow)
    why = find_reasons(flow, liveness, masks)
    shrink_(flow, liveness)
    smaller = flow.traced.network
    with undisturbed(smaller), torch.no_grad():
        difference = relative_difference(smaller(example_input), expected)
    if not difference <= tolerance(smaller, expected, _TOLERANCE):
        raise InputError(
            f"A compact {type(pruned).__name__} would differ by {difference:.3g} of its largest output: its forward "
            "does something that torch.fx does not see, such as to change tensors in place. Export it dense."
        )
    return CompactResult(smaller, make_report(before, network_cost(smaller, example_input), why, difference))
