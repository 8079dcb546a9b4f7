"""Heads of attention: each is pruned as one, and removed as a whole."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from fits import ZerosStay, classifier, fit, pruning
from onnx_files import infer
from torch import nn
from torchvision.models import VisionTransformer

from spl.criteria import Magnitude, Random, SynFlow
from spl.export import compact, program, save_onnx
from spl.export.cost import weight_macs
from spl.functional.self_attention import SelfAttention
from spl.masks import Masks
from spl.pruning import prune
from spl.pruning.coupled_rule import CoupledRule
from spl.pruning.coupling import find_coupling
from spl.pruning.patterns import Channels
from spl.pruning.scopes import ERK, Global, Uniform

COUPLED = Channels(coupled=True)
WIDTH, HEADS, SIZE = 16, 4, 4


class Multihead(nn.Module):
    """The attention of torch."""

    def __init__(self, need_weights=False, **options):
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, **({"batch_first": True} | options))
        self.need_weights = need_weights

    def forward(self, x):
        x = x if self.inner.batch_first else x.transpose(0, 1)
        outputs, _ = self.inner(x, x, value=x, need_weights=self.need_weights)
        return outputs if self.inner.batch_first else outputs.transpose(0, 1)


class Split(nn.Module):
    """Attention that splits the outputs of one layer into heads, as in timm."""

    def __init__(self, norm=nn.Identity, unbind=True, flatten=False, causal=False):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.q_norm, self.k_norm = norm(SIZE), norm(SIZE)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.unbind, self.flatten, self.causal = unbind, flatten, causal

    def forward(self, x):
        n, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0) if self.unbind else (qkv[0], qkv[1], qkv[2])
        x = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, is_causal=self.causal).transpose(1, 2)
        return self.proj(x.flatten(2) if self.flatten else x.reshape(n, tokens, WIDTH))


class Transformer(nn.Module):
    """A transformer of one block, whose tokens are the rows of images of 28×28."""

    def __init__(self, attention=None):
        super().__init__()
        self.embed = nn.Linear(28, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = attention or Multihead()
        self.up, self.down = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x):
        x = self.embed(x.reshape(-1, 28, 28))
        x = x + self.attention(self.norm1(x))
        return self.head((x + self.down(F.gelu(self.up(self.norm2(x))))).mean(1))


def drawn_(network):
    """Draw all parameters, so that biases, and with them dead channels, are not 0."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3)
    return network.eval()


def weights_of(network):
    return {name: p for name, p in network.named_parameters() if p.ndim > 1}


def names(network):
    """Return the names of the weights into and out of the heads."""
    inwards, outwards = ("in_proj_weight", "k_proj_weight", "qkv.weight"), ("out_proj.weight", "proj.weight")
    weights = [name for name in weights_of(network) if "att" in name]
    return next(n for n in weights if n.endswith(inwards)), next(n for n in weights if n.endswith(outwards))


def heads_of(mask):
    """Return a bool tensor [parts, heads, d, in] of the mask of queries, keys and values."""
    return mask.view(3, HEADS, SIZE, -1)


def assert_equal_outputs(network, masks, example):
    """Return the compact network, and assert that it computes what the masked one does, for any number of examples."""
    result = compact(network, masks, example)
    masks.apply_(dict(network.named_parameters()))
    inputs = torch.randn(5, *example.shape[1:])
    with torch.no_grad():
        expected = network(inputs)
        assert (result.network(inputs) - expected).abs().max() < 1e-4 * expected.abs().max()
        assert (expected - expected[0]).abs().max() > 1e-2 * expected.abs().max(), "outputs must depend on inputs"
    return result


