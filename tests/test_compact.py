"""Compact networks: they are smaller and compute the same outputs."""

import copy
import pickle
from collections import OrderedDict
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.models import resnet18

from spl.criteria import Random
from spl.diagnosis.paths import find_paths
from spl.errors import InputError
from spl.export import compact
from spl.export.compaction.partial_sums import PartialSum
from spl.masks.masks import Masks
from spl.networks import MLP, VGG16, LeNet300, ResNet, WideResNet
from spl.pruning import prune
from spl.pruning.patterns import Channels


def chain(**layers):
    return nn.Sequential(OrderedDict(layers))


def without(network, **rows):
    """Return masks that prune the given rows of layers. In the names of layers, __ stands for a dot."""
    masks = {}
    for name, dead in rows.items():
        weight = network.get_parameter(f"{name.replace('__', '.')}.weight")
        masks[f"{name.replace('__', '.')}.weight"] = torch.ones(weight.shape, dtype=torch.bool)
        masks[f"{name.replace('__', '.')}.weight"][dead] = False
    return Masks(masks)


def lively(network, *shape):
    """Draw biases and BatchNorm's parameters and statistics at random, so that dead channels have nonzero outputs."""
    for module in network.modules():
        if getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias)
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(8, *shape))
    return network.eval()


def assert_equal_outputs(network, masks, *shape, others=()):
    """Compare the network with its compact form on examples of this and of other shapes; return the result."""
    result = compact(network, masks, torch.randn(3, *shape))
    masks.apply_(dict(network.named_parameters()))
    for other in (shape, *others):
        inputs = torch.randn(5, *other)
        with torch.no_grad():
            assert torch.allclose(result.network(inputs), network(inputs), atol=1e-5)
    return result


def sizes(network):
    return {name: tuple(p.shape) for name, p in network.named_parameters()}


def reasons(result):
    return {layer.name: layer.why for layer in result.report.layers}


# Fully connected


def test_a_unit_that_reads_nothing_moves_into_the_next_bias_and_one_that_nothing_reads_goes():
    network = chain(fc1=nn.Linear(2, 3), act=nn.ReLU(), fc2=nn.Linear(3, 1))
    network.fc1.weight.data = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]])
    network.fc1.bias.data = torch.tensor([0.5, 6.0, 7.0])
    network.fc2.weight.data = torch.tensor([[10.0, 20.0, 0.0]])
    network.fc2.bias.data = torch.tensor([1.0])
    masks = Masks({"fc1.weight": network.fc1.weight != 0, "fc2.weight": network.fc2.weight != 0})
    result = compact(network, masks, torch.randn(4, 2))
    smaller = result.network
    assert smaller.fc1.weight.tolist() == [[1.0, 2.0]]
    assert smaller.fc1.bias.tolist() == [6.0]
    assert smaller.fc2.weight.tolist() == [[20.0]]
    assert smaller.fc2.bias.tolist() == [6.0]  # 1 + 10 · relu(0.5)
    assert (smaller.fc1.out_features, smaller.fc2.in_features) == (1, 1)
    report = result.report
    assert (report.before.parameters, report.after.parameters) == (13, 5)
    assert (report.before.macs, report.after.macs) == (9, 3)
    assert (report.before.bytes, report.after.bytes) == (52, 20)
    assert report.difference == 0.0
    assert "13 → 5" in report.table()


@given(
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    activation=st.sampled_from([nn.ReLU, nn.Tanh, nn.Identity, nn.SELU, nn.Sigmoid]),
    density=st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0]),
    bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_what_stays_of_an_mlp_are_the_units_on_paths(widths, activation, density, bias, seed):
    torch.manual_seed(seed)
    layers = OrderedDict()
    for i, (a, b) in enumerate(pairwise(widths), start=1):
        layers[f"fc{i}"] = nn.Linear(a, b, bias=bias)
        layers[f"act{i}"] = activation()
    network = nn.Sequential(layers)
    masks = Masks({n: torch.rand(p.shape) < density for n, p in network.named_parameters() if p.ndim == 2})
    result = assert_equal_outputs(network, masks, widths[0])
    on_paths = find_paths(network, masks, torch.ones(1, widths[0])).weights
    for name in list(masks)[:-1]:
        units = int(on_paths[name].any(1).sum())
        assert result.network.get_parameter(name).shape[0] == max(units, 1), name


