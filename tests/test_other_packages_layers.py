"""Layers of other packages and of one's own: recognized by name, or pruned because `include` names their weights."""

import pytest
import torch
from foreign import Plain, Trained, batches
from torch import nn
from torch.utils.data import TensorDataset

from spl import InputError, Masks, PruneAtInit, prune
from spl.callbacks.reporting.tables import dead_outputs
from spl.criteria import PHEW, ConnectionSensitivity, Magnitude, Random, SynFlow
from spl.export.cost import weight_macs
from spl.isometry import ApproximateIsometry, EdgeOfChaos, OperatorIsometry
from spl.pruning import prunable_parameters, score
from spl.pruning.parameters import oriented_masks
from spl.pruning.patterns import NM, Blocks, Channels

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of these packages


def Conv1D(outputs, inputs):
    """Return a linear layer of Hugging Face, with a weight [in, out] of usual size."""
    from transformers import pytorch_utils

    layer = pytorch_utils.Conv1D(outputs, inputs)
    nn.init.normal_(layer.weight, std=inputs**-0.5)
    return layer


def Linear(inputs, outputs):
    """Return a linear layer of PyTorch Geometric."""
    from torch_geometric import nn as geometric

    return geometric.Linear(inputs, outputs, bias=False)


class Own(nn.Module):
    """A layer that only its author knows."""

    def __init__(self, shape):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(shape))
        self.scale = nn.Parameter(torch.ones(shape[-1]))

    def forward(self, x):
        return x @ self.kernel.flatten(1) * self.scale