ATTENTIONS = {
    "torch": lambda: Multihead(),
    "torch, with weights": lambda: Multihead(need_weights=True),
    "torch, without biases": lambda: Multihead(bias=False),
    "torch, batch second": lambda: Multihead(batch_first=False),
    "split": lambda: Split(),
    "split, normalized": lambda: Split(norm=nn.LayerNorm),
    "split, causal": lambda: Split(causal=True),
    "split by numbers": lambda: Split(unbind=False, flatten=True),
}


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_whole_heads_go_and_outputs_stay(kind):
    network, example = drawn_(Transformer(ATTENTIONS[kind]())), torch.randn(2, 28, 28)
    inwards, outwards = names(network)
    masks = prune(network, Random(0), 0.75, [(example, torch.zeros(2).long())], pattern=COUPLED, scope=Uniform())
    alive = heads_of(masks[inwards]).flatten(2).any(2)
    assert torch.equal(alive, alive[:1].expand(3, -1)), "queries, keys and values of a head go together"
    assert torch.equal(masks[outwards].any(0), alive[0].repeat_interleave(SIZE))
    assert 0 < int(alive[0].sum()) < HEADS
    biases = [name for name in masks if name.endswith(("in_proj_bias", "qkv.bias"))]
    assert all(torch.equal(masks[name], masks[inwards].any(1)) for name in biases)
    assert bool(biases) == (kind != "torch, without biases")
    left = dict(assert_equal_outputs(network, masks, example).network.named_parameters())
    assert left[inwards].shape[0] == 3 * SIZE * int(alive[0].sum())
    for name in weights_of(network):
        assert left[name].numel() == int(masks[name].sum()), name


@pytest.mark.parametrize("coupled", [True, False])
def test_vision_transformers_become_smaller(coupled):
    timm = pytest.importorskip("timm")
    sizes = {"depth": 2, "embed_dim": WIDTH, "num_heads": HEADS, "img_size": 16, "patch_size": 8, "num_classes": 5}
    for network in (
        VisionTransformer(16, 8, 2, HEADS, WIDTH, 24, num_classes=5),
        timm.models.VisionTransformer(**sizes),
    ):
        drawn_(network)
        example = torch.randn(2, 3, 16, 16)
        batches = [(example, torch.zeros(2).long())]
        masks = prune(network, Random(0), 0.6, batches, pattern=Channels(coupled), scope=Uniform())
        result = assert_equal_outputs(network, masks, example)
        inwards, outwards = names(network)
        rows = len(result.network.get_parameter(inwards))
        assert result.network.get_parameter(outwards).shape == (WIDTH, rows // 3)
        if coupled:
            assert rows == int(masks[inwards].any(1).sum())
            assert result.report.after.macs < 0.7 * result.report.before.macs


def test_a_head_is_one_channel():
    network = Transformer()
    inwards, outwards = names(network)
    coupling = find_coupling(network, torch.randn(2, 28, 28), weights_of(network))
    heads = coupling.groups[inwards]
    assert len(heads) == HEADS
    assert torch.equal(coupling.rows[inwards], heads.repeat_interleave(SIZE).repeat(3))
    assert torch.equal(coupling.columns[outwards], heads.repeat_interleave(SIZE))
    assert torch.equal(coupling.vectors["attention.inner.in_proj_bias"], coupling.rows[inwards])
    stream = coupling.groups["embed.weight"]
    assert torch.equal(coupling.columns[inwards], stream)
    assert torch.equal(coupling.rows[outwards], stream)
    assert coupling.groups.keys() == {"embed.weight", inwards, "up.weight"}


def test_the_score_of_a_head_is_the_mean_over_its_weights():
    network = Transformer()
    inwards, outwards = names(network)
    rule = CoupledRule(Global(), find_coupling(network, torch.randn(2, 28, 28), weights_of(network)))
    scores = {name: torch.rand(p.shape) for name, p in weights_of(network).items()}
    read = scores[outwards].view(WIDTH, HEADS, SIZE)
    expected = [
        torch.cat([heads_of(scores[inwards])[:, head].flatten(), read[:, head].flatten()]).mean().item()
        for head in range(HEADS)
    ]
    assert rule.pooled(scores)[inwards].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("scope", [Global(), Uniform(), ERK()])
def test_the_number_is_met_from_below_and_missed_by_less_than_the_next_head_or_channel(scope):
    network = Transformer(Split())
    weights = weights_of(network)
    shapes = {name: tuple(p.shape) for name, p in weights.items()}
    rule = CoupledRule(scope, find_coupling(network, torch.randn(2, 28, 28), weights))
    scores = rule.pooled({name: torch.rand(shape) for name, shape in shapes.items()})
    size = sum(p.numel() for p in weights.values())
    found = []
    for keep in range(size // 4, size + 1, 11):
        masks = rule.masks(scores, shapes, keep)
        found.append(sum(int(masks[name].sum()) for name in shapes))
        assert found[-1] <= keep
    assert all(fewer <= more for fewer, more in pairwise(found))
    steps = sorted(set(found))
    whole = SIZE * 4 * WIDTH  # of a head, in a stream that is not pruned
    assert max(b - a for a, b in pairwise(steps)) <= whole
    assert len(steps) > 20


class Unfollowed(nn.Module):
    """A use of `nn.MultiheadAttention` in which heads are not followed."""

    def __init__(self, kind):
        super().__init__()
        options = {"bias_kv": {"add_bias_kv": True}, "sizes": {"kdim": WIDTH, "vdim": 8}}.get(kind, {})
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)
        self.other = nn.Linear(WIDTH, 8 if kind == "sizes" else WIDTH) if kind in ("sizes", "cross") else None
        self.kind = kind

    def forward(self, x):
        if self.kind == "cross":
            return self.inner(x, self.other(x), self.other(x))[0]
        if self.kind == "sizes":
            return self.inner(x, x, self.other(x))[0]
        if self.kind == "mask":
            mask = torch.ones(28, 28, dtype=torch.bool).triu(1)
            return self.inner(x, x, x, attn_mask=mask, need_weights=False)[0]
        outputs, weights = self.inner(x, x, x)
        return outputs + weights.mean() if self.kind == "weights" else outputs


class Between(Split):
    """Attention with an operation on the values, such as one that mixes heads, or that takes its parts as slices."""

    def __init__(self, operation=None):
        super().__init__()
        self.operation = operation

    def forward(self, x):
        n, tokens, width = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0) if self.operation else (qkv[0:1][0], qkv[1:2][0], qkv[2])
        x = F.scaled_dot_product_attention(q, k, self.operation(v) if self.operation else v)
        return self.proj(x.transpose(1, 2).reshape(n, tokens, width))


