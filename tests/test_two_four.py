"""Linear layers on sparse tensor cores."""

import sys

import pytest
import torch
from foreign import Plain, Trained, batches, images
from torch import nn

from spl.callbacks import TwoFourTraining
from spl.callbacks.two_four_training import _error_of_a_trial
from spl.criteria import Magnitude
from spl.errors import InputError
from spl.export import to_two_four
from spl.export.two_four import is_two_four
from spl.masks.masks import Masks
from spl.networks import MLP
from spl.pruning import prune
from spl.pruning.patterns import NM, TransposableNM

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device with sparse tensor cores")


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([[1, 1, 0, 0, 0, 1, 0, 1]], True),
        ([[1, 0, 0, 0, 0, 0, 0, 0]], True),
        ([[1, 1, 1, 0, 0, 0, 0, 1]], False),
        ([[0, 0, 1, 1, 1, 1, 0, 0]], True),
        ([[1, 0, 0, 0, 1, 0]], False),
    ],
)
def test_masks_that_keep_two_of_four(mask, expected):
    assert is_two_four(torch.tensor(mask, dtype=torch.bool)) == expected


def test_on_a_cpu_it_is_refused():
    network = nn.Sequential(nn.Linear(64, 64))
    masks = prune(network, Magnitude(), sparsity=0.5, pattern=NM())
    with pytest.raises(InputError, match=r"No layer can run as 2:4 \(0: it is on cpu, .* as dense, csr or compact"):
        to_two_four(network, masks, torch.randn(2, 64))


def test_other_masks_are_refused():
    network = MLP(depth=2)
    masks = Masks({"fc1.weight": torch.ones(100, 784, dtype=torch.bool)})
    with pytest.raises(InputError, match=r"fc1: its mask is not 2:4\)\. Prune with --pruning\.pattern NM"):
        to_two_four(network, masks, torch.randn(2, 784))
    with pytest.raises(InputError, match="no Linear layer has a mask"):
        to_two_four(network, Masks({}), torch.randn(2, 784))


# In training


class Sorted(torch.autograd.Function):
    """The computation of torchao's kernels: the largest weights of each 4×4 tile, at most two per row and column."""

    calls = 0

    @staticmethod
    def forward(ctx, weight):
        Sorted.calls += 1
        kept = torch.zeros_like(weight, dtype=torch.bool)
        for rows, chosen in zip(weight.split(4), kept.split(4), strict=True):
            for tile, taken in zip(rows.split(4, 1), chosen.split(4, 1), strict=True):
                for place in tile.abs().flatten().argsort(descending=True).tolist():
                    row, column = divmod(place, 4)
                    taken[row, column] = taken[row].sum() < 2 and taken[:, column].sum() < 2
        return weight * kept

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Digits(Plain):
    def __init__(self):
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 8), nn.Linear(8, 4)))


def trained(*callbacks, exclude=("network.4.*",), pattern=TransposableNM()):
    data = batches(images(6, 4), 3)
    return Trained(Digits, data, 2, None, callbacks, sparsity=0.5, pattern=pattern, exclude=exclude)


