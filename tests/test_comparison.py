"""Differences of outputs are relative to their size."""

import math

import pytest
import torch
from torch import nn

from spl.export.comparison import relative_difference, tolerance

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("outputs", "expected", "difference"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 3.0], [1.0, -4.0], 7 / 4),
        ([1e-9, 3e-9], [1e-9, 4e-9], 1 / 4),
        ([0.0, 0.0], [0.0, -0.0], 0.0),
        ([0.0, 1e-30], [0.0, 0.0], INF),
        ([0.0, 0.0], [0.0, 2.0], 1.0),
        ([NAN, INF, 3.0], [NAN, INF, 4.0], 1 / 4),
        ([NAN, 4.0], [4.0, 4.0], INF),
        ([4.0, 4.0], [NAN, 4.0], INF),
        ([INF, 4.0], [-INF, 4.0], INF),
        ([4.0, 4.0], [INF, 4.0], INF),
        ([], [], 0.0),
        ([1.0], [1.0, 1.0], INF),
        ([[1.0, 1.0]], [1.0, 1.0], INF),
    ],
)
def test_the_difference_is_relative_to_the_largest_number(outputs, expected, difference):
    assert relative_difference(torch.tensor(outputs), torch.tensor(expected)) == pytest.approx(difference, rel=1e-6)


def test_each_tensor_is_compared_with_its_own_size():
    large, small = torch.tensor([1000.0]), torch.tensor([1e-5])
    assert relative_difference([large, 1.5 * small], {"a": large, "b": [small, None]}) == pytest.approx(0.5)
    assert relative_difference([large], [large, small]) == INF


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.complex64])
def test_numbers_of_any_type_are_compared(dtype):
    a, b = torch.tensor([1, 0]).to(dtype), torch.tensor([1, 1]).to(dtype)
    assert relative_difference(a, b) == 1.0
    assert relative_difference(b, b) == 0.0


def test_rounding_follows_the_coarsest_precision_of_network_and_outputs():
    layer, outputs = nn.Linear(2, 2), torch.ones(2)
    assert tolerance(layer, outputs, 1e-4) == 1e-4
    assert tolerance(layer.double(), outputs.double(), 1e-4) == 1e-4
    assert tolerance(layer, [outputs.half()], 1e-4) == 10 * 2**-10
    assert tolerance(layer.bfloat16(), outputs, 1e-4) == 10 * 2**-7
    assert tolerance(nn.Identity(), torch.ones(2, dtype=torch.long), 1e-4) == 1e-4
