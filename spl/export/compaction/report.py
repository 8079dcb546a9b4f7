"""The report on a compact network: what became smaller, what did not, and why."""

from collections import Counter
from dataclasses import astuple, dataclass

import torch
from tabulate import tabulate
from torch import Tensor

from spl.export.compaction.channel_flow import ChannelFlow
from spl.export.compaction.liveness import Liveness
from spl.export.cost import Cost, NetworkCost
from spl.functional.layers import WEIGHTED
from spl.masks.masks import Masks

_NO_COST = Cost(0, 0, 0)
_STAYS = "attention, grouped, transposed, recurrent, shared and parametrised layers stay as they are"
_OF_HEAD = "belongs to a head that stays"
_VARIES = "a product or a border of zeros makes them vary"


@dataclass(frozen=True)
class LayerReport:
    """The cost of one Linear layer, convolution or attention, before and after.

    Attributes:
        name: name of the module.
        before: the cost before.
        after: the cost after; zero where the layer was removed.
        why: why dead units of the layer stay, or why none could be removed.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.export import compact
        >>> network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> masks = Masks({"0.weight": torch.tensor([[True], [True], [False], [False]]).expand(4, 3)})
        >>> result = compact(network, masks, torch.randn(5, 3))
        >>> layer = result.report.layers[0]
        >>> layer.before.parameters, layer.after.parameters
        (16, 8)
    """

    name: str
    before: Cost
    after: Cost
    why: str


@dataclass(frozen=True)
class CompactionReport:
    """The cost of a network before and after it was made compact.

    Attributes:
        layers: the layers, in the order of execution.
        before: the cost of the whole network.
        after: the cost of the compact network.
        difference: the largest difference of their outputs for the example and for random inputs, relative to the
            largest output.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.export import compact
        >>> network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> masks = Masks({"0.weight": torch.tensor([[True], [True], [False], [False]]).expand(4, 3)})
        >>> result = compact(network, masks, torch.randn(5, 3))
        >>> print(result.report.table())
        layer      parameters    multiply-accumulates     bytes  what stays, and why
        -------  ------------  ----------------------  --------  ---------------------
        0              16 → 8                  12 → 6   64 → 32
        2              10 → 6                   8 → 4   40 → 24  no unit is dead
        total         26 → 14                 20 → 10  104 → 56
    """

    layers: list[LayerReport]
    before: Cost
    after: Cost
    difference: float

    def table(self) -> str:
        """Return a table with one row per layer, followed by the total."""
        total = LayerReport("total", self.before, self.after, "")
        rows = [
            [
                layer.name,
                *(f"{a:,} → {b:,}" for a, b in zip(astuple(layer.before), astuple(layer.after), strict=True)),
                layer.why,
            ]
            for layer in [*self.layers, total]
        ]
        headers = ["layer", "parameters", "multiply-accumulates", "bytes", "what stays, and why"]
        return tabulate(rows, headers, disable_numparse=True, colalign=("left", "right", "right", "right", "left"))


def make_report(before: NetworkCost, after: NetworkCost, why: dict[str, str], difference: float) -> CompactionReport:
    """Return the report on a network.

    Args:
        before: the cost of the network.
        after: the cost of the compact network.
        why: the reasons why units stay, by layer name.
        difference: the largest relative difference of their outputs.
    """
    layers = [
        LayerReport(name, cost, after.layers.get(name, _NO_COST), why.get(name, _STAYS) if name in after.layers else "")
        for name, cost in before.layers.items()
    ]
    return CompactionReport(layers, before.total, after.total, difference)


def find_reasons(flow: ChannelFlow, liveness: Liveness, masks: Masks) -> dict[str, str]:
    """Return, by layer name, why units without weights stay, or why none could be removed."""
    found = {}
    for node, channels in flow.channels.items():
        module = flow.traced.module(node)
        if isinstance(module, WEIGHTED):
            name = str(node.target)
            mask = masks.get(f"{name}.weight")
            found[name] = _STAYS if channels is None else _find_reason(mask, channels.ids, liveness, flow)
    for attention in flow.attentions:
        for layer in (attention.in_proj, attention.out_proj):
            found[layer.name] = _find_reason(masks.get(layer.parameter("weight")), layer.ids, liveness, flow)
    return found


def _find_reason(mask: Tensor | None, ids: Tensor, liveness: Liveness, flow: ChannelFlow) -> str:
    kept = liveness.is_kept(ids)
    dead = torch.zeros_like(kept) if mask is None else ~mask.cpu().flatten(1).any(1)
    if not bool(dead.any()) and bool(kept.all()):
        return "no unit is dead"
    of_heads = {group for ids in flow.head_ids for group in liveness.groups[ids].tolist()}
    whys = [
        liveness.why.get(group, _OF_HEAD if group in of_heads else _VARIES)
        for group in liveness.groups[ids[dead & kept]].tolist()
    ]
    return "; ".join(f"{count} dead: {why}" for why, count in Counter(whys).items())
