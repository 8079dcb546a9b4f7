"""What it costs to keep pruned weights at zero: one training step, dense against four ways of masking.

Forward, backward and SGD with momentum, with 90 % of the weights pruned, on MLP-7 at batch 8 and 100, and on ResNet-18
at batch 8, for images of 32×32 and 224×224. "gradients alone" masks the gradients before the optimizer's step.
"spl" is what a fit does: masks that are held listen to the optimizer, look for what no step announces before and after
each batch, and mask the weights again. `torch.nn.utils.prune` and `torch.nn.utils.parametrize` multiply the weights in
every forward pass. On one thread: the threads of neighbouring processes stall each other.

Claim: spl / dense <= 1.02 where a step computes much more than it touches weights (ResNet-18 at 224×224). Where
touching each weight a few times is most of the step (MLP-7, or ResNet-18 on eight small images), each pass shows.

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
    """A weight times its mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that the layer sees."""
        return weight * self.mask


def attached(network: nn.Module, masks: Masks, attach: Callable[[nn.Module, Tensor], object]) -> nn.Module:
    """A copy of the network with every mask attached to its layer."""
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
    """Return a function that takes some steps on one batch, with calls before, in and after each."""
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


def held(network: nn.Module, masks: Masks, inputs: Tensor, steps: int) -> Callable[[], None]:
    """Return a function that trains a copy of the network as a fit does, with masks that are held."""
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
        by_prune = attached(network, masks, lambda layer, mask: prune.custom_from_mask(layer, "weight", mask))
        by_parametrize = attached(
            network, masks, lambda layer, mask: parametrize.register_parametrization(layer, "weight", Masked(mask))
        )
        candidates = {
            "dense": training(deepcopy(network), inputs, steps),
            "gradients alone": training(sparse, inputs, steps, BoundMasks(masks, parameters).mask_gradients_),
            "spl": held(network, masks, inputs, steps),
            "nn.utils.prune": training(by_prune, inputs, steps),
            "nn.utils.parametrize": training(by_parametrize, inputs, steps),
        }
        compare(f"{title}, batch {len(inputs)}", candidates, repeats, steps)


if __name__ == "__main__":
    main()
