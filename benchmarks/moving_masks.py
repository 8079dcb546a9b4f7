"""Compare training steps with masks that move, between updates and at updates, with masks that rest.

A step is a forward pass, a backward pass and SGD with momentum, with 90 % of the weights pruned, on MLP-7 at batch 100
and on ResNet-20 at batch 64. "between updates" is a step in which nothing is due. "an update" is a step before which
the masks move by RigL, SET or GMP, with all that a training does then. All on one thread, because the threads of
neighbouring processes stall each other.

Claims: between updates / resting <= 1.02, and an update adds about two steps to a step of MLP-7 (ratio 3), and hardly
anything to one of ResNet-20.

    python benchmarks/moving_masks.py
"""

from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from ratios import compare
from torch import Tensor, nn

import spl.pruning
from spl import MaskedWeights, Masks, MovingMasks
from spl.criteria import Random
from spl.networks import MLP, ResNet
from spl.updates import GMP, SET, RigL, Update

_STEPS = 5000  # so many that updates do not end


class Rest(Update):
    """An update that is never due."""

    def masks(self, now: object) -> Masks:
        """Return nothing."""
        return Masks({})


def training(network: nn.Module, masks: Masks, inputs: Tensor, steps: int, update: Update | None) -> Callable[[], None]:
    """Return a function that takes some steps on one batch, by a copy of the network."""
    network = deepcopy(network)
    labels = torch.arange(len(inputs)) % 10
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    held = MaskedWeights(network)
    held.hold(masks)
    if update is not None:
        MovingMasks(held, update, _STEPS)

    def train() -> None:
        for _ in range(steps):
            held.check()
            optimizer.zero_grad()
            F.cross_entropy(network(inputs), labels).backward()
            optimizer.step()
            held.keep()

    return train


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for title, network, inputs, repeats, steps in (
        ("MLP-7", MLP(), torch.randn(100, 784), 60, 20),
        ("ResNet-20", ResNet(), torch.randn(64, 3, 32, 32), 15, 1),
    ):
        masks = spl.pruning.prune(network, Random(), sparsity=0.9)
        candidates = {
            "masks that rest": training(network, masks, inputs, steps, None),
            "between updates": training(network, masks, inputs, steps, Rest(every=10 * _STEPS)),
            "an update of RigL": training(network, masks, inputs, steps, RigL(every=1, until=1.0)),
            "an update of SET": training(network, masks, inputs, steps, SET(every=1)),
            "an update of GMP": training(network, masks, inputs, steps, GMP(0.99, every=1, until=1.0)),
        }
        compare(f"{title}, batch {len(inputs)}", candidates, repeats, steps)


if __name__ == "__main__":
    main()
