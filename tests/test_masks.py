import copy
import pickle
from collections import OrderedDict

import pytest
import torch
from torch import nn

from spl.errors import InputError
from spl.masks.masks import BoundMasks, Masks
from spl.masks.top_k import top_k


def masks_of(**bits: list) -> Masks:
    return Masks({name: torch.tensor(value, dtype=torch.bool) for name, value in bits.items()})


@pytest.mark.parametrize(("value", "kind"), [(torch.ones(2), r"torch\.float32"), ([True], "list")])
def test_masks_are_bool_tensors(value, kind):
    with pytest.raises(InputError, match=rf"mask of fc1 must be a bool tensor, got {kind}"):
        Masks({"fc1": value})


def test_counts_and_sparsity():
    masks = masks_of(fc1=[[1, 0], [0, 0]], fc2=[1, 1, 1, 0])
    assert (masks.size, masks.kept, masks.sparsity) == (8, 4, 0.5)
    assert masks.layer_sparsity() == {"fc1": 0.75, "fc2": 0.25}
    assert repr(masks) == "Masks(2 parameters, kept 4 of 8, sparsity 0.5000)"
    assert list(masks) == ["fc1", "fc2"]
    assert len(masks) == 2


def test_masks_do_not_change_with_the_mapping_they_were_made_of():
    tensors = {"fc1": torch.tensor([True])}
    masks = Masks(tensors)
    tensors["fc2"] = torch.tensor([True])
    assert list(masks) == ["fc1"]


def test_equal_masks_have_equal_digests_whatever_their_order_and_memory_layout():
    masks = masks_of(a=[[1, 0], [0, 0]], b=[1, 0])
    transposed = torch.tensor([[1, 0], [0, 0]], dtype=torch.bool).T.contiguous().T
    reordered = Masks({"b": torch.tensor([True, False]), "a": transposed})
    assert masks.digest() == reordered.digest() == masks.to("cpu").digest()


@pytest.mark.parametrize(
    "other",
    [
        masks_of(a=[[1, 0], [0, 1]], b=[1, 0]),
        masks_of(a=[[0, 1], [0, 0]], b=[1, 0]),
        masks_of(a=[[1, 0, 0, 0]], b=[1, 0]),
        masks_of(a=[[1, 0], [0, 0]], c=[1, 0]),
        masks_of(a=[[1, 0], [0, 0]]),
    ],
    ids=["one more bit", "another bit", "shape", "name", "one layer less"],
)
def test_other_masks_have_other_digests(other):
    assert masks_of(a=[[1, 0], [0, 0]], b=[1, 0]).digest() != other.digest()


def test_a_digest_is_the_same_in_every_process():
    # sha256 of b"a(2,)\x01\x00", so it depends on no seed of Python's hashes and no address
    assert masks_of(a=[1, 0]).digest() == "3ce3266013e3a64d350fe401a386e86c70497c17c87b9b43fb200027e52bc8df"


def test_masks_that_do_not_fit_name_every_layer_and_change_nothing():
    masks = masks_of(fc1=[0, 0], fc2=[[0, 0, 0]], fc3=[0])
    weights = {"fc1": torch.ones(2), "fc2": torch.ones(3, 1)}
    with pytest.raises(
        InputError,
        match=r"fc2 \(mask \(1, 3\), weights \(3, 1\)\), fc3 \(no such parameter\)\. Use the network .*config\.yaml",
    ):
        masks.apply_(weights)
    assert weights["fc1"].tolist() == [1, 1]
    with pytest.raises(InputError, match="do not fit the network"):
        BoundMasks(masks, weights)


def test_masks_of_some_of_the_parameters_fit():
    masks_of(fc1=[1, 0]).check_fits({"fc1": torch.ones(2), "fc2": torch.ones(3)})


def test_apply_zeroes_pruned_weights_even_where_they_are_not_finite():
    weight = nn.Parameter(torch.tensor([1.0, -2.0, float("nan"), float("inf"), -float("inf"), 3.0]))
    masks_of(fc1=[1, 0, 0, 0, 0, 1]).apply_({"fc1": weight})
    assert weight.tolist() == [1, 0, 0, 0, 0, 3]
    assert not weight.signbit().any()


