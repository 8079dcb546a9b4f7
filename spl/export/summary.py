"""The cost of a pruned network: dense, without its pruned weights, and compact."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import attrgetter

from torch import Tensor, nn

from spl.export.compaction import compact_
from spl.export.cost import pruned_copy, weight_macs
from spl.export.sparse_file import packed
from spl.files import serialized_size
from spl.functional.text_table import Column, text_table
from spl.masks.masks import Masks


@dataclass(frozen=True)
class LayerSummary:
    """The cost of one weight tensor of a Linear layer, a convolution or attention, or the total of the network.

    Attributes:
        name: name of the parameter.
        weights: number of weights, without biases.
        kept: number of weights that the masks keep.
        dense: multiply-accumulates for one example.
        sparse: multiply-accumulates with kept weights.
        compact: multiply-accumulates of the compact network.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.export import summarize
        >>> network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> masks = Masks({"0.weight": torch.tensor([[True], [True], [False], [False]]).expand(4, 3)})
        >>> summarize(network, masks, torch.randn(1, 3)).layers[0]
        LayerSummary(name='0.weight', weights=12, kept=6, dense=12, sparse=6, compact=6)
    """

    name: str
    weights: int
    kept: int
    dense: int
    sparse: int
    compact: int


@dataclass(frozen=True)
class NetworkSummary:
    """The cost of a network under its masks.

    Attributes:
        layers: the cost of each weight tensor, in the order of execution.
        parameters: number of all parameters of the network.
        compact_parameters: number of parameters of the compact network.
        file_bytes: sizes of the files of the weights: dense, sparse and compact.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.export import summarize
        >>> network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> masks = Masks({"0.weight": torch.tensor([[True], [True], [False], [False]]).expand(4, 3)})
        >>> summary = summarize(network, masks, torch.randn(1, 3))
        >>> summary.parameters, summary.compact_parameters, summary.total.sparse
        (26, 14, 14)
    """

    layers: Sequence[LayerSummary]
    parameters: int
    compact_parameters: int
    file_bytes: dict[str, int]

    @property
    def total(self) -> LayerSummary:
        """Return the sums over the layers."""
        counts = zip(*([s.weights, s.kept, s.dense, s.sparse, s.compact] for s in self.layers), strict=True)
        return LayerSummary("total", *(sum(count) for count in counts))

    def table(self) -> str:
        """Return a table with one row per layer and the total, followed by the parameters and file sizes."""
        layers = [*self.layers, self.total]
        columns = [Column("layer", [s.name for s in layers], "", [s.name.removesuffix(".weight") for s in layers])]
        for title, short, values in (
            ("weights", "", [s.weights for s in layers]),
            ("kept", "", [s.kept for s in layers]),
            ("MACs dense", "dense", [s.dense for s in layers]),
            ("MACs sparse", "sparse", [s.sparse for s in layers]),
            ("MACs compact", "compact", [s.compact for s in layers]),
        ):
            columns.append(Column(title, [f"{n:,}" for n in values], short))
        table = text_table(columns)
        sizes = ", ".join(f"{kind} {size:,}" for kind, size in self.file_bytes.items())
        return (
            f"{table}\n\nparameters: {self.parameters:,}, compact {self.compact_parameters:,}\nbytes on disk: {sizes}"
        )


def summarize(network: nn.Module, masks: Masks, example_input: Tensor) -> NetworkSummary:
    """Return the parameters, multiply-accumulates (MACs) for one example and file sizes of a pruned network.

    Args:
        network: the network; it is not changed.
        masks: the masks, by parameter name.
        example_input: one batch of inputs, on the network's device.

    Raises:
        InputError: `spl.export.compact` refuses the network or a mask.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.export import summarize
        >>> network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> masks = Masks({"0.weight": torch.tensor([[True], [True], [False], [False]]).expand(4, 3)})
        >>> print(summarize(network, masks, torch.randn(1, 3)).table())
        layer       weights    kept    MACs dense    MACs sparse    MACs compact
        --------  ---------  ------  ------------  -------------  --------------
        0.weight         12       6            12              6               6
        2.weight          8       8             8              8               4
        total            20      14            20             14              10
        <BLANKLINE>
        parameters: 26, compact 14
        bytes on disk: dense ..., sparse ..., compact ...
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
    """Return the cost of each weight tensor of a network that is not compact.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.export.summary import layer_summaries
        >>> network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> masks = Masks({"0.weight": torch.tensor([[True], [True], [False], [False]]).expand(4, 3)})
        >>> [(layer.dense, layer.sparse) for layer in layer_summaries(network, masks, torch.randn(1, 3))]
        [(12, 6), (8, 8)]
    """
    layers = []
    for name, macs in weight_macs(network, example_input).items():
        weights: int = attrgetter(name)(network).numel()
        kept = int(masks[name].sum()) if name in masks else weights
        layers.append(LayerSummary(name, weights, kept, macs, macs * kept // max(weights, 1), macs))
    return layers


def cost_line(network: nn.Module, masks: Masks, example_input: Tensor | None = None) -> str:
    """Return the cost of a pruned network in one line.

    The line has the number of kept weights, parameters, multiply-accumulates (MACs) for one input and bytes of weights
    files. Unknown numbers are left out: MACs without an input that the network can read, everything about the compact
    network where torch.fx cannot trace it, and MACs and bytes where the network cannot be copied. Nothing is raised,
    because the line is printed at the end of fits.

    Args:
        network: the network; it is not changed.
        masks: the masks, by parameter name.
        example_input: one batch of inputs, on the network's device; only its shape matters.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.export import cost_line
        >>> network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> masks = Masks({"0.weight": torch.tensor([[True], [True], [False], [False]]).expand(4, 3)})
        >>> cost_line(network, masks, torch.randn(1, 3))
        'kept 6 of 12 weights; parameters dense 26, compact 14; MACs dense 20, sparse 14, compact 10; bytes dense ...'
    """
    parameters = {"dense": sum(parameter.numel() for parameter in network.parameters())}
    macs: dict[str, int] = {}
    sizes: dict[str, int] = {}
    with suppress(Exception):  # whatever a network raises when it is copied, saved or called only for this line
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
