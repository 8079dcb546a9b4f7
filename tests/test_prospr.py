import copy
from itertools import cycle, islice

import pytest
import torch
import torch.nn.functional as F
from subjects import chain, examples, subject
from torch import Tensor, nn

from spl.criteria import ConnectionSensitivity, ProsPr, Subject
from spl.criteria.objective import MeanLoss
from spl.criteria.processes import Processes
from spl.criteria.schedules import Exponential
from spl.errors import InputError
from spl.masks.masks import Masks
from spl.pruning import prune


def half_square(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return network(batch[0]).square().mean() / 2


def scores_of_one_weight(criterion: ProsPr, w: float, *inputs: float) -> float:
    """Return the score of w in the network w x, trained on ½ (w x)²."""
    network = chain([[w]])
    batches = [(torch.tensor([[x]], dtype=torch.float64), torch.zeros(1)) for x in inputs]
    weights = {"fc1.weight": network.fc1.weight.detach().clone()}
    return float(criterion(Subject(network, weights, None, batches, MeanLoss(half_square), keep=1))["fc1.weight"])


# By hand


def test_scores_of_one_weight_by_hand():
    # a step multiplies θ by 1 − η x²; then L = ½ x² θ², of which ∂L/∂m = x² θ · ∂θ/∂m with θ = m w Π(1 − η x²)
    score = scores_of_one_weight(ProsPr(steps=2, lr=0.1), 3.0, 1.0, 2.0, 0.5)
    factor = (1 - 0.1 * 1.0) * (1 - 0.1 * 4.0)
    assert score == pytest.approx(0.25 * (3.0 * factor) ** 2)


def test_scores_with_momentum_by_hand():
    # x = 1: v₁ = θ₀, θ₁ = (1 − η) θ₀, v₂ = μ v₁ + θ₁, θ₂ = θ₁ − η v₂ = ((1 − η) − η (μ + 1 − η)) θ₀
    score = scores_of_one_weight(ProsPr(steps=2, lr=0.2, momentum=0.5), 3.0, 1.0)
    assert score == pytest.approx((3.0 * (0.8 - 0.2 * 1.3)) ** 2)


def test_scores_of_the_first_order_by_hand():
    # the update is constant, so ∂θ/∂m = w
    score = scores_of_one_weight(ProsPr(steps=1, lr=0.1, first_order=True), 3.0, 2.0, 1.0)
    assert score == pytest.approx(3.0 * 3.0 * (1 - 0.1 * 4.0))


# The score is the slope of the loss after training, by torch's own SGD and finite differences


class Tied(nn.Module):
    """A network with BatchNorm, biases and a weight that is used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.second, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(torch.tanh(self.second(torch.tanh(self.norm(self.first(x))))))


def trained_loss(network: nn.Module, criterion: ProsPr, batches: list, masks: dict[str, Tensor]) -> float:
    """Return the loss after training from θ₀ = w ⊙ m."""
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for name, mask in masks.items():
            twin.get_parameter(name).mul_(mask)
    optimizer = torch.optim.SGD(twin.parameters(), lr=criterion.lr, momentum=criterion.momentum)
    *steps, last = islice(cycle(batches), criterion.steps + 1)
    for x, y in steps:
        optimizer.zero_grad()
        F.cross_entropy(twin(x), y).backward()
        optimizer.step()
    return F.cross_entropy(twin(last[0]), last[1]).item()


@pytest.mark.parametrize("mode", ["batch", "eval"])
@pytest.mark.parametrize("criterion", [ProsPr(), ProsPr(steps=4, lr=0.5, momentum=0.9)], ids=["default", "momentum"])
def test_scores_are_the_slope_of_the_loss_after_training_by_finite_differences(criterion, mode):
    torch.manual_seed(0)
    network = Tied().double().train(mode == "batch")
    batches = [examples(n, 4) for n in (6, 5, 7)]  # fewer than steps, so that they are used in turn
    scores = criterion(subject(network, batches))
    assert list(scores) == ["first.weight", "first.bias", "norm.weight", "norm.bias", "head.weight", "head.bias"]
    for name in ("first.weight", "head.weight", "norm.weight"):
        for place in (0, scores[name].numel() - 1):
            losses = []
            for change in (1e-5, -1e-5):
                mask = torch.ones_like(scores[name])
                mask.view(-1)[place] += change
                losses.append(trained_loss(network, criterion, batches, {name: mask}))
            slope = abs(losses[0] - losses[1]) / 2e-5
            assert float(scores[name].view(-1)[place]) == pytest.approx(slope, rel=1e-5, abs=1e-9)


class Apart(nn.Module):
    """A network whose first weight has a matrix for each input, of which one entry is held at 0."""

    def __init__(self, network: nn.Sequential):
        super().__init__()
        w = network.fc1.weight.detach()
        self.left, self.right = nn.Parameter(w[:, :1].clone()), nn.Parameter(w[1:, 1:].clone())
        self.fc2 = copy.deepcopy(network.fc2)

    def forward(self, x):
        right = torch.cat([torch.zeros_like(self.right), self.right])
        return self.fc2(torch.tanh(x[:, :1] @ self.left.T + x[:, 1:] @ right.T))


def test_pruned_weights_stay_0_during_the_steps():
    network = chain([[1.0, -2.0], [0.5, 3.0]], [[-1.0, 1.0], [2.0, 1.0]], activation=nn.Tanh)
    batches = [examples(5, 2, classes=2)]
    masks = Masks({"fc1.weight": torch.tensor([[True, False], [True, True]]), "fc2.weight": torch.ones(2, 2) > 0})
    expected = ProsPr()(subject(Apart(network), batches))
    scores = ProsPr()(subject(network, batches, masks))
    torch.testing.assert_close(scores["fc2.weight"], expected["fc2.weight"])
    torch.testing.assert_close(scores["fc1.weight"][:, :1], expected["left"])
    torch.testing.assert_close(scores["fc1.weight"][1:, 1:], expected["right"])


def test_several_rounds_keep_what_is_asked_for():
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    assert prune(network, ProsPr(), 0.75, [examples(8, 4)], schedule=Exponential(3)).kept == 14


# Batches and processes


def test_no_more_batches_are_read_than_steps_and_the_final_loss_need():
    read = []

    def batches():
        for k in range(10):
            read.append(k)
            yield examples(3, 2, classes=2)

    ProsPr(steps=2)(subject(chain([[1.0, 2.0], [3.0, 4.0]]), batches()))
    assert read == [0, 1, 2]


class Second(Processes):
    rank, size = 1, 2


def test_the_first_process_scores_and_the_others_add_nothing_but_read_the_same():
    network = chain([[1.0, 2.0], [3.0, 4.0]])
    read = []

    class Batches(list):
        def __iter__(self):
            for batch in super().__iter__():
                read.append(batch)
                yield batch

    given = subject(network, Batches([examples(3, 2, classes=2) for _ in range(6)]))
    second = Subject(network, given.weights, None, given.batches, given.loss, keep=1, processes=Second())
    assert ProsPr()(second)["fc1.weight"].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert len(read) == 4


def test_a_loss_that_draws_numbers_draws_the_same_where_its_step_is_differentiated():
    drawn = []

    def loss(network, batch):
        drawn.append(float(torch.rand(())))
        return (network(batch[0]) * (1 + drawn[-1])).square().mean()

    network = chain([[1.0, 2.0]])
    given = subject(network, [examples(3, 2)])
    ProsPr()(Subject(network, given.weights, None, given.batches, MeanLoss(loss), keep=1))
    assert drawn[4:] == drawn[2::-1]
    assert len(set(drawn[:4])) == 4


# Errors


class Clamp(torch.autograd.Function):
    """A ReLU that is marked as differentiable once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0] > 0)