def test_training_multiplies_by_sparse_weights_and_ends_where_dense_masked_training_does(monkeypatch):
    pytest.importorskip("torchao")
    monkeypatch.setattr("spl.callbacks.two_four_training.obstacle", lambda *_: "")
    monkeypatch.setattr("torchao.sparsity.training.semi_structured_sparsify", lambda w, backend: Sorted.apply(w))
    monkeypatch.setattr("spl.callbacks.two_four_training.median_seconds", lambda steps, inputs: [2e-4, 1e-4])
    dense, sparse = trained(), trained(TwoFourTraining())
    assert Sorted.calls == 2 + 2 * 4  # one trial each, and 4 steps
    assert sparse.masks == dense.masks
    for a, b in zip(dense.module.parameters(), sparse.module.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not [name for name, module in sparse.module.named_modules() if "forward" in vars(module)]


def test_only_layers_that_are_faster_so_train_on_as_two_of_four(monkeypatch):
    pytest.importorskip("torchao")
    monkeypatch.setattr("spl.callbacks.two_four_training.obstacle", lambda *_: "")
    monkeypatch.setattr("torchao.sparsity.training.semi_structured_sparsify", lambda w, backend: Sorted.apply(w))
    dense = trained()
    before, sizes = Sorted.calls, []

    def timed(steps, inputs):
        for step in steps:
            step(inputs)
        sizes.append(tuple(inputs.shape))
        return [2e-4, 1e-4 if inputs.shape[1] == 16 else 3e-4]

    monkeypatch.setattr("spl.callbacks.two_four_training.median_seconds", timed)
    sparse = trained(TwoFourTraining())
    assert sizes == [(3, 48), (3, 16)]
    assert Sorted.calls - before == 2 + 2 + 2 + 3  # trials, the first step, the timed steps, the others of one layer
    for a, b in zip(dense.module.parameters(), sparse.module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_where_no_layer_can_train_so_it_says_why_for_each():
    pytest.importorskip("torchao")
    with pytest.raises(InputError, match=r"network\.1: it is on cpu, .*; network\.3: it is on .* TransposableNM, on a"):
        trained(TwoFourTraining())
    with pytest.raises(InputError, match=r"network\.1: its mask is not 2:4 along the outputs"):
        trained(TwoFourTraining(), pattern=NM())


def test_what_pytorch_says_of_its_first_sparse_tensor_is_not_passed_on(monkeypatch):
    """If warnings are errors, as here, the warning would end the training."""
    pytest.importorskip("torchao")
    monkeypatch.setattr(torch.sparse.SparseSemiStructuredTensorCUSPARSELT, "_PROTOTYPE_WARNING_SHOWN", False)
    tried = []

    def first(weight, backend):
        tried.append(weight)
        made = torch.sparse.SparseSemiStructuredTensorCUSPARSELT(weight.shape, weight, None, None, None, None)
        assert made.shape == weight.shape
        raise ValueError("on a CPU there is no more to it")

    monkeypatch.setattr("spl.callbacks.two_four_training.obstacle", lambda *_: "")
    monkeypatch.setattr("torchao.sparsity.training.semi_structured_sparsify", first)
    with pytest.raises(InputError, match="on a CPU there is no more to it"):
        trained(TwoFourTraining())
    assert len(tried) == 2 * 2  # layers and kinds of kernels


def test_kernels_that_fail_give_way_to_others(monkeypatch):
    """As those of cuSPARSELt, in torch 2.11, fail in the product, not before."""
    pytest.importorskip("torchao")
    used = set()

    def sparsify(weight, backend):
        used.add(backend)
        return Sorted.apply(weight) if backend == "cutlass" else Sorted.apply(weight)[:, :1]

    monkeypatch.setattr("spl.callbacks.two_four_training.obstacle", lambda *_: "")
    monkeypatch.setattr("torchao.sparsity.training.semi_structured_sparsify", sparsify)
    monkeypatch.setattr("spl.callbacks.two_four_training.median_seconds", lambda steps, inputs: [2e-4, 1e-4])
    dense, sparse = trained(), trained(TwoFourTraining())
    assert used == {"cusparselt", "cutlass"}
    for a, b in zip(dense.module.parameters(), sparse.module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_without_torchao_training_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.sparsity.training", None)
    with pytest.raises(InputError, match=r"pip install 'spl-lightning\[two-four\]'"):
        trained(TwoFourTraining())


def without_kernels() -> str:
    """Return why neither kernels work here, as with torch 2.11 on Hopper; or an empty string."""
    layer = nn.Linear(256, 256, bias=False, device="cuda", dtype=torch.bfloat16)
    errors = [_error_of_a_trial(layer, backend) for backend in ("cusparselt", "cutlass")]
    return " and ".join(errors) if all(errors) else ""


@on_cuda
def test_on_tensor_cores_training_is_that_of_dense_masked_weights(monkeypatch):
    pytest.importorskip("torchao")
    monkeypatch.setattr("spl.callbacks.two_four_training.median_seconds", lambda steps, inputs: [2e-4, 1e-4])
    data = batches(images(64, 16), 32)
    ends = []
    for callbacks in ([], [TwoFourTraining()]):
        settings = {"accelerator": "gpu", "precision": "bf16-true"}
        if callbacks and (reason := without_kernels()):
            pytest.skip(reason)
        done = Trained(Wide, data, 2, None, callbacks, settings, sparsity=0.5, pattern=TransposableNM())
        ends.append(torch.cat([p.detach().float().flatten() for p in done.module.parameters()]))
    assert torch.allclose(*ends, atol=2e-2)


class Wide(Plain):
    def __init__(self):
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(768, 256), nn.ReLU(), nn.Linear(256, 128)))


# In inference


@on_cuda
def test_full_precision_is_refused():
    network = nn.Sequential(nn.Linear(64, 64)).cuda()
    masks = prune(network, Magnitude(), sparsity=0.5, pattern=NM())
    with pytest.raises(InputError, match="it is in float32"):
        to_two_four(network, masks, torch.randn(2, 64, device="cuda"))


@on_cuda
def test_on_tensor_cores_the_outputs_are_equal(monkeypatch):
    monkeypatch.setattr("spl.export.two_four.median_seconds", lambda candidates, inputs: [2e-4, 1e-4])
    network = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 10))
    network = network.cuda().half()
    masks = prune(network, Magnitude(), sparsity=0.5, pattern=NM())
    inputs = torch.randn(64, 256, device="cuda").half()
    result = to_two_four(network, masks, inputs)
    masks.apply_(dict(network.named_parameters()))
    assert list(result.converted)[:2] == ["0", "2"]
    with torch.no_grad():
        assert torch.allclose(result.network(inputs), network(inputs), atol=1e-2)


@on_cuda
def test_on_tensor_cores_a_narrow_layer_is_faster_when_it_is_dense():
    network = nn.Sequential(nn.Linear(256, 512)).cuda().half()
    masks = prune(network, Magnitude(), sparsity=0.5, pattern=NM())
    with pytest.raises(InputError, match=r"No layer can run as 2:4 \(0: it is not faster as 2:4"):
        to_two_four(network, masks, torch.randn(64, 256, device="cuda").half())
