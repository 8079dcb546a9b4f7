"""Compare a dense training step with four ways of keeping pruned weights at zero.

A step is a forward pass, a backward pass and SGD with momentum, with 90 % of the weights pruned, on MLP-7 at batch 8
and 100, and on ResNet-18 at batch 8 with images of 32×32 and 224×224. "gradients alone" masks the gradients before the
optimizer's step. "spl" does what a fit does: it hooks into the optimizer, looks before and after each batch for writes
outside the optimizer's steps, and masks the weights again. `torch.nn.utils.prune` and `torch.nn.utils.parametrize`
multiply the weights by the masks in every forward pass. All on one thread, because the threads of neighbouring
processes stall each other.

Claim: spl / dense <= 1.02 if a step computes for much longer than it accesses weights (ResNet-18 at 224×224). If
accessing each weight a few times is most of the step (MLP-7, or ResNet-18 on eight small images), every pass over the
weights is noticeable.

    python benchmarks/masked_step.py
"""

from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from ratios import compare
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torchvision.models import resnet18

import spl.pruning
from spl.criteria import Random
from spl.masks.masked_weights import MaskedWeights
from spl.masks.masks import BoundMasks, Masks
from spl.networks import MLP


class Masked(nn.Module):
    """A parametrization that multiplies a weight by its mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the masked weight."""
        return weight * self.mask


def with_masks(network: nn.Module, masks: Masks, attach: Callable[[nn.Module, Tensor], object]) -> nn.Module:
    """Return a copy of the network in which every mask is attached to its layer."""
    network = deepcopy(network)
    for name, mask in masks.items():
        attach(network.get_submodule(name.removesuffix(".weight")), mask.float())
    return network


def nothing() -> None:
    """Mask nothing."""


def training(
    network: nn.Module,
    inputs: Tensor,
    steps: int,
    mask_gradients_: Callable[[], None] = nothing,
    before: Callable[[], None] = nothing,
    after: Callable[[], object] = nothing,
) -> Callable[[], None]:
    """Return a function that takes some steps on one batch and calls the given functions before, in and after each."""
    labels = torch.arange(len(inputs)) % 10
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def train() -> None:
        for _ in range(steps):
            before()
            optimizer.zero_grad()
            F.cross_entropy(network(inputs), labels).backward()
            mask_gradients_()
            optimizer.step()
            after()

    return train


def training_with_held_masks(network: nn.Module, masks: Masks, inputs: Tensor, steps: int) -> Callable[[], None]:
    """Return a function that trains a copy of the network with `MaskedWeights`, as a fit does."""
    copy = deepcopy(network)
    weights = MaskedWeights(copy)
    weights.hold(masks)
    return training(copy, inputs, steps, before=weights.check, after=weights.keep)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for title, network, inputs, repeats, steps in (
        ("MLP-7", MLP(), torch.randn(8, 784), 150, 20),
        ("MLP-7", MLP(), torch.randn(100, 784), 100, 20),
        ("ResNet-18, 32×32", resnet18(num_classes=10), torch.randn(8, 3, 32, 32), 40, 1),
        ("ResNet-18, 224×224", resnet18(num_classes=10), torch.randn(8, 3, 224, 224), 7, 1),
    ):
        masks = spl.pruning.prune(network, Random(), sparsity=0.9)
        sparse = deepcopy(network)
        parameters = dict(sparse.named_parameters())
        masks.apply_(parameters)
        by_prune = with_masks(network, masks, lambda layer, mask: prune.custom_from_mask(layer, "weight", mask))
        by_parametrize = with_masks(
            network, masks, lambda layer, mask: parametrize.register_parametrization(layer, "weight", Masked(mask))
        )
        candidates = {
            "dense": training(deepcopy(network), inputs, steps),
            "gradients alone": training(sparse, inputs, steps, BoundMasks(masks, parameters).mask_gradients_),
            "spl": training_with_held_masks(network, masks, inputs, steps),
            "nn.utils.prune": training(by_prune, inputs, steps),
            "nn.utils.parametrize": training(by_parametrize, inputs, steps),
        }
        compare(f"{title}, batch {len(inputs)}", candidates, repeats, steps)


if __name__ == "__main__":
    main()
