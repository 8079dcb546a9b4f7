"""Situations that users of other pruning packages have reported; here they are right, or refused by name."""

import copy

import pytest
import pytorch_lightning as L
import torch
import torch.nn.functional as F
from foreign import Plain, Trained, batches
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import TensorDataset

from spl import InputError, MaskedWeights, prune, sparsify
from spl.criteria import ConnectionSensitivity, Criterion, Magnitude, SynFlow
from spl.criteria.schedules import OneShot
from spl.isometry import ApproximateIsometry


def mlp():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def data(n=24):
    inputs = torch.randn(n, 6, generator=torch.Generator().manual_seed(0))
    return batches(TensorDataset(inputs, torch.arange(n) % 3), 8)


def test_momentum_from_before_the_masks_revives_nothing():
    """https://github.com/he-y/filter-pruning-geometric-median/issues/47"""
    network, (x, y) = mlp(), next(iter(data()))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()

    for _ in range(5):
        step()
    masks = prune(network, Magnitude(), 0.8)
    held = MaskedWeights(network)
    held.hold(masks)
    with pytest.warns(UserWarning, match="SGD moves weights that have no gradient"):
        step()
    for _ in range(5):
        step()
        assert masks.revived(dict(network.named_parameters())) == {}


def test_a_copy_of_a_pruned_module_keeps_its_zeros_when_it_is_trained_on():
    """https://github.com/pytorch/pytorch/issues/37322"""
    trained = Trained(lambda: Plain(mlp()), data(), sparsity=0.8)
    twin, (x, y) = copy.deepcopy(trained.module), next(iter(data()))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(3):
        F.cross_entropy(twin(x), y).backward()
        optimizer.step()
    assert trained.masks.revived(dict(twin.named_parameters())) == {}
    assert not torch.equal(twin.network[0].weight, trained.module.network[0].weight)


class LateTarget(Plain):
    """A module that copies its network in its first step, as self-supervised methods do."""

    def __init__(self):
        super().__init__(mlp())
        self.target = None

    def training_step(self, batch, batch_idx):
        if self.target is None:
            self.target = copy.deepcopy(self.network).requires_grad_(False)
        return F.mse_loss(self(batch[0]), self.target(batch[0]) + 1)


def test_a_target_that_is_made_in_the_first_step_is_not_there_after_scoring():
    """https://github.com/lucidrains/byol-pytorch/issues/95"""
    seen = []

    class Watch(L.Callback):
        def on_train_start(self, trainer, pl_module):
            seen.append(pl_module.target)

    trained = Trained(LateTarget, data(), sparsity=0.8, callbacks=[Watch()])
    assert seen == [None]
    assert set(trained.masks) == {"network.0.weight", "network.2.weight"}
    assert trained.masks.revived(dict(trained.module.named_parameters())) == {}


def test_a_layer_without_weights_left_is_named_by_functions_too():
    """https://github.com/ganguli-lab/Synaptic-Flow/issues/7"""
    network = nn.Sequential(nn.Linear(6, 300), nn.ReLU(), nn.Linear(300, 2), nn.ReLU(), nn.Linear(2, 3))
    batch = (torch.randn(4, 6), torch.arange(4) % 3)
    with pytest.warns(UserWarning, match="^Layer collapse") as warned:
        masks = prune(network, SynFlow(), 0.998, [batch], schedule=OneShot())
    empty = [name for name, mask in masks.items() if not mask.any()]
    assert [str(warning.message).split(" has")[0] for warning in warned] == [f"Layer collapse: {n}" for n in empty]
    assert empty


def test_equal_weights_are_kept_in_the_number_asked_for():
    """https://github.com/MakazhanAlpamys/Soup/issues/693"""
    layer = nn.Linear(10, 10)
    nn.init.ones_(layer.weight)
    assert prune(layer, Magnitude(), 0.9).kept == 10


class Checkpointed(nn.Module):
    """A network whose encoder gets no gradient, because reentrant checkpointing sees only inputs that are data."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(checkpoint(self.encoder, x, use_reentrant=True))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_an_encoder_that_checkpointing_cuts_off_is_named():
    """https://github.com/ai2cm/ace/pull/1493"""
    with pytest.warns(UserWarning, match=r"^encoder\.weight: no gradient of the loss arrives there"):
        sparse = sparsify(Checkpointed(), ConnectionSensitivity(), 0.5, data())
    assert sparse.coverage.dense == {"encoder.weight": "no gradient"}


