import pytest
import torch
from torch import nn

from spl.errors import InputError
from spl.networks import MLP, FullyConnected, LeNet300


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_mlp7_has_the_papers_number_of_parameters():
    assert parameters(MLP(depth=7, width=100)) == 130_010
    assert parameters(MLP()) == 130_010


def test_lenet_300_100_has_the_papers_number_of_parameters():
    assert parameters(LeNet300()) == 266_610


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_depth_is_the_number_of_weight_layers(depth):
    network = MLP(depth=depth, width=4, in_features=6, out_features=3)
    assert [name for name, m in network.named_modules() if isinstance(m, nn.Linear)] == [
        f"fc{i}" for i in range(1, depth + 1)
    ]
    assert [name for name, m in network.named_modules() if isinstance(m, nn.Tanh)] == [
        f"act{i}" for i in range(1, depth)
    ]


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("linear", lambda x: x),
        ("tanh", torch.tanh),
        ("relu", lambda x: x.clamp(min=0)),
        ("leaky_relu", lambda x: torch.where(x > 0, x, 0.01 * x)),
        ("selu", lambda x: 1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * x.expm1())),
    ],
)
def test_logits_by_matrix_products(activation, function):
    network = MLP(depth=3, width=5, activation=activation, in_features=6, out_features=4)
    x = torch.randn(7, 2, 3)
    h = x.reshape(7, 6)
    h = function(h @ network.fc1.weight.T + network.fc1.bias)
    h = function(h @ network.fc2.weight.T + network.fc2.bias)
    torch.testing.assert_close(network(x), h @ network.fc3.weight.T + network.fc3.bias)


def test_lenet_takes_colour_images_where_it_is_told_to():
    network = LeNet300(activation="relu", in_features=3072, out_features=7)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert [m.out_features for m in network.modules() if isinstance(m, nn.Linear)] == [300, 100, 7]


@pytest.mark.parametrize("network", [MLP(), LeNet300()])
def test_inputs_of_another_size_are_an_error_that_says_what_to_set(network):
    name = type(network).__name__
    with pytest.raises(InputError, match=rf"{name} takes 784 .* \(2, 3, 32, 32\), 3072 each: set in_features=3072"):
        network(torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize("depth", [0, -1])
def test_a_network_without_layers_is_an_error(depth):
    with pytest.raises(InputError, match=f"depth must be at least 1, got {depth}"):
        MLP(depth=depth)


@pytest.mark.parametrize("sizes", [{"width": 0}, {"in_features": 0}, {"out_features": -1}])
def test_a_layer_without_units_is_an_error(sizes):
    with pytest.raises(InputError, match=rf"each at least 1, got \[.*{next(iter(sizes.values()))}"):
        MLP(depth=2, **sizes)


@pytest.mark.parametrize("activation", ["sigmoid", "nn.Sigmoid", "os.system", "torch.nn.Linear", "MultiheadAttention"])
def test_an_unknown_activation_is_an_error_that_lists_the_known(activation):
    known = "one of linear, tanh, relu, leaky_relu, selu, or an activation of torch.nn that needs no arguments"
    with pytest.raises(InputError, match=f"{known}, such as GELU, got '{activation}'"):
        FullyConnected([2, 3, 3], activation)


def test_a_misspelled_activation_is_an_error_that_names_the_near_one():
    with pytest.raises(InputError, match=r"got 'gelu'\. Did you mean GELU\?"):
        MLP(activation="gelu")


@pytest.mark.parametrize("activation", ["GELU", "torch.nn.GELU"])
def test_any_activation_of_torch_can_be_named(activation):
    network = MLP(depth=3, width=5, activation=activation)
    assert [type(layer).__name__ for layer in network] == ["Linear", "GELU", "Linear", "GELU", "Linear"]
