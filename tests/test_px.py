from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from subjects import chain, examples, subject
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from spl.criteria import PX, Magnitude
from spl.criteria.activation_slopes import activation_slopes
from spl.criteria.schedules import Exponential, OneShot
from spl.errors import InputError
from spl.masks.masks import Masks
from spl.networks import MLP
from spl.pruning import prunable_parameters, prune


def batch(*rows: list[float]) -> list:
    return [(torch.tensor(rows, dtype=torch.float64), torch.zeros(len(rows)))]


def scores_of(network: nn.Module, batches: list, masks: Masks | None = None) -> dict[str, Tensor]:
    return PX()(subject(network, batches, masks, include_bias=False))


# By hand: h = (v² w²) 1 with w² = [[1, 4], [0, 9]], so the hidden units of h are 5 and 9


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Identity])
def test_scores_of_one_output_are_squared_path_weights(activation):
    # with a single output, g is a factor of all scores, and its share is 1
    network = chain([[1.0, -2.0], [0.0, 3.0]], [[-4.0, 5.0]], activation=activation)
    scores = scores_of(network, batch([1.0, 2.0]))
    assert scores["fc1.weight"].tolist() == [[16.0, 64.0], [0.0, 225.0]]
    assert scores["fc2.weight"].tolist() == [[80.0, 225.0]]


def test_outputs_count_by_their_open_paths():
    # at x = (1, 2): hidden units −3 and 6, so only the second is open, with g = 1² + 2² = 5. The mask leaves output 0
    # the first unit and output 1 the second one, so nothing leads to output 0.
    network = chain([[1.0, -2.0], [0.0, 3.0]], [[-4.0, 5.0], [2.0, 6.0]], activation=nn.ReLU)
    masks = Masks({"fc1.weight": torch.ones(2, 2) > 0, "fc2.weight": torch.eye(2) > 0})
    scores = scores_of(network, batch([1.0, 2.0]), masks)
    assert scores["fc1.weight"].tolist() == [[0.0, 0.0], [0.0, 9.0 * 36.0]]
    assert scores["fc2.weight"].tolist() == [[0.0, 0.0], [0.0, 9.0 * 36.0]]
    # at (4, 1) both are open, and g_0 = 17 = g_1; together with (1, 2) it is 17 : 22
    scores = scores_of(network, batch([1.0, 2.0], [4.0, 1.0]), masks)
    torch.testing.assert_close(scores["fc2.weight"].diag(), torch.tensor([17 / 22 * 5 * 16, 9.0 * 36.0]).double())


def test_slopes_of_other_activations_are_squared():
    # at x = −1 the LeakyReLU has the slope ½, so g_0 : g_1 is ¼ : 1 where output 1 is reached by x = 1
    network = chain([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], activation=lambda: nn.LeakyReLU(0.5))
    masks = Masks({"fc1.weight": torch.eye(2) > 0, "fc2.weight": torch.eye(2) > 0})
    scores = scores_of(network, batch([-1.0, 1.0]), masks)
    assert scores["fc2.weight"].tolist() == [[0.25, 0.0], [0.0, 1.0]]


class Functional(nn.Module):
    """The layers of a network, with a function for the activation."""

    def __init__(self, network: nn.Sequential, activation: Callable[[Tensor], Tensor]):
        super().__init__()
        self.fc1, self.fc2, self.activation = network.fc1, network.fc2, activation

    def forward(self, x):
        return self.fc2(self.activation(self.fc1(x)))