class Borrowing(nn.Module):
    """A network with an output layer that it never calls: it multiplies by the embedding instead."""

    def __init__(self):
        super().__init__()
        self.embed, self.unused, self.head = nn.Linear(6, 16), nn.Linear(16, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.embed(x) @ self.embed.weight)


def test_a_layer_that_is_never_called_is_named_and_stays_dense():
    """https://github.com/NVIDIA/Megatron-LM/pull/7577"""
    with pytest.warns(UserWarning, match=r"^unused\.weight: no gradient of the loss arrives there"):
        assert set(prune(Borrowing(), ConnectionSensitivity(), 0.5, data())) == {"embed.weight", "head.weight"}


class DropConnect(nn.Module):
    """An LSTM whose recurrent weight is computed by dropout in each step."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)
        raw = self.lstm.weight_hh_l0
        del self.lstm._parameters["weight_hh_l0"]
        self.lstm.raw = nn.Parameter(raw.detach())

    def forward(self, x):
        self.lstm.weight_hh_l0 = F.dropout(self.lstm.raw, 0.5, self.training)
        return self.head(self.lstm(x[:, None])[0][:, -1])


def test_a_recurrent_weight_that_dropout_computes_is_refused_by_name():
    """https://github.com/pytorch/pytorch/issues/40193"""
    with pytest.raises(InputError, match=r"^lstm\.weight_hh_l0: computed from other parameters"):
        prune(DropConnect(), ConnectionSensitivity(), 0.5, data())


class Weighted(Plain):
    """A module that makes the weights of its loss in a hook that runs after those of callbacks."""

    def __init__(self):
        super().__init__(mlp())

    def on_fit_start(self):
        self.weights = torch.ones(3)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1], weight=self.weights)


def test_a_step_that_needs_a_hook_of_its_module_says_what_to_do():
    """https://github.com/Lightning-AI/pytorch-lightning/issues/17040"""
    with pytest.raises(InputError, match=r"no attribute 'weights'\n.*make what it needs in __init__ or setup"):
        Trained(Weighted, data())


class Decaying(nn.Module):
    """A state-space layer, which uses exp of a parameter."""

    def __init__(self):
        super().__init__()
        self.inputs, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        self.log_decay, self.gate = nn.Parameter(torch.randn(16, 4)), nn.Parameter(torch.randn(1, 16))

    def forward(self, x):
        return self.head(self.inputs(x) * self.gate * (-torch.exp(self.log_decay)).sum(1))


def test_an_included_parameter_is_refused_where_its_zeros_prune_nothing():
    """https://github.com/onnxsim/onnxsim/pull/923"""
    with pytest.raises(InputError, match=r"^log_decay: the network multiplies by a weight that it computes"):
        prune(Decaying(), ConnectionSensitivity(), 0.5, data(), include=["log_decay"])
    assert "gate" in prune(Decaying(), ConnectionSensitivity(), 0.5, data(), include=["gate"])


class Casting(nn.Module):
    """A network that casts its signals to float32."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.first(x.float()).relu().float())


def test_synflow_scores_networks_that_cast():
    network = Casting()
    plain = nn.Sequential(network.first, nn.ReLU(), network.head)
    masks, same = (prune(net, SynFlow(), 0.8, data()) for net in (network, plain))
    assert [mask.tolist() for mask in masks.values()] == [mask.tolist() for mask in same.values()]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_of_width_0_is_left_out():
    network = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 0), nn.Linear(0, 3))
    sparse = sparsify(network, Magnitude(), 0.5, isometry=ApproximateIsometry(gain=1.0))
    assert (list(sparse.masks), sparse.coverage.covered) == (["0.weight"], 1.0)
    with pytest.raises(InputError, match="has no weights to prune"):
        prune(network[1:], Magnitude(), 0.5)


class Own(Criterion):
    def __call__(self, subject):
        return {name: weight.abs() for name, weight in subject.weights.items()}


def test_a_criterion_of_ones_own_may_leave_out_what_it_needs():
    network = mlp()
    assert prune(network, Own(), 0.5, data()) == prune(network, Magnitude(), 0.5)
    assert prune(network, Own(), 0.5) == prune(network, Magnitude(), 0.5)


class Reading(Criterion):
    def __call__(self, subject):
        return {name: weight * len(list(subject.own_batches)) for name, weight in subject.weights.items()}


def test_a_criterion_that_reads_data_and_gets_none_is_named():
    with pytest.raises(InputError, match=r"Reading scores weights on data and got none: pass batches"):
        prune(mlp(), Reading(), 0.5)
