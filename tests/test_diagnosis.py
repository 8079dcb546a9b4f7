"""Diagnosis: measurements of layers and paths, checked by hand on networks with a few weights."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from operators import convolutions, dense, transposed
from torch import nn

from spl import InputError, Masks
from spl.diagnosis import Diagnosis, diagnose, find_paths
from spl.isometry.structure import isometry_floor, structural_rank
from spl.networks import MLP, VGG16


def masked(network: nn.Module, **kept: list) -> tuple[nn.Module, Masks]:
    """Return the network with pruned weights at 0.0 and its masks. `kept` has, by layer, 1 for a kept weight."""
    masks = Masks({f"{name.replace('__', '.')}.weight": torch.tensor(k).bool() for name, k in kept.items()})
    masks.apply_(dict(network.named_parameters()))
    return network, masks


def chain(*sizes: int) -> nn.Sequential:
    """Return linear layers a, b, c, … with all weights 1 and biases 0."""
    network = nn.Sequential()
    for name, (fan_in, fan_out) in zip("abcdef", pairwise(sizes), strict=False):
        layer = nn.Linear(fan_in, fan_out)
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
        network.add_module(name, layer)
    return network


def measured(network: nn.Module, masks: Masks | None, inputs: torch.Tensor) -> Diagnosis:
    return diagnose(network, masks, inputs, torch.zeros(len(inputs), dtype=torch.long))


# Masks and paths


def test_dead_inputs_and_outputs_are_counted():
    network, masks = masked(chain(3, 2, 2), a=[[1, 0, 0], [0, 0, 0]], b=[[1, 1], [1, 0]])
    a, b = measured(network, masks, torch.randn(4, 3)).layers.values()
    assert (a.weights, a.kept, a.dead_inputs, a.dead_outputs) == (6, 1, 2, 1)
    assert (b.weights, b.kept, b.dead_inputs, b.dead_outputs) == (4, 3, 0, 0)
    assert a.sparsity == pytest.approx(5 / 6)


def test_channels_of_a_grouped_convolution_die_alone():
    network = nn.Sequential(nn.Conv2d(4, 2, 1, groups=2), nn.Flatten())
    masks = Masks({"0.weight": torch.tensor([[1, 0], [0, 0]]).bool().view(2, 2, 1, 1)})
    masks.apply_(dict(network.named_parameters()))
    (layer,) = measured(network, masks, torch.randn(2, 4, 1, 1)).layers.values()
    assert (layer.dead_inputs, layer.dead_outputs) == (3, 1)


def test_a_transposed_convolution_has_its_inputs_first():
    network = nn.Sequential(nn.ConvTranspose2d(2, 3, 1), nn.Flatten())
    masks = Masks({"0.weight": torch.tensor([[1, 1, 0], [0, 0, 0]]).bool().view(2, 3, 1, 1)})
    masks.apply_(dict(network.named_parameters()))
    (layer,) = measured(network, masks, torch.randn(2, 2, 1, 1)).layers.values()
    assert (layer.dead_inputs, layer.dead_outputs) == (1, 1)


def test_a_weight_is_on_a_path_if_it_comes_from_the_input_and_leads_to_the_output():
    # hidden unit 1 has no input, hidden unit 2 has no output: only paths through unit 0 count
    network, masks = masked(chain(2, 3, 2), a=[[1, 0], [0, 0], [1, 1]], b=[[1, 1, 0], [0, 1, 0]])
    paths = find_paths(network, masks, torch.randn(5, 2))
    assert (paths.inputs.tolist(), paths.outputs.tolist()) == ([True, False], [True, False])
    assert paths.weights["a.weight"].tolist() == [[True, False], [False, False], [False, False]]
    assert paths.weights["b.weight"].tolist() == [[True, False, False], [False, False, False]]
    diagnosis = measured(network, masks, torch.randn(5, 2))
    assert [layer.on_paths for layer in diagnosis.layers.values()] == [1, 1]
    assert diagnosis.sparsity == pytest.approx(1 - 6 / 12)
    assert diagnosis.effective_sparsity == pytest.approx(1 - 2 / 12)


def test_biases_carry_no_paths():
    network, masks = masked(chain(2, 2, 2), a=[[0, 0], [0, 0]], b=[[1, 1], [1, 1]])
    nn.init.ones_(network.a.bias)
    assert not find_paths(network, masks, torch.randn(1, 2)).weights["b.weight"].any()


class Residual(nn.Module):
    """A network that computes x + body(x), followed by a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True), nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.head = nn.Linear(2, 2)
        nn.init.zeros_(self.body[3].weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(x + self.body(x)))