class Clamped(nn.Module):
    def forward(self, x):
        return Clamp.apply(x)


def test_operators_without_a_second_derivative_are_refused_unless_first_order_is_set():
    network = chain([[1.0, 2.0], [3.0, 4.0]], [[1.0, 0.5], [-1.0, 1.0]], activation=Clamped)
    before = network.fc1.weight.detach().clone()
    batches = [(torch.ones(2, 2, dtype=torch.float64), torch.tensor([0, 1]))]
    with pytest.raises(InputError, match="ProsPr takes second derivatives, and the operator Clamp has none"):
        ProsPr()(subject(network, batches))
    assert torch.equal(network.fc1.weight, before)
    ProsPr(first_order=True)(subject(network, batches))


def test_steps_that_diverge_are_an_error():
    with pytest.raises(InputError, match=r"the 9 training steps of ProsPr is NaN or infinite: .* Use a smaller lr"):
        scores_of_one_weight(ProsPr(steps=9, lr=1e60), 3.0, 1.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"lr": 0.0}, r"lr must be positive, got 0\.0"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1\.0"),
    ],
)
def test_arguments_out_of_range_are_errors(wrong, message):
    with pytest.raises(InputError, match=message):
        ProsPr(**wrong)


def test_with_tiny_steps_the_order_is_that_of_connection_sensitivity():
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    batches = [examples(12, 4)]
    assert prune(network, ProsPr(lr=1e-9), 0.5, batches) == prune(network, ConnectionSensitivity(), 0.5, batches)
