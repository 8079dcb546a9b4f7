import math
from collections.abc import Iterable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from spl.criteria import (
    ConnectionSensitivity,
    Criterion,
    GraSP,
    Magnitude,
    Random,
    Scores,
    Subject,
    scoring_loss,
)
from spl.criteria.criterion import Batch
from spl.criteria.losses import Loss
from spl.criteria.objective import LossOfLogits, first_tensor

LABELS = scoring_loss("labels")
# the softmax of these logits is (1/4, 3/4)
LOGITS = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64)


def scores_of(network: nn.Module, batches: list[Batch], criterion: Criterion | None = None) -> Scores:
    return (criterion or ConnectionSensitivity())(subject(network, batches))


def subject(network: nn.Module, batches: Iterable[Batch], loss: Loss = LABELS) -> Subject:
    """Return all parameters of `network` as the subject of the first round."""
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    return Subject(network, weights, None, batches, LossOfLogits(loss), keep=1)


def two_weights(a: float, b: float) -> nn.Linear:
    """Return a network with logits (a x, b x) for one number x."""
    network = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[a], [b]]))
    return network


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()


def examples(n: int) -> Batch:
    return torch.randn(n, 4, dtype=torch.float64), torch.randint(3, (n,))


def absolute_sum_of_mask_gradients(network: nn.Module, batches: list[Batch], loss: Loss) -> dict[str, Tensor]:
    """Return |dL/dc| at c = 1 with a variable c on every weight, normalized: the definition of the criterion."""
    factors = {name: torch.ones_like(p, requires_grad=True) for name, p in network.named_parameters()}
    masked = {name: factors[name] * p.detach() for name, p in network.named_parameters()}
    sum(loss(functional_call(network, masked, x), y) for x, y in batches).backward()
    total = sum(c.grad.abs().sum() for c in factors.values())
    return {name: c.grad.abs() / total for name, c in factors.items()}


def test_connection_sensitivity_of_two_weights_by_hand():
    # softmax (1/4, 3/4), so dL/dw = (-3/4, 3/4) and |w dL/dw| = 3/4 (1, 1 + ln 3)
    scores = scores_of(two_weights(1.0, 1.0 + math.log(3)), [(torch.ones(1, 1), torch.tensor([0]))])
    expected = torch.tensor([[1.0], [1.0 + math.log(3)]]) / (2.0 + math.log(3))
    torch.testing.assert_close(scores["weight"], expected)


def test_connection_sensitivity_of_a_zero_weight_is_zero_whatever_its_gradient():
    scores = scores_of(two_weights(0.0, 2.0), [(torch.ones(1, 1), torch.tensor([0]))])
    assert scores["weight"].tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize("targets", ["labels", "uniform", "prediction_logits", "prediction_softmax"])
def test_connection_sensitivity_is_the_gradient_of_a_mask_on_each_weight(targets):
    network, batches = mlp(), [examples(5), examples(3), examples(1)]
    loss = scoring_loss(targets)
    scores = ConnectionSensitivity()(subject(network, batches, loss))
    expected = absolute_sum_of_mask_gradients(network, batches, loss)
    assert scores.keys() == expected.keys()
    for name, score in scores.items():
        torch.testing.assert_close(score, expected[name])


def test_connection_sensitivity_sums_before_it_takes_the_absolute_value():
    # at equal logits dL/dw is (-x/2, x/2) for label 0 and (x/2, -x/2) for label 1: the gradients of feature 0 cancel
    network = nn.Linear(2, 2, bias=False)
    nn.init.ones_(network.weight)
    feature0, feature1 = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    batches = [
        (feature0, torch.tensor([0])),
        (feature0, torch.tensor([1])),
        (feature1, torch.tensor([0])),
    ]
    assert scores_of(network, batches)["weight"].tolist() == [[0.0, 0.5], [0.0, 0.5]]
    one_by_one = sum(scores_of(network, [batch])["weight"] for batch in batches) / 3
    torch.testing.assert_close(one_by_one, torch.tensor([[1 / 3, 1 / 6], [1 / 3, 1 / 6]]))


def test_connection_sensitivity_is_zero_where_no_gradient_arrives():
    network = two_weights(1.0, 1.0)
    scores = scores_of(network, [(torch.ones(2, 1), torch.tensor([0, 1]))])
    assert scores["weight"].tolist() == [[0.0], [0.0]]


@given(st.sets(st.integers(1, 11)))
def test_scores_do_not_depend_on_how_examples_are_cut_into_batches(cuts):
    torch.manual_seed(0)
    network, (x, y) = mlp(), examples(12)
    batches = list(zip(torch.tensor_split(x, sorted(cuts)), torch.tensor_split(y, sorted(cuts)), strict=True))
    whole, cut = scores_of(network, [(x, y)]), scores_of(network, batches)
    for name, score in whole.items():
        torch.testing.assert_close(cut[name], score)


@given(st.floats(1e-3, 1e3))
def test_connection_sensitivity_sums_to_one(scale):
    torch.manual_seed(0)
    network = mlp()
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(scale)
    total = sum(score.sum() for score in scores_of(network, [examples(6)]).values())
    assert float(total) == pytest.approx(1.0)


def test_connection_sensitivity_of_huge_weights_still_tells_them_apart():
    # w dL/dw is (-1e38, 3e38); each fits in a float32, but their sum does not
    scores = scores_of(two_weights(1e19, 3e19), [(torch.full((1, 1), 1e19), torch.tensor([0]))])
    torch.testing.assert_close(scores["weight"], torch.tensor([[0.25], [0.75]]))


