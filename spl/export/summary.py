"""What a pruned network costs: as it is, if pruned weights cost nothing, and compact."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

from tabulate import tabulate
from torch import Tensor, nn

from spl.export.compaction import compact
from spl.export.cost import layer_cost, layer_positions, network_cost
from spl.export.sparse_file import packed
from spl.files import serialized
from spl.masks import Masks


@dataclass(frozen=True)
class LayerSummary:
    """One Linear layer or convolution; of the whole network, the total.

    Attributes:
        name: of the module.
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
class Summary:
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


def summarize(network: nn.Module, masks: Masks, example_input: Tensor) -> Summary:
    """Parameters, multiply-accumulates (MACs) for one example and bytes on disk.

    Args:
        network: left as it was found.
        masks: by the names of its parameters.
        example_input: one batch of inputs, on the network's device.

    Raises:
        InputError: as `spl.export.compact`.
    """
    smaller = compact(network, masks, example_input).network
    positions, left = layer_positions(network, example_input), layer_positions(smaller, example_input)
    layers = []
    for name, count in positions.items():
        weights = layer_cost(network.get_submodule(name), 1).macs
        kept = int(masks[f"{name}.weight"].sum()) if f"{name}.weight" in masks else weights
        compact_macs = layer_cost(smaller.get_submodule(name), left[name]).macs if name in left else 0
        layers.append(LayerSummary(name, weights, kept, weights * count, kept * count, compact_macs))
    pruned = deepcopy(network)
    masks.apply_(dict(pruned.named_parameters()))
    state = pruned.state_dict()
    sizes = {
        "dense": len(serialized(state)),
        "sparse": len(serialized(packed(state, masks))),
        "compact": len(serialized(smaller.state_dict())),
    }
    parameters, smaller_parameters = (
        network_cost(of, used).parameters for of, used in ((network, positions), (smaller, left))
    )
    return Summary(layers, parameters, smaller_parameters, sizes)
