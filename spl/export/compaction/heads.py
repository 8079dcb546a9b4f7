"""The heads of attention: where they are in a trace, and how they are removed.

The channels of a head are kept or removed together: its rows of the queries, keys and values, and the columns that read
it. Attention weights sum to 1, so a channel whose value is constant has this constant as its output.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from spl.export.compaction.channels import LayerChannels, ValueChannels
from spl.export.compaction.tracing import Traced
from spl.functional.self_attention import SelfAttention

_PARTS = 3
"""Queries, keys and values."""


@dataclass(frozen=True)
class MultiheadChannels:
    """The channels of an `nn.MultiheadAttention`.

    Attributes:
        node: the node that calls it.
        module: the module.
        in_proj: the layer of its queries, keys and values, which shares its parameters.
        out_proj: the layer behind its heads.
    """

    node: fx.Node
    module: nn.MultiheadAttention
    in_proj: LayerChannels
    out_proj: LayerChannels

    def replace_(self, traced: Traced) -> None:
        """Replace the module by one with fewer channels, if any were removed, in place."""
        wide, outwards = self.in_proj.module, self.out_proj.module
        assert isinstance(wide, nn.Linear)
        assert isinstance(outwards, nn.Linear)
        if wide.weight is self.module.in_proj_weight and outwards.out_features == self.module.embed_dim:
            return
        heads = outwards.in_features // self.module.head_dim
        smaller = SelfAttention(wide, outwards, heads, self.module.dropout, self.module.batch_first)
        traced.network.set_submodule(str(self.node.target), smaller.train(self.module.training))
        graph = traced.network.graph
        with graph.inserting_before(self.node):
            called = graph.call_module(str(self.node.target), (self.node.args[0],))
        for user in list(self.node.users):
            user.replace_all_uses_with(called)
            graph.erase_node(user)
        graph.erase_node(self.node)


@dataclass(frozen=True)
class SplitHeads:
    """The heads that a network itself splits the outputs of one layer into, and joins again after attention.

    Attributes:
        split: the node that makes [N, tokens, 3, heads, d] of [N, tokens, 3·heads·d].
        join: the node that makes [N, tokens, heads·d] of [N, tokens, heads, d].
        heads: the number of heads.
    """

    split: fx.Node
    join: fx.Node
    heads: int

    def shrink_(self, kept: Tensor) -> None:
        """Split into fewer heads; `kept` is a bool tensor [heads·d]."""
        size = len(kept) // self.heads
        self.split.args = (self.split.args[0], *_sizes(self.split)[:2], _PARTS, int(kept.sum()) // size, size)
        if self.join.target != "flatten":
            self.join.args = (self.join.args[0], *_sizes(self.join)[:2], int(kept.sum()))


def find_inner_layer(node: fx.Node, module: nn.Module | None, traced: Traced) -> nn.Linear | None:
    """Return the layer of the queries, keys and values of an `nn.MultiheadAttention`; None where it is not followed.

    It is followed if it is self-attention on a batch, without masks, and has one packed weight of its own.
    """
    if type(module) is not nn.MultiheadAttention or not isinstance(module.out_proj, nn.Linear):
        return None
    names = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask", "average_attn_weights")
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | node.kwargs
    masks = [given.get(name) for name in ("key_padding_mask", "attn_mask", "is_causal")]
    plain = (
        len(node.all_input_nodes) == 1
        and all(given.get(name) is node.args[0] for name in names[:_PARTS])
        and not any(masks)
        and all(user.target is operator.getitem and user.args[1] == 0 for user in node.users)
        and traced.values[node.all_input_nodes[0]].ndim == 3
        and module.bias_k is None
        and not module.add_zero_attn
        and {"in_proj_weight", "out_proj.weight"} <= dict(module.named_parameters()).keys()
    )
    if not plain:
        return None
    layer = nn.Linear(module.embed_dim, _PARTS * module.embed_dim, device="meta")
    layer.weight, layer.bias = module.in_proj_weight, module.in_proj_bias
    return layer


def find_split_heads(split: fx.Node, traced: Traced) -> SplitHeads | None:
    """Return the heads that are split at a node, or None where what follows is not the attention of these heads.

    Attention is a call of `F.scaled_dot_product_attention` without a mask, as in timm.
    """
    shape = _shape(traced.values[split])
    if split.op != "call_method" or split.target not in ("reshape", "view") or len(shape) != 5 or shape[2] != _PARTS:
        return None
    count, tokens, _, heads, size = shape
    if _shape(traced.values[split.all_input_nodes[0]]) != (count, tokens, _PARTS * heads * size):
        return None
    moved = _only_user(split)
    if moved is None or moved.target != "permute" or _sizes(moved) != [2, 0, 3, 1, 4]:
        return None
    product = _attention_of(_parts(moved), traced)
    swapped = None if product is None else _only_user(product)
    if swapped is None or swapped.target != "transpose" or [*swapped.args[1:]] not in ([1, 2], [2, 1]):
        return None
    join = _only_user(swapped)
    if join is None or join.op != "call_method" or join.target not in ("reshape", "view", "flatten"):
        return None
    joined = _shape(traced.values[join]) == (count, tokens, heads * size)
    return SplitHeads(split, join, heads) if joined else None


def attended(inner: ValueChannels) -> ValueChannels:
    """Return the channels after attention, from those of queries, keys and values."""
    return ValueChannels(inner.ids.chunk(_PARTS)[-1], inner.constants.chunk(_PARTS)[-1], inner.axis)


def _parts(moved: fx.Node) -> list[fx.Node]:
    """Return the queries, keys and values that are taken out of a value [3, N, heads, tokens, d]."""
    unbound = _only_user(moved)
    source = unbound if unbound is not None and unbound.target in ("unbind", torch.unbind) else moved
    if source is not moved and [*source.args[1:], *source.kwargs.values()] not in ([], [0]):
        return []
    taken = [(user.args[1], user) for user in source.users if user.target is operator.getitem]
    found = {place: user for place, user in taken if isinstance(place, int)}
    return [found[i] for i in range(_PARTS)] if found.keys() == {0, 1, 2} and len(source.users) == _PARTS else []


def _attention_of(parts: Sequence[fx.Node], traced: Traced) -> fx.Node | None:
    """Return the node of the attention that reads these queries, keys and values and nothing else."""
    read = [_normalized(part, traced, norms=part is not parts[-1]) for part in parts]
    product = _only_user(read[-1]) if read else None
    if product is None or product.target is not F.scaled_dot_product_attention or [*product.args[:3]] != read:
        return None
    # a mask may differ from head to head
    others = [*product.args[3:4], *(product.kwargs.get(name) for name in ("attn_mask", "enable_gqa"))]
    values = [traced.values[other] if isinstance(other, fx.Node) else other for other in others]
    alone = all(_only_user(node) is product for node in read)
    return product if alone and not any(value is not None and value is not False for value in values) else None


def _normalized(part: fx.Node, traced: Traced, norms: bool) -> fx.Node:
    """Return the value after what is done to each head alike: nothing, or with `norms` a normalization of each."""
    while (user := _only_user(part)) is not None:
        module = traced.module(user)
        norm = norms and isinstance(module, nn.LayerNorm | nn.RMSNorm) and len(module.normalized_shape) == 1
        if user not in traced.identities and not norm:
            break
        part = user
    return part


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _sizes(node: fx.Node) -> list[Any]:
    """Return the sizes or axes that a method is given, one by one or as one sequence."""
    given = node.args[1:]
    return [*given[0]] if len(given) == 1 and isinstance(given[0], list | tuple) else [*given]
