"""The activation that runs behind each layer, whatever code calls it, decides the layer's gain."""

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from spl import sparsify
from spl.criteria import ConnectionSensitivity, Magnitude, SynFlow
from spl.functional.torch_private import submodule_table
from spl.functional.undisturbed import undisturbed
from spl.isometry import ApproximateIsometry, EdgeOfChaos
from spl.isometry.activations import activations_behind, activations_in_order
from spl.masks.masks import Masks
from spl.networks import ResNet, WideResNet
from spl.pruning import prune

QUICK = ApproximateIsometry(max_iterations=1)


class Net(nn.Module):
    """A network of Linear layers of 6 units, l1, l2, …, that a function of layers and inputs calls."""

    def __init__(self, forward, layers=2):
        super().__init__()
        self.function = forward
        for i in range(1, layers + 1):
            self.add_module(f"l{i}", nn.Linear(6, 6))

    def forward(self, x):
        return self.function(self, x)


def names(network, *inputs):
    """Return the class of the activation behind each weight, in the order of the weights; ? if it is not seen."""
    with undisturbed(network):
        behind = activations_behind(network, lambda: network(*inputs or (torch.randn(3, 6),)))
    weights = [name for name, parameter in network.named_parameters() if parameter.ndim > 1]
    return [type(behind[name]).__name__ if behind.get(name) else "-" if name in behind else "?" for name in weights]


class OwnGELU(nn.Module):
    def forward(self, x):
        return 0.5 * x * (1 + torch.erf(x / 2**0.5))