@pytest.mark.parametrize(
    "activation",
    [F.relu, torch.relu, Tensor.relu, Tensor.relu_, lambda x: F.relu(input=x, inplace=True), lambda x: x.relu()],
)
def test_activations_may_be_functions(activation):
    torch.manual_seed(0)
    network, batches = (
        chain(torch.randn(5, 3).tolist(), torch.randn(2, 5).tolist(), activation=nn.ReLU),
        [examples(6, 3)],
    )
    masks = Masks({"fc1.weight": torch.rand(5, 3) > 0.3, "fc2.weight": torch.rand(2, 5) > 0.3})
    expected = scores_of(network, batches, masks)
    scores = scores_of(Functional(network, activation), batches, masks)
    assert all(torch.equal(scores[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "module",
    [nn.ReLU(), nn.ReLU6(), nn.ELU(), nn.GELU(), nn.SiLU(), nn.Tanh(), nn.Softsign(), nn.PReLU(), nn.Softplus()],
)
def test_slopes_are_those_of_the_modules(module):
    x = torch.linspace(-3, 3, 8)
    (slopes,) = activation_slopes(module, x)
    torch.testing.assert_close(slopes, torch.func.vmap(torch.func.grad(lambda h: module(h)))(x).detach())


# The bound: Σ_x Σ_k (∂f_k(x)/∂w)² ≤ ∂R/∂(w²)


@given(st.lists(st.integers(1, 5), min_size=3, max_size=5), st.floats(0.0, 0.7), st.integers(0, 10**6))
def test_scores_bound_the_tangent_kernel_weight_by_weight(sizes, sparsity, seed):
    torch.manual_seed(seed)
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b, bias=False), nn.ReLU())]
    network = nn.Sequential(*layers[:-1]).double()
    masks = Masks({name: torch.rand(p.shape) >= sparsity for name, p in network.named_parameters()})
    x, y = examples(4, sizes[0])
    scores = scores_of(network, [(x, y)], masks)
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    jacobians = jacrev(lambda p: functional_call(network, p, (x,)))(parameters)  # [N, outputs, ...]
    ones = {name: masks[name].double() for name in parameters}
    hidden = x.square()
    for k, name in enumerate(parameters):  # g by matrix products, for the factor that scores are shares of
        hidden = hidden @ ones[name].T
        if k < len(parameters) - 1:
            open_units = network[: 2 * k + 1](x) > 0
            hidden = hidden * open_units
    most = hidden.sum(0).max()
    for name, weight in parameters.items():
        kernel = weight.square() * jacobians[name].square().sum((0, 1)) * masks[name]
        assert (kernel <= most * scores[name] * (1 + 1e-6) + 1e-12).all()
        assert (scores[name] >= 0).all()


def test_the_bound_is_reached_where_one_path_leads_to_each_output():
    network = chain([[3.0]], [[2.0]], activation=nn.ReLU)
    scores = scores_of(network, batch([1.5]))
    # f = 6 x, w ∂f/∂w = 6 x for both weights, and g = x²
    assert [float(s) * 1.5**2 for s in scores.values()] == [81.0, 81.0]


# No layer collapses


@given(st.lists(st.integers(1, 6), min_size=3, max_size=6), st.floats(0.0, 0.8), st.integers(0, 10**6))
def test_scores_into_and_out_of_hidden_units_are_equal(sizes, sparsity, seed):
    torch.manual_seed(seed)
    network = nn.Sequential(*[layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())])
    masks = Masks({f"{2 * i}.weight": torch.rand(b, a) >= sparsity for i, (a, b) in enumerate(pairwise(sizes))})
    scores = PX()(subject(network, [(torch.randn(3, sizes[0]), torch.zeros(3))], masks, include_bias=False))
    for a, b in pairwise(scores.values()):
        torch.testing.assert_close(a.sum(1), b.sum(0))


def test_no_layer_collapses_where_one_shot_pruning_loses_some():
    torch.manual_seed(0)
    network = MLP(depth=5, width=20, in_features=50)
    size = sum(p.numel() for p in prunable_parameters(network).values())
    batches = [(torch.randn(4, 50), torch.zeros(4))]
    sparsity = 1 - 10 / size  # ten weights remain for five layers
    for criterion, schedule in ((PX(), OneShot()), (Magnitude(), OneShot())):
        assert not all(m.any() for m in prune(network, criterion, sparsity, batches, schedule=schedule).values())
    assert all(mask.any() for mask in prune(network, PX(), sparsity, batches).values())


def test_the_published_rounds():
    assert isinstance(PX.schedule, Exponential)
    assert PX.schedule.rounds == 100


# What it reads


def test_biases_and_labels_and_running_statistics_of_the_rounds_do_not_matter():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double()
    x, y = examples(10, 6)
    scores = PX()(subject(network.train(), [(x, y)]))
    again = PX()(subject(network, [(x, y + 1)]))
    assert all(torch.equal(scores[name], again[name]) for name in scores)
    assert not any(scores[name].any() for name in ("0.bias", "1.bias", "3.bias"))


def test_the_data_matter_from_the_second_round_on():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    data = [[examples(3, 6)], [examples(3, 6)]]
    first, second = (prune(network, PX(), 0.8, batches, schedule=OneShot()) for batches in data)
    assert first == second  # where nothing is pruned, as many paths lead to each output
    scores = [scores_of(network, batches, first) for batches in data]
    assert not torch.allclose(scores[0]["0.weight"], scores[1]["0.weight"])


def test_more_paths_than_float64_can_count_are_an_error():
    network = nn.Sequential(*(nn.Linear(100, 100, bias=False) for _ in range(160)))
    with pytest.raises(InputError, match="PX counts the paths through the network"):
        prune(network, PX(), 0.5, [(torch.ones(1, 100), torch.zeros(1))])


def test_tokens_are_refused():
    network = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 4))
    with pytest.raises(InputError, match="PX needs floating-point inputs"):
        prune(network, PX(), 0.5, [(torch.ones(2, 3, dtype=torch.long), torch.zeros(2).long())])
