import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from operators import around, convolutions, transposed
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm
from torch.nn.utils.prune import random_unstructured

from spl import SparseClassifier
from spl.errors import InputError
from spl.initializers import DeltaOrthogonal, Gaussian, GlorotNormal, HeNormal, LeCunNormal, Orthogonal
from spl.isometry import operator_residual
from spl.networks import VGG16, ResNet, WideResNet

NORMAL = [LeCunNormal(), GlorotNormal(), HeNormal(), Gaussian(0.3)]
ORTHOGONAL = [Orthogonal, DeltaOrthogonal]


@pytest.mark.parametrize(
    ("initializer", "linear", "convolution"),
    [
        (LeCunNormal(), 1 / 200, 1 / (40 * 9)),
        (GlorotNormal(), 2 / (200 + 500), 2 / (40 * 9 + 80 * 9)),
        (HeNormal(), 2 / 200, 2 / (40 * 9)),
        (Gaussian(0.3), 0.3, 0.3),
        (Gaussian(1e-4), 1e-4, 1e-4),
    ],
    ids=lambda value: type(value).__name__,
)
def test_weights_are_normal_with_the_variance_of_their_layer(initializer, linear, convolution):
    network = nn.Sequential(nn.Linear(200, 500), nn.Conv2d(40, 80, 3))
    initializer(network)
    for layer, variance in zip(network, (linear, convolution), strict=True):
        z = layer.weight.detach().flatten() / math.sqrt(variance)
        assert len(z) > 25_000
        assert float(z.mean()) == pytest.approx(0.0, abs=0.03)
        assert float(z.var()) == pytest.approx(1.0, abs=0.04)
        # the normal shares within one and two standard deviations: neither uniform nor truncated
        assert float((z.abs() < 1).float().mean()) == pytest.approx(0.683, abs=0.01)
        assert float((z.abs() > 2).float().mean()) == pytest.approx(0.0455, abs=0.005)
        assert not layer.bias.any()


@pytest.mark.parametrize("shape", [(5, 4), (10, 784), (64, 3, 3, 3), (7, 2, 9), (4, 4, 3, 3, 3)])
@pytest.mark.parametrize(
    ("initializer", "reference"),
    [
        (LeCunNormal(), partial(nn.init.kaiming_normal_, nonlinearity="linear")),
        (HeNormal(), partial(nn.init.kaiming_normal_, nonlinearity="relu")),
        (GlorotNormal(), nn.init.xavier_normal_),
    ],
    ids=["LeCunNormal", "HeNormal", "GlorotNormal"],
)
def test_variance_scaling_draws_the_numbers_that_torch_draws(initializer, reference, shape):
    weight, expected = torch.empty(shape), torch.empty(shape)
    torch.manual_seed(4)
    initializer.fill_(weight)
    torch.manual_seed(4)
    reference(expected)
    assert torch.equal(weight, expected)


def test_fan_in_of_a_grouped_convolution_counts_one_group():
    layer = nn.Conv2d(80, 80, 5, groups=8)
    LeCunNormal()(layer)
    assert float(layer.weight.detach().var()) == pytest.approx(1 / (10 * 25), rel=0.05)


@pytest.mark.parametrize("initializer", ORTHOGONAL)
@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(8, 8), (5, 12), (12, 5)])
def test_orthogonal_weights_have_the_gain_as_every_singular_value(shape, gain, initializer):
    layer = nn.Linear(shape[1], shape[0])
    initializer(gain)(layer)
    torch.testing.assert_close(torch.linalg.svdvals(layer.weight), torch.full((min(shape),), gain))
    assert not layer.bias.any()


def test_orthogonal_weights_are_drawn_without_preference_for_a_sign():
    layer = nn.Linear(30, 30)
    diagonals = []
    for _ in range(20):
        Orthogonal()(layer)
        diagonals.append(layer.weight.diagonal().clone())
    share = float((torch.stack(diagonals) > 0).float().mean())
    assert share == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("initializer", [*NORMAL, Orthogonal(), DeltaOrthogonal()], ids=lambda i: type(i).__name__)
