"""The objectives that criteria differentiate, and how they read a batch."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spl.criteria.losses import Loss
from spl.errors import InputError


class Objective(ABC):
    """The loss of a network on a batch of any structure, summed over its examples."""

    @abstractmethod
    def __call__(self, network: nn.Module, batch: Any) -> Tensor:
        """Return the loss, a scalar that is differentiable by the weights of `network`."""

    def tempered(self, temperature: float) -> "Objective":
        """Return this loss with the logits divided by `temperature`.

        Raises:
            InputError: the loss does not show its logits, and the temperature is not 1.
        """
        if temperature == 1:
            return self
        raise InputError(
            f"GraSP divides logits by its temperature {temperature:g}, and this loss does not show them: use "
            "GraSP(temperature=1)."
        )


class LossOfLogits(Objective):
    """A loss of logits [N, classes] and labels [N] on batches (inputs, labels).

    Args:
        loss: a function of logits and labels, such as `scoring_loss` returns.
        temperature: what the logits are divided by.
    """

    def __init__(self, loss: Loss, temperature: float = 1.0) -> None:
        self.loss = loss
        self.temperature = temperature

    def __call__(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss of the network's logits on the batch."""
        inputs, labels = batch
        return self.loss(network(inputs) / self.temperature, labels)

    def tempered(self, temperature: float) -> "LossOfLogits":
        """Return the same loss with the logits divided by `temperature`."""
        return LossOfLogits(self.loss, self.temperature * temperature)


def first_tensor(batch: Any) -> Tensor:
    """Return the first tensor of a batch of any structure: the inputs, with the examples along the first axis.

    Raises:
        InputError: the batch holds no tensor.
    """
    tensor = next(_tensors(batch), None)
    if tensor is None:
        raise InputError(f"A batch of type {type(batch).__name__} holds no tensor with examples along its first axis.")
    return tensor


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield from [batch] if batch.ndim else []
    elif isinstance(batch, Mapping):
        yield from _tensors(list(batch.values()))
    elif isinstance(batch, list | tuple):
        for item in batch:
            yield from _tensors(item)


def floating_inputs(batch: Any, reader: str) -> Tensor:
    """Return the first tensor of a batch, for a criterion that makes inputs of the same shape.

    Args:
        batch: a batch of any structure.
        reader: the name of the criterion, for the message.

    Raises:
        InputError: the batch holds no tensor, or its first tensor is not floating-point, as tokens are not.
    """
    inputs = first_tensor(batch)
    if not torch.is_floating_point(inputs):
        raise InputError(
            f"{reader} needs floating-point inputs, and the first tensor of a batch is {inputs.dtype}: use a criterion "
            "of the loss (ConnectionSensitivity, IterativeSNIP, FORCE), or one without data (Magnitude, Random)."
        )
    return inputs
