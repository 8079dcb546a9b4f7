import math
from collections import OrderedDict
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from operators import CONVOLUTIONS, around, convolutions, dense
from scipy.sparse import csr_array
from scipy.sparse.csgraph import structural_rank
from torch import Tensor, nn

from spl.errors import InputError
from spl.isometry import (
    EOI,
    ApproximateIsometry,
    Change,
    Correction,
    EdgeOfChaos,
    GradientDescentIsometry,
    OperatorIsometry,
    PrunedLayer,
    Residuals,
    SparseOrthogonal,
    isometry_residual,
    operator_residual,
    orthogonality_score,
)
from spl.masks.masks import Masks

SHAPES = [(6, 6), (3, 8), (8, 3), (1, 5), (5, 1), (4, 2, 3, 3), (16, 1, 2, 2)]
CORRECTIONS = [
    ApproximateIsometry(),
    OperatorIsometry(),
    GradientDescentIsometry(iterations=100),
    SparseOrthogonal(seed=0),
]
ToTheFloor = partial(ApproximateIsometry, tolerance=0.0)
OperatorToTheFloor = partial(OperatorIsometry, tolerance=0.0)


def named(value: object) -> str:
    return type(value).__name__


def network_of(weight: Tensor, **geometry) -> nn.Module:
    """Return a network of one layer, fc1, that shares its memory with `weight`."""
    if weight.ndim == 2:
        layer = nn.Linear(1, 1)
    else:
        fan_in = weight.shape[1] * geometry.get("groups", 1)
        layer = CONVOLUTIONS[weight.ndim - 2](fan_in, weight.shape[0], weight.shape[2:], bias=False, **geometry)
    layer.weight = nn.Parameter(weight)
    return nn.Sequential(OrderedDict(fc1=layer))


def correct(weight: Tensor, mask: Tensor | None = None, correction: Correction | None = None, **geometry) -> Change:
    """Correct `weight` in place."""
    masks = Masks({"fc1.weight": torch.ones(weight.shape, dtype=torch.bool) if mask is None else mask})
    return (correction or ToTheFloor())(network_of(weight, **geometry), masks).changes["fc1.weight"]


def orthonormal(weight: Tensor, gain: float = 1.0) -> Tensor:
    """Return how far the singular values are from the gain."""
    return (torch.linalg.svdvals(weight.detach().flatten(1).double()) - gain).abs().max()


# Residuals


def test_residual_by_hand():
    # W W^T - I = [[1 + 4 - 1, 0 + 2], [2, 1 - 1]] = [[4, 2], [2, 0]]
    weight = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    assert float(isometry_residual(weight)) == pytest.approx(math.sqrt(16 + 4 + 4))
    # with gain 2: W W^T - 4 I = [[1, 2], [2, -3]]
    assert float(isometry_residual(weight, gain=2.0)) == pytest.approx(math.sqrt(1 + 4 + 4 + 9))


def test_residual_takes_the_gram_matrix_of_the_smaller_side():
    tall = torch.tensor([[1.0], [1.0], [1.0]])
    assert float(isometry_residual(tall)) == float(isometry_residual(tall.T)) == 2.0


def test_residual_of_a_kernel_is_that_of_its_reshaped_matrix():
    kernel = torch.randn(4, 2, 3, 3)
    assert float(isometry_residual(kernel)) == float(isometry_residual(kernel.view(4, 18)))