def test_layers_without_biases_get_one_where_constants_need_it():
    network = chain(fc1=nn.Linear(2, 2, bias=False), act=nn.Sigmoid(), fc2=nn.Linear(2, 3, bias=False))
    result = assert_equal_outputs(network, without(network, fc1=[0]), 2)
    assert torch.allclose(result.network.fc2.bias, network.fc2.weight[:, 0] / 2)  # sigmoid(0)


def test_a_dense_network_stays_bit_for_bit():
    network = MLP(depth=3, width=5, in_features=4)
    masks = Masks({n: torch.ones(p.shape, dtype=torch.bool) for n, p in network.named_parameters()})
    result = compact(network, masks, torch.randn(2, 4))
    state = result.network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    assert list(state) == list(network.state_dict())
    assert result.report.before == result.report.after
    assert set(reasons(result).values()) == {"no unit is dead"}


def test_the_network_is_left_as_it_was(snapshot):
    network = lively(VGG16(width_multiplier=0.05), 3, 32, 32).train()
    masks = prune(network, Random(), sparsity=0.9)
    inputs = torch.randn(2, 3, 32, 32)
    before = snapshot(network)
    smaller = compact(network, masks, inputs).network
    assert snapshot(network) == before
    assert not smaller.training


def test_a_collapsed_network_stays_a_constant():
    network = LeNet300(in_features=6)
    masks = Masks({n: torch.zeros(p.shape, dtype=torch.bool) for n, p in network.named_parameters() if p.ndim == 2})
    result = assert_equal_outputs(network, masks, 6)
    assert sizes(result.network)["fc2.weight"] == (1, 1)
    assert "a layer must keep one" in reasons(result)["fc2"]
    assert reasons(result)["fc3"] == "10 dead: the network's outputs"


# Convolutional


@pytest.mark.parametrize("sparsity", [0.3, 0.7])
@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (VGG16(width_multiplier=0.1), (3, 32, 32)),
        (ResNet(2, width_multiplier=0.5), (3, 16, 16)),
        (WideResNet(1, width_multiplier=0.5), (3, 16, 16)),
        (resnet18(num_classes=5), (3, 32, 32)),
    ],
    ids=["VGG16", "ResNet", "WideResNet", "ResNet-18"],
)
def test_networks_without_channels_compute_the_same(network, shape, sparsity):
    lively(network, *shape)
    masks = prune(network, Random(), sparsity=sparsity, pattern=Channels(), exclude=["fc*.*"])
    result = assert_equal_outputs(network, masks, *shape, others=[(3, shape[1] + 5, shape[2])])
    report = result.report
    assert report.after.parameters == sum(p.numel() for p in result.network.parameters())
    assert report.after.macs < (1 - sparsity) ** 0.5 * report.before.macs
    assert report.difference < 1e-5


def test_of_vgg_all_dead_channels_go_but_one_a_layer():
    network = lively(VGG16(width_multiplier=0.1), 3, 32, 32)
    masks = prune(network, Random(), sparsity=0.6, pattern=Channels(), exclude=["fc3.*"])
    result = assert_equal_outputs(network, masks, 3, 32, 32)
    for layer in result.report.layers[:-1]:
        alive = int(masks[f"{layer.name}.weight"].flatten(1).any(1).sum())
        assert 0 <= sizes(result.network)[f"{layer.name}.weight"][0] - alive <= 1, layer