@pytest.mark.parametrize("kind", ["cross", "sizes", "mask", "weights", "bias_kv", "mixed", "normalized", "sliced"])
def test_what_is_not_followed_stays(kind):
    operations = {"mixed": lambda v: v.flip(1), "normalized": nn.LayerNorm(SIZE), "sliced": None}
    network = drawn_(Transformer(Between(operations[kind]) if kind in operations else Unfollowed(kind)))
    example = torch.randn(2, 28, 28)
    before = {name: p.shape for name, p in network.named_parameters() if "in_proj" in name or "qkv" in name}
    _, outwards = names(network)
    masks = prune(network, Random(0), 0.5, [(example, torch.zeros(2).long())], pattern=COUPLED, scope=Uniform())
    result = assert_equal_outputs(network, masks, example)
    for name, shape in before.items():
        assert result.network.get_parameter(name).shape[0] == shape[0]
    assert result.network.get_parameter(outwards).shape[1] == WIDTH
    assert result.report.after.macs < result.report.before.macs


def without(network, **pruned):
    """Return masks that prune the given heads of the queries, keys and values, or the given columns behind them."""
    inwards, outwards = names(network)
    masks = {name: torch.ones_like(network.get_parameter(name), dtype=torch.bool) for name in (inwards, outwards)}
    for part in pruned.get("parts", range(3)):
        heads_of(masks[inwards])[part, pruned.get("heads", [])] = False
    masks[outwards][:, pruned.get("columns", [])] = False
    return Masks(masks)


