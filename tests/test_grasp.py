import pytest
import torch
from subjects import chain, examples, subject
from torch import Tensor, nn

from spl.criteria import ConnectionSensitivity, GraSP
from spl.errors import InputError
from spl.pruning import prune, score


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def flat_gradient(network: nn.Module, batches: list, temperature: float) -> Tensor:
    loss = sum(nn.functional.cross_entropy(network(x) / temperature, y, reduction="sum") for x, y in batches)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])


def moved(network: nn.Module, step: Tensor) -> nn.Module:
    start = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    torch.nn.utils.vector_to_parameters(start + step, network.parameters())
    return network


def test_scores_of_two_weights_by_hand():
    # at logits (0, 0) of x = 1: p = 1/2, g = (p0 - 1, p1) = (-1/2, 1/2), H = p0 p1 [[1, -1], [-1, 1]], so that
    # H g = 1/4 (-1, 1); with equal weights w the scores are w/4 (-1, 1): the weight whose growth lowers the loss is out
    scores = GraSP(temperature=1.0)(subject(chain([[3.0], [3.0]]), [(torch.ones(1, 1).double(), torch.tensor([0]))]))
    torch.testing.assert_close(scores["fc1.weight"], torch.tensor([[-0.75], [0.75]]).double())


@pytest.mark.parametrize("temperature", [1.0, 200.0])
def test_the_hessian_vector_product_is_that_of_finite_differences(temperature):
    net, batches = network(), [examples(6, 4), examples(3, 4)]
    scores = GraSP(temperature)(subject(net, batches))
    weights = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    g = flat_gradient(net, batches, temperature)
    step = 1e-5 * g / g.norm()
    change = flat_gradient(moved(net, step), batches, temperature)
    change -= flat_gradient(moved(net, -2 * step), batches, temperature)
    product = change / 2e-5 * g.norm()
    found = torch.cat([s.flatten() for s in scores.values()])
    torch.testing.assert_close(found, weights * product, rtol=1e-6, atol=float(1e-7 * found.abs().max()))


def test_removing_a_small_weight_changes_the_squared_norm_of_the_gradient_by_twice_its_score():
    net, batches = network(), [examples(6, 4)]
    net[0].weight.data[2, 1] = 1e-6
    score = float(GraSP(1.0)(subject(net, batches))["0.weight"][2, 1])
    with_it = flat_gradient(net, batches, 1.0).square().sum()
    net[0].weight.data[2, 1] = 0.0
    without = flat_gradient(net, batches, 1.0).square().sum()
    assert float(without - with_it) == pytest.approx(-2 * score, rel=1e-4)


def test_attention_has_the_second_derivative_that_it_takes():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0].mean(1)

    torch.manual_seed(0)
    net, batch = Attends(), (torch.randn(6, 5, 4), torch.arange(6) % 4)
    weights = dict(net.named_parameters())
    fused = score(net, weights, GraSP(1.0), [batch])
    exact = score(net.double(), dict(net.named_parameters()), GraSP(1.0), [(batch[0].double(), batch[1])])
    for name, scores in fused.items():
        torch.testing.assert_close(scores.double(), exact[name], rtol=1e-3, atol=1e-7)


def test_one_batch_is_read_once_and_several_twice():
    reads = []

    class Batches(list):
        def __iter__(self):
            reads.append(1)
            return super().__iter__()

    GraSP()(subject(network(), Batches([examples(6, 4)])))
    assert len(reads) == 1
    GraSP()(subject(network(), Batches([examples(6, 4), examples(2, 4)])))
    assert len(reads) == 3


def test_an_iterator_that_cannot_be_read_twice_is_an_error():
    with pytest.raises(InputError, match="GraSP reads its batches several times"):
        prune(network(), GraSP(), 0.5, iter([examples(6, 4)]))


def test_a_temperature_that_is_not_positive_is_an_error():
    with pytest.raises(InputError, match=r"temperature must be positive, got 0\.0"):
        GraSP(temperature=0.0)


# Operators without a second derivative


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


class Detached(torch.autograd.Function):
    """A tanh whose gradient has no graph, as that of many kernels."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.detach() * (1 - ctx.saved_tensors[0].tanh() ** 2)


class Exact(Detached):
    """The same tanh with a gradient that can be differentiated."""

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (1 - ctx.saved_tensors[0].tanh() ** 2)


class Rounded(torch.autograd.Function):
    """A rounding, whose gradient is 0."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return torch.zeros_like(gradient)


class WithPenalty(torch.autograd.Function):
    """The first argument, with a constant gradient for the second, as losses of mixtures of experts have it."""

    @staticmethod
    def forward(ctx, x, penalty):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, torch.ones(())


class Calling(nn.Module):
    """Two layers with a function between them."""

    def __init__(self, function):
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        self.function = function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


@pytest.mark.parametrize("operator", [Clamp, Detached])
def test_an_operator_without_a_second_derivative_is_refused_by_name(operator):
    net = Calling(operator.apply).double()
    with pytest.raises(InputError, match=rf"the operator {operator.__name__} has none: .* use a criterion of first"):
        prune(net, GraSP(), 0.5, [examples(6, 4)])
    assert prune(net, ConnectionSensitivity(), 0.5, [examples(6, 4)])


@pytest.mark.parametrize(
    ("function", "same"),
    [
        (Exact.apply, torch.tanh),
        (lambda x: x.tanh() + Rounded.apply(x), lambda x: x.tanh() + x.round()),
        (lambda x: WithPenalty.apply(x, x.square().mean().detach()), lambda x: x),
        (lambda x: x + Clamp.apply(x.detach()), lambda x: x + x.detach().relu()),
    ],
    ids=["exact", "zero gradient", "constant", "no gradient"],
)
def test_operators_that_can_be_differentiated_twice_or_need_not_be_are_scored(function, same):
    torch.manual_seed(0)
    net, batch = Calling(function).double(), examples(6, 4)
    scores = score(net, dict(net.named_parameters()), GraSP(), [batch])
    net.function = same
    for name, expected in score(net, dict(net.named_parameters()), GraSP(), [batch]).items():
        torch.testing.assert_close(scores[name], expected)


def test_a_loss_that_is_added_by_its_gradient_alone_is_scored():
    """Losses of mixtures of experts are added so; the gradient of the penalty depends on no other."""
    net = Calling(lambda x: WithPenalty.apply(x, x.square().mean())).double()
    assert score(net, dict(net.named_parameters()), GraSP(), [examples(6, 4)])


def test_an_operator_of_pytorch_without_a_second_derivative_is_refused_by_name():
    class Transcribed(nn.Module):
        def __init__(self):
            super().__init__()
            self.letters = nn.Linear(4, 5)

        def forward(self, x):
            return self.letters(x.expand(6, -1, -1)).log_softmax(-1)

    def loss(network, batch):
        lengths = torch.full((2, len(batch[0])), 2)
        return nn.functional.ctc_loss(network(batch[0]), batch[1], lengths[0] + 4, lengths[1])

    batch = torch.randn(8, 4), torch.randint(1, 5, (8, 2))
    with pytest.raises(InputError, match=r"has none: derivative for aten::_ctc_loss_backward is not implemented\. Re"):
        prune(Transcribed(), GraSP(temperature=1), 0.5, [batch], loss=loss)


def test_other_errors_of_pytorch_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        prune(Calling(torch.relu), GraSP(), 0.5, [(torch.randn(2, 7), torch.tensor([0, 1]))])
