"""ONNX files compute the same outputs as their networks."""

import pytest
import torch
from onnx_files import infer, infer_all
from torch import nn
from torchvision.models.resnet import BasicBlock
from torchvision.models.resnet import ResNet as TorchvisionResNet
from trained import ResUNet, as_trained_, regnet_y

from spl.criteria import Random
from spl.errors import InputError
from spl.export import compact, program, save_onnx
from spl.export.compaction.partial_sums import PartialSum
from spl.export.csr import CSRLinear
from spl.networks import MLP, ResNet
from spl.pruning import prune
from spl.pruning.patterns import Channels


def computes_the_same(path, network, *shape):
    """Compare the file and the network on a batch of one and on a larger batch."""
    for batch in (1, 5):
        inputs = torch.randn(batch, *shape)
        with torch.no_grad():
            assert torch.allclose(infer(path, inputs), network(inputs), atol=1e-5)


def test_a_network_with_zeros(tmp_path):
    network = MLP(depth=3, width=20).eval()
    prune(network, Random(), sparsity=0.9).apply_(dict(network.named_parameters()))
    save_onnx(tmp_path / "n.onnx", network, torch.randn(1, 784))
    computes_the_same(tmp_path / "n.onnx", network, 784)


def test_a_compact_network_is_smaller(tmp_path):
    blocks = [(nn.Conv2d(a, b, 3), nn.BatchNorm2d(b), nn.ReLU()) for a, b in ((3, 64), (64, 512))]
    network = as_trained_(nn.Sequential(*blocks[0], *blocks[1], nn.Flatten(), nn.Linear(512 * 4 * 4, 5)))
    masks = prune(network, Random(), sparsity=0.8, pattern=Channels(), exclude=["7.*"])
    masks.apply_(dict(network.named_parameters()))
    smaller = compact(network, masks, torch.randn(1, 3, 8, 8))
    path = tmp_path / "n.onnx"
    save_onnx(path, smaller.network, torch.randn(1, 3, 8, 8))
    computes_the_same(path, network, 3, 8, 8)
    assert path.stat().st_size < smaller.report.after.bytes + 200_000 < 0.3 * smaller.report.before.bytes


class Together(nn.Module):
    """Several networks with the same inputs in one file, because most of the time is spent per file."""

    def __init__(self, networks):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x):
        return tuple(network(x) for network in self.networks)


@pytest.mark.parametrize(
    ("make", "dense"),
    [
        (lambda: ResNet(1), ["fc.*"]),
        (lambda: TorchvisionResNet(BasicBlock, [1, 1, 1, 1], num_classes=5), ["fc.*"]),
        (ResUNet, ["head.*"]),
        (regnet_y, ["fc.*", "*.se.*"]),
    ],
    ids=["ResNet-8", "ResNet-10", "ResUNet", "RegNet-Y"],
)
def test_compact_networks_with_trained_statistics(make, dense, tmp_path):
    smaller, pruned = [], []
    example = torch.randn(2, 3, 32, 32)
    for sparsity in (0.6, 0.9, 0.97):
        own = as_trained_(make())
        masks = prune(own, Random(), sparsity=sparsity, exclude=dense)
        for name in masks:  # training compensates for pruned weights
            own.get_parameter(name).data /= (1 - sparsity) ** 0.5
        smaller.append(compact(own, masks, example).network)
        masks.apply_(dict(own.named_parameters()))
        pruned.append(own)
    save_onnx(tmp_path / "n.onnx", Together(smaller), example)
    inputs = torch.randn(4, 3, 32, 32)
    for own, outputs in zip(pruned, infer_all(tmp_path / "n.onnx", inputs), strict=True):
        with torch.no_grad():
            expected = own(inputs)
        assert (outputs - expected).abs().max() < 1e-4 * expected.abs().max()
        assert (expected - expected[0]).abs().max() > 1e-3 * expected.abs().max(), "outputs must depend on inputs"


class Sums(nn.Module):
    """Partial sums of 3 channels, whose addends have the given places."""

    def __init__(self, axis, *places):
        super().__init__()
        self.axis = axis
        self.sizes = [[len(own) for own in each] for each in places]
        self.sums = nn.ModuleList(PartialSum(torch.randn(3), [torch.tensor(p) for p in each], axis) for each in places)

    def forward(self, x):
        """Take the addends from the first channels of the inputs."""
        parts = [x.narrow(self.axis, 0, sum(sizes)).split(sizes, self.axis) for sizes in self.sizes]
        return tuple(total(*part) for total, part in zip(self.sums, parts, strict=True))


@pytest.mark.parametrize(("axis", "shape"), [(1, (9,)), (1, (9, 2, 2)), (2, (4, 9))])
def test_partial_sums_lose_neither_constants_nor_addends(axis, shape, tmp_path):
    everything, part, absent = [0, 1, 2], [0, 2], [-1, -1]
    network = Sums(
        axis,
        *([everything], [absent], [[2, 0, 1]], [everything, part], [part, everything], [everything, everything]),
        *([[0, 1], [1, 2]], [part, [1], everything], [[-1, 0, 1, 2], [0, -1, 1]]),
    )
    save_onnx(tmp_path / "n.onnx", network, torch.randn(2, *shape))
    for batch in (1, 5):
        inputs = torch.randn(batch, *shape)
        for outputs, expected in zip(infer_all(tmp_path / "n.onnx", inputs), network(inputs), strict=True):
            assert outputs.shape == expected.shape
            assert torch.allclose(outputs, expected, atol=1e-6)


def test_without_onnxscript_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs onnxscript: pip install 'spl-lightning\[onnx\]'"):
        save_onnx(tmp_path / "n.onnx", MLP(), torch.randn(1, 784))


def test_an_operation_that_onnx_has_not_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot write CSRLinear: No ONNX function found .*spl\.csr_linear"):
        save_onnx(tmp_path / "n.onnx", CSRLinear(nn.Linear(4, 3)), torch.randn(1, 4))
    assert not list(tmp_path.iterdir())