@pytest.mark.parametrize("attention", [Multihead, Split])
def test_a_head_goes_if_it_is_constant_or_nothing_reads_it(attention):
    example = torch.randn(2, 28, 28)
    network = drawn_(Transformer(attention()))
    inwards, outwards = names(network)
    for masks, left in (
        (without(network, heads=[1], parts=[2]), 3),  # its values are their biases, which go on to the next bias
        (without(network, heads=[1, 2]), 2),
        (without(network, columns=[4, 5, 6, 7]), 3),
        (without(network, columns=[4, 5, 6]), 4),
        (without(network, heads=[1], parts=[0, 1]), 4),  # it averages all tokens
    ):
        again = drawn_(Transformer(attention()))
        result = assert_equal_outputs(again, masks, example)
        assert len(result.network.get_parameter(inwards)) == 3 * SIZE * left
        assert result.network.get_parameter(outwards).shape == (WIDTH, SIZE * left)


def test_the_report_names_the_attention_and_what_is_left_of_it():
    network, example = drawn_(Transformer()), torch.randn(2, 28, 28)
    result = compact(network, without(network, heads=[1, 3]), example)
    layers = {layer.name: layer for layer in result.report.layers}
    inner = layers["attention.inner"]
    assert (inner.before.macs, inner.after.macs) == (28 * 3 * WIDTH * WIDTH, 28 * 3 * WIDTH * WIDTH // 2)
    assert layers["attention.inner.out_proj"].after.macs == 28 * WIDTH * WIDTH // 2
    assert isinstance(result.network.get_submodule("attention.inner"), SelfAttention)
    assert weight_macs(result.network, example)["attention.inner.in_proj_weight"] == inner.after.macs
    one = without(network, columns=range(4, 8))
    one["attention.inner.in_proj_weight"][0] = False
    network.get_parameter("attention.inner.in_proj_weight").data[0] = 0
    whys = {layer.name: layer.why for layer in compact(network, one, example).report.layers}
    assert whys["attention.inner"] == "1 dead: belongs to a head that stays"


def test_a_compact_network_can_be_pruned_again():
    network, example = drawn_(Transformer()), torch.randn(2, 28, 28)
    smaller = compact(network, without(network, heads=[1, 3]), example).network
    for parameter in smaller.parameters():
        parameter.requires_grad_()
    masks = prune(smaller, Magnitude(), 0.5, [(example, torch.zeros(2).long())], pattern=COUPLED, scope=Uniform())
    assert int(masks["attention.inner.in_proj_weight"].any(1).sum()) < 2 * 3 * SIZE


def test_fit_keeps_all_of_a_pruned_head_at_0():
    check = ZerosStay(state_too=False)
    callback = pruning(sparsity=0.7, criterion=SynFlow(), pattern=COUPLED, scope=Uniform())
    model = classifier(Transformer(), initializer=None)
    fit(model, [callback, check], limit_train_batches=3)
    assert check.steps == 3
    network, masks = model.network, callback.masks
    inwards, _ = names(network)
    dead = ~heads_of(masks[inwards])[0].flatten(1).any(1)
    assert 0 < int(dead.sum()) < HEADS
    for name in (inwards, "attention.inner.in_proj_bias"):
        own = network.get_parameter(name).detach()
        assert not own.view(3, HEADS, -1)[:, dead].any()
        assert own.view(3, HEADS, -1)[:, ~dead].any()
    assert_equal_outputs(network.eval(), masks, torch.randn(2, 1, 28, 28))


@pytest.mark.parametrize("attention", [Multihead, Split])
def test_files_of_the_compact_network_compute_the_same(attention, tmp_path):
    network, example = drawn_(Transformer(attention())), torch.randn(2, 28, 28)
    smaller = compact(network, without(network, heads=[1, 3]), example).network
    inputs = torch.randn(3, 28, 28)
    with torch.no_grad():
        expected = smaller(inputs)
    program.save_program(tmp_path / "n.pt2", smaller, example)
    loaded = torch.export.load(tmp_path / "n.pt2").module()
    assert torch.allclose(loaded(inputs), expected, atol=1e-5)
    pytest.importorskip("onnxruntime")
    save_onnx(tmp_path / "n.onnx", smaller, example)
    assert torch.allclose(infer(tmp_path / "n.onnx", inputs), expected, atol=1e-4)