@pytest.mark.parametrize("gain", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_residual_is_zero_where_every_singular_value_is_the_gain(shape, gain):
    weight = nn.init.orthogonal_(torch.empty(shape, dtype=torch.float64), gain)
    smaller_side = min(weight.flatten(1).shape)
    assert float(isometry_residual(weight, gain)) < 1e-12
    assert float(isometry_residual(weight, 2 * gain)) == pytest.approx(3 * gain**2 * math.sqrt(smaller_side))


def test_residual_adds_up_the_squares_of_the_groups():
    # 2² - 1 and 3² - 1
    assert float(isometry_residual(torch.tensor([[2.0], [3.0]]), groups=2)) == pytest.approx(math.sqrt(9 + 64))


def test_operator_residual_by_hand():
    # along one axis, K ⋆ K = [1·2, 2² + 1², 2·1], of which only the middle is left at stride 2
    kernel = torch.tensor([[[2.0, 1.0]]])
    assert float(operator_residual(kernel)) == pytest.approx(math.sqrt(4 + 16 + 4))
    assert float(operator_residual(kernel, gain=2.0)) == pytest.approx(math.sqrt(4 + 1 + 4))
    assert float(operator_residual(kernel, stride=[2])) == pytest.approx(4.0)
    assert float(operator_residual(kernel, dilation=[3])) == pytest.approx(math.sqrt(4 + 16 + 4))
    # taps at 0 and 3 do not overlap when shifted by 2; taps at 0 and 2 do
    assert float(operator_residual(kernel, stride=[2], dilation=[3])) == pytest.approx(4.0)
    assert float(operator_residual(kernel, stride=[2], dilation=[2])) == pytest.approx(math.sqrt(4 + 16 + 4))


@given(convolutions(channels=3, kernels=(5, 3, 2), strides=3), st.sampled_from([0.5, 1.0, 2.0]))
def test_operator_residual_is_that_of_the_matrix_of_the_convolution_an_output_pixel(layer, gain):
    taps = [d * (k - 1) + 1 for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    outputs = [math.ceil((2 * k - 1) / s) for k, s in zip(taps, layer.stride, strict=True)]
    operator = dense(layer, tuple(n * s for n, s in zip(outputs, layer.stride, strict=True)))
    gram = operator @ operator.T if operator.shape[0] <= operator.shape[1] else operator.T @ operator
    expected = (gram - gain**2 * torch.eye(len(gram))).norm() / math.sqrt(math.prod(outputs))
    actual = operator_residual(layer.weight.detach(), gain, layer.stride, layer.dilation, layer.groups)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (4, 6, 1), (6, 4, 1, 1), (4, 6, 1, 1, 1)])
@pytest.mark.parametrize("groups", [1, 2])
def test_operator_residual_of_matrices_is_the_isometry_residual(shape, groups):
    weight = torch.randn(shape, dtype=torch.float64)
    expected = isometry_residual(weight, 0.7, groups)
    torch.testing.assert_close(operator_residual(weight, 0.7, groups=groups), expected)


@pytest.mark.parametrize(
    ("shape", "geometry"),
    [
        ((3, 5), {}),
        ((5, 3), {}),
        ((2, 3, 3), {"dilation": [2]}),
        ((4, 2, 2, 3), {"groups": 2}),
        ((2, 2, 3, 2), {"stride": [2, 1]}),
        ((5, 1, 2, 2), {"stride": [2, 2]}),
    ],
)
def test_residuals_have_the_gradient_that_finite_differences_find(shape, geometry):
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: isometry_residual(w, 0.7, geometry.get("groups", 1)), weight)
    assert torch.autograd.gradcheck(lambda w: operator_residual(w, 0.7, **geometry), weight)


@pytest.mark.parametrize("geometry", [{}, {"stride": (2, 2)}, {"stride": (1, 1), "dilation": (2, 1)}])
@pytest.mark.parametrize("shape", [(64, 240, 3, 3), (240, 64, 3, 3), (260, 520)])
def test_residuals_of_large_weights_count_their_empty_outputs_and_inputs(shape, geometry):
    """Weights of more than 131,072 entries are measured without them, and their convolutions in float32."""
    mask = torch.rand(shape) < 0.1
    mask[:40] = False
    mask[:, 7:20] = False
    weight = torch.randn(shape) * 0.1 * mask
    found = PrunedLayer("w", weight, mask, 1.3, geometry if len(shape) > 2 else {}).residuals()
    expected = operator_residual(weight.double(), 1.3, **(geometry if len(shape) > 2 else {}))
    assert found.matrix == pytest.approx(float(isometry_residual(weight.double(), 1.3)), rel=1e-12)
    assert found.operator == pytest.approx(float(expected), rel=1e-5)


