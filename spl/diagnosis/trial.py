"""A trial: does the loss fall once steps are taken? On a copy of the weights, which is thrown away."""

from math import inf, isfinite

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from spl.masks import BoundMasks, Masks
from spl.module import sgd

STEPS, BATCH, LAST = 100, 100, 10


def trial_loss(network: nn.Module, masks: Masks, inputs: Tensor, labels: Tensor) -> float:
    """The mean cross-entropy over the last 10 of 100 steps of `spl.module.sgd`, pruned weights left at 0.

    Steps are taken by a copy of the parameters; buffers move, as in training: call it inside `undisturbed`. Batches
    are 100 examples each, from the first on, over and over.

    Args:
        network: maps [N, ...] to logits [N, C].
        masks: what is kept of its parameters.
        inputs: [N, ...].
        labels: [N].

    Returns:
        The loss in nats, infinite where it diverges.
    """
    weights = {name: p.detach().clone().requires_grad_(p.requires_grad) for name, p in network.named_parameters()}
    optimizer = sgd([weight for weight in weights.values() if weight.requires_grad])
    bound = BoundMasks(masks, weights)
    losses = []
    for step in range(STEPS):
        batch = torch.arange(step * BATCH, (step + 1) * BATCH, device=inputs.device) % len(inputs)
        loss = F.cross_entropy(functional_call(network, weights, (inputs[batch],)), labels[batch])
        losses.append(float(loss.detach()))
        if not isfinite(losses[-1]):
            return inf
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        bound.mask_gradients_()
        optimizer.step()
    return sum(losses[-LAST:]) / LAST
