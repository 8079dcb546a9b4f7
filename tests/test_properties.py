"""Properties of every pruning, for any network, criterion, scope, pattern, schedule, sparsity and seed."""

import io
from collections import Counter
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spl.criteria import (
    FORCE,
    NTKSAP,
    PHEW,
    PX,
    SAO,
    ConnectionSensitivity,
    GraSP,
    IterativeSNIP,
    Magnitude,
    ProsPr,
    Random,
    RedrawnWeights,
    ShuffledInLayers,
    SynFlow,
)
from spl.criteria.schedules import Exponential, Linear, OneShot
from spl.errors import InputError
from spl.export import compact, restored
from spl.export.csr import CSRLinear
from spl.export.sparse_file import packed
from spl.files import serialized
from spl.initializers import HeNormal
from spl.masks.masked_weights import MaskedWeights
from spl.networks import MLP
from spl.pruning import keep_count, prunable_parameters, prune
from spl.pruning.patterns import NM, Blocks, Channels, Unstructured
from spl.pruning.scopes import ERK, GivenDensities, Global, SmartRatio, Uniform

CASES = 150  # for each network: 750 in total


class Residual(nn.Module):
    """A residual block with BatchNorm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.block = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        return self.head((x + self.block(x).relu()).mean((2, 3)))


class Tied(nn.Module):
    """Two layers that share a weight, and an embedding that is not pruned."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 3)
        self.second.weight = self.first.weight
        self.table = nn.Embedding(2, 4)

    def forward(self, x):
        return self.head(self.second(self.first(x).relu() + self.table.weight[0]).relu())


class Attention(nn.Module):
    """Attention with packed projections."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


NETWORKS = {
    "mlp": (lambda: MLP(depth=3, width=6, in_features=8, out_features=3, activation="relu"), (8,)),
    "convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 3)
        ),
        (1, 4, 4),
    ),
    "residual": (Residual, (1, 4, 4)),
    "tied": (Tied, (4,)),
    "attention": (Attention, (5, 4)),
}
CRITERIA = st.one_of(
    st.sampled_from([Magnitude(), PHEW(), SynFlow(), NTKSAP(draws=1), PX(), ConnectionSensitivity(), GraSP(), FORCE()]),
    st.builds(ProsPr, steps=st.integers(1, 3), momentum=st.sampled_from([0.0, 0.9]), first_order=st.booleans()),
    st.builds(Random, seed=st.integers(0, 2**31)),
    st.sampled_from([SAO(), IterativeSNIP(), ShuffledInLayers(Magnitude()), RedrawnWeights(Magnitude(), HeNormal())]),
)
SCOPES = st.one_of(
    st.sampled_from([Global(), Uniform(), ERK()]),
    st.builds(SmartRatio, st.floats(0.1, 1.0)),
    st.builds(lambda density: GivenDensities({"*weight": density}), st.floats(0.0, 1.0)),
)
PATTERNS = st.one_of(
    st.just(Unstructured()),
    st.sampled_from([NM(1, 4), NM(2, 4), Channels()]),
    st.builds(Blocks, st.integers(1, 5), st.integers(1, 5)),
)
CHOICES = st.fixed_dictionaries(
    {
        "criterion": CRITERIA,
        "sparsity": st.one_of(st.sampled_from([0.0, 0.5, 0.75, 0.9]), st.floats(0.0, 0.99)),
        "scope": SCOPES,
        "pattern": PATTERNS,
        "minimum": st.sampled_from([0, 0, 1, 3]),
        "schedule": st.sampled_from([OneShot(), Exponential(3), Linear(2)]),
        "targets": st.sampled_from(["labels", "uniform", "prediction_softmax"]),
        "batch_norm": st.sampled_from(["eval", "batch"]),
        "include_bias": st.booleans(),
    }
)


def made(kind, seed, training):
    """Return a network with gradients and BatchNorm statistics, and a batch for it."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed also formats a traceback for each kind of device
    make, shape = NETWORKS[kind]
    network, batch = make(), (torch.randn(6, *shape), torch.randint(3, (6,)))
    network.train(training)(batch[0]).sum().backward()
    return network, batch