def test_an_empty_branch_of_a_residual_network_cuts_nothing_else():
    network, masks = masked(Residual(), body__0=[[0, 0], [0, 0]], body__2=[[1, 1], [1, 1]], head=[[1, 0], [0, 1]])
    counts = {name: int(path.sum()) for name, path in find_paths(network, masks, torch.randn(1, 2)).weights.items()}
    assert counts == {"body.0.weight": 0, "body.2.weight": 0, "head.weight": 2}


def test_a_normalization_that_starts_at_zero_cuts_no_path():
    network, masks = masked(Residual(), body__0=[[1, 0], [0, 0]], body__2=[[1, 0], [0, 0]])
    counts = [int(path.sum()) for path in find_paths(network, masks, torch.randn(1, 2)).weights.values()]
    assert counts == [1, 1]


@pytest.mark.parametrize("pooling", [nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1, ceil_mode=True), nn.AdaptiveMaxPool2d(1)])
def test_max_pooling_hides_no_path(pooling):
    network = nn.Sequential(nn.Conv2d(1, 1, 2, stride=2, bias=False), pooling, nn.Flatten(), nn.LazyLinear(1))
    network(torch.randn(1, 1, 4, 4))
    masks = Masks({name: torch.ones_like(p).bool() for name, p in network.named_parameters() if p.ndim > 1})
    # only one pixel of the pooled 2×2 is open: if the maximum hid the others, the head's first input would be lost
    masks["3.weight"][:] = False
    masks["3.weight"][0, -1] = True
    assert find_paths(network, masks, torch.randn(1, 1, 4, 4)).weights["0.weight"].all()


def test_no_depth_hides_a_path():
    network = nn.Sequential(*[nn.Linear(50, 50, bias=False) for _ in range(1000)])
    masks = {name: torch.ones(50, 50, dtype=torch.bool) for name, _ in network.named_parameters()}
    masks["0.weight"] = torch.zeros(50, 50, dtype=torch.bool)
    masks["0.weight"][3, 7] = True  # the only way in
    paths = find_paths(network, masks, torch.randn(1, 50))
    assert int(paths.weights["0.weight"].sum()) == 1
    assert int(paths.weights["1.weight"].sum()) == 50
    assert all(paths.weights[f"{i}.weight"].all() for i in range(2, 1000))


def test_every_weight_of_a_dense_network_is_on_a_path():
    network = VGG16(width_multiplier=0.05)
    masks = {name: torch.ones_like(p).bool() for name, p in network.named_parameters() if p.ndim > 1}
    paths = find_paths(network, masks, torch.randn(1, 3, 32, 32))
    # on 2×2 or fewer pixels, some taps of a 3×3 kernel see only padding
    assert all(paths.weights[name].all() for name in ("conv1.weight", "conv5.weight", "fc1.weight", "fc3.weight"))


# Isometry


def test_the_structural_rank_is_the_largest_matching():
    assert structural_rank(torch.tensor([[1, 1, 0], [1, 0, 0], [1, 0, 0]]).bool()) == 2
    assert structural_rank(torch.zeros(2, 3, dtype=torch.bool)) == 0


def test_the_floor_counts_the_missing_ranks_of_the_smaller_side():
    mask = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    assert isometry_floor(mask, gain=2.0) == pytest.approx(4 * math.sqrt(2))
    assert isometry_floor(torch.ones(4, 1, 1, 1).bool(), groups=2) == 0.0


def test_residual_and_floor_of_a_layer():
    network, masks = masked(chain(2, 2), a=[[1, 0], [1, 0]])  # W Wᵀ − I = [[0, 1], [1, 0]], of rank 1
    (layer,) = measured(network, masks, torch.randn(3, 2)).layers.values()
    assert layer.residual == pytest.approx(math.sqrt(2))
    assert layer.floor == pytest.approx(1.0)
    doubled = diagnose(network, masks, torch.randn(3, 2), torch.tensor([0, 1, 0]), gains={"a.weight": 2.0})
    assert doubled.layers["a.weight"].residual == pytest.approx(math.sqrt(2 * 3**2 + 2))
    assert doubled.layers["a.weight"].floor == pytest.approx(4.0)


# Signals


def test_the_layer_jacobian_of_a_diagonal_layer_is_its_diagonal_times_the_slopes():
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.LeakyReLU(0.5), nn.Linear(2, 2, bias=False))
    network[0].weight.data = torch.diag(torch.tensor([3.0, 8.0]))
    network[2].weight.data = torch.diag(torch.tensor([1.0, 0.0]))
    first, second = measured(network, None, torch.tensor([[1.0, -1.0], [1.0, 1.0]])).layers.values()
    # slopes (1, ½) and (1, 1): singular values 3, 4 and 3, 8
    assert first.jacobian == pytest.approx((4.5, 3.0, 8.0))
    assert second.jacobian == pytest.approx((0.5, 0.0, 1.0))


