"""Weights of common layers that cannot be scored, corrected or masked are refused by name, before scoring."""

import pytest
import pytorch_lightning as L
import torch
from fits import PLAIN
from foreign import Plain
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from spl import InputError, PruneAtInit, prune, sparsify
from spl.criteria import ConnectionSensitivity, Magnitude, Random, SynFlow
from spl.isometry import EOI, ApproximateIsometry


class Tokens(nn.Module):
    """Classify the mean embedding of 5 tokens."""

    def __init__(self, tied: bool = False, bag: bool = False) -> None:
        super().__init__()
        self.bag = bag
        self.embedding = nn.EmbeddingBag(10, 8, sparse=True) if bag else nn.Embedding(10, 8, 0, sparse=True)
        self.head = nn.Linear(8, 10)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding(x) if self.bag else self.embedding(x).mean(1))


class Trained(Plain):
    def configure_optimizers(self):  # momentum and weight decay do not take sparse gradients
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(network: nn.Module, inputs: Tensor, **pruning) -> PruneAtInit:
    callback = PruneAtInit(**({"sparsity": 0.5, "isometry": None} | pruning))
    data = DataLoader(TensorDataset(inputs, torch.arange(len(inputs)) % 4), batch_size=8)
    module = Trained(network)
    L.Trainer(**(PLAIN | {"callbacks": [callback]})).fit(module, data)
    assert callback.masks.revived(dict(module.named_parameters())) == {}
    return callback


def tokens() -> Tensor:
    return torch.randint(0, 10, (32, 5))


@pytest.mark.parametrize("criterion", [ConnectionSensitivity(), Magnitude()])
def test_an_embedding_with_sparse_gradients_is_refused_where_it_would_be_pruned(criterion):
    network = Tokens()
    before = network.embedding.weight.detach().clone()
    with pytest.raises(InputError, match=r"^network\.embedding\.weight: .* sparse=True .* Make it with sparse=False"):
        trained(network, tokens(), criterion=criterion, include_embedding=True)
    assert torch.equal(network.embedding.weight, before)


@pytest.mark.parametrize("how", [{}, {"include_embedding": True, "exclude": ["*.embedding.*"]}])
@pytest.mark.parametrize("bag", [False, True])
def test_an_embedding_with_sparse_gradients_trains_on_where_it_stays_dense(how, bag):
    network = Tokens(bag=bag)
    before = network.embedding.weight.detach().clone()
    if bag:
        how = {}
    assert list(trained(network, tokens(), **how).masks) == ["network.head.weight"]
    assert not torch.equal(network.embedding.weight, before)


def test_a_tied_embedding_has_dense_gradients_and_is_pruned():
    callback = trained(Tokens(tied=True), tokens(), include_embedding=True)
    assert list(callback.masks) == ["network.embedding.weight"]
    assert callback.masks.kept == 40


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 16, dtype=torch.complex64)
        self.last = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x.to(torch.complex64))).abs())


@pytest.mark.parametrize(
    ("criterion", "isometry", "name"),
    [
        (ConnectionSensitivity(), None, "ConnectionSensitivity"),
        (SynFlow(), None, "SynFlow"),
        (Magnitude(), ApproximateIsometry(), "ApproximateIsometry"),
        (Magnitude(), EOI(), "EOI"),
    ],
)
def test_complex_weights_are_refused_by_what_is_defined_for_real_ones(criterion, isometry, name):
    with pytest.raises(
        InputError, match=rf"^network\.first\.weight: complex, and {name} is .* Use a criterion without"
    ):
        trained(Complex(), torch.randn(16, 12), criterion=criterion, isometry=isometry)


@pytest.mark.parametrize("criterion", [Magnitude(), Random()])
def test_complex_weights_are_pruned_and_kept_at_zero_where_no_gradient_scores_them(criterion):
    callback = trained(Complex(), torch.randn(16, 12), criterion=criterion)
    assert (callback.masks.kept, callback.masks.size) == (128, 256)


def test_complex_weights_may_stay_dense():
    callback = trained(Complex(), torch.randn(16, 12), exclude=["*.first.*"], isometry=ApproximateIsometry())
    assert list(callback.masks) == ["network.last.weight"]


def test_functions_refuse_them_too():
    embedding = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises(InputError, match=r"^0\.weight: an embedding with sparse=True"):
        prune(embedding, Magnitude(), 0.5, include_embedding=True)
    layer = nn.Linear(4, 3, dtype=torch.complex64)
    with pytest.raises(InputError, match=r"^weight: complex, and ApproximateIsometry is defined for real weights"):
        sparsify(layer, Magnitude(), 0.5, isometry=ApproximateIsometry())
    assert prune(layer, Magnitude(), 0.5).kept == 6