def test_apply_keeps_what_is_alive_bit_for_bit():
    weight = torch.tensor([float("nan"), -0.0, 1e-45])
    masks_of(fc1=[1, 1, 1]).apply_({"fc1": weight})
    assert weight.isnan().tolist() == [True, False, False]
    assert weight.signbit()[1]
    assert weight[2] > 0


def test_revived_counts_pruned_weights_that_are_not_zero_and_nan_is_not():
    masks = masks_of(fc1=[1, 0, 0, 0, 0], fc2=[0, 0], fc3=[1, 1])
    weights = {
        "fc1": torch.tensor([7.0, 0.0, -0.0, float("nan"), 1e-45]),
        "fc2": torch.zeros(2),
        "fc3": torch.ones(2),
    }
    assert masks.revived(weights) == {"fc1": 2}
    masks.apply_(weights)
    assert masks.revived(weights) == {}


def network_and_masks() -> tuple[nn.Module, Masks]:
    network = nn.Sequential(OrderedDict(fc1=nn.Linear(3, 4), act=nn.Tanh(), fc2=nn.Linear(4, 2)))
    scores = {f"{layer}.weight": torch.rand_like(getattr(network, layer).weight) for layer in ("fc1", "fc2")}
    return network, top_k(scores, 7)


def test_gradients_are_masked_where_there_are_any():
    network, masks = network_and_masks()
    bound = BoundMasks(masks, dict(network.named_parameters()))
    bound.mask_gradients_()
    assert all(p.grad is None for p in network.parameters())
    network.fc1.weight.grad = torch.full((4, 3), 2.0)
    network.fc1.bias.grad = torch.full((4,), 3.0)
    bound.mask_gradients_()
    assert torch.equal(network.fc1.weight.grad, 2.0 * masks["fc1.weight"])
    assert network.fc1.bias.grad.tolist() == [3] * 4
    assert network.fc2.weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_are_masked_and_others_left_alone(dtype):
    network, masks = network_and_masks()
    network.to(dtype)
    before = copy.deepcopy(network.state_dict())
    BoundMasks(masks, dict(network.named_parameters())).mask_weights_()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name] * masks[name] if name in masks else before[name])
    assert network.fc1.weight.dtype == dtype


def test_with_masked_gradients_pruned_weights_stay_exactly_zero_under_momentum_and_weight_decay():
    network, masks = network_and_masks()
    parameters = dict(network.named_parameters())
    masks.apply_(parameters)
    bound = BoundMasks(masks, parameters)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    dense = copy.deepcopy(network.fc2.weight)
    for _ in range(5):
        optimizer.zero_grad()
        network(torch.randn(8, 3)).square().sum().backward()
        bound.mask_gradients_()
        optimizer.step()
        assert masks.revived(parameters) == {}
    assert int((network.fc2.weight != dense).sum()) == int(masks["fc2.weight"].sum())
    assert not optimizer.state[network.fc2.weight]["momentum_buffer"][~masks["fc2.weight"]].any()


def test_a_pruned_network_keeps_its_parameters_and_can_be_copied_and_pickled():
    network, masks = network_and_masks()
    before = list(network.named_parameters())
    masks.apply_(dict(before))
    after = list(network.named_parameters())
    assert [name for name, _ in after] == [name for name, _ in before]
    assert all(a is b for (_, a), (_, b) in zip(after, before, strict=True))
    x = torch.randn(5, 3)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert [name for name, _ in twin.named_parameters()] == [name for name, _ in before]
        assert torch.equal(twin(x), network(x))
        assert masks.revived(dict(twin.named_parameters())) == {}


def test_masks_can_be_copied_and_pickled():
    _, masks = network_and_masks()
    assert copy.deepcopy(masks).digest() == pickle.loads(pickle.dumps(masks)).digest() == masks.digest()