def test_constants_at_a_border_of_zeros_are_carried_by_the_largest():
    network = chain(conv1=nn.Conv2d(1, 4, 3), conv2=nn.Conv2d(4, 2, 3, padding=1))
    masks = without(network, conv1=[0, 1, 3])
    network.conv1.bias.data = torch.tensor([1.0, -4.0, 1.0, 2.0])
    result = assert_equal_outputs(network, masks, 1, 7, 7)
    kernel, carried = network.conv2.weight, result.network.conv2.weight
    assert result.network.conv1.bias.tolist() == [-4.0, 1.0]
    assert torch.allclose(carried[:, 0], kernel[:, 1] - kernel[:, 0] / 4 - kernel[:, 3] / 2)
    assert torch.equal(carried[:, 1], kernel[:, 2])
    assert reasons(result)["conv1"] == "1 dead: carries constants to conv2, which pads with zeros"


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 2, 3),
        nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 2, 1, padding="same"),
        nn.Conv2d(4, 2, 3, padding="valid", dilation=2),
    ],
)
def test_without_zeros_at_the_border_constants_move_into_the_bias(convolution):
    network = chain(conv1=nn.Conv2d(1, 4, 3), conv2=convolution)
    result = assert_equal_outputs(network, without(network, conv1=[0, 1, 3]), 1, 9, 9)
    assert sizes(result.network)["conv2.weight"][:2] == (2, 1)


def test_what_a_padded_convolution_makes_of_constants_is_none():
    network = chain(conv1=nn.Conv2d(1, 2, 3), conv2=nn.Conv2d(2, 2, 3, padding=1), conv3=nn.Conv2d(2, 1, 3))
    result = assert_equal_outputs(network, without(network, conv1=slice(None)), 1, 9, 9)
    assert sizes(result.network)["conv2.weight"][:2] == (2, 1)


def test_a_zero_is_constant_at_a_border_too():
    network = chain(conv1=nn.Conv2d(1, 3, 3), act=nn.ReLU(), conv2=nn.Conv2d(3, 2, 3, padding="same"))
    network.conv1.bias.data = torch.tensor([-1.0, -1.0, 1.0])
    result = assert_equal_outputs(network, without(network, conv1=[0, 1]), 1, 6, 6)
    assert sizes(result.network)["conv1.weight"][0] == 1


