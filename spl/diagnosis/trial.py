"""The trial: a few optimizer steps with a copy of the weights, which is thrown away, to see if the loss falls."""

from functools import partial
from math import inf, isfinite

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spl.functional.optimizer import sgd
from spl.functional.substitution import substituted
from spl.masks.masks import BoundMasks, Masks

STEPS, BATCH_SIZE, AVERAGED_STEPS = 100, 100, 10


def trial_loss(network: nn.Module, masks: Masks, inputs: Tensor, labels: Tensor) -> float:
    """Return the mean cross-entropy over the last 10 of 100 steps of `spl.functional.optimizer.sgd`.

    A copy of the parameters takes the steps, and its pruned weights stay 0. Buffers change, as in training, so call
    this inside `undisturbed`. Batches have 100 examples each; they go through the examples in order, over and over.

    Args:
        network: a network that maps [N, ...] to logits [N, C].
        masks: the masks of its parameters.
        inputs: Tensor [N, ...] of examples.
        labels: Tensor [N] of the examples' classes.

    Returns:
        The loss in nats, infinite if it diverges.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.diagnosis.trial import trial_loss
        >>> from spl.masks import Masks
        >>> network = nn.Linear(2, 2)
        >>> inputs, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
        >>> trial_loss(network, Masks({}), inputs, labels) < 0.1
        True
    """
    weights = {name: p.detach().clone().requires_grad_(p.requires_grad) for name, p in network.named_parameters()}
    optimizer = sgd([weight for weight in weights.values() if weight.requires_grad])
    bound = BoundMasks(masks, weights)
    losses = []
    for step in range(STEPS):
        batch = torch.arange(step * BATCH_SIZE, (step + 1) * BATCH_SIZE, device=inputs.device) % len(inputs)
        optimizer.zero_grad()
        losses.append(substituted(network, weights, partial(_backward, inputs[batch], labels[batch])))
        if not isfinite(losses[-1]):
            return inf
        bound.mask_gradients_()
        optimizer.step()
    return sum(losses[-AVERAGED_STEPS:]) / AVERAGED_STEPS


def _backward(inputs: Tensor, labels: Tensor, network: nn.Module) -> float:
    """Return the loss, and leave its gradients at the weights."""
    loss = F.cross_entropy(network(inputs), labels)
    torch.autograd.backward(loss)
    return float(loss.detach())
