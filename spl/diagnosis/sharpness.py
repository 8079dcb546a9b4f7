"""How sharply the loss bends along the step that training would take first."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sharpness(network: nn.Module, masks: Mapping[str, Tensor], inputs: Tensor, labels: Tensor) -> float:
    """ĝᵀ H ĝ: the second derivative of the mean cross-entropy along its normalized gradient ĝ; 0 where that is 0.

    Gradient descent with step η and momentum β climbs along directions sharper than 2 (1 + β)/η.

    Args:
        network: maps [N, ...] to logits [N, C].
        masks: bool, by the name of the weights that take part; pruned ones do not.
        inputs: [N, ...].
        labels: [N].
    """
    weights = [p for name, p in network.named_parameters() if name in masks]
    kept = [mask.to(weight) for mask, weight in zip(masks.values(), weights, strict=True)]
    loss = F.cross_entropy(network(inputs), labels)
    gradients = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
    direction = [gradient.detach() * mask for gradient, mask in zip(gradients, kept, strict=True)]
    square = _dot(direction, direction)
    slope = _dot(gradients, direction)
    if not square > 0 or not slope.requires_grad:
        return 0.0
    bent = torch.autograd.grad(slope, weights, materialize_grads=True)
    return float(_dot(bent, direction) / square)


def _dot(a: tuple[Tensor, ...] | list[Tensor], b: list[Tensor]) -> Tensor:
    return torch.stack([(x * y).double().sum() for x, y in zip(a, b, strict=True)]).sum()