def test_a_weight_that_is_used_twice_is_scored_with_both_uses():
    shared = nn.Linear(3, 3).double()
    network = nn.Sequential(shared, nn.Tanh(), shared)
    batches = [(torch.randn(5, 3, dtype=torch.float64), torch.randint(3, (5,)))]
    scores = scores_of(network, batches)
    expected = absolute_sum_of_mask_gradients(network, batches, LABELS)
    assert list(scores) == ["0.weight", "0.bias"]
    torch.testing.assert_close(scores["0.weight"], expected["0.weight"])


def test_a_parameter_that_the_loss_does_not_reach_scores_zero():
    network = two_weights(1.0, 2.0)
    network.register_parameter("unused", nn.Parameter(torch.ones(2)))
    scores = scores_of(network, [(torch.ones(1, 1), torch.tensor([0]))])
    assert scores["unused"].tolist() == [0.0, 0.0]
    assert float(scores["weight"].sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("criterion", [ConnectionSensitivity(), Magnitude(), Random()])
def test_scores_have_the_shapes_of_the_parameters_and_no_history(criterion):
    network = mlp()
    scores = scores_of(network, [examples(2)], criterion)
    assert {n: s.shape for n, s in scores.items()} == {n: p.shape for n, p in network.named_parameters()}
    assert not any(score.requires_grad for score in scores.values())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("criterion", [ConnectionSensitivity(), GraSP(temperature=1)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_of_weights_in_half_precision_are_in_single(criterion, dtype):
    """Shares of many weights are too small for half precision."""
    scores = scores_of(nn.Linear(4, 3).to(dtype), [(torch.randn(5, 4).to(dtype), torch.arange(5) % 3)], criterion)
    assert scores["weight"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize(
    "batch", [{"weight": torch.tensor(2.0), "x": torch.ones(3, 2)}, [torch.tensor(1), (torch.ones(3, 2),)]]
)
def test_the_inputs_of_a_batch_are_its_first_tensor_that_has_axes(batch):
    assert torch.equal(first_tensor(batch), torch.ones(3, 2))


def test_cross_entropy_with_labels_by_hand():
    both = LOGITS.repeat(2, 1)
    assert float(LABELS(both, torch.tensor([0, 1]))) == pytest.approx(math.log(4) + math.log(4 / 3))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("uniform", 0.5 * math.log(4) + 0.5 * math.log(4 / 3)),
        ("prediction_logits", math.log(3) * math.log(4 / 3)),
        ("prediction_softmax", 0.25 * math.log(4) + 0.75 * math.log(4 / 3)),
    ],
)
def test_cross_entropy_without_labels_by_hand(targets, expected):
    loss = scoring_loss(targets)
    assert float(loss(LOGITS, torch.tensor([0]))) == pytest.approx(expected)
    assert float(loss(LOGITS, torch.tensor([1]))) == pytest.approx(expected)
    assert float(loss(LOGITS.repeat(3, 1), torch.tensor([0, 1, 1]))) == pytest.approx(3 * expected)


@pytest.mark.parametrize(
    ("targets", "gradient"),
    [
        # the gradient of -log p_0: p - (1, 0)
        ("labels", lambda z, p: p - torch.tensor([1.0, 0.0])),
        # the gradient of -mean_i log p_i: p - 1/2
        ("uniform", lambda z, p: p - 0.5),
        # the gradient of -sum_i z_i log p_i: -log p - z + p sum(z)
        ("prediction_logits", lambda z, p: -p.log() - z + p * z.sum()),
        # the gradient of the entropy H: -p (log p + H)
        ("prediction_softmax", lambda z, p: -p * (p.log() - (p * p.log()).sum())),
    ],
)
def test_gradients_of_the_scoring_losses_by_hand(targets, gradient):
    logits = LOGITS.clone().requires_grad_()
    scoring_loss(targets)(logits, torch.tensor([0])).backward()
    expected = gradient(LOGITS[0], torch.tensor([0.25, 0.75], dtype=torch.float64))
    torch.testing.assert_close(logits.grad[0], expected)
    assert logits.grad.abs().min() > 0.01


def test_magnitude_is_the_absolute_weight():
    assert scores_of(two_weights(-3.0, 2.0), [], Magnitude())["weight"].tolist() == [[3.0], [2.0]]


def test_magnitude_scores_are_no_view_of_the_weights():
    network = two_weights(3.0, 2.0)
    scores_of(network, [], Magnitude())["weight"].zero_()
    assert network.weight.tolist() == [[3.0], [2.0]]


def test_random_scores_depend_on_their_seed_alone():
    network = mlp()
    torch.manual_seed(1)
    first = scores_of(network, [], Random(seed=5))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = scores_of(network, [], Random(seed=5))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = scores_of(network, [], Random(seed=6))
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_random_scores_are_uniform_and_differ_between_layers():
    network = nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(100, 100, bias=False))
    first, second = scores_of(network, [], Random()).values()
    assert not torch.equal(first, second)
    for score in (first, second):
        share = (score < torch.tensor([0.1, 0.5, 0.9, 1.0])[:, None, None]).float().mean((1, 2))
        torch.testing.assert_close(share, torch.tensor([0.1, 0.5, 0.9, 1.0]), atol=0.02, rtol=0)
        assert score.min() >= 0


@pytest.mark.parametrize("criterion", [Magnitude(), Random()])
def test_criteria_without_data_read_none(criterion):
    def batches():
        raise AssertionError("read")
        yield

    assert not criterion.needs_data
    assert list(criterion(subject(two_weights(1.0, 2.0), batches()))) == ["weight"]
