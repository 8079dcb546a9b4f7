"""Coupled channels: what belongs together is found, pruned as one, and can be removed without a trace."""

from itertools import pairwise

import pytest
import pytorch_lightning as L
import torch
from fits import ZerosStay, classifier, fit, pruning
from torch import nn
from torchvision.models import DenseNet, GoogLeNet, MobileNetV2, ShuffleNetV2
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet
from trained import as_trained_, regnet_y

from spl.criteria import ConnectionSensitivity, Magnitude, Random, SynFlow
from spl.criteria.schedules import Exponential
from spl.errors import InputError
from spl.export import compact
from spl.export.compaction.partial_sums import PartialSum
from spl.masks import Masks
from spl.networks import ResNet
from spl.pruning import prune
from spl.pruning.coupled_rule import CoupledRule
from spl.pruning.coupling import STAYS, find_coupling
from spl.pruning.patterns import Channels
from spl.pruning.scopes import ERK, Global, Uniform

COUPLED = Channels(coupled=True)


def weights_of(network):
    return {name: p for name, p in network.named_parameters() if p.ndim > 1}


class Block(nn.Module):
    """A residual block whose stream has a gate and a depthwise convolution, and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.inner = nn.Conv2d(4, 6, 1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.outer = nn.Conv2d(6, 4, 1)
        self.gate = nn.Linear(4, 4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.outer(self.depthwise(self.inner(x).relu()))
        x = x.mean((2, 3))
        return self.fc(x * self.gate(x).sigmoid())


def test_what_is_added_gated_or_convolved_by_channel_belongs_together():
    network = Block()
    coupling = find_coupling(network, torch.randn(2, 3, 6, 6), weights_of(network))
    stream, inner = coupling.groups["stem.weight"], coupling.groups["inner.weight"]
    assert coupling.groups.keys() == {"stem.weight", "inner.weight"}
    assert (len(stream), len(inner), coupling.count) == (4, 6, 10)
    for side, expected in (
        (coupling.rows, {"stem": stream, "outer": stream, "gate": stream, "inner": inner, "depthwise": inner}),
        (coupling.columns, {"inner": stream, "gate": stream, "fc": stream, "outer": inner}),
    ):
        for name, channels in expected.items():
            assert torch.equal(side[f"{name}.weight"], channels), name
    assert (coupling.rows["fc.weight"] == STAYS).all()
    assert torch.equal(coupling.vectors["depthwise.bias"], inner)
    assert "fc.bias" not in coupling.vectors


def test_weights_of_0_hide_nothing_and_the_network_stays_as_it_was(snapshot):
    network, example = Block(), torch.randn(2, 3, 6, 6)
    nn.init.zeros_(network.outer.weight)
    before = snapshot(network)
    coupling = find_coupling(network, example, weights_of(network))
    assert snapshot(network) == before
    assert coupling.groups.keys() == {"stem.weight", "inner.weight"}


def test_a_weight_that_stays_dense_keeps_its_channels():
    network = Block()
    weights = weights_of(network)
    del weights["gate.weight"]
    coupling = find_coupling(network, torch.randn(2, 3, 6, 6), weights)
    assert coupling.groups.keys() == {"inner.weight"}
    assert (coupling.rows["stem.weight"] == STAYS).all()


def rule_of(network, example, scope=Global()):
    weights = weights_of(network)
    shapes = {name: tuple(p.shape) for name, p in weights.items()}
    return CoupledRule(scope, find_coupling(network, example, weights)), shapes


def test_the_score_of_a_channel_is_the_mean_over_all_weights_that_write_or_read_it():
    network = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 4, bias=False))
    rule, _ = rule_of(network, torch.randn(1, 2))
    scores = {"0.weight": torch.tensor([[1.0, 2.0], [0.0, 0.0], [5.0, 5.0]]), "2.weight": torch.arange(12.0).view(4, 3)}
    expected = [(3 + 0 + 3 + 6 + 9) / 6, (0 + 1 + 4 + 7 + 10) / 6, (10 + 2 + 5 + 8 + 11) / 6]
    assert rule.pooled(scores)["0.weight"].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("scope", [Global(), Uniform(), ERK()])
def test_the_number_is_met_from_below_and_missed_by_less_than_the_next_channel(scope):
    network = Block()
    rule, shapes = rule_of(network, torch.randn(2, 3, 6, 6), scope)
    scores = rule.pooled({name: torch.rand(shape) for name, shape in shapes.items()})
    size = sum(p.numel() for p in weights_of(network).values())
    found = []
    for keep in range(size // 5, size + 1):
        masks = rule.masks(scores, shapes, keep)
        kept = sum(int(masks[name].sum()) for name in shapes)
        assert kept <= keep
        found.append((kept, masks))
        assert all(bool(mask.any()) for mask in masks.values())
    for (fewer, small), (more, large) in pairwise(found):
        assert fewer <= more
        assert all(bool((large[name] | ~small[name]).all()) for name in small), "masks are nested"
    sizes = sorted({kept for kept, _ in found})
    assert len(sizes) >= 7, "a step is one channel"
    assert sizes[-1] == size
    for kept, masks in found:
        assert kept == max(s for s in sizes if s <= kept)
        for name in shapes:
            mask = masks[name].flatten(2).any(2) if masks[name].ndim > 2 else masks[name]
            assert torch.equal(mask, mask.any(1)[:, None] & mask.any(0))


NETWORKS = {
    "ResNet": lambda: TorchvisionResNet(BasicBlock, [1, 1, 1, 1], num_classes=5, norm_layer=None),
    "ResNeXt": lambda: TorchvisionResNet(Bottleneck, [1, 1, 1, 1], num_classes=5, groups=4, width_per_group=8),
    "MobileNetV2": lambda: MobileNetV2(num_classes=5, width_mult=0.25),
    "EfficientNet": lambda: EfficientNet(
        [MBConvConfig(1, 3, 1, 8, 8, 1, 1, 1), MBConvConfig(4, 3, 2, 8, 16, 2, 1, 1)], dropout=0.1, num_classes=5
    ),
    "ConvNeXt": lambda: ConvNeXt(
        [CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 1)],
        layer_scale=0.5,
        stochastic_depth_prob=0.1,
        num_classes=5,
    ),
    "RegNet-Y": regnet_y,
    "DenseNet": lambda: DenseNet(8, (2, 2), 16, num_classes=5),
    "ShuffleNetV2": lambda: ShuffleNetV2([1, 1, 1], [8, 16, 32, 64, 32], num_classes=5),
    "ours": lambda: ResNet(1),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_compact_network_computes_the_same_with_half_of_all_channels(kind):
    network, example = as_trained_(NETWORKS[kind]()), torch.randn(2, 3, 32, 32)
    masks = prune(network, Random(0), 0.75, [(example, torch.zeros(2).long())], pattern=COUPLED, scope=Uniform())
    masks.apply_(dict(network.named_parameters()))
    pruned = [name for name, mask in masks.items() if mask.ndim > 1]
    for name in pruned:  # training compensates for pruned weights
        network.get_parameter(name).data *= 3
    result = compact(network, masks, example)
    inputs = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = network(inputs)
        assert (result.network(inputs) - expected).abs().max() < 1e-4 * expected.abs().max()
        assert (expected - expected[0]).abs().max() > 1e-3 * expected.abs().max(), "outputs must depend on inputs"
    partial = [module for module in result.network.modules() if isinstance(module, PartialSum)]
    assert bool(partial) == (kind == "ours")  # its shortcuts are padded with zeros
    assert result.report.after.macs < 0.45 * result.report.before.macs
    if kind != "ShuffleNetV2":  # its shuffles are not followed
        left = dict(result.network.named_parameters())
        assert sum(left[name].numel() for name in pruned) == sum(int(masks[name].sum()) for name in pruned)


def test_rounds_score_what_is_left_and_fit_keeps_all_of_a_pruned_channel_at_0(tmp_path):
    check = ZerosStay(state_too=False)
    callback = pruning(sparsity=0.8, criterion=SynFlow(), schedule=Exponential(3), pattern=COUPLED)
    model = classifier(ResNet(1, in_channels=1, width_multiplier=0.5), initializer=None)
    fit(model, [callback, check], limit_train_batches=3).save_checkpoint(tmp_path / "x.ckpt")
    assert check.steps == 3
    network, masks = model.network, callback.masks
    assert isinstance(masks, Masks)
    vectors = [name for name, mask in masks.items() if mask.ndim == 1]
    assert {*vectors} == {name for name, p in network.named_parameters() if p.ndim == 1} - {"fc.bias"}
    assert any(not bool(masks[name].all()) for name in vectors)
    assert not any(network.get_parameter(name)[~masks[name]].any() for name in vectors)
    again = classifier(ResNet(1, in_channels=1, width_multiplier=0.5), initializer=None)
    resumed = pruning(sparsity=0.8, criterion=SynFlow(), schedule=Exponential(3), pattern=COUPLED)
    fit(again, [resumed], ckpt_path=tmp_path / "x.ckpt", max_epochs=2, limit_train_batches=3)
    assert resumed.masks == masks
    taken = classifier(network, initializer=None)
    found = pruning(sparsity=0.8, pattern=COUPLED)
    fit(taken, [found], limit_train_batches=1)
    assert all(torch.equal(found.masks[name], masks[name]) for name in found.masks)


def test_the_mask_of_a_network_that_is_pruned_by_its_loss_counts_every_group():
    network, example = Block(), torch.randn(8, 3, 6, 6)
    batches = [(example, torch.arange(8) % 2)]
    masks = prune(network, ConnectionSensitivity(), 0.6, batches, pattern=COUPLED)
    kept = sum(int(masks[name].sum()) for name in weights_of(network))
    assert 0.2 * sum(p.numel() for p in weights_of(network).values()) < kept
    assert kept <= 0.4 * sum(p.numel() for p in weights_of(network).values()) + 1


def test_inputs_may_come_from_the_network():
    network = Block()
    network.example_input_array = torch.randn(1, 3, 6, 6)
    masks = prune(network, Magnitude(), 0.5, pattern=COUPLED)
    assert masks["stem.weight"].flatten(1).any(1).equal(masks["outer.weight"].flatten(1).any(1))


IMAGES = [torch.randn(1, 3, 6, 6)]


class Branching(Block):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


@pytest.mark.parametrize(
    ("network", "batches", "choices", "said"),
    [
        (Block(), None, {}, r"traces the network for one batch of inputs, and got none: pass batches as a list"),
        (Block(), IMAGES, {"minimum": 2}, "minimum=2 counts weights of single layers.*Leave minimum out"),
        (Branching(), IMAGES, {}, "torch.fx cannot trace Branching.*no branches that depend on values"),
        (Block(), IMAGES, {"sparsity": 0.99}, r"one coupled channel of each group keeps \d+: ask for a sparsity of at"),
    ],
)
def test_what_cannot_be_coupled_is_refused_with_the_remedy(network, batches, choices, said):
    with pytest.raises(InputError, match=said):
        prune(network, Magnitude(), **({"sparsity": 0.5} | choices), batches=batches, pattern=COUPLED)


def test_googlenet_concatenates():
    network = as_trained_(GoogLeNet(num_classes=5, aux_logits=False, init_weights=False))
    coupling = find_coupling(network, torch.randn(1, 3, 64, 64), weights_of(network))
    columns = coupling.columns["inception3b.branch1.conv.weight"]
    branches = [coupling.rows[f"inception3a.branch{i}.conv.weight"] for i in ("1", "2.1", "3.1", "4.1")]
    assert torch.equal(columns, torch.cat(branches))


def test_a_module_without_a_forward_is_told_to_have_one():
    class Steps(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))

    with pytest.raises(InputError, match="Steps has no forward that takes its input: give it one"):
        prune(Steps(), Magnitude(), 0.5, [torch.randn(1, 1, 8, 8)], pattern=Channels(coupled=True))
