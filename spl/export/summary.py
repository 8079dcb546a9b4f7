"""What a pruned network costs: as it is, if pruned weights cost nothing, and compact."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import attrgetter

from tabulate import tabulate
from torch import Tensor, nn

from spl.export.compaction import compact_
from spl.export.cost import pruned_copy, weight_macs
from spl.export.sparse_file import packed
from spl.files import serialized_size
from spl.masks.masks import Masks


@dataclass(frozen=True)
class LayerSummary:
    """One weight tensor of a Linear layer, a convolution or attention; of the whole network, the total.

    Attributes:
        name: of the parameter.
        weights: their number, without biases.
        kept: how many of them the masks keep.
        dense: multiply-accumulates for one example.
        sparse: those with weights that are kept.
        compact: those of the compact network.
    """

    name: str
    weights: int
    kept: int
    dense: int
    sparse: int
    compact: int


@dataclass(frozen=True)
class NetworkSummary:
    """A network and its masks.

    Attributes:
        layers: in the order of execution.
        parameters: of the network, all of them.
        compact_parameters: of the compact network.
        file_bytes: sizes of the weights as files: dense, sparse and compact.
    """

    layers: Sequence[LayerSummary]
    parameters: int
    compact_parameters: int
    file_bytes: dict[str, int]

    @property
    def total(self) -> LayerSummary:
        """Sums over the layers."""
        counts = zip(*([s.weights, s.kept, s.dense, s.sparse, s.compact] for s in self.layers), strict=True)
        return LayerSummary("total", *(sum(count) for count in counts))

    def table(self) -> str:
        """One row a layer and the total, then what there is of the whole network."""
        rows = [
            [s.name, *(f"{n:,}" for n in (s.weights, s.kept, s.dense, s.sparse, s.compact))]
            for s in [*self.layers, self.total]
        ]
        headers = ["layer", "weights", "kept", "MACs dense", "MACs sparse", "MACs compact"]
        table = tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * 5))
        sizes = ", ".join(f"{kind} {size:,}" for kind, size in self.file_bytes.items())
        return (
            f"{table}\n\nparameters: {self.parameters:,}, compact {self.compact_parameters:,}\nbytes on disk: {sizes}"
        )


def summarize(network: nn.Module, masks: Masks, example_input: Tensor) -> NetworkSummary:
    """Parameters, multiply-accumulates (MACs) for one example and bytes on disk.

    Args:
        network: left as it was found.
        masks: by the names of its parameters.
        example_input: one batch of inputs, on the network's device.

    Raises:
        InputError: as `spl.export.compact`.
    """
    pruned = pruned_copy(network, masks)
    state = pruned.state_dict()
    sizes = {"dense": serialized_size(state), "sparse": serialized_size(packed(state, masks))}
    layers = layer_summaries(pruned, masks, example_input)
    result = compact_(pruned, masks, example_input)
    sizes["compact"] = serialized_size(result.network.state_dict())
    left = weight_macs(result.network, example_input)
    layers = [replace(layer, compact=left.get(layer.name, 0)) for layer in layers]
    return NetworkSummary(layers, result.report.before.parameters, result.report.after.parameters, sizes)


def layer_summaries(network: nn.Module, masks: Masks, example_input: Tensor) -> list[LayerSummary]:
    """Of a network that is not compact."""
    layers = []
    for name, macs in weight_macs(network, example_input).items():
        weights: int = attrgetter(name)(network).numel()
        kept = int(masks[name].sum()) if name in masks else weights
        layers.append(LayerSummary(name, weights, kept, macs, macs * kept // max(weights, 1), macs))
    return layers


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
    parts = [f"{what} {numbers}" for what, numbers in kinds.items() if numbers]
    return "; ".join([f"kept {masks.kept:,} of {masks.size:,} weights", *parts])
