"""ONNX files compute what their networks do."""

import pytest
import torch
from onnx_files import infer
from torch import nn
from torchvision.models import resnet18

from spl.criteria import Random
from spl.errors import InputError
from spl.export import compact, program, save_onnx
from spl.export.csr_linear import CSRLinear
from spl.networks import MLP
from spl.patterns import Channels
from spl.pruning import prune


def computes_the_same(path, network, *shape):
    """For a batch of one and a larger one."""
    for batch in (1, 5):
        inputs = torch.randn(batch, *shape)
        with torch.no_grad():
            assert torch.allclose(infer(path, inputs), network(inputs), atol=1e-5)


def test_a_network_with_zeros(tmp_path):
    network = MLP(depth=3, width=20).eval()
    prune(network, Random(), sparsity=0.9).apply_(dict(network.named_parameters()))
    save_onnx(tmp_path / "n.onnx", network, torch.randn(1, 784))
    computes_the_same(tmp_path / "n.onnx", network, 784)


def test_a_compact_residual_network_is_smaller(tmp_path):
    network = resnet18(num_classes=5).eval()
    masks = prune(network, Random(), sparsity=0.8, pattern=Channels(), exclude=["fc.*"])
    masks.apply_(dict(network.named_parameters()))
    smaller = compact(network, masks, torch.randn(1, 3, 32, 32))
    path = tmp_path / "n.onnx"
    save_onnx(path, smaller.network, torch.randn(1, 3, 32, 32))
    computes_the_same(path, network, 3, 32, 32)
    assert path.stat().st_size < smaller.report.after.bytes + 200_000 < 0.3 * smaller.report.before.bytes


def test_without_onnxscript_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"onnxscript, which is not installed: pip install 'spl\[onnx\]'"):
        save_onnx(tmp_path / "n.onnx", MLP(), torch.randn(1, 784))


def test_an_operation_that_onnx_has_not_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot write CSRLinear: No ONNX function found .*spl\.csr_linear"):
        save_onnx(tmp_path / "n.onnx", CSRLinear(nn.Linear(4, 3)), torch.randn(1, 4))
    assert not list(tmp_path.iterdir())
