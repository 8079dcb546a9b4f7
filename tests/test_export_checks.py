"""Programs, CSR kernels and 2:4 kernels are compared with their networks, as ONNX files are."""

import pytest
import torch
from torch import nn

from spl.criteria import Random
from spl.errors import InputError
from spl.export import csr, save_program, to_csr, to_two_four
from spl.export.csr import CSRLinear
from spl.masks.masks import Masks
from spl.networks import MLP
from spl.pruning import prune


class Doubled(nn.Module):
    """A module that doubles its inputs, but not when it is exported."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return self.scale * (x if torch.compiler.is_exporting() else 2 * x)


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_a_program_that_computes_something_else_is_not_written(tmp_path, scale):
    path = tmp_path / "n.pt2"
    path.write_bytes(b"an earlier file")
    with pytest.raises(InputError) as refused:
        save_program(path, Doubled(scale), torch.randn(1, 3))
    assert "The program of Doubled would compute something else" in str(refused.value)
    assert "a batch of 1, outputs differ by 0.5 relative to the largest one" in str(refused.value)
    assert path.read_bytes() == b"an earlier file"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_compared_are_the_bytes_of_the_file(tmp_path, monkeypatch):
    save, other = torch.export.save, torch.export.export(nn.Linear(3, 2), (torch.randn(2, 3),))
    monkeypatch.setattr(torch.export, "save", lambda program, stream: save(other, stream))
    with pytest.raises(InputError, match="The program of Linear cannot be loaded and run: "):
        save_program(tmp_path / "n.pt2", nn.Linear(3, 2), torch.randn(1, 3))


def test_a_network_in_training_is_written_as_it_evaluates_and_left_as_it_was(tmp_path, snapshot):
    network = nn.Sequential(nn.Linear(4, 30), nn.BatchNorm1d(30), nn.Dropout(), nn.Linear(30, 2)).train()
    example = torch.randn(1, 4)
    before = snapshot(network)
    save_program(tmp_path / "n.pt2", network, example)
    assert snapshot(network) == before
    inputs = torch.randn(5, 4)
    assert torch.allclose(torch.export.load(tmp_path / "n.pt2").module()(inputs), network.eval()(inputs), atol=1e-6)


def test_half_precision_is_written(tmp_path):
    save_program(tmp_path / "n.pt2", MLP(depth=3, width=50).half(), torch.randn(1, 784).half())
    assert (tmp_path / "n.pt2").is_file()


def test_csr_kernels_that_compute_something_else_are_refused(monkeypatch):
    monkeypatch.setattr(csr, "median_seconds", lambda layers, inputs: [1.0, 0.5])
    monkeypatch.setattr(CSRLinear, "forward", lambda layer, x: x[:, : layer.out_features] * 0 + 7)
    network = MLP(depth=2, width=30)
    with pytest.raises(InputError, match=r"On CSR kernels, MLP would compute something else: .* Export it as dense"):
        to_csr(network, prune(network, Random(), sparsity=0.9), torch.randn(4, 784))


@pytest.mark.parametrize(
    ("factor", "seconds", "reason"),
    [
        (1, 1e-4, ""),
        (2, 1e-4, r"No layer can run as 2:4 \(0: its 2:4 kernel computes something else: f"),
        (1, 3e-4, r"No layer can run as 2:4 \(0: it is not faster as 2:4: 300 μs for a batch, dense 200 μs\)"),
    ],
)
def test_a_layer_whose_two_of_four_kernel_is_wrong_or_slow_stays_dense(monkeypatch, factor, seconds, reason):
    """The kernels need CUDA, so that a dense product takes their place."""
    monkeypatch.setattr("spl.export.two_four.obstacle", lambda weight, mask: "")
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", lambda weight: factor * weight)
    monkeypatch.setattr("spl.export.two_four.median_seconds", lambda candidates, inputs: [2e-4, seconds])
    network = nn.Sequential(nn.Linear(8, 4))
    masks = Masks({"0.weight": torch.tensor([True, True, False, False]).repeat(4, 2)})
    if reason:
        with pytest.raises(InputError, match=reason):
            to_two_four(network, masks, torch.ones(3, 8))
    else:
        converted = to_two_four(network, masks, torch.ones(3, 8)).converted
        assert converted == {"0": "100 μs for a batch, dense 200 μs"}


def test_only_layers_that_are_faster_run_as_two_of_four(monkeypatch):
    """A layer that the example does not reach stays dense too."""
    monkeypatch.setattr("spl.export.two_four.obstacle", lambda weight, mask: "")
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", lambda weight: weight)
    monkeypatch.setattr(
        "spl.export.two_four.median_seconds", lambda candidates, inputs: [2e-4, 1e-4 if inputs.shape[1] == 8 else 9e-4]
    )
    network = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4))
    network[0].add_module("aside", nn.Linear(8, 4))
    masks = Masks(
        {
            f"{name}.weight": torch.tensor([True, True, False, False]).repeat(4, n)
            for name, n in (("0", 2), ("1", 1), ("0.aside", 2))
        }
    )
    result = to_two_four(network, masks, torch.ones(3, 8))
    assert list(result.converted) == ["0"]
    assert result.dense["1"].startswith("it is not faster as 2:4")
    assert result.dense["0.aside"] == "the network does not call it"