class Swish(torch.autograd.Function):
    """x · sigmoid(x) with a backward of its own, as in timm's memory-efficient swish."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x.sigmoid() * (1 + x * (1 - x.sigmoid())))


class MemoryEfficientSwish(nn.Module):
    def forward(self, x):
        return Swish.apply(x)


FUNCTIONS = {
    "ReLU": F.relu,
    "LeakyReLU": lambda x: F.leaky_relu(x, 0.3),
    "GELU": F.gelu,
    "SiLU": F.silu,
    "Mish": F.mish,
    "Softplus": F.softplus,
    "ELU": lambda x: F.elu(x, 0.5),
    "SELU": F.selu,
    "CELU": lambda x: F.celu(x, 2.0),
    "ReLU6": F.relu6,
    "Hardtanh": F.hardtanh,
    "Hardswish": F.hardswish,
    "Hardsigmoid": F.hardsigmoid,
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
    "LogSigmoid": F.logsigmoid,
    "Threshold": lambda x: F.threshold(x, 0.1, 0.0),
    "Hardshrink": F.hardshrink,
    "Softshrink": F.softshrink,
}


@pytest.mark.parametrize(("name", "function"), FUNCTIONS.items(), ids=FUNCTIONS)
def test_functions_are_found_with_their_parameters(name, function):
    network = Net(lambda net, x: net.l2(function(net.l1(x))))
    (activation, none) = activations_behind(network, lambda: network(torch.randn(2, 6))).values()
    assert (type(activation).__name__, none) == (name, None)
    x = torch.linspace(-3, 3, 20)
    torch.testing.assert_close(activation(x), function(x))


def test_clamp_sine_and_prelu_are_found_by_what_they_compute():
    slope = nn.PReLU(init=0.25)
    for function in (lambda x: x.clamp(min=0), lambda x: x.clamp(-1, 2), torch.sin, slope):
        network = Net(lambda net, x, function=function: net.l2(function(net.l1(x))))
        activation = activations_behind(network, lambda network=network: network(torch.randn(2, 6)))["l1.weight"]
        x = torch.linspace(-3, 3, 20)
        torch.testing.assert_close(activation(x), function(x).detach())


def test_one_module_that_several_layers_share_is_behind_each_of_them():
    relu = nn.ReLU()
    network = nn.Sequential(nn.Linear(6, 6), relu, nn.Linear(6, 6), relu, nn.Linear(6, 6), relu, nn.Linear(6, 6))
    assert names(network) == ["ReLU", "ReLU", "ReLU", "-"]


@pytest.mark.parametrize("activation", [OwnGELU(), MemoryEfficientSwish(), nn.Softsign(), nn.Tanhshrink()])
def test_modules_of_any_class_that_act_on_each_element_are_activations(activation):
    network = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), activation, nn.Linear(6, 6))
    assert activations_behind(network, lambda: network(torch.randn(3, 6))) == {"0.weight": activation, "3.weight": None}


@pytest.mark.parametrize(
    "between", [nn.Identity(), nn.Dropout(), nn.RMSNorm(6), nn.Softmax(-1), nn.Unflatten(1, (2, 3))]
)
def test_modules_that_are_no_activations_are_none(between):
    network = nn.Sequential(nn.Linear(6, 6), between, nn.Flatten(), nn.Linear(6, 6))
    assert names(network) == ["-", "-"]
    network.insert(2, nn.Tanh())
    assert names(network) == ["-" if isinstance(between, nn.Softmax) else "Tanh", "-"]


BY_HAND = {
    "SiLU": lambda x: x * torch.sigmoid(x),
    "Elementwise": lambda x: x * torch.sigmoid(1.702 * x),
    "GELU": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "Mish": lambda x: x * torch.tanh(F.softplus(x)),
    "Hardswish": lambda x: x * F.relu6(x + 3) / 6,
}


@pytest.mark.parametrize(("name", "function"), BY_HAND.items(), ids=BY_HAND)
def test_activations_written_by_hand_among_layers_are_found(name, function):
    network = Net(lambda net, x: net.l2(function(net.l1(x))))
    (activation, _) = activations_behind(network, lambda: network(torch.randn(2, 6))).values()
    assert type(activation).__name__ == name
    x = torch.linspace(-3, 3, 20)
    torch.testing.assert_close(activation(x), function(x))


def test_a_normalization_written_by_hand_is_no_activation():
    network = Net(lambda net, x: net.l2(F.relu((y := net.l1(x)) * torch.rsqrt(y.square().mean(-1, keepdim=True)))))
    assert names(network) == ["ReLU", "-"]


def test_in_place_activations_of_views_are_found():
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 6))
    assert names(network, torch.randn(2, 3, 6)) == ["ReLU", "-"]


GATED = {
    "SwiGLU": (lambda net, x: net.l3(F.silu(net.l1(x)) * net.l2(x)), ["SiLU", "-", "-"]),
    "GEGLU in one layer": (
        lambda net, x: (y := net.l1(x).chunk(2, -1)) and F.gelu(y[0]) * y[1] @ net.l2.weight[:3],
        "--",
    ),
    "GLU": (lambda net, x: F.glu(net.l1(x)) @ net.l2.weight[:3], "--"),
    "sigmoid gate": (lambda net, x: net.l3(F.relu(net.l1(x)) * torch.sigmoid(net.l2(x))), ["ReLU", "-", "-"]),
    "gate of the inputs": (lambda net, x: net.l2(x * torch.sigmoid(net.l1(x))), "--"),
    "highway": (
        lambda net, x: net.l3((g := torch.sigmoid(net.l1(x))) * torch.tanh(net.l2(x)) + (1 - g) * x),
        ["-", "Tanh", "-"],
    ),
    "sigmoid before a layer": (lambda net, x: net.l2(torch.sigmoid(net.l1(x))), ["Sigmoid", "-"]),
}


@pytest.mark.parametrize(("forward", "expected"), GATED.values(), ids=GATED)
def test_gates_and_what_they_gate_have_no_activation(forward, expected):
    assert names(Net(forward, layers=len(expected))) == list(expected)


def test_a_sum_of_two_signals_ends_the_walk():
    assert names(Net(lambda net, x: net.l2(F.relu(net.l1(x) + x.exp())))) == ["ReLU", "-"]  # inputs count as constants
    assert names(Net(lambda net, x: net.l3(F.relu((y := F.relu(net.l1(x))) + net.l2(y))), layers=3)) == [
        "ReLU",
        "-",
        "-",
    ]


def test_of_several_branches_the_smaller_gain_counts():
    assert names(Net(lambda net, x: net.l2(F.relu(y := net.l1(x))) + net.l3(torch.tanh(y)), layers=3))[0] == "Tanh"
    assert names(Net(lambda net, x: net.l2(F.relu(y := net.l1(x))) + net.l3(y), layers=3))[0] == "-"


def test_layers_around_recurrent_ones():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.lstm = nn.Linear(6, 6), nn.LSTM(6, 5, batch_first=True)
            self.cell, self.behind, self.last = nn.GRUCell(5, 5), nn.Linear(5, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(F.relu(self.behind(self.cell(self.lstm(self.before(x))[0][:, -1]))))

    assert names(Reads(), torch.randn(2, 3, 6)) == ["-", "-", "-", "-", "-", "ReLU", "-"]


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_transformer_layer(norm_first):
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", norm_first=norm_first)
    assert names(layer, torch.randn(3, 2, 8)) == ["-", "-", "GELU", "-"]  # projections in and out, two of the MLP


def gains_of(network, *inputs):
    with undisturbed(network):
        behind = activations_behind(network, lambda: network(*inputs))
    assert behind.keys() >= {name for name, parameter in network.named_parameters() if parameter.ndim > 1}
    return {name: type(activation).__name__ for name, activation in behind.items()}


def test_torchvision_networks():
    images = torch.randn(2, 3, 32, 32)
    resnet = gains_of(torchvision.models.resnet18(), images)
    for name, activation in resnet.items():
        assert activation == ("ReLU" if name == "conv1.weight" or name.endswith("conv1.weight") else "NoneType"), name
    mobilenet = gains_of(torchvision.models.mobilenet_v3_small(), images)
    block = {name.removeprefix("features.4.block."): a for name, a in mobilenet.items() if "features.4." in name}
    assert block == {
        "0.0.weight": "Hardswish", "1.0.weight": "Hardswish", "2.fc1.weight": "ReLU", "2.fc2.weight": "NoneType",
        "3.0.weight": "NoneType",
    }  # fmt: skip
    assert mobilenet["classifier.0.weight"] == "Hardswish"
    efficientnet = gains_of(torchvision.models.efficientnet_b0(), images)
    block = {name.removeprefix("features.2.0.block."): a for name, a in efficientnet.items() if "features.2.0." in name}
    assert block == {
        "0.0.weight": "SiLU", "1.0.weight": "SiLU", "2.fc1.weight": "SiLU", "2.fc2.weight": "NoneType",
        "3.0.weight": "NoneType",
    }  # fmt: skip


def test_networks_of_this_package():
    resnet = gains_of(ResNet(1, width_multiplier=0.25), torch.randn(2, 3, 32, 32))
    for name, activation in resnet.items():
        assert activation == ("NoneType" if name.endswith(("conv2.weight", "fc.weight")) else "ReLU"), name
    wide = gains_of(WideResNet(1, width_multiplier=0.5), torch.randn(2, 3, 32, 32))
    assert {name for name, activation in wide.items() if activation == "ReLU"} == {
        f"stage{i}.block1.body.conv1.weight" for i in (1, 2, 3)
    }  # fmt: skip


def test_a_loss_behind_the_network_is_no_activation():
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    for run in (
        lambda: F.relu(1 - network(torch.randn(3, 6))).mean(),
        lambda: F.softplus(network[2](F.relu(network[0](torch.randn(3, 6))))).mean(),  # without a call of the network
    ):
        behind = activations_behind(network, run)
        assert [type(activation) for activation in behind.values()] == [nn.ReLU, type(None)]


def test_weights_that_are_cast_shared_or_unused():
    with torch.autocast("cpu", torch.bfloat16):
        assert names(Net(lambda net, x: net.l2(F.relu(net.l1(x))))) == ["ReLU", "-"]
    assert names(Net(lambda net, x: net.l1(F.relu(net.l1(x))))) == ["-", "?"]
    assert names(Net(lambda net, x: F.linear(F.relu(F.linear(x, 3.0 * net.l1.weight)), net.l2.weight))) == ["ReLU", "-"]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is:FutureWarning")
def test_networks_with_scripted_checkpointed_and_binary_parts():
    part = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    assert names(nn.Sequential(torch.jit.script(part), nn.Linear(6, 6))) == ["Tanh", "-"]
    block = Net(lambda net, x: checkpoint(lambda y: F.relu(net.l2(F.gelu(net.l1(y)))), x, use_reentrant=False))
    assert names(block) == ["GELU", "ReLU"]

    class Sign(nn.Module):
        def forward(self, x):
            return x.sign()

    binary = nn.Sequential(nn.Linear(6, 6), Sign(), nn.Linear(6, 6))
    changes = sparsify(binary, ConnectionSensitivity(), 0.5, data(), QUICK).changes
    assert [change.gain for change in changes.values()] == [1.0, 1.0]


def test_no_hooks_are_left_behind():
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU())

    def fails():
        network(torch.ones(1, 6))
        raise KeyError

    with pytest.raises(KeyError):
        activations_behind(network, fails)
    activations_behind(network, lambda: network(torch.ones(1, 6)))
    for module in (network, *submodule_table(network).values()):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def data():
    return [(torch.randn(8, 6), torch.arange(8) % 6)]


def test_sparsify_takes_the_activations_from_the_loss_of_its_first_batch():
    functional = Net(lambda net, x: net.l3(F.relu(net.l2(F.relu(net.l1(x))))), layers=3)
    for batches in (data(), iter(data())):
        changes = sparsify(functional, ConnectionSensitivity(), 0.5, batches, QUICK).changes
        assert [change.gain for change in changes.values()] == pytest.approx([2**0.5, 2**0.5, 1.0])


def unlabelled(network, batch):
    raise ValueError("no labels")


@pytest.mark.parametrize(
    ("criterion", "batches", "loss"), [(Magnitude(), None, None), (SynFlow(), data(), unlabelled)], ids=["none", "loss"]
)
def test_without_batches_for_the_loss_the_order_of_the_modules_decides(criterion, batches, loss):
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    changes = sparsify(network, criterion, 0.5, batches, QUICK, loss=loss).changes
    assert [change.gain for change in changes.values()] == pytest.approx([2**0.5, 1.0])


def test_layers_whose_activation_is_not_seen_are_named_once():
    unknown = Net(lambda net, x: net.l3(torch.relu(net.l2(net.l1(x).exp().log1p()))), layers=3)
    with pytest.warns(
        UserWarning, match=r"does not see which activation is behind l1\.weight, .* gain=2\*\*0\.5"
    ) as said:
        sparsify(unknown, ConnectionSensitivity(), 0.5, data(), QUICK)
    assert len(said) == 1
    functional = Net(lambda net, x: net.l2(F.relu(net.l1(x))))
    masks = prune(functional, Magnitude(), 0.5)
    with pytest.warns(UserWarning, match=r"behind l1\.weight, and takes"):
        QUICK(functional, masks)
    ApproximateIsometry(gain=1.4, max_iterations=1)(functional, masks)
    QUICK.knowing({"l1.weight": nn.ReLU(), "l2.weight": None}, {})(functional, masks)


def test_the_order_of_modules_is_certain_in_a_sequence():
    inner = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    assert activations_in_order(nn.Sequential(inner, nn.Tanh(), nn.Sequential(nn.Linear(6, 6)))).keys() == {
        "0.0.weight", "0.1.weight", "2.0.weight"
    }  # fmt: skip
    assert list(activations_in_order(Net(None, layers=3))) == ["l3.weight"]


def test_the_gain_of_activations_without_a_critical_one_is_that_of_the_initialization_between_1_and_the_bound():
    def gain(scale: float, correction=QUICK, out: int = 20) -> float:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(20, out), nn.GELU(), nn.Linear(out, 3))
        nn.init.orthogonal_(network[0].weight, gain=scale)
        mask = torch.rand(out, 20) < 0.5
        return correction(network, Masks({"0.weight": mask})).changes["0.weight"].gain

    assert [gain(scale) for scale in (0.5, 1.2, 3.0)] == pytest.approx([1.0, 1.2, 2**0.5], rel=1e-4)
    assert gain(1.2, out=40) == pytest.approx(1.2)
    assert gain(1.2, EdgeOfChaos(), out=40) == pytest.approx(1.0)  # σ_w of the rows is 1.2 / √2
    norms: dict[str, float] = {"0.weight": float(Tensor([20]).sqrt() * 1.3)}
    assert gain(1.0, QUICK.knowing(None, norms)) == pytest.approx(1.3)