def test_orthogonality_score_is_the_mean_over_layers_along_the_outputs():
    # [[5 - 1, 2], [2, 1 - 1]] and, for three outputs and one input, [[1/3 - 1, 1/3, …], …]: at best √2
    square = nn.Parameter(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    tall = torch.full((3, 1), 1 / math.sqrt(3))
    assert orthogonality_score([square]) == pytest.approx(math.sqrt(24))
    assert orthogonality_score([tall]) == pytest.approx(math.sqrt(2))
    assert orthogonality_score([tall.T]) == pytest.approx(0.0, abs=1e-6)
    assert orthogonality_score(w for w in (square, tall)) == pytest.approx((math.sqrt(24) + math.sqrt(2)) / 2)
    kernel = torch.randn(4, 2, 3, 3)
    assert orthogonality_score([kernel]) == orthogonality_score([kernel.view(4, 18)])


# Approximate isometry


@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_dense_layer_becomes_an_isometry(shape, gain):
    weight = torch.randn(shape)
    before, after, *_ = correct(weight, correction=ToTheFloor(gain))
    assert before.matrix > 0.1
    assert after.matrix < 5e-4 * gain**2
    assert orthonormal(weight, gain) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_keep_their_precision(dtype):
    weight = torch.randn(6, 9).to(dtype)
    assert correct(weight).after.matrix < (1e-3 if dtype == torch.float64 else 0.03)
    assert weight.dtype == dtype


def test_a_diagonal_becomes_plus_and_minus_one():
    weight = torch.diag(torch.tensor([0.3, -2.0, 0.7, -0.1]))
    before, after, *_ = correct(weight, torch.eye(4, dtype=torch.bool))
    assert before.matrix == pytest.approx(math.sqrt(0.91**2 + 3.0**2 + 0.51**2 + 0.99**2))
    assert after.matrix < 1e-3
    torch.testing.assert_close(weight, torch.diag(torch.tensor([1.0, -1.0, 1.0, -1.0])), atol=1e-3, rtol=0)


def test_a_permutation_is_found_in_a_mask_that_has_one():
    mask = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 1]], dtype=torch.bool)
    weight = torch.tensor([[0.4, 0.3, 0.0], [0.0, 0.5, -0.2], [0.0, 0.0, -0.6]])
    assert correct(weight, mask).after.matrix < 1e-3
    # an upper triangular matrix with orthonormal rows is diagonal
    torch.testing.assert_close(weight, torch.diag(torch.tensor([1.0, 1.0, -1.0])), atol=0.03, rtol=0)


