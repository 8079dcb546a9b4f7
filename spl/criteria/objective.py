"""Objective: what criteria differentiate, and what a batch is to them."""

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
        """A scalar, differentiable by the weights of `network`."""

    def tempered(self, temperature: float) -> "Objective":
        """The loss at logits divided by `temperature`.

        Raises:
            InputError: the loss does not show its logits.
        """
        if temperature == 1:
            return self
        raise InputError(
            f"GraSP divides logits by its temperature {temperature:g}, and this loss does not show them: use "
            "GraSP(temperature=1)."
        )


class LossOfLogits(Objective):
    """A loss of logits [N, classes] and labels [N], of batches (inputs, labels).

    Args:
        loss: see `scoring_loss`.
        temperature: what the logits are divided by.
    """

    def __init__(self, loss: Loss, temperature: float = 1.0) -> None:
        self.loss = loss
        self.temperature = temperature

    def __call__(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss at the network's logits."""
        inputs, labels = batch
        return self.loss(network(inputs) / self.temperature, labels)

    def tempered(self, temperature: float) -> "LossOfLogits":
        """The same loss at logits divided by `temperature`."""
        return LossOfLogits(self.loss, self.temperature * temperature)


def first_tensor(batch: Any) -> Tensor:
    """The first tensor of a batch of any structure: its inputs, along whose first axis its examples lie.

    Raises:
        InputError: there is none in it.
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
    """The first tensor of a batch, whose shape a criterion gives to inputs of its own.

    Args:
        batch: of any structure.
        reader: who asks, for the message.

    Raises:
        InputError: there is none, or it holds no floating-point numbers, as tokens do not.
    """
    inputs = first_tensor(batch)
    if not torch.is_floating_point(inputs):
        raise InputError(
            f"{reader} needs floating-point inputs, and the first tensor of a batch is {inputs.dtype}: use a criterion "
            "of the loss (ConnectionSensitivity, IterativeSNIP, FORCE), or one without data (Magnitude, Random)."
        )
    return inputs
