"""How sharply the loss bends at the weights with which training starts."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ITERATIONS = 10


def sharpness(network: nn.Module, masks: Mapping[str, Tensor], inputs: Tensor, labels: Tensor) -> float:
    """The eigenvalue of largest magnitude of the Hessian of the mean cross-entropy; 0 where the gradient is 0.

    By ten power iterations from the gradient. Descent with step η and momentum β climbs along directions sharper than
    2 (1 + β)/η.

    Args:
        network: maps [N, ...] to logits [N, C].
        masks: bool, by the name of the weights that take part; pruned ones do not.
        inputs: [N, ...].
        labels: [N].
    """
    weights = [p for name, p in network.named_parameters() if name in masks]
    kept = [masks[name].to(p) for name, p in network.named_parameters() if name in masks]
    loss = F.cross_entropy(network(inputs), labels)
    gradients = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
    bent = [gradient.detach() * mask for gradient, mask in zip(gradients, kept, strict=True)]
    value = 0.0
    for _ in range(_ITERATIONS):
        length = _dot(bent, bent).sqrt()
        if not length > 0:
            break
        direction = [(part / length).to(part) for part in bent]
        slope = _dot(gradients, direction)
        curved = torch.autograd.grad(slope, weights, retain_graph=True, materialize_grads=True)
        bent = [part * mask for part, mask in zip(curved, kept, strict=True)]
        value = float(_dot(bent, direction))
    return value


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum(dtype=torch.float64) for x, y in zip(a, b, strict=True)]).sum()
