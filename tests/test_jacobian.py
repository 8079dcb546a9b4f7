import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from spl.errors import InputError
from spl.initializers import Orthogonal
from spl.jacobian import Spectrum, singular_values
from spl.networks import MLP, VGG16, ResNet, WideResNet


def one_by_one(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return the singular values of the Jacobian of each example, computed one example at a time."""
    network.eval()
    rows = []
    for x in inputs:
        jacobian = torch.autograd.functional.jacobian(lambda x: network(x[None])[0], x)
        rows.append(torch.linalg.svdvals(jacobian.flatten(1).double()))
    return torch.stack(rows)


def trained(network: nn.Module) -> nn.Module:
    """Make the network orthogonal, in float64, with BatchNorm statistics of some batches."""
    Orthogonal()(network.double())
    for _ in range(30):
        network.train()(torch.randn(8, 3, 20, 20).double())
    return network


def conv_network() -> nn.Sequential:
    """Return a network with BatchNorm statistics that are not fresh."""
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 3)
    )
    network(torch.randn(20, 2, 4, 4) * 2 + 1)
    return network


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), (6,)),
        (lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 7)), (3,)),
        (lambda: nn.Linear(5, 1), (5,)),
        (conv_network, (2, 4, 4)),
        (lambda: trained(VGG16(width_multiplier=0.1, num_classes=4)), (3, 20, 20)),
        (lambda: trained(ResNet(blocks_per_stage=2, width_multiplier=0.5, num_classes=4)), (3, 9, 9)),
        (lambda: trained(WideResNet(width_multiplier=0.5, num_classes=4)), (3, 9, 9)),
    ],
    ids=["wide", "tall", "one logit", "convolution", "VGG16", "ResNet", "WideResNet"],
)
def test_singular_values_are_those_of_each_examples_jacobian(network: Callable[[], nn.Module], shape):
    model = network()
    inputs = torch.randn(7, *shape, dtype=next(model.parameters()).dtype)
    values = singular_values(model, inputs, chunk=3)
    expected = one_by_one(model, inputs)
    assert values.dtype == torch.float64
    assert values.shape == expected.shape
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=1e-4)
    assert (values.diff(dim=1) <= 0).all()


def test_a_float64_network_is_measured_in_float64():
    model, inputs = MLP(depth=3, width=6, in_features=8, out_features=4).double(), torch.randn(3, 8).double()
    torch.testing.assert_close(singular_values(model, inputs), one_by_one(model, inputs), atol=1e-9, rtol=1e-7)


def test_half_precision_is_measured():
    model, inputs = MLP(depth=2, width=6, in_features=8, out_features=4), torch.randn(3, 8)
    expected = singular_values(model, inputs)
    values = singular_values(model.bfloat16(), inputs.bfloat16())
    torch.testing.assert_close(values, expected, atol=0.02, rtol=0.1)


def test_a_linear_network_has_the_singular_values_of_the_product_of_its_matrices():
    model = MLP(depth=3, width=6, activation="linear", in_features=8, out_features=4).double()
    product = model.fc3.weight @ model.fc2.weight @ model.fc1.weight
    values = singular_values(model, torch.randn(2, 8).double())
    expected = torch.linalg.svdvals(product.detach())
    torch.testing.assert_close(values, expected.expand(2, 4))


def test_singular_values_of_a_scaling_by_hand():
    class Scale(nn.Module):
        def forward(self, x):
            return x.flatten(1) * torch.tensor([-3.0, 0.0, 2.0])

    assert singular_values(Scale(), torch.randn(2, 3)).tolist() == [[3.0, 2.0, 0.0]] * 2
    assert singular_values(Scale(), torch.randn(2, 3, 1)).tolist() == [[3.0, 2.0, 0.0]] * 2


def test_an_orthogonal_linear_network_is_an_isometry():
    model = MLP(depth=7, width=30, activation="linear", in_features=40)
    Orthogonal()(model)
    values = singular_values(model, torch.randn(3, 40))
    torch.testing.assert_close(values, torch.ones_like(values), atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_chunks_do_not_matter(chunk):
    model, inputs = conv_network(), torch.randn(5, 2, 4, 4)
    torch.testing.assert_close(singular_values(model, inputs, chunk), singular_values(model, inputs), atol=1e-6, rtol=0)


def test_examples_whose_jacobian_is_not_finite_are_nan_and_others_are_not():
    model, inputs = MLP(depth=2, width=5, in_features=4, out_features=3), torch.randn(4, 4)
    expected = singular_values(model, inputs)
    inputs[1, 0] = float("nan")
    values = singular_values(model, inputs)
    assert values.isnan().all(1).tolist() == [False, True, False, False]
    torch.testing.assert_close(values[[0, 2, 3]], expected[[0, 2, 3]])


def test_infinite_weights_give_nan():
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight[0, 0] = float("inf")
    assert singular_values(model, torch.randn(2, 3)).isnan().all()


def test_a_network_without_signal_has_singular_values_zero():
    model = MLP(depth=3, width=5, in_features=4, out_features=3)
    nn.init.zeros_(model.fc2.weight)
    assert singular_values(model, torch.randn(2, 4)).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bottleneck_leaves_singular_values_of_zero_and_none_below(dtype):
    model = MLP(depth=2, width=2, in_features=20).to(dtype)
    values = singular_values(model, torch.randn(50, 20, dtype=dtype))
    assert values.shape == (50, 10)
    assert values[:, 1].min() > 1e-2
    assert values[:, 2:].min() >= 0
    assert values[:, 2:].max() < 1e-6


@pytest.mark.parametrize("batch_norm", ["eval", "batch"])
def test_the_network_and_the_inputs_are_left_as_they_were_found(snapshot, batch_norm):
    model, inputs = conv_network().train(), torch.randn(5, 2, 4, 4)
    model(inputs).sum().backward()
    before, images = snapshot(model), inputs.clone()
    singular_values(model, inputs, chunk=3, batch_norm=batch_norm)
    assert snapshot(model) == before
    assert torch.equal(inputs, images)
    assert not inputs.requires_grad
    assert inputs.grad is None


def test_it_measures_where_gradients_are_off():
    model, inputs = MLP(depth=2, width=5, in_features=4, out_features=3), torch.randn(2, 4)
    expected = singular_values(model, inputs)
    with torch.no_grad():
        values = singular_values(model, inputs)
    assert torch.equal(values, expected)
    assert not values.requires_grad


def test_batch_norm_by_the_statistics_of_the_batch_gives_another_spectrum():
    model, inputs = conv_network(), torch.randn(6, 2, 4, 4)
    assert not torch.allclose(singular_values(model, inputs), singular_values(model, inputs, batch_norm="batch"))


@pytest.mark.parametrize(
    ("network", "got"),
    [(nn.Conv2d(1, 2, 3), r"\(2, 2, 2, 2\)"), (nn.Flatten(0, 1), r"\(2, 4, 4\)"), (nn.Flatten(0, 2), r"\(8, 4\)")],
)
def test_outputs_that_are_no_logits_are_an_error_that_shows_the_shapes(network, got):
    with pytest.raises(InputError, match=rf"logits of shape \[N, classes\], got {got} from .* \(2, 1, 4, 4\)"):
        singular_values(network, torch.randn(2, 1, 4, 4))


def test_statistics_by_hand():
    spectrum = Spectrum.of(torch.tensor([[4.0, 1.0], [2.0, 1.0]], dtype=torch.float64))
    assert spectrum == Spectrum(mean=2.0, std=math.sqrt((4 + 1 + 0 + 1) / 4), max=4.0, min=1.0, condition=4.0)
    assert spectrum.as_dict() == {"mean": 2.0, "std": math.sqrt(1.5), "max": 4.0, "min": 1.0, "condition": 4.0}


def test_the_condition_number_is_infinite_where_the_smallest_value_is_zero():
    spectrum = Spectrum.of(torch.tensor([3.0, 0.0]))
    assert (spectrum.condition, spectrum.min, spectrum.mean) == (math.inf, 0.0, 1.5)
    assert Spectrum.of(torch.zeros(3)).condition == math.inf


def test_statistics_of_nan_are_nan():
    assert all(math.isnan(v) for v in Spectrum.of(torch.tensor([1.0, float("nan")])).as_dict().values())


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=20), st.sampled_from([0.5, 2.0, 4.0]))
def test_a_scale_changes_all_but_the_condition_number(values, scale):
    plain = Spectrum.of(torch.tensor(values, dtype=torch.float64))
    scaled = Spectrum.of(torch.tensor(values, dtype=torch.float64) * scale)
    assert scaled.condition == pytest.approx(plain.condition)
    for name in ("mean", "std", "max", "min"):
        assert getattr(scaled, name) == pytest.approx(scale * getattr(plain, name))