def test_an_infinite_channel_stays_as_it_is_no_number_that_could_move_into_a_bias():
    class Reciprocal(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(2, 4)
            self.fc2 = nn.Linear(4, 1)

        def forward(self, x):
            return self.fc2(1 / self.fc1(x))

    network = Reciprocal()
    network.fc1.bias.data = torch.tensor([0.0, 0.0, 1.0, 2.0])
    network.fc2.weight.data = torch.tensor([[1.0, -1.0, 1.0, 1.0]])
    masks = without(network, fc1=[0, 1, 2])
    result = compact(network, masks, torch.randn(3, 2))
    assert sizes(result.network)["fc1.weight"] == (3, 2)
    assert result.network(torch.ones(1, 2)).isnan().all()  # ∞ − ∞


def test_a_normalized_constant_whose_recorded_variance_is_zero_moves_into_the_next_bias():
    """As that of a dead channel is, after long training."""
    network = chain(conv1=nn.Conv2d(1, 3, 3), norm=nn.BatchNorm2d(3), conv2=nn.Conv2d(3, 2, 3))
    network.norm.running_var[0] = 0.0
    network.norm.running_mean[0] = 0.5
    network.eval()
    result = assert_equal_outputs(network, without(network, conv1=[0]), 1, 6, 6)
    assert sizes(result.network)["conv1.weight"][0] == 2


def test_a_constant_channel_is_none_beside_padding_along_an_earlier_axis():
    class PaddedTokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(2, 4)
            self.fc2 = nn.Linear(4, 3)

        def forward(self, x):
            return self.fc2(F.pad(self.fc1(x), (0, 0, 1, 1)))

    network = PaddedTokens()
    result = assert_equal_outputs(network, without(network, fc1=[0, 1]), 5, 2)
    assert sizes(result.network)["fc1.weight"] == (4, 2)


def test_a_mean_over_the_examples_leaves_no_channels_to_follow():
    """What comes after it may take the axis of channels for another one."""

    class MeanOfExamples(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(2, 8)
            self.fc2 = nn.Linear(4, 1)

        def forward(self, x):
            return self.fc2(F.max_pool1d(self.fc1(x).mean(0), 2))

    network = MeanOfExamples()
    result = assert_equal_outputs(network, without(network, fc1=[0, 1, 5]), 3, 2)
    assert sizes(result.network)["fc1.weight"] == (8, 2)


# Residual


class Residual(nn.Module):
    """A network of two convolutions of 4 channels, the second added to the first, and a layer that reads the sum."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 1)
        self.second = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.fc((x + self.second(x)).mean((2, 3)))


def test_addends_are_added_where_they_belong():
    total = PartialSum(torch.tensor([10.0, 20.0, 30.0]), [torch.tensor([2, -1]), torch.tensor([0, 2])], axis=1)
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
    assert total(a, b).tolist() == [[13.0, 20.0, 35.0]]
    assert total(a[..., None], b[..., None]).tolist() == [[[13.0], [20.0], [35.0]]]


def test_an_addend_that_has_all_channels_is_added_to_them():
    total = PartialSum(torch.tensor([10.0, 20.0, 30.0]), [torch.tensor([1]), torch.tensor([0, -1, 1, 2])], axis=1)
    assert total(torch.tensor([[1.0]]), torch.tensor([[2.0, 3.0, 4.0, 5.0]])).tolist() == [[12.0, 25.0, 35.0]]
    assert [name for name, _ in total.named_buffers()] == ["constants", "places0", "taken1"]


def test_of_a_sum_each_addend_computes_the_channels_that_it_has():
    network = Residual()
    result = assert_equal_outputs(network, without(network, first=[0, 1], second=[1, 2]), 1, 3, 3)
    assert sizes(result.network)["first.weight"] == (2, 1, 1, 1)
    assert sizes(result.network)["second.weight"] == (2, 2, 1, 1)
    assert sizes(result.network)["fc.weight"] == (2, 3)  # channel 1 is dead in both addends
    assert reasons(result)["first"] == reasons(result)["second"] == ""


def test_a_sum_can_be_added_again():
    class Longer(Residual):
        def __init__(self):
            super().__init__()
            self.third = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            x = self.first(x)
            x = x + self.second(x)
            return self.fc((x + self.third(x)).mean((2, 3)))

    result = assert_equal_outputs(Longer(), without(Longer(), first=[0, 1], second=[1, 2], third=[0, 3]), 1, 3, 3)
    assert sizes(result.network)["third.weight"] == (2, 3, 1, 1)  # channel 1 of the sum that it reads is constant


def test_a_dead_channel_that_something_else_reads_stays_out_of_a_sum_without_it():
    class Forked(Residual):
        def forward(self, x):
            x = F.relu(self.first(x))
            return self.fc((x + self.second(x)).mean((2, 3))), x.softmax(1)

    network = Forked()
    network.fc.weight.data[:, 1] = 0.0
    network.second.weight.data[1] = 0.0
    result = compact(network, without(network, first=[1]), torch.randn(2, 1, 3, 3))
    assert sizes(result.network)["first.weight"] == (4, 1, 1, 1)
    assert sizes(result.network)["second.weight"] == (3, 4, 1, 1)
    assert result.report.difference < 1e-6


def test_a_channel_of_a_sum_goes_if_nothing_reads_it():
    network = Residual()
    network.fc.weight.data[:, 3] = 0.0
    network.second.weight.data[:, 3] = 0.0
    result = assert_equal_outputs(network, without(network), 1, 3, 3)
    assert sizes(result.network)["first.weight"] == (3, 1, 1, 1)


def test_a_dead_block_goes_whole():
    network = lively(ResNet(1, width_multiplier=0.5), 3, 16, 16)
    masks = without(network, stage1__block1__body__conv2=slice(None))
    result = assert_equal_outputs(network, masks, 3, 16, 16)
    assert not any("stage1" in name for name in sizes(result.network))
    gone = next(layer for layer in result.report.layers if layer.name == "stage1.block1.body.conv1")
    assert gone.before.macs == 8 * 8 * 9 * 16 * 16
    assert (gone.after.parameters, gone.after.macs, gone.after.bytes) == (0, 0, 0)


class Stage(nn.Module):
    """A convolution of 3 channels, with or without normalization, and with or without a shortcut."""

    def __init__(self, fan_in, padding, normalized, added, activation):
        super().__init__()
        self.conv = nn.Conv2d(fan_in, 3, 3, padding=padding)
        self.norm = nn.BatchNorm2d(3) if normalized else nn.Identity()
        self.added = added and padding == 1 and fan_in == 3
        self.act = activation

    def forward(self, x):
        y = self.norm(self.conv(x))
        y = x + y if self.added else y
        return y if self.act is None else self.act(y)


@given(
    stages=st.lists(
        st.tuples(
            st.sampled_from([0, 1, 1]), st.booleans(), st.booleans(), st.sampled_from([F.relu, torch.tanh, None])
        ),
        min_size=1,
        max_size=5,
    ),
    flat=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_whatever_dies_in_a_residual_network_its_outputs_stay(stages, flat, seed):
    torch.manual_seed(seed)
    layers = [Stage(2 if i == 0 else 3, *stage) for i, stage in enumerate(stages)]
    end = nn.Flatten() if flat else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = nn.Sequential(*layers, end, nn.LazyLinear(2))
    network(torch.randn(2, 2, 12, 12))
    lively(network, 2, 12, 12)
    masks = {}
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            dead = (0.0, 0.3, 0.6, 1.0)[torch.randint(4, ())]
            rows = (torch.rand(len(parameter), *(1,) * (parameter.ndim - 1)) >= dead).expand(parameter.shape)
            masks[name] = rows & (torch.rand(parameter.shape[:2] + (1,) * (parameter.ndim - 2)) >= dead / 2)
    assert_equal_outputs(network, Masks(masks), 2, 12, 12)


# Operations that torch.fx traces


def test_a_constant_that_gives_a_sum_its_size_stays():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(2, 4, 3)
            self.gate = nn.Conv2d(2, 4, 1)
            self.last = nn.Conv2d(4, 2, 3)

        def forward(self, x):
            return self.last(self.first(x) + self.gate(x.mean((2, 3), keepdim=True)))

    network = Gated()
    assert_equal_outputs(network, without(network, first=slice(None)), 2, 9, 9)


class Toy(nn.Module):
    """A network with some operation between a layer with dead units and another layer."""

    def __init__(self, middle):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3)
        self.middle = middle
        self.last = nn.LazyLinear(2)

    def forward(self, x):
        x = self.middle(self.first(x))
        return self.last(x.mean((2, 3)) if x.ndim == 4 else x)


@pytest.mark.parametrize(
    ("middle", "left"),
    [
        (nn.Flatten(), 2),
        (nn.Conv2d(4, 4, 3, groups=4), 2),
        (lambda x: x.view(x.size(0), -1), 2),
        (lambda x: x.reshape(x.shape[0], -1).relu(), 2),
        (lambda x: torch.cat([x, x.relu()], 1), 2),
        (lambda x: F.max_pool2d(F.gelu(x), 2), 2),
        (lambda x: F.dropout(3 - 2 * x / 3, training=False), 2),
        (lambda x: F.pad(x, (0, 0, 0, 0, 1, 2), value=0.5), 2),
        (lambda x: x * torch.sigmoid(F.adaptive_avg_pool2d(x, 1)), 2),
        (nn.Sequential(nn.BatchNorm2d(4, affine=False), nn.ReLU(inplace=True), nn.AvgPool2d(2)), 2),
        (nn.AvgPool2d(2, padding=1), 4),  # the padding makes constants vary
        (lambda x: F.avg_pool2d(x, 2, 1, 1), 4),
        (nn.AvgPool2d(2, divisor_override=3), 4),
        (nn.Conv2d(4, 4, 3, groups=4, padding=1), 4),  # the zero border makes constants vary
        (lambda x: F.pad(x, (1, 1)), 4),
        (lambda x: x.softmax(1), 4),
        (lambda x: x * x.shape[1], 4),
        (lambda x: x.flatten(2).mean(2), 4),
        (lambda x: x.transpose(1, 2), 4),
        (lambda x: F.dropout(x, 0.0, training=True), 2),
        (lambda x: x.relu_() + x, 4),
        (nn.PReLU(4), 4),
        (nn.GroupNorm(2, 4), 4),
        (nn.Conv2d(4, 4, 1, groups=2), 4),  # each group has one dead channel, but not at the same place
        (nn.Conv2d(4, 8, 3, groups=2, padding=1), 4),  # the zero border makes constants vary
        (nn.ConvTranspose2d(4, 4, 3), 4),
        (nn.BatchNorm2d(4, track_running_stats=False), 4),
    ],
)
def test_operations_are_followed_or_left_alone(middle, left):
    network = Toy(middle)
    network(torch.randn(2, 2, 8, 8))
    lively(network, 2, 8, 8)
    result = assert_equal_outputs(network, without(network, first=[1, 2]), 2, 8, 8)
    assert sizes(result.network)["first.weight"][0] == left
    if left == 4:
        assert reasons(result)["first"].startswith("2 dead: ")


def test_the_reason_names_what_reads_the_channels():
    network = Toy(nn.GroupNorm(2, 4))
    network(torch.randn(2, 2, 8, 8))
    result = compact(network, without(network, first=[1]), torch.randn(2, 2, 8, 8))
    assert reasons(result)["first"] == "1 dead: read by middle (GroupNorm)"


def test_hidden_units_of_a_transformer_go_and_its_stream_stays():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(6)
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
            self.mlp = chain(up=nn.Linear(6, 12), act=nn.GELU(), down=nn.Linear(12, 6))

        def forward(self, x):
            x = x + self.attention(x, x, x, need_weights=False)[0]
            return x + self.mlp(self.norm(x))

    network = Block().eval()
    result = assert_equal_outputs(network, without(network, mlp__up=slice(5, None), mlp__down=[2]), 7, 6)
    assert sizes(result.network)["mlp.up.weight"] == (5, 6)
    assert sizes(result.network)["mlp.down.weight"] == (6, 5)
    assert result.report.before.macs == 7 * (4 * 6 * 6 + 2 * 6 * 12)
    assert reasons(result)["attention"] == "no unit is dead"


def test_layers_that_share_their_weights_stay():
    network = chain(a=nn.Linear(4, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 4))
    network.b.weight = network.a.weight
    twice = chain(a=nn.Linear(4, 4), again=nn.ReLU(), c=nn.Linear(4, 4))
    twice.again = twice.a
    for shared in (network, twice):
        result = assert_equal_outputs(shared, without(shared, a=[0]), 4)
        assert sizes(result.network)["a.weight"] == (4, 4)
        assert "shared" in reasons(result)["a"]


# Values that are overwritten


class Overwriting(nn.Module):
    """A network that overwrites a value in place and reads it again.

    Args:
        overwrite: the operation.
        scale: the scale of its outputs.
    """

    def __init__(self, overwrite, scale=1.0):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.overwrite, self.same, self.relu = overwrite, nn.Identity(), nn.ReLU(inplace=True)
        self.scale = scale
        nn.init.constant_(self.fc1.bias, -3.0)

    def forward(self, x):
        hidden = self.fc1(x)
        y = self.fc2(self.overwrite(self, hidden))
        return self.scale * self.fc3(y + hidden)


@pytest.mark.parametrize("scale", [1.0, 1e-4])
@pytest.mark.parametrize(
    "overwrite",
    [
        lambda own, x: own.relu(x),
        lambda own, x: x.relu_(),
        lambda own, x: F.relu(x, True),
        lambda own, x: F.leaky_relu(x, 0.2, inplace=True),
        lambda own, x: torch.relu_(x),
        lambda own, x: own.relu(x.view(-1, 6)),
        lambda own, x: (own.relu(own.same(x)), x)[1],
        lambda own, x: x.mul_(x.sigmoid()),
        lambda own, x: (x.add_(1.0), x.relu())[1],
    ],
    ids=["module", "method", "flag", "keyword", "function", "view", "unused", "product", "twice"],
)
def test_a_value_that_is_overwritten_and_read_again_keeps_its_channels(overwrite, scale):
    network = Overwriting(overwrite, scale)
    masks = without(network, fc1=[0, 1], fc2=[1, 2])
    result = compact(network, masks, torch.randn(4, 3))
    masks.apply_(dict(network.named_parameters()))
    inputs = torch.randn(5, 3)
    with torch.no_grad():
        assert torch.allclose(result.network(inputs), network(inputs), atol=1e-6 * scale)
    assert sizes(result.network)["fc1.weight"] == (6, 3)
    assert sizes(result.network)["fc2.weight"] == (4, 6)
    assert reasons(result)["fc1"] == "2 dead: overwritten in place and read again"


# Refusals


def test_a_network_that_cannot_be_traced_is_refused():
    class Branching(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    network = nn.Sequential(Branching(2, 2))
    with pytest.raises(InputError) as refused:
        compact(network, Masks({}), torch.ones(1, 2))
    said = str(refused.value)
    assert said.startswith("torch.fx cannot trace Sequential: a branch depends on the numbers in a tensor, in 0 (Branc")
    assert said.endswith("without a trace: --to dense, or spl.export.save_program or save_onnx.")


def test_a_unit_that_is_removed_by_mistake_is_noticed(monkeypatch):
    monkeypatch.setattr("spl.export.compaction.shrinking._fold_constants_", lambda layer, liveness: None)
    network = chain(fc1=nn.Linear(2, 4), fc2=nn.Linear(4, 2))
    with pytest.raises(InputError, match=r"A compact Sequential would differ by .*, because a unit was removed that "):
        compact(network, without(network, fc1=[1]), torch.randn(3, 2))


def test_the_reason_names_the_module_in_which_a_function_reads_the_channels():
    class Softmax(nn.Module):
        def forward(self, x):
            return x.softmax(1)

    network = Toy(nn.Sequential(nn.Identity(), Softmax()))
    network(torch.randn(2, 2, 8, 8))
    result = compact(network, without(network, first=[1]), torch.randn(2, 2, 8, 8))
    assert reasons(result)["first"] == "1 dead: read by softmax in middle.1"


def test_numbers_read_out_of_a_tensor_are_refused():
    class Reading(nn.Linear):
        def forward(self, x):
            return super().forward(x) * x.sum().item()

    with pytest.raises(InputError, match=r"cannot trace Reading: it reads the numbers in a tensor"):
        compact(Reading(2, 2), Masks({}), torch.ones(1, 2))


class Hiding(nn.Module):
    """A network that does something else when torch.fx traces it.

    Args:
        scale: the scale of its outputs, which are far from 0.
    """

    def __init__(self, scale=1.0):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.scale = scale

    def forward(self, x):
        return self.scale * self.fc(x if isinstance(x, torch.Tensor) else 2 * x)


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_a_network_that_hides_what_it_does_is_refused(scale):
    network = Hiding(scale)
    with pytest.raises(InputError, match=r"Hiding would differ by .* in fc \(Linear\)\. Export the network d"):
        compact(network, without(network, fc=[0]), torch.ones(1, 2))


def test_an_example_of_zeros_hides_no_mistake():
    network = Hiding()
    with pytest.raises(InputError, match=r"A compact Hiding would differ"):
        compact(network, without(network, fc=[0]), torch.zeros(1, 2))


def test_outputs_of_zeros_do_not_differ():
    network = LeNet300(in_features=6)
    nn.init.zeros_(network.fc3.bias)
    result = compact(network, without(network, fc1=[0], fc3=slice(None)), torch.randn(3, 6))
    assert result.report.difference == 0.0
    assert result.network(torch.randn(1, 6)).tolist() == [[0.0] * 10]


def test_masks_of_another_network_are_refused():
    with pytest.raises(InputError, match=r"masks do not fit the network: fc9\.weight"):
        compact(MLP(), Masks({"fc9.weight": torch.ones(1, dtype=torch.bool)}), torch.randn(1, 784))


def test_the_code_of_a_compact_network_takes_its_layers_from_tables():
    network = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Linear(4, 2))
    masks = Masks({"0.0.weight": torch.tensor([[True], [True], [False], [False]]).expand(4, 3)})
    small, inputs = compact(network, masks, torch.randn(5, 3)).network, torch.randn(7, 3)
    assert "getattr" not in small.code
    assert 'self._modules["0"]._modules["0"](' in small.code
    expected = small(inputs)
    for again in (copy.deepcopy(small), pickle.loads(pickle.dumps(small)), torch.compile(small, backend="eager")):
        assert torch.equal(again(inputs), expected)
    setattr(small, "1", nn.Linear(2, 5))  # a layer that is replaced is the one that is called
    assert small(inputs).shape == (7, 5)