def test_a_seed_decides_the_weights(initializer):
    network = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ConvTranspose1d(4, 3, 2), nn.Linear(6, 5))
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        initializer(network)
        drawn.append([layer.weight.clone() for layer in network])
    first, again, other = drawn
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))


@pytest.mark.parametrize("initializer", NORMAL, ids=lambda i: type(i).__name__)
def test_other_layers_keep_their_weights(initializer):
    network = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Embedding(3, 2))
    nn.init.constant_(network[1].bias, 7.0)
    table = network[2].weight.clone()
    parameters = list(network.parameters())
    initializer(network)
    assert network[1].bias.tolist() == [7.0] * 4
    assert torch.equal(network[2].weight, table)
    assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
    assert all(p.requires_grad for p in parameters)


@pytest.mark.parametrize("initializer", ORTHOGONAL)
@pytest.mark.parametrize("gain", [0.0, -1.0, float("nan")])
def test_a_gain_that_is_not_positive_is_an_error(gain, initializer):
    with pytest.raises(InputError, match=f"gain must be positive, got {gain}"):
        initializer(gain)


@pytest.mark.parametrize("variance", [0.0, -1.0, float("nan")])
def test_a_variance_that_is_not_positive_is_an_error(variance):
    with pytest.raises(InputError, match=f"variance must be positive, got {variance}"):
        Gaussian(variance)


# Orthogonal convolutions


def initialize(layer, initializer, gain):
    """Draw the weight in single precision, as in a network; then convert to double, so that nothing else is rounded."""
    initializer(gain)(layer.float())
    layer.double()


