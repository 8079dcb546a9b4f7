"""The whole act without Lightning: score, mask, set to zero, correct."""

import pytest
import torch
from fits import classifier, fit, pruning
from torch import nn

import spl
from spl import InputError, Masks, prune, sparsify
from spl.criteria import ConnectionSensitivity, Random
from spl.initializers import Orthogonal
from spl.isometry import EOI, ApproximateIsometry
from spl.networks import MLP
from spl.pruning.scopes import ERK

BATCHES = [(torch.randn(20, 784, generator=torch.Generator().manual_seed(i)), torch.arange(20) % 10) for i in range(3)]


def network(depth: int = 3) -> nn.Module:
    torch.manual_seed(1)
    made = MLP(depth)
    Orthogonal()(made)
    return made


def test_pruned_weights_are_zero_and_without_a_correction_the_others_are_as_they_were():
    dense, sparse = network(), network()
    masks, changes, scores, _ = sparsify(sparse, ConnectionSensitivity(), 0.9, BATCHES, scope=ERK())
    assert changes == {}
    assert masks == prune(dense, ConnectionSensitivity(), 0.9, BATCHES, scope=ERK())
    before, after = dict(dense.named_parameters()), dict(sparse.named_parameters())
    for name, mask in masks.items():
        assert torch.equal(after[name], before[name] * mask)
        assert scores[name].shape == mask.shape
    assert all(torch.equal(after[name], before[name]) for name in before.keys() - masks.keys())


def test_it_is_what_the_callback_does_bit_for_bit():
    model, callback = classifier(), pruning(isometry=ApproximateIsometry(), criterion=Random())
    twin = classifier()
    twin.load_state_dict(model.state_dict())
    noted = {}
    callback.on_train_start = lambda trainer, module: noted.update(
        {name: p.detach().clone() for name, p in module.network.named_parameters()}
    )
    torch.manual_seed(7)
    fit(model, [callback], max_epochs=1, limit_train_batches=1)
    masks, changes, *_ = sparsify(twin.network, Random(), 0.9, isometry=ApproximateIsometry(), seed=7)
    assert masks == model.masks
    assert changes == callback.changes
    assert all(torch.equal(p, noted[name]) for name, p in twin.network.named_parameters())


def test_every_stage_is_told_with_its_weights_in_place():
    sparse, seen = network(), {}

    def look(stage: str, masks: Masks | None) -> None:
        weights = {name: p.detach().clone() for name, p in sparse.named_parameters()}
        seen[stage] = (masks, weights)

    masks, changes, *_ = sparsify(
        sparse, ConnectionSensitivity(), 0.9, BATCHES, ApproximateIsometry(max_iterations=20), on_stage=look
    )
    assert list(seen) == ["dense", "pruned", "corrected"]
    assert seen["dense"][0] is None
    assert seen["pruned"][0] == seen["corrected"][0] == masks
    for name, mask in masks.items():
        dense, pruned, corrected = (seen[stage][1][name] for stage in seen)
        assert torch.equal(pruned, dense * mask)
        assert torch.equal(corrected, sparse.get_parameter(name))
        assert not corrected[~mask].any()
        assert not torch.equal(corrected, pruned)
    assert changes.keys() == masks.keys()


def test_nothing_is_corrected_where_nothing_is_pruned():
    dense, sparse, stages = network(), network(), []
    masks, changes, *_ = sparsify(
        sparse, Random(), 0.0, isometry=ApproximateIsometry(), on_stage=lambda stage, masks: stages.append(stage)
    )
    assert (masks.sparsity, changes, stages) == (0.0, {}, ["dense", "pruned"])
    assert all(torch.equal(p, q) for p, q in zip(dense.parameters(), sparse.parameters(), strict=True))


def test_a_correction_that_draws_other_masks_returns_those():
    sparse, told = network(), []
    masks, *_ = sparsify(sparse, Random(), 0.8, isometry=EOI(), on_stage=lambda stage, masks: told.append(masks))
    assert masks == told[-1] != told[-2]
    assert not masks.revived(dict(sparse.named_parameters()))


def test_a_seed_decides_what_is_drawn_and_otherwise_that_of_torch_does():
    same = [sparsify(network(), Random(), 0.8, isometry=EOI(), seed=3).masks for _ in range(2)]
    other = sparsify(network(), Random(), 0.8, isometry=EOI(), seed=4).masks
    assert same[0] == same[1] != other
    torch.manual_seed(3)
    made = MLP(3)
    assert sparsify(made, Random(), 0.8, seed=None).masks == sparsify(made, Random(), 0.8, seed=3).masks


def test_what_cannot_be_is_refused_before_the_network_is_touched():
    sparse = network()
    before = [p.detach().clone() for p in sparse.parameters()]
    for wrong, message in (
        ({"sparsity": 1.5}, "sparsity must lie in"),
        ({"minimum": -1}, "minimum must be at least 0"),
        ({"targets": "classes"}, "targets must be one of"),
        ({"exclude": ["fc9.*"]}, "matches none of the parameters"),
    ):
        with pytest.raises(InputError, match=message):
            sparsify(**({"network": sparse, "criterion": Random(), "sparsity": 0.9} | wrong))
    with pytest.raises(TypeError, match="unexpected keyword argument 'scpoe'"):
        sparsify(sparse, Random(), 0.9, scpoe=ERK())
    assert all(torch.equal(p, q) for p, q in zip(sparse.parameters(), before, strict=True))


def test_the_trainer_has_one_callback_that_keeps_masks_and_one_that_tells_costs():
    model, callback = classifier(), pruning()
    trainer = fit(model, [callback])
    kinds = [type(one).__name__ for one in trainer.callbacks]
    assert (kinds.count("KeepMasks"), kinds.count("CostLine")) == (1, 1)
    assert kinds.index("KeepMasks") == kinds.index("PruneAtInit") + 1
    trainer.validate(model, verbose=False)
    assert [type(one).__name__ for one in trainer.callbacks] == kinds


def test_the_public_face_has_the_act_and_its_measurements():
    values = spl.singular_values(network(), torch.randn(5, 784))
    assert spl.Spectrum.of(values).max == pytest.approx(float(values.max()))