@st.composite
def layers(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Draw a random layer of random scale; its mask may have empty rows or columns, or be empty."""
    rows, columns = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    weight = torch.randn(rows, columns, generator=generator) * draw(st.sampled_from([1e-3, 0.1, 1.0, 10.0]))
    mask = torch.rand(rows, columns, generator=generator) < draw(st.floats(0.0, 1.0))
    return weight, mask


@given(layers(), st.sampled_from([0.5, 1.0, 2.0]))
def test_a_correction_never_makes_it_worse_nor_beats_the_structural_rank(layer, gain):
    weight, mask = layer
    before, after, *_ = correct(weight, mask, ToTheFloor(gain))
    tolerance = 1e-5 * gain**2
    assert after.matrix <= before.matrix + tolerance
    floor = gain**2 * math.sqrt(min(mask.shape) - structural_rank(csr_array(mask.numpy())))
    assert after.matrix >= floor - tolerance
    assert weight.isfinite().all()
    assert not weight[~mask].any()


def test_the_floor_of_the_structural_rank_is_reached():
    # rows 0 and 1 share their only column, row 2 is empty: structural rank 2 of 4
    mask = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)
    weight = torch.randn(4, 4)
    assert structural_rank(csr_array(mask.numpy())) == 2
    assert correct(weight, mask).after.matrix == pytest.approx(math.sqrt(2), abs=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_sparse_layer_comes_closer_and_keeps_every_weight_alive(shape):
    weight = torch.randn(shape) * 0.1
    mask = torch.rand(shape) < 0.6
    before, after, *_ = correct(weight, mask)
    assert after.matrix < before.matrix
    assert (weight[mask] != 0).all()


def test_every_group_of_a_convolution_becomes_an_isometry():
    weight = torch.randn(8, 1, 2, 2)
    assert correct(weight, groups=2).after.matrix < 1e-3
    assert all(orthonormal(group) < 1e-3 for group in weight.chunk(2))


def test_an_isometry_is_left_as_it_is():
    start = nn.init.orthogonal_(torch.empty(10, 10))
    weight = start.clone()
    correct(weight)
    torch.testing.assert_close(weight, start, atol=1e-5, rtol=0)


# Isometry of the operator


@pytest.mark.parametrize("gain", [0.5, 1.0])
@pytest.mark.parametrize(
    ("shape", "geometry"),
    [
        ((4, 6, 3, 3), {}),
        ((6, 4, 3, 3), {}),
        ((4, 6, 2, 2), {}),
        ((3, 4, 3), {"dilation": 2}),
        ((3, 2, 2, 2, 2), {}),
        ((6, 2, 3, 3), {"stride": 2}),  # fewer outputs than inputs at the four positions of a stride
        ((12, 2, 3, 3), {"stride": 2}),  # more outputs
        ((4, 3, 3, 3), {"groups": 2}),
    ],
)
def test_a_dense_convolution_becomes_an_isometry_of_images(shape, geometry, gain):
    weight = torch.randn(shape)
    before, after, *_ = correct(weight, correction=OperatorToTheFloor(gain), **geometry)
    assert before.operator > 1
    assert after.operator < 3e-3 * gain**2
    operator = dense(network_of(weight, **geometry).fc1, (6,) * (len(shape) - 2))
    values = torch.linalg.svdvals(operator)
    torch.testing.assert_close(values, torch.full_like(values, gain), rtol=0.02, atol=0)


@pytest.mark.parametrize("shape", [(8, 6, 3, 3), (6, 8, 3, 3), (9, 4, 5)])
def test_a_sparse_convolution_comes_closer_as_an_operator(shape):
    weight = torch.randn(shape) * 0.2
    before, after, *_ = correct(weight, torch.rand(shape) < 0.3, OperatorToTheFloor())
    assert after.operator < 0.5 * before.operator


def test_each_correction_ends_closer_in_the_residual_that_it_minimizes():
    start, mask = torch.randn(8, 6, 3, 3) * 0.2, torch.rand(8, 6, 3, 3) < 0.3
    matrix = correct(start.clone(), mask).after
    operator = correct(start.clone(), mask, OperatorToTheFloor()).after
    assert matrix.matrix < 0.1 * operator.matrix
    assert operator.operator < 0.1 * matrix.operator


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (5, 8, 1, 1)])
def test_matrices_are_corrected_as_by_approximate_isometry(shape):
    start, mask = torch.randn(shape), torch.rand(shape) < 0.6
    weights = [start.clone(), start.clone()]
    changes = [correct(w, mask, c) for w, c in zip(weights, (ToTheFloor(), OperatorToTheFloor()), strict=True)]
    assert changes[0] == changes[1]
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], start)


# Gradient descent


def test_a_step_of_gradient_descent_by_hand():
    # |w² - 1| has the slope 2 w above 1 and -2 w below
    weight = torch.tensor([[3.0]])
    correct(weight, correction=GradientDescentIsometry(learning_rate=0.1, iterations=1))
    assert float(weight) == pytest.approx(3.0 - 0.1 * 6)
    weight = torch.tensor([[0.5]])
    correct(weight, correction=GradientDescentIsometry(learning_rate=0.1, iterations=1))
    assert float(weight) == pytest.approx(0.5 + 0.1 * 1)
    # and the slope of |w² - 4| is -6 at -3
    weight = torch.tensor([[-3.0]])
    correct(weight, correction=GradientDescentIsometry(gain=2.0, learning_rate=0.5, iterations=1))
    assert float(weight) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("gain", [1.0, 1.5])
@pytest.mark.parametrize(
    ("shape", "geometry"),
    [
        ((4, 6), {}),
        ((6, 4), {}),
        ((4, 2, 3, 3), {}),
        ((20, 1, 3), {}),
        ((8, 1, 2, 2), {"groups": 2}),
        ((4, 2, 3, 3), {"groups": 4}),
    ],
)
def test_steps_go_down_the_gradient_of_the_norm_along_the_outputs(shape, geometry, gain):
    weight, mask = torch.randn(shape, dtype=torch.float64), torch.rand(shape) < 0.7
    expected = nn.Parameter(weight * mask)
    solver = torch.optim.SGD([expected], lr=0.05)
    for _ in range(3):
        solver.zero_grad()
        squares = 0.0
        for group in (expected * mask).chunk(geometry.get("groups", 1)):
            matrix = group.flatten(1)
            squares += (matrix @ matrix.T - gain**2 * torch.eye(len(matrix))).square().sum()
        squares.sqrt().backward()
        solver.step()
    correct(weight, mask, GradientDescentIsometry(gain, 0.05, iterations=3), **geometry)
    torch.testing.assert_close(weight, expected.detach())


@pytest.mark.parametrize("shape", [(6, 9), (9, 9), (6, 2, 3, 3)])
def test_more_steps_come_closer_and_approximate_isometry_as_close_at_least(shape):
    start, mask = torch.randn(shape), torch.rand(shape) < 0.5
    residuals = [
        correct(start.clone(), mask, GradientDescentIsometry(iterations=n)).after.matrix for n in (1, 10, 1000)
    ]
    assert residuals[0] > residuals[1] > residuals[2]
    assert correct(start.clone(), mask).after.matrix < residuals[2] + 1e-3


def test_steps_end_where_the_residual_is_zero():
    weight = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    start = weight.clone()
    correct(weight, correction=GradientDescentIsometry(iterations=5))
    assert torch.equal(weight, start)


# All corrections


def network_and_masks() -> tuple[nn.Sequential, Masks]:
    """Return layers of all kinds for images of 3×3, with masks for all parameters except those of the last layer."""
    body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 4, 2, groups=2))
    network = nn.Sequential(body, nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 2))
    names = [name for name, _ in network.named_parameters() if not name.startswith("3.")]
    return network, Masks({name: torch.rand_like(network.get_parameter(name)) < 0.6 for name in names})


@pytest.mark.parametrize("correction", CORRECTIONS, ids=named)
def test_weights_of_linear_and_convolutional_layers_are_corrected_and_nothing_else_is_touched(correction, snapshot):
    network, masks = network_and_masks()
    network(torch.randn(3, 3, 3, 3)).square().sum().backward()
    before = snapshot(network)
    changes = correction(network, masks).changes
    assert list(changes) == ["0.0.weight", "0.2.weight", "2.weight"]
    after = snapshot(network)
    changed = [name for name in before["tensors"] if before["tensors"][name] != after["tensors"][name]]
    assert changed == list(changes)
    assert before | {"tensors": None} == after | {"tensors": None}


@pytest.mark.parametrize("correction", CORRECTIONS, ids=named)
def test_both_residuals_are_reported_before_and_after(correction):
    network, masks = network_and_masks()
    geometries = {"0.0.weight": {"stride": (2, 2)}, "0.2.weight": {"groups": 2}, "2.weight": {}}

    def residuals() -> dict[str, Residuals]:
        found = {}
        for name, geometry in geometries.items():
            weight = (network.get_parameter(name).detach() * masks[name]).double()
            matrix = isometry_residual(weight, groups=geometry.get("groups", 1))
            found[name] = Residuals(float(matrix), float(operator_residual(weight, **geometry)))
        return found

    before = residuals()
    changes = correction(network, masks).changes
    after = residuals()
    assert {n: (c.before, c.after) for n, c in changes.items()} == {n: (before[n], after[n]) for n in geometries}
    assert before["0.0.weight"].matrix != before["0.0.weight"].operator
    assert before["2.weight"].matrix == before["2.weight"].operator


def test_the_stride_of_a_transposed_convolution_counts():
    layer = nn.ConvTranspose2d(6, 2, 3, stride=2, bias=False)
    change = OperatorToTheFloor()(layer, Masks({"weight": torch.ones(6, 2, 3, 3, dtype=torch.bool)})).changes["weight"]
    assert change.after.operator < 3e-3
    images = torch.randn(1, 6, 5, 5)
    assert float(around(layer, images).detach().norm()) == pytest.approx(float(images.norm()), rel=1e-2)


@pytest.mark.parametrize("correction", CORRECTIONS, ids=named)
def test_pruned_weights_are_zero_whatever_stood_there(correction):
    weight, mask = torch.randn(4, 2, 3, 3), torch.rand(4, 2, 3, 3) < 0.6
    clean = weight * mask
    weight[~mask] = torch.tensor([math.nan, math.inf, 5.0])[torch.arange(int((~mask).sum())) % 3]
    assert correct(weight, mask, correction) == correct(clean, mask, correction)
    assert torch.equal(weight, clean)
    assert not weight[~mask].any()


@pytest.mark.parametrize("correction", CORRECTIONS, ids=named)
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2)])
def test_a_layer_that_lost_every_weight_stays_zero(shape, correction):
    weight = torch.randn(shape)
    lost = Residuals(pytest.approx(math.sqrt(3)), pytest.approx(math.sqrt(3)))
    change = correct(weight, torch.zeros(shape, dtype=torch.bool), correction)
    assert change == Change(lost, lost, floor=lost.matrix, rank=0, gain=1.0, moved=0.0, vanished=0)
    assert not weight.any()


@pytest.mark.parametrize(
    "correction", [ApproximateIsometry(), OperatorIsometry(), EOI(), SparseOrthogonal(), EdgeOfChaos()], ids=named
)
def test_a_large_matrix_that_lost_every_weight_stays_zero(correction):
    """Matrices of more than 131,072 weights are solved alone, without their empty rows and columns."""
    network = nn.Sequential(OrderedDict(lost=nn.Linear(400, 400), group=nn.Conv2d(300, 500, 1, groups=2)))
    group = torch.rand(500, 150, 1, 1) < 0.05
    group[:250] = False
    masks = Masks({"lost.weight": torch.zeros(400, 400, dtype=torch.bool), "group.weight": group})
    changes = correction(network, masks).changes
    assert not network.lost.weight.any()
    assert changes["lost.weight"].rank == 0
    assert not network.group.weight[:250].any()
    assert changes["group.weight"].rank > 0
    assert all(bool(parameter.isfinite().all()) for parameter in network.parameters())


@pytest.mark.parametrize("correction", CORRECTIONS, ids=named)
def test_a_layer_is_corrected_whatever_its_memory_layout(correction):
    mask = torch.rand(4, 3, 2, 2) < 0.7
    plain = torch.randn(4, 3, 2, 2)
    channels_last = plain.clone().to(memory_format=torch.channels_last)
    correct(plain, mask, correction)
    correct(channels_last, mask, correction)
    torch.testing.assert_close(channels_last, plain)


@pytest.mark.parametrize("correction", CORRECTIONS, ids=named)
def test_a_correction_is_deterministic_and_works_without_gradients(correction):
    start, mask = torch.randn(7, 3, 3), torch.rand(7, 3, 3) < 0.5
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        weight = start.clone()
        with torch.no_grad():
            correct(weight, mask, correction)
        results.append(weight)
    assert torch.equal(*results)
    assert not torch.equal(results[0], start * mask)


# Errors


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"fc2.weight": torch.ones(2, 3, dtype=torch.bool)}, r"fc2\.weight \(no such parameter\)"),
        ({"fc1.weight": torch.ones(3, 2, dtype=torch.bool)}, r"fc1\.weight \(mask \(3, 2\), weights \(2, 3\)\)"),
    ],
)
def test_masks_of_another_network_are_an_error_that_names_them(mask, message):
    weight = torch.randn(2, 3)
    start = weight.clone()
    with pytest.raises(InputError, match=f"The masks do not fit the network: {message}"):
        ApproximateIsometry()(network_of(weight), Masks(mask))
    assert torch.equal(weight, start)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("correction", CORRECTIONS, ids=named)
def test_weights_that_are_not_finite_are_an_error_that_names_the_layer(correction, value):
    weight = torch.tensor([[1.0, value], [0.5, 2.0]])
    with pytest.raises(InputError, match=r"fc1\.weight: weights are NaN or infinite, .* initialize anew"):
        correct(weight, correction=correction)


@pytest.mark.parametrize("correction", [ApproximateIsometry, OperatorIsometry, GradientDescentIsometry])
@pytest.mark.parametrize("gain", [0.0, -1.0, float("nan")])
def test_a_gain_that_is_not_positive_is_an_error(gain, correction):
    with pytest.raises(InputError, match=f"gain must be positive, got {gain}"):
        correction(gain=gain)


@pytest.mark.parametrize("rate", [0.0, -0.1, float("nan")])
def test_a_learning_rate_that_is_not_positive_is_an_error(rate):
    with pytest.raises(InputError, match=f"learning_rate must be positive, got {rate}"):
        GradientDescentIsometry(learning_rate=rate)


@pytest.mark.parametrize(
    ("correction", "name"),
    [
        (ApproximateIsometry, "max_iterations"),
        (OperatorIsometry, "max_iterations"),
        (GradientDescentIsometry, "iterations"),
    ],
)
def test_no_iterations_are_an_error(correction, name):
    with pytest.raises(InputError, match=f"^{name} must be at least 1, got 0"):
        correction(**{name: 0})