def as_the_pattern_has_it(pattern, mask):
    """Return whether units are whole, or for n:m whether n of each m are kept."""
    matrix = mask.reshape(len(mask), -1)
    if isinstance(pattern, NM):
        groups = mask.movedim(1, -1).reshape(-1, pattern.m)
        return bool((groups.sum(1) == pattern.n).all())
    rows, columns = (1, matrix.shape[1]) if isinstance(pattern, Channels) else (pattern.rows, pattern.columns)
    blocks = [block for band in matrix.split(rows) for block in band.split(columns, 1)]
    return all(block.all() or not block.any() for block in blocks)


def check_numbers(masks, choices):
    """Check that exactly as many weights are kept as asked for, or as many whole units as fit."""
    keep = keep_count(masks.size, choices["sparsity"])
    pattern = choices["pattern"]
    if isinstance(pattern, Unstructured):
        assert masks.kept == keep
    else:
        largest = max(int(pattern.sizes(mask.shape).max()) for mask in masks.values())
        assert keep - largest < masks.kept <= keep
    if type(pattern) is not Unstructured:
        assert all(as_the_pattern_has_it(pattern, mask) for mask in masks.values())
    assert all(int(mask.sum()) >= min(choices["minimum"], mask.numel()) for mask in masks.values())
    if choices["sparsity"] == 0:
        assert all(bool(mask.all()) for mask in masks.values())


def check_weights(network, masks):
    """Check that pruned weights are 0.0 and others unchanged, also after a checkpoint and a sparse file."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    held = MaskedWeights(network)
    held.hold(masks)
    mask_of = {id(parameter): masks[name] for name, parameter in network.named_parameters() if name in masks}
    for name, tensor in network.state_dict(keep_vars=True).items():
        mask = mask_of.get(id(tensor), torch.ones(tensor.shape, dtype=torch.bool))
        assert torch.equal(tensor, before[name].where(mask, torch.zeros_like(tensor)))
    checkpoint = {"state_dict": network.state_dict()}
    held.save(checkpoint)
    loaded = torch.load(io.BytesIO(serialized(checkpoint)), weights_only=True)
    twin = deepcopy(network)
    again = MaskedWeights(twin)
    again.load(loaded)
    twin.load_state_dict(loaded["state_dict"])
    assert again.masks == masks
    assert masks.revived(dict(twin.named_parameters())) == {}
    state = restored(torch.load(io.BytesIO(serialized(packed(network.state_dict(), masks))), weights_only=True))
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", NETWORKS)
def test_masks_are_what_was_asked_for_and_nothing_else_changes(kind, snapshot):
    """Or an InputError says why the masks are impossible."""
    cases = Counter()

    @settings(max_examples=CASES)
    @given(choices=CHOICES, seed=st.integers(0, 2**31), training=st.booleans())
    def holds(choices, seed, training):
        network, batch = made(kind, seed, training)
        before = snapshot(network)
        try:
            masks = prune(network, batches=[batch], **choices)
        except InputError:
            cases["refused"] += 1
            assert snapshot(network) == before
            return
        cases["pruned"] += 1
        assert snapshot(network) == before
        assert masks.keys() == prunable_parameters(network, choices["include_bias"]).keys()
        check_numbers(masks, choices)
        assert prune(network, batches=[batch], **choices) == masks
        check_weights(network, masks)

    holds()
    assert cases.total() >= CASES
    assert cases["pruned"] >= CASES / 4, cases


def on_csr(network):
    """Return a copy with all Linear layers on CSR kernels, even where they are slower."""
    copied = deepcopy(network)
    for name, module in network.named_modules():
        if type(module) is nn.Linear:
            copied.set_submodule(name, CSRLinear(module))
    return copied


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["mlp", "residual"])
def test_networks_that_are_taken_away_compute_the_same(kind):
    cases = Counter()

    @settings(max_examples=60)
    @given(st.sampled_from([(Unstructured(), 0.99), (Channels(), 0.8)]), st.floats(0.0, 1.0), st.integers(0, 2**31))
    def holds(pattern_and_most, share, seed):
        network, (inputs, _) = made(kind, seed, training=True)
        pattern, most = pattern_and_most
        masks = prune(network, Random(seed), most * share, pattern=pattern)
        masks.apply_(dict(network.named_parameters()))
        cases["taken"] += 1
        with torch.no_grad():
            expected = network.eval()(inputs)
            for taken in (compact(network, masks, inputs).network, on_csr(network)):
                assert torch.allclose(taken(inputs), expected, atol=1e-5 * max(1.0, expected.abs().max()))

    holds()
    assert cases.total() >= 60
