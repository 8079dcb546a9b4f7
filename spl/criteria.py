"""Saliency criteria: how much each weight matters, as scores from a network and batches."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spl.errors import InputError

Scores = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
Targets = Literal["labels", "uniform", "prediction_logits", "prediction_softmax"]


def scoring_loss(targets: Targets) -> Loss:
    """The cross-entropy −Σᵢ tᵢ log softmax(z)ᵢ, summed over the examples of a batch.

    A sum, not a mean: scores then do not depend on how the examples are cut into batches.

    Args:
        targets: what t is. `labels`: the classes. The others need no labels (section 5 of Lee et al. 2020):
            `uniform`, 1/classes each; `prediction_logits`, the network's own logits z;
            `prediction_softmax`, its own softmax(z). A prediction is not held constant: were it, the gradient
            of the softmax kind would be zero everywhere.

    Returns:
        A function of logits [N, classes] and labels [N] to a scalar.
    """

    if targets not in get_args(Targets):
        raise InputError(f"targets must be one of {', '.join(get_args(Targets))}, got {targets!r}.")

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        if targets == "labels":
            return F.cross_entropy(logits, labels, reduction="sum")
        log_probabilities = logits.log_softmax(-1)
        soft = {
            "uniform": lambda: torch.full_like(logits, 1.0 / logits.shape[-1]),
            "prediction_logits": lambda: logits,
            "prediction_softmax": lambda: logits.softmax(-1),
        }[targets]()
        return -(soft * log_probabilities).sum()

    return loss


class Criterion(ABC):
    """Scores the weights of a network; a larger score is kept first.

    A criterion only scores: which weights, in which mode and how many to keep is `spl.pruning`'s business.
    """

    needs_data: ClassVar[bool]

    @abstractmethod
    def __call__(
        self, network: nn.Module, parameters: Mapping[str, Tensor], batches: Iterable[Batch], loss: Loss
    ) -> Scores:
        """Scores in the shapes of `parameters`, keyed as they are.

        Args:
            network: the network, in the mode in which it is to be scored.
            parameters: what to score: parameters of `network`, by name.
            batches: inputs and labels on the network's device; not read where `needs_data` is false.
            loss: of logits and labels, summed over examples.
        """


class ConnectionSensitivity(Criterion):
    """CS: s = |g| / Σ|g| with g = w ∂L/∂w, the gradient with respect to a mask on each weight.

    The signed g are summed over all examples and the absolute value is taken once, at the end.
    Lee et al. 2019 (SNIP) and 2020, equation 2.
    """

    needs_data = True

    def __call__(
        self, network: nn.Module, parameters: Mapping[str, Tensor], batches: Iterable[Batch], loss: Loss
    ) -> Scores:
        """Scores that sum to 1 over all weights, or are all 0 where no gradient arrives.

        The sums are turned into scores in place: beside one forward and backward pass, one copy of the weights.
        """
        tensors = list(parameters.values())
        total = [torch.zeros_like(tensor) for tensor in tensors]
        for inputs, labels in batches:
            value = loss(network(inputs), labels)
            torch._foreach_add_(total, torch.autograd.grad(value, tensors, materialize_grads=True))
        torch._foreach_mul_(total, [tensor.detach() for tensor in tensors])
        torch._foreach_abs_(total)
        scale = float(torch.stack([s.sum(dtype=torch.float64) for s in total]).sum())
        if scale > 0:
            for s in total:
                s.copy_(s.double().div_(scale))  # the sum itself may be too large for a float32
        return dict(zip(parameters, total, strict=True))


class Magnitude(Criterion):
    """|w|: the usual choice on a pretrained network."""

    needs_data = False

    def __call__(
        self, network: nn.Module, parameters: Mapping[str, Tensor], batches: Iterable[Batch], loss: Loss
    ) -> Scores:
        """The absolute weights."""
        return {name: tensor.detach().abs() for name, tensor in parameters.items()}


class Random(Criterion):
    """Independent uniform scores, drawn on the CPU from a stream of their own: equal on every rank and device.

    Args:
        seed: of that stream.
    """

    needs_data = False

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(
        self, network: nn.Module, parameters: Mapping[str, Tensor], batches: Iterable[Batch], loss: Loss
    ) -> Scores:
        """Uniform scores in [0, 1)."""
        generator = torch.Generator().manual_seed(self.seed)
        return {
            name: torch.rand(tensor.shape, generator=generator).to(tensor.device) for name, tensor in parameters.items()
        }
