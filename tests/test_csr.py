"""Linear layers on CSR kernels."""

import pickle
from copy import deepcopy

import pytest
import torch
from torch import nn

from spl.criteria import Random
from spl.errors import InputError
from spl.export import csr, save_program, to_csr
from spl.export.csr import CSRLinear, Timing
from spl.masks.masks import Masks
from spl.networks import MLP
from spl.pruning import prune


@pytest.fixture
def seconds(monkeypatch):
    """Make CSR faster for layers with more than 20 outputs, and slower for others."""
    monkeypatch.setattr(
        csr, "median_seconds", lambda layers, inputs: [1.0, 0.5 if layers[0].out_features > 20 else 2.0]
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 5), (7, 5), (2, 3, 5), (5,), (0, 5)])
def test_a_csr_layer_computes_what_the_dense_one_does(bias, shape):
    linear = nn.Linear(5, 3, bias=bias)
    linear.weight.data *= torch.rand(3, 5) < 0.4
    sparse, inputs = CSRLinear(linear), torch.randn(shape)
    assert torch.allclose(sparse(inputs), linear(inputs), atol=1e-6)
    assert sparse(inputs).shape == linear(inputs).shape
    assert repr(sparse) == f"CSRLinear(in_features=5, out_features=3, kept={int(linear.weight.count_nonzero())})"


def test_a_layer_without_weights_is_its_bias():
    linear = nn.Linear(5, 3)
    linear.weight.data.zero_()
    assert torch.equal(CSRLinear(linear)(torch.randn(2, 5)), linear.bias.expand(2, 3))


def test_it_can_be_copied_pickled_and_loaded():
    sparse, inputs = CSRLinear(nn.Linear(5, 3)), torch.randn(2, 5)
    for other in (deepcopy(sparse), pickle.loads(pickle.dumps(sparse))):
        assert torch.equal(other(inputs), sparse(inputs))


def test_layers_are_on_csr_where_it_wins(seconds):
    network = MLP(depth=3, width=30)
    masks = prune(network, Random(), sparsity=0.9)
    result = to_csr(network, masks, torch.randn(4, 784))
    assert [type(result.network.get_submodule(f"fc{i}")) for i in (1, 2, 3)] == [CSRLinear, CSRLinear, nn.Linear]
    assert [timing.csr_wins for timing in result.timings] == [True, True, False]
    assert result.timings[0].density == pytest.approx(float(masks["fc1.weight"].float().mean()))
    assert [type(layer) for layer in network if not isinstance(layer, nn.Tanh)] == [nn.Linear] * 3
    masks.apply_(dict(network.named_parameters()))
    inputs = torch.randn(9, 784)
    assert torch.allclose(result.network(inputs), network(inputs), atol=1e-6)
    assert result.table().splitlines()[-1].split()[2:] == ["1000000.0", "2000000.0", "dense"]


def test_a_very_sparse_wide_layer_wins_and_a_dense_one_loses():
    network = nn.Sequential(nn.Linear(1500, 1500), nn.Linear(1500, 1500))
    sparse = torch.zeros(1500, 1500, dtype=torch.bool)
    sparse[::100, ::100] = True
    masks = Masks({"0.weight": sparse, "1.weight": torch.ones_like(sparse)})
    first, second = to_csr(network, masks, torch.randn(16, 1500)).timings
    assert first.csr_wins
    assert not second.csr_wins


def test_a_type_without_kernels_stays_dense(monkeypatch):
    monkeypatch.setattr(csr, "_has_kernel", lambda layer, inputs: False)
    network = MLP(depth=2, width=30)
    result = to_csr(network, prune(network, Random(), sparsity=0.99), torch.randn(4, 784))
    assert [type(layer) for layer in result.network] == [type(layer) for layer in network]
    assert {timing.csr for timing in result.timings} == {float("inf")}


def test_half_precision_has_no_kernels_on_a_cpu_or_runs():
    layer, inputs = nn.Linear(8, 8).half(), torch.randn(2, 8).half()
    sparse = CSRLinear(layer)
    assert not csr._has_kernel(sparse, inputs) or torch.allclose(sparse(inputs), layer(inputs), atol=1e-2)


def test_layers_without_masks_stay(seconds):
    network = MLP(depth=2, width=30)
    masks = prune(network, Random(), sparsity=0.9, exclude=["fc1.*"])
    result = to_csr(network, masks, torch.randn(4, 784))
    assert [timing.name for timing in result.timings] == ["fc2"]


def test_as_fast_as_dense_is_no_win():
    assert not Timing("fc", 0.1, 1.0, 1.0).csr_wins


def test_a_program_has_csr_layers_and_takes_batches_of_any_size(tmp_path, seconds):
    network = MLP(depth=3, width=30)
    masks = prune(network, Random(), sparsity=0.9)
    faster = to_csr(network, masks, torch.randn(1, 784)).network
    save_program(tmp_path / "csr.pt2", faster, torch.randn(1, 784))
    program = torch.export.load(tmp_path / "csr.pt2").module()
    for batch in (1, 5):
        inputs = torch.randn(batch, 784)
        assert torch.equal(program(inputs), faster(inputs))


def test_a_network_that_cannot_be_exported_is_refused(tmp_path):
    class Branching(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    with pytest.raises(InputError, match=r"torch\.export cannot export Branching: .* --to sparse"):
        save_program(tmp_path / "b.pt2", Branching(2, 2), torch.ones(1, 2))
    assert not list(tmp_path.iterdir())