def test_linear_layers_of_other_packages_are_recognized_by_name():
    network = nn.Sequential(Conv1D(6, 5), nn.ReLU(), Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    assert list(prunable_parameters(network)) == ["0.weight", "2.weight", "4.weight"]
    assert list(prunable_parameters(network, include_bias=True)) == [
        "0.weight", "0.bias", "2.weight", "4.weight", "4.bias"
    ]  # fmt: skip
    assert weight_macs(network, torch.randn(7, 5)) == {"0.weight": 30, "2.weight": 24, "4.weight": 12}


@pytest.mark.parametrize("criterion", [ConnectionSensitivity(), SynFlow(), Magnitude()], ids=["CS", "SynFlow", "|w|"])
def test_a_transposed_weight_has_the_scores_of_the_linear_layer_that_computes_the_same(criterion):
    network = nn.Sequential(Conv1D(6, 5), nn.ReLU(), nn.Linear(6, 3))
    same = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    same.load_state_dict({n: p.T if n == "0.weight" else p for n, p in network.state_dict().items()})
    data = [(torch.randn(20, 5), torch.arange(20) % 3)]
    scores = score(network, prunable_parameters(network), criterion, data)
    expected = score(same, prunable_parameters(same), criterion, data)
    torch.testing.assert_close(scores["0.weight"].T, expected["0.weight"])


@pytest.mark.parametrize("correction", [ApproximateIsometry, OperatorIsometry, EdgeOfChaos])
def test_a_transposed_weight_is_corrected_as_the_linear_layer_that_computes_the_same(correction):
    network = nn.Sequential(Conv1D(6, 9), nn.ReLU(), nn.Linear(6, 3))
    same = nn.Sequential(nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 3))
    same.load_state_dict({n: p.T if n == "0.weight" else p for n, p in network.state_dict().items()})
    masks = prune(network, Magnitude(), 0.5)
    masks.apply_(dict(network.named_parameters()))
    expected = correction()(same, Masks({**masks, "0.weight": masks["0.weight"].T.clone()}))
    corrected = correction()(network, masks)
    assert corrected.masks == masks
    assert corrected.changes["0.weight"].gain == pytest.approx(2**0.5)
    before, after, *others = corrected.changes["0.weight"]
    assert (*before, *after, *others) == pytest.approx(
        (*expected.changes["0.weight"].before, *expected.changes["0.weight"].after, *expected.changes["0.weight"][2:]),
        abs=1e-3,
    )
    torch.testing.assert_close(network[0].weight.T, same[0].weight, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("pattern", [Channels(), NM(2, 4), Blocks(2, 2)], ids=["Channels", "NM", "Blocks"])
def test_a_pattern_of_a_transposed_weight_is_refused_by_name(pattern):
    network = nn.Sequential(Conv1D(8, 8), nn.Linear(8, 4))
    with pytest.raises(InputError, match=rf"^0\.weight: .* is \[in, out\], and the pattern {type(pattern).__name__}"):
        prune(network, Magnitude(), 0.5, pattern=pattern)
    assert list(prune(network, Magnitude(), 0.5, pattern=pattern, exclude=["0.*"])) == ["1.weight"]


def test_dead_outputs_of_a_transposed_weight_are_its_columns():
    network = nn.Sequential(Conv1D(3, 2))
    masks = Masks({"0.weight": torch.tensor([[True, False, False], [True, False, True]])})
    assert dead_outputs(oriented_masks(network, masks)) == {"0.weight": 1}


def test_phew_refuses_a_transposed_weight_by_name():
    with pytest.raises(InputError, match=r"^0\.weight is \[in, out\]"):
        prune(nn.Sequential(Conv1D(6, 6), nn.Linear(6, 3)), PHEW(), 0.5)


def test_weights_of_any_layer_are_pruned_where_they_are_included():
    network = nn.Sequential(Own((4, 5)), nn.Linear(5, 3), nn.Embedding(9, 3))
    assert list(prunable_parameters(network)) == ["1.weight"]
    assert list(prunable_parameters(network, include=["*.kernel"])) == ["0.kernel", "1.weight"]
    assert list(prunable_parameters(network, include=["*"])) == ["0.kernel", "1.weight", "2.weight"]
    assert list(prunable_parameters(network, include=["*"], exclude=["1.*", "2.*"])) == ["0.kernel"]
    assert list(prunable_parameters(Own((4, 5)), include=["kernel"])) == ["kernel"]


@pytest.mark.parametrize("pattern", ["*.kernels", "*.scale", "1.bias", "2.*"])
def test_an_include_that_matches_no_trainable_weight_of_two_axes_is_refused(pattern):
    network = nn.Sequential(Own((4, 5)), nn.Linear(5, 3), nn.Linear(3, 3).requires_grad_(False))
    with pytest.raises(InputError, match=r"^include: .* matches none .* of two or more axes: 0\.kernel, 1\.weight\."):
        prunable_parameters(network, include=[pattern])


def test_an_included_matrix_is_corrected_and_a_weight_of_more_axes_is_left_with_a_warning():
    network = nn.Sequential(Own((6, 8)), Own((6, 2, 4)))
    masks = prune(network, Random(seed=0), 0.4, include=["*.kernel"])
    masks.apply_(dict(network.named_parameters()))
    before = network[1].kernel.detach().clone()
    with pytest.warns(UserWarning, match=r"leaves 1\.kernel as pruning left it"):
        changes = ApproximateIsometry(gain=1.0, tolerance=0.0)(network, masks).changes
    assert list(changes) == ["0.kernel"]
    assert torch.equal(network[1].kernel, before)
    gram = network[0].kernel.detach() @ network[0].kernel.detach().T
    torch.testing.assert_close(gram, torch.eye(6), atol=1e-3, rtol=0.0)


def test_training_keeps_the_masks_of_included_weights():
    data = batches(TensorDataset(torch.randn(24, 4), torch.arange(24) % 3), 8)
    include = ["network.0.kernel"]
    trained = Trained(
        lambda: Plain(nn.Sequential(Own((4, 16)), nn.ReLU(), Conv1D(16, 16), nn.ReLU(), nn.Linear(16, 3))),
        data,
        epochs=2,
        include=include,
        sparsity=0.5,
        isometry=ApproximateIsometry(),
    )
    assert set(trained.masks) == {"network.0.kernel", "network.2.weight", "network.4.weight"}
    assert trained.pruning.record["include"] == include


def test_an_include_that_matches_nothing_is_refused_when_fit_starts():
    with pytest.raises(InputError, match=r"^include: 'nothing'"):
        Trained(
            lambda: Plain(nn.Linear(4, 3)),
            batches(TensorDataset(torch.randn(8, 4), torch.arange(8) % 3), 4),
            include=["nothing"],
        )
    assert PruneAtInit(include=["a"]).choices.include == ["a"]