@given(layer=convolutions(channels=3, kernels=(4, 3, 2), strides=2))
def test_the_layer_jacobian_of_a_convolution_is_that_of_its_operator(layer):
    from spl.diagnosis.layers import _operator_values

    sizes = [3 * s for s in layer.stride]
    for one in (layer, transposed(layer)):
        values = _operator_values(layer.weight.detach(), sizes, layer.stride, layer.dilation, layer.groups)
        grid = sizes if one is layer else [n // s for n, s in zip(sizes, layer.stride, strict=True)]
        expected = torch.linalg.svdvals(dense(one, tuple(grid)))
        assert values.flatten().sort(descending=True).values == pytest.approx(expected.numpy(), abs=1e-6)


def test_a_convolution_is_multiplied_by_the_rms_slope():
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Flatten())
    nn.init.constant_(network[0].weight, 2.0)
    image = torch.tensor([[[[1.0, -1.0], [1.0, -1.0]]]])
    (layer,) = measured(network, None, image).layers.values()
    assert layer.jacobian == pytest.approx((2 / math.sqrt(2),) * 3)


def test_an_activation_behind_normalization_counts_and_one_behind_the_next_layer_does_not():
    network = nn.Sequential(
        nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1), nn.ReLU(inplace=True), nn.Conv2d(1, 1, 1, bias=False),
        nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Flatten(),
    )  # fmt: skip
    for i in (0, 3, 4):
        nn.init.ones_(network[i].weight)
    image = torch.tensor([[[[1.0, -1.0], [1.0, -1.0]]]]).expand(2, -1, -1, -1)
    means = [layer.jacobian.mean for layer in measured(network, None, image).layers.values()]
    assert means == pytest.approx([math.sqrt(0.5), 1.0, math.sqrt(0.5)])


def test_signal_and_gradient_norms():
    network, masks = masked(chain(2, 2), a=[[1, 0], [1, 1]])
    # logits of (3, 4) are (3, 7); p = softmax, and ∂L/∂W = (p − e₀) xᵀ, of which [0, 1] is pruned
    (layer,) = measured(network, masks, torch.tensor([[3.0, 4.0]])).layers.values()
    assert layer.signal == pytest.approx(math.sqrt((9 + 49) / 2))
    q = 1 / (1 + math.exp(-4))
    assert layer.gradient == pytest.approx(q * math.sqrt(3**2 + 3**2 + 4**2), rel=1e-5)


def test_the_input_output_jacobian_is_that_of_the_network():
    diagnosis = measured(chain(1, 1, 1), None, torch.randn(3, 1))
    assert (diagnosis.jacobian.mean, diagnosis.jacobian.condition) == (1.0, 1.0)


def test_a_layer_that_is_not_used_is_measured_as_silent():
    network = Residual()
    network.spare = nn.Conv2d(1, 1, 3)
    layer = measured(network, None, torch.randn(3, 2)).layers["spare.weight"]
    assert (layer.on_paths, layer.signal, layer.gradient) == (0, 0.0, 0.0)


# The whole diagnosis


def test_diagnosing_leaves_no_trace(snapshot):
    network, inputs = Residual(), torch.randn(6, 2)
    before = snapshot(network)
    measured(network, None, inputs)
    assert snapshot(network) == before


def test_a_diagnosis_survives_json():
    network, masks = masked(chain(2, 2, 2), a=[[1, 0], [0, 0]], b=[[1, 1], [1, 0]])
    diagnosis = measured(network, masks, torch.randn(3, 2))
    assert diagnosis.jacobian.condition == math.inf
    text = diagnosis.to_json()
    assert Diagnosis.from_json(text) == diagnosis
    assert "Infinity" not in text


def test_weights_that_are_not_finite_are_measured_as_such():
    network = chain(2, 2)
    nn.init.constant_(network.a.weight, math.inf)
    diagnosis = measured(network, None, torch.randn(3, 2))
    assert math.isnan(diagnosis.layers["a.weight"].jacobian.mean)
    assert Diagnosis.from_json(diagnosis.to_json()).to_json() == diagnosis.to_json()


def test_masks_of_another_network_are_refused():
    with pytest.raises(InputError, match=r"The masks do not fit the network: a\.weight"):
        measured(MLP(), masked(chain(2, 2), a=[[1, 1], [1, 1]])[1], torch.randn(2, 784))
