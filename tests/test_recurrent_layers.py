"""Recurrent layers are scored, masked, corrected, counted, and left whole in compact networks."""

import pytest
import torch
from foreign import Plain, batches, invariants
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import TensorDataset

from spl import InputError, prune
from spl.criteria import PHEW, ConnectionSensitivity, GraSP, Magnitude
from spl.export import compact
from spl.export.cost import weight_macs
from spl.functional.undisturbed import undisturbed
from spl.isometry import ApproximateIsometry
from spl.pruning import prunable_parameters, score

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

LAYERS = {
    "LSTM": nn.LSTM(5, 4, num_layers=2, bidirectional=True, batch_first=True),
    "projected LSTM": nn.LSTM(5, 4, proj_size=3, batch_first=True),
    "GRU": nn.GRU(5, 4, batch_first=True),
    "RNN": nn.RNN(5, 4, batch_first=True),
    "LSTMCell": nn.LSTMCell(5, 4),
    "GRUCell": nn.GRUCell(5, 4),
    "RNNCell": nn.RNNCell(5, 4),
}


class Reads(nn.Module):
    """A classifier of sequences, from the last state of a recurrent layer or of a cell that is called step by step."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.head = nn.LazyLinear(3)
        self(torch.zeros(1, 2, 5))

    def forward(self, x):
        if not isinstance(self.layer, nn.RNNCellBase):
            return self.head(self.layer(x)[0][:, -1])
        state = None
        for step in x.unbind(1):
            state = self.layer(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


def sequences(n=24):
    return torch.randn(n, 6, 5), torch.arange(n) % 3


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_every_matrix_of_a_recurrent_layer_is_pruned(layer):
    named = dict(layer.named_parameters())
    assert list(prunable_parameters(layer)) == [name for name in named if name.startswith("weight")]
    assert set(prunable_parameters(layer, include_bias=True)) == set(named)


def test_a_layer_without_biases_has_none():
    assert set(prunable_parameters(nn.GRU(5, 4, bias=False), include_bias=True)) == {"weight_ih_l0", "weight_hh_l0"}


@pytest.mark.parametrize("criterion", [ConnectionSensitivity(), GraSP()], ids=["CS", "GraSP"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_the_fused_kernel_has_the_scores_of_the_cell_that_is_called_step_by_step(kind, criterion):
    fused, cell = Reads(getattr(nn, kind)(5, 4, batch_first=True)), Reads(getattr(nn, f"{kind}Cell")(5, 4))
    cell.load_state_dict({name.removesuffix("_l0"): tensor for name, tensor in fused.state_dict().items()})
    data = [sequences()]
    scores = score(fused, prunable_parameters(fused), criterion, data)
    of_cell = score(cell, prunable_parameters(cell), criterion, data)
    for name, expected in of_cell.items():
        actual = scores[name if name.startswith("head") else f"{name}_l0"]
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_the_fused_kernel_computes_with_masked_weights():
    network, (x, _) = Reads(nn.LSTM(5, 4, batch_first=True)), sequences()
    network(x)
    masks = prune(network, Magnitude(), 0.9)
    masks.apply_(dict(network.named_parameters()))
    cell = Reads(nn.LSTMCell(5, 4))
    cell.load_state_dict({name.removesuffix("_l0"): tensor for name, tensor in network.state_dict().items()})
    torch.testing.assert_close(network(x), cell(x))


@pytest.mark.parametrize("kind", ["LSTM", "GRUCell"])
def test_training_keeps_the_masks_of_recurrent_layers(kind, tmp_path):
    data = batches(TensorDataset(*sequences()), 8)
    kinds = {"LSTM": lambda: nn.LSTM(5, 16, batch_first=True), "GRUCell": lambda: nn.GRUCell(5, 16)}
    trained = invariants(lambda: Plain(Reads(kinds[kind]()), lr=0.5), data, tmp_path, epochs=20)
    assert len(trained.masks) == 3


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1), ("LSTMCell", 4), ("GRUCell", 3)])
def test_each_gate_is_brought_to_isometry_on_its_own(kind, gates):
    layer = getattr(nn, kind)(8, 6)
    masks = prune(layer, Magnitude(), 0.2)
    changes = ApproximateIsometry(gain=1.0, tolerance=0.0)(layer, masks).changes
    for name, change in changes.items():
        assert (change.rank, change.floor) == (6 * gates, 0.0)
        for gate in layer.get_parameter(name).detach().chunk(gates):
            torch.testing.assert_close(gate @ gate.T, torch.eye(6), atol=1e-3, rtol=0.0)


def test_the_projection_of_an_lstm_is_one_matrix():
    layer = nn.LSTM(8, 6, proj_size=4)
    changes = ApproximateIsometry(gain=1.0, tolerance=0.0)(layer, prune(layer, Magnitude(), 0.0)).changes
    assert {name: change.rank for name, change in changes.items()} == {
        "weight_ih_l0": 24, "weight_hh_l0": 16, "weight_hr_l0": 4
    }  # fmt: skip


def test_a_recurrent_weight_that_is_computed_from_others_is_refused_by_name():
    layer = parametrizations.weight_norm(nn.LSTM(5, 4), "weight_hh_l0")
    with pytest.raises(InputError, match=r"^weight_hh_l0: computed from other parameters"):
        prunable_parameters(layer)
    assert list(prunable_parameters(layer, exclude=["weight_hh_l0"])) == ["weight_ih_l0"]


def test_phew_refuses_recurrent_layers_by_name():
    with pytest.raises(InputError, match=r"^layer\.weight_ih_l0 is a weight of a recurrent layer"):
        prune(Reads(nn.RNN(5, 4, batch_first=True)), PHEW(), 0.5)


def test_recurrent_layers_are_counted_and_stay_as_they_are_in_compact_networks():
    network, (x, _) = Reads(nn.LSTM(5, 4, batch_first=True)), sequences()
    assert weight_macs(network, x) == {"layer.weight_ih_l0": 480, "layer.weight_hh_l0": 384, "head.weight": 12}
    masks = prune(network, Magnitude(), 0.9)
    masks.apply_(dict(network.named_parameters()))
    result = compact(network, masks, x)
    assert torch.equal(result.network(x), network.eval()(x))
    assert "recurrent" in next(layer.why for layer in result.report.layers if layer.name == "layer")


def test_scoring_runs_recurrent_layers_without_cudnn_and_restores_it():
    before = torch.backends.cudnn.enabled
    with undisturbed(nn.Sequential(nn.GRU(5, 4))):
        assert not torch.backends.cudnn.enabled
    with undisturbed(nn.Linear(5, 4)):
        assert torch.backends.cudnn.enabled == before
    assert torch.backends.cudnn.enabled == before