def images_for(layer, extra):
    """Return three random images, larger than the kernel by `extra`."""
    sizes = [d * (k - 1) + 1 + extra for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    return torch.randn(3, layer.in_channels, *sizes, dtype=torch.float64)


def norms(images):
    """Return the norm of each image."""
    return images.detach().flatten(1).norm(dim=1)


LAYERS = {strides: convolutions(channels=8, kernels=(5, 5, 3), strides=strides) for strides in (1, 3)}
NARROWING = LAYERS[3].filter(lambda layer: layer.in_channels >= layer.out_channels)
GAINS = st.sampled_from([0.5, 1.0, 2.0])


@pytest.mark.parametrize("initializer", ORTHOGONAL)
@given(LAYERS[1].filter(lambda layer: layer.in_channels <= layer.out_channels), st.integers(0, 3), GAINS)
def test_a_widening_convolution_scales_the_norm_of_every_image_by_the_gain(initializer, layer, extra, gain):
    initialize(layer, initializer, gain)
    images = images_for(layer, extra)
    torch.testing.assert_close(norms(around(layer, images)), gain * norms(images), rtol=1e-5, atol=0)


@pytest.mark.parametrize("initializer", ORTHOGONAL)
@given(NARROWING, st.integers(0, 3), GAINS)
def test_the_transpose_of_a_narrowing_convolution_does_so_with_any_stride(initializer, layer, extra, gain):
    initialize(layer, initializer, gain)
    outputs, transpose = torch.func.vjp(lambda images: around(layer, images), images_for(layer, extra))
    cotangents = torch.randn_like(outputs)
    torch.testing.assert_close(norms(transpose(cotangents)[0]), gain * norms(cotangents), rtol=1e-5, atol=0)


@pytest.mark.parametrize("initializer", ORTHOGONAL)
@given(NARROWING.map(transposed), st.integers(0, 3), GAINS)
def test_a_widening_transposed_convolution_does_so_with_any_stride(initializer, layer, extra, gain):
    initialize(layer, initializer, gain)
    images = images_for(layer, extra)
    torch.testing.assert_close(norms(around(layer, images)), gain * norms(images), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kernel", [3, 5, (3, 1), (1, 5)])
def test_a_delta_orthogonal_convolution_keeps_norms_with_borders_of_zeros_too(kernel):
    layer = nn.Conv2d(4, 6, kernel, padding="same")
    DeltaOrthogonal(2.0)(layer)
    images = torch.randn(3, 4, 7, 6)
    torch.testing.assert_close(norms(layer(images)), 2 * norms(images), rtol=1e-5, atol=0)


def energies(layer):
    """Return the squared norm of each tap."""
    return layer.weight.detach().double().square().sum((0, 1))


@pytest.mark.parametrize("channels", [(6, 16), (16, 6)])
def test_orthogonal_spreads_the_kernel_over_all_its_taps(channels):
    layer = nn.Conv2d(*channels, 3)
    Orthogonal()(layer)
    assert float(energies(layer).sum()) == pytest.approx(6)  # the trace of an isometry of six channels
    assert float(energies(layer).min()) > 0.05
    assert float(energies(layer).max()) < 3


@pytest.mark.parametrize(("kernel", "middle"), [((3, 3), (1, 1)), ((5, 1), (2, 0)), ((2, 4), (0, 1)), ((1, 1), (0, 0))])
def test_delta_orthogonal_leaves_the_middle_tap_alone(kernel, middle):
    layer = nn.Conv2d(6, 16, kernel)
    DeltaOrthogonal()(layer)
    expected = torch.zeros(kernel, dtype=torch.float64)
    expected[middle] = 6.0
    torch.testing.assert_close(energies(layer), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("initializer", ORTHOGONAL)
def test_the_groups_of_a_convolution_are_drawn_apart(initializer):
    layer = nn.Conv2d(8, 8, 3, groups=2)
    initializer()(layer)
    first, second = layer.weight.chunk(2)
    assert not torch.isclose(first, second).flatten(2).all(2).any()


@pytest.mark.parametrize("initializer", ORTHOGONAL)
def test_kernels_are_the_same_in_any_memory_layout(initializer):
    plain = nn.Conv2d(3, 6, 3)
    channels_last = nn.Conv2d(3, 6, 3).to(memory_format=torch.channels_last)
    for layer in (plain, channels_last):
        torch.manual_seed(5)
        initializer()(layer)
    assert torch.equal(plain.weight, channels_last.weight)


@pytest.mark.parametrize("network", [VGG16, ResNet, WideResNet])
def test_every_layer_of_an_orthogonal_network_is_an_isometry_where_its_stride_is_one(network):
    network = network()
    normalization = {name: p.clone() for name, p in network.named_parameters() if "bn" in name}
    Orthogonal()(network)
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    assert all(torch.equal(parameters[name], p) for name, p in normalization.items())
    rest = {name: p for name, p in parameters.items() if name not in normalization}
    assert all(float(operator_residual(p)) < 1e-4 for name, p in rest.items() if name.endswith("weight"))
    assert not any(p.any() for name, p in rest.items() if name.endswith("bias"))


def old_weight_norm(layer):
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer)


def pruned(layer, name):
    random_unstructured(layer, name, 0.5)
    return layer


PARAMETRIZED = {
    "weight norm": parametrizations.weight_norm,
    "weight norm by hooks": old_weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm by hooks": spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "pruned": partial(pruned, name="weight"),
    "pruned bias": partial(pruned, name="bias"),
}


@pytest.mark.parametrize("initializer", [Orthogonal(), DeltaOrthogonal(), HeNormal(), Gaussian()])
@pytest.mark.parametrize("parametrized", PARAMETRIZED.values(), ids=PARAMETRIZED)
def test_weights_that_are_computed_from_others_are_refused_before_any_is_drawn(parametrized, initializer):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), parametrized(nn.Linear(4, 4)))
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    with pytest.raises(InputError, match=r"^2\.(weight|bias): computed from .* Draw the weights before they are"):
        SparseClassifier(network, num_classes=4, initializer=initializer)
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


def test_weights_that_are_not_made_yet_or_complex_are_refused():
    with pytest.raises(InputError, match=r"^0\.weight, 0\.bias: a lazy layer has no weights .* once on a batch"):
        HeNormal()(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(InputError, match=r"^weight: complex, and initializers draw real weights"):
        HeNormal()(nn.Linear(3, 2, bias=False, dtype=torch.complex64))
