import copy

import pytest
import torch
from subjects import chain, subject
from torch import nn

from spl.criteria import NTKSAP
from spl.criteria.schedules import Exponential
from spl.errors import InputError
from spl.functional.seeded import seeded
from spl.initializers import Gaussian, HeNormal
from spl.masks.masks import Masks


def batch(n: int, features: int) -> list:
    return [(torch.zeros(n, features, dtype=torch.float64), torch.zeros(n))]


def test_scores_of_a_linear_network_by_hand():
    # f(z; θ ⊙ m) − f(z; (θ+Δθ) ⊙ m) = −Σ_j Δθ_j m_j z_j, for any θ: its square has the gradient
    # 2 (Σ_k Δθ_k z_k) Δθ_j z_j at m = 1
    scores = NTKSAP(perturbation=0.5, draws=1, seed=3)(subject(chain([[7.0, -2.0]]), batch(2, 2)))["fc1.weight"]
    with seeded(3 + 1):
        HeNormal().fill_(torch.empty(1, 2, dtype=torch.float64))
        change = 0.5 * torch.randn(1, 2, dtype=torch.float64)
        z = torch.randn(2, 2, dtype=torch.float64)
    expected = (2 * (z @ change.T) * change * z).mean(0).abs()
    torch.testing.assert_close(scores[0], expected)


def test_draws_are_averaged_before_the_absolute_value():
    # E 2 (Σ_k Δθ_k z_k) Δθ_j z_j = 2 ε² E z_j² = 2 ε²
    scores = NTKSAP(perturbation=0.1, draws=1500)(subject(chain([[1.0, 1.0]]), batch(3, 2)))["fc1.weight"]
    torch.testing.assert_close(scores, torch.full((1, 2), 0.02, dtype=torch.float64), rtol=0.15, atol=0)


def test_what_is_pruned_is_perturbed_in_neither_network():
    masks = Masks({"fc1.weight": torch.tensor([[True, False]])})
    criterion = NTKSAP(perturbation=0.1, draws=1500)
    scores = criterion(subject(chain([[1.0, 1.0]]), batch(3, 2), masks))["fc1.weight"]
    assert float(scores[0, 0]) == pytest.approx(0.02, rel=0.15)


def test_the_weights_are_drawn_afresh_or_are_the_networks_own():
    small, large = chain([[0.1, 0.2]], [[1.0]]), chain([[10.0, 20.0]], [[1.0]])
    drawn = [NTKSAP()(subject(network, batch(3, 2)))["fc1.weight"] for network in (small, large)]
    assert torch.equal(*drawn)
    own = [NTKSAP(initializer=None)(subject(network, batch(3, 2)))["fc1.weight"] for network in (small, large)]
    assert not torch.allclose(*own, rtol=0.5)
    other = NTKSAP(initializer=Gaussian(1e-6))(subject(small, batch(3, 2)))["fc1.weight"]
    assert not torch.allclose(other, drawn[0], rtol=0.5)


def test_the_network_s_own_weights_by_the_trace_of_the_tangent_kernel():
    # f = v m' w m z: to first order E‖Δf‖² = ε² ((∂f/∂w)² + (∂f/∂v)²) = ε² m² m'² (v² + w²) z², of which the gradient
    # with respect to either mask is 2 ε² (v² + w²) at 1, as E z² = 1
    scores = NTKSAP(perturbation=1e-4, draws=1500, initializer=None)(subject(chain([[3.0]], [[2.0]]), batch(3, 1)))
    for score in scores.values():
        assert float(score) == pytest.approx(2e-8 * 13, rel=0.15)


def test_scores_depend_on_the_seed_and_on_no_other_stream():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    torch.manual_seed(1)
    first = NTKSAP(seed=5)(subject(network, batch(2, 3)))
    torch.manual_seed(2)
    second = NTKSAP(seed=5)(subject(copy.deepcopy(network), batch(2, 3)))
    other = NTKSAP(seed=6)(subject(network, batch(2, 3)))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_every_round_draws_anew():
    network = chain([[1.0, 1.0]])
    rounds = [NTKSAP()(subject(network, batch(2, 2), keep=keep))["fc1.weight"] for keep in (2, 1)]
    assert not torch.equal(*rounds)


def test_the_published_rounds():
    assert isinstance(NTKSAP.schedule, Exponential)
    assert NTKSAP.schedule.rounds == 20


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"perturbation": 0.0}, r"perturbation must be positive, got 0\.0"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_errors(wrong, message):
    with pytest.raises(InputError, match=message):
        NTKSAP(**wrong)
