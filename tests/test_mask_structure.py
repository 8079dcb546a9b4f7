"""The structure of masks, and updates that would destroy it, with masks that other packages made."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune
from torchao.sparsity import apply_fake_sparsity

from spl import InputError, MaskedWeights, Masks, MovingMasks, prune
from spl.criteria import SAO, Magnitude, Random, SynFlow
from spl.pruning.patterns import NM, Blocks, Channels, Groups, TransposableNM
from spl.pruning.scopes import ERK, Global, Uniform
from spl.updates import GMP, SET, RigL
from spl.updates.structure import structure_of


def network():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


BATCH = (torch.randn(8, 3, 16, 16), torch.arange(8))


class Inputs(Groups):
    """Whole columns of the weight."""

    def groups(self, shape):
        return torch.arange(shape[1]).view(1, -1, *[1] * (len(shape) - 2)).expand(shape)


@pytest.mark.parametrize(
    ("pattern", "sparsity", "exclude", "structure"),
    [
        (NM(2, 4), 0.5, ["0.*"], "equally many of every 4 weights along the inputs"),
        (NM(1, 4), 0.75, ["0.*"], "equally many of every 4 weights along the inputs"),
        (NM(1, 16), 0.9375, ["0.*"], "equally many of every 16 weights along the inputs"),
        (TransposableNM(2, 4), 0.5, ["0.*", "8.*"], "equally many of every 4 weights along the inputs"),
        (Blocks(4, 4), 0.7, [], "blocks of 4 weights along the inputs"),
        (Blocks(2, 3), 0.7, [], "blocks of 3 weights along the inputs"),
        (Blocks(4, 1), 0.9, [], "blocks of 4 weights along the outputs"),
        (Channels(), 0.5, [], "whole channels"),
        (Channels(coupled=True), 0.5, [], "whole channels"),
        (Inputs(), 0.5, [], "whole channels"),
    ],
)
def test_the_structure_that_patterns_make_is_found_and_kept(pattern, sparsity, exclude, structure):
    model = network()
    masks = prune(model, Random(), sparsity, [BATCH], pattern=pattern, exclude=exclude)
    assert structure_of(masks) == structure
    held = MaskedWeights(model)
    held.hold(masks)
    for update in (SET(), RigL()):
        with pytest.raises(InputError, match=f"{type(update).__name__} moves single weights.*lose.*{structure}"):
            MovingMasks(held, update, steps=10)
    if not pattern.coupled:
        MovingMasks(held, GMP(masks.sparsity, pattern=pattern), steps=1000)


@pytest.mark.parametrize("scope", [Global(), ERK(), Uniform()])
@pytest.mark.parametrize("criterion", [Random(), Magnitude(), SynFlow()])
def test_single_weights_have_no_structure(criterion, scope):
    for sparsity in (0.0, 0.1, 0.5, 0.9, 0.98):
        assert structure_of(prune(network(), criterion, sparsity, [BATCH], scope=scope)) is None


def test_regular_graphs_have_no_structure():
    for sparsity in (0.5, 0.75, 0.9):
        assert structure_of(prune(network(), SAO(), sparsity, scope=Uniform())) is None


def test_few_weights_that_lie_beside_each_other_are_no_structure():
    assert structure_of(Masks({"weight": torch.tensor([[True, True, False, False]])})) is None
    assert structure_of(Masks({"bias": torch.arange(100) < 50})) is None
    assert structure_of(Masks({"weight": torch.ones(100, 100, dtype=torch.bool)})) is None


def test_masks_of_two_four_of_torchao_are_refused():
    model = network()
    apply_fake_sparsity(model)
    held = MaskedWeights(model)
    held.hold(Masks({"6.weight": model[6].weight.detach() != 0}))
    with pytest.raises(InputError, match=r"RigL moves single weights.*equally many of every 4"):
        MovingMasks(held, RigL(), steps=10)


@pytest.mark.parametrize(("dim", "found"), [(0, "whole channels"), (1, "whole channels"), (None, None)])
def test_masks_of_torch_itself_are_told_apart(dim, found):
    layer = nn.Linear(50, 40)
    if dim is None:
        torch_prune.l1_unstructured(layer, "weight", 0.5)
    else:
        torch_prune.ln_structured(layer, "weight", 0.5, n=2, dim=dim)
    assert structure_of(Masks({"weight": layer.weight_mask.bool()})) == found
