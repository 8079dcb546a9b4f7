"""What a pruned network costs, in one line."""

from contextlib import suppress

from torch import Tensor, nn

from spl.export.compaction import compact_
from spl.export.pruned import pruned_copy
from spl.export.sparse_file import packed
from spl.export.summary import layer_summaries
from spl.files import serialized_size
from spl.masks.masks import Masks


def cost_line(network: nn.Module, masks: Masks, example_input: Tensor | None = None) -> str:
    """Weights kept, parameters, multiply-accumulates (MACs) for one input and bytes of weights files, as one line.

    What cannot be found out is left out: MACs without an input that the network reads, those of a compact network where
    torch.fx cannot trace it, and more where it cannot be copied. Nothing is raised, for it is told where fits end.

    Args:
        network: left as it was found.
        masks: by the names of its parameters.
        example_input: one batch of inputs, on the network's device; only its shape counts.
    """
    parameters = {"dense": sum(parameter.numel() for parameter in network.parameters())}
    macs: dict[str, int] = {}
    sizes: dict[str, int] = {}
    with suppress(Exception):  # whatever somebody's network raises that is copied, written and called for this alone
        pruned = pruned_copy(network, masks)
        state = pruned.state_dict()
        sizes = {"dense": serialized_size(state), "sparse": serialized_size(packed(state, masks))}
        if example_input is not None:
            layers = layer_summaries(pruned, masks, example_input)
            macs = {"dense": sum(layer.dense for layer in layers), "sparse": sum(layer.sparse for layer in layers)}
            smaller = compact_(pruned, masks, example_input)
            macs["compact"] = smaller.report.after.macs
            parameters["compact"] = smaller.report.after.parameters
            sizes["compact"] = serialized_size(smaller.network.state_dict())
    counts = {"parameters": parameters, "MACs": macs, "bytes": sizes}
    kinds = {what: ", ".join(f"{kind} {n:,}" for kind, n in numbers.items()) for what, numbers in counts.items()}
    told = [f"{what} {numbers}" for what, numbers in kinds.items() if numbers]
    return "; ".join([f"kept {masks.kept:,} of {masks.size:,} weights", *told])
