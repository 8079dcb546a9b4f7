"""The sparse weights file: it is small and restores the same bits."""

import os
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spl.criteria import Random
from spl.errors import InputError
from spl.export import load_sparse, restored, save_sparse
from spl.masks.masks import Masks
from spl.networks import MLP, ResNet
from spl.pruning import prune

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def bits(tensor):
    return tensor.dtype, tensor.shape, tensor.contiguous().view(torch.uint8).tolist() if tensor.numel() else []


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("sparse") / "weights.pt"


@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_every_bit_comes_back(path, shape, density, dtype, seed):
    torch.manual_seed(seed)
    mask = torch.rand(shape) < density
    specials = torch.tensor([0.0, -0.0, float("nan"), float("-inf"), 1e-40])
    weight = torch.where(torch.rand(shape) < 0.5, torch.randn(shape), specials[torch.randint(5, shape)])
    weight = torch.where(mask, weight, specials[torch.randint(2, shape)]).to(dtype)  # pruned ones are 0.0 or -0.0
    state = OrderedDict(weight=weight, bias=torch.randn(3).to(dtype), steps=torch.tensor(7))
    save_sparse(path, state, Masks({"weight": mask}))
    loaded = load_sparse(path)
    assert list(loaded) == list(state)
    assert all(bits(loaded[name].view(-1)) == bits(state[name].view(-1)) for name in state)
    assert loaded["weight"].shape == weight.shape


@pytest.mark.parametrize("network", [MLP(), ResNet(width_multiplier=2)])
@pytest.mark.parametrize(("sparsity", "ratio"), [(0.5, 0.56), (0.9, 0.25), (0.99, 0.06)])
def test_the_file_is_small(network, sparsity, ratio, tmp_path):
    masks = prune(network, Random(), sparsity=sparsity)
    masks.apply_(dict(network.named_parameters()))
    torch.save(network.state_dict(), tmp_path / "dense.pt")
    save_sparse(tmp_path / "sparse.pt", network.state_dict(), masks)
    sizes = {file.stem: file.stat().st_size for file in tmp_path.iterdir()}
    assert sizes["sparse"] <= ratio * sizes["dense"]


def test_the_format_is_plain_dictionaries_that_torch_reads(path):
    weight = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 5.0]])
    save_sparse(path, {"fc.weight": weight, "fc.bias": torch.ones(2)}, Masks({"fc.weight": weight != 0}))
    contents = torch.load(path, weights_only=True)
    assert contents["names"] == ["fc.weight", "fc.bias"]
    packed = contents["sparse"]["fc.weight"]
    assert packed["values"].tolist() == [2.0, 3.0, 5.0]
    assert packed["places"].tolist() == [0b01010100]
    assert packed["shape"] == [2, 3]
    assert torch.equal(restored(contents)["fc.weight"], weight)


def test_tied_weights_are_written_once_and_tied_again(path, tmp_path):
    network = nn.Sequential(OrderedDict(a=nn.Linear(100, 100), b=nn.Linear(100, 100)))
    network.b.weight = network.a.weight
    masks = prune(network, Random(), sparsity=0.9)
    masks.apply_(dict(network.named_parameters()))
    save_sparse(path, network.state_dict(), masks)
    loaded = load_sparse(path)
    assert loaded["b.weight"] is loaded["a.weight"]
    assert torch.equal(loaded["b.weight"], network.b.weight)
    assert path.stat().st_size < 0.25 * 4 * 100 * 100


def test_a_transpose_in_the_same_memory_comes_back_as_a_transpose(path):
    weight = torch.arange(9.0).view(3, 3)
    save_sparse(path, {"weight": weight, "transposed": weight.T}, Masks({"weight": weight >= 0}))
    assert torch.equal(load_sparse(path)["transposed"], weight.T)


def test_channels_last_kernels_come_back(path):
    kernel = torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last)
    mask = torch.rand(kernel.shape) < 0.5
    save_sparse(path, {"conv": kernel * mask + 0.0}, Masks({"conv": mask}))
    assert torch.equal(load_sparse(path)["conv"], kernel * mask)


def test_a_write_that_fails_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "weights.pt"
    state, masks = {"w": torch.ones(2)}, Masks({"w": torch.tensor([True, True])})
    save_sparse(path, state, masks)
    before = path.read_bytes()

    def full(stream):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"weights\.pt cannot be written \(.*No space left on device\)"):
        save_sparse(path, {"w": torch.zeros(2)}, masks)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.w\.pt cannot be written"):
        save_sparse(tmp_path / "nowhere" / "w.pt", {}, Masks({}))


def test_a_pruned_weight_that_is_not_zero_is_refused(path):
    with pytest.raises(InputError, match=r"Pruned weights are not 0: w \(1\)\. .* masks\.apply_"):
        save_sparse(path, {"w": torch.ones(2)}, Masks({"w": torch.tensor([True, False])}))


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "w.pt"
    save_sparse(path, {"w": torch.ones(2)}, Masks({"w": torch.tensor([True, True])}))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"w\.pt cannot be read"):
        load_sparse(path)


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"There is no sparse weights file gone\.pt"):
        load_sparse("gone.pt")


def test_another_file_of_weights_is_refused():
    with pytest.raises(InputError, match=r"not a sparse weights file \(spl\.sparse 1\) but None"):
        restored({"w": torch.ones(2)})


@pytest.mark.parametrize("places", [np.packbits([1, 1, 0]), np.array([], np.uint8)])
def test_values_and_places_that_disagree_are_refused(places):
    packed = {"shape": [3], "places": torch.from_numpy(places), "values": torch.ones(1)}
    contents = {"format": "spl.sparse 1", "names": ["w"], "dense": {}, "tied": {}, "sparse": {"w": packed}}
    with pytest.raises(InputError, match=r"1 values for the 3 weights of w: it is damaged"):
        restored(contents)
