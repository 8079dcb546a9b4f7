"""The objectives that criteria differentiate, and how they read a batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from spl.criteria.losses import Loss
from spl.criteria.processes import Processes
from spl.errors import InputError
from spl.functional.torch_private import tree_leaves

Function = Callable[[nn.Module, Any], Any]
"""A loss as a function of a network and a batch, a mean over the examples of the batch."""


class Objective(ABC):
    """The loss of a network on a batch of any structure, summed over its examples.

    Attributes:
        as_trained: whether the network is scored in the modes in which it is trained, without dropout, and not in
            evaluation mode.
    """

    as_trained: bool = False

    @abstractmethod
    def __call__(self, network: nn.Module, batch: Any) -> Tensor:
        """Return the loss, a scalar that is differentiable by the weights of `network`."""

    def finish(self, processes: Processes) -> None:  # noqa: B027 (most have nothing to do)
        """Do what is left to do at the end of a round, in which the processes scored together."""

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


class SumOfOutputs(Objective):
    """The sum of everything that a network returns for the first tensor of a batch, for criteria without a loss.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria.objective import SumOfOutputs
        >>> SumOfOutputs()(nn.Identity(), (torch.ones(2, 3), torch.zeros(2))).item()
        6.0
    """

    def __call__(self, network: nn.Module, batch: Any) -> Tensor:
        """Return the sum."""
        leaves = tree_leaves(network(first_tensor(batch)))
        return torch.stack([o.float().sum() for o in leaves if isinstance(o, Tensor) and o.is_floating_point()]).sum()


class MeanLoss(Objective):
    """A function of network and batch, a mean over the examples of the batch, times their number.

    Args:
        function: a function that is differentiable by the weights of the network.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria.objective import MeanLoss
        >>> loss = MeanLoss(lambda network, batch: network(batch["x"]).mean())
        >>> network = nn.Linear(3, 1)
        >>> torch.equal(loss(network, {"x": torch.ones(4, 3)}), 4 * network(torch.ones(4, 3)).mean())
        True
    """

    as_trained = True

    def __init__(self, function: Function) -> None:
        self._function = function

    def __call__(self, network: nn.Module, batch: Any) -> Tensor:
        """Return the sum over the examples of the batch.

        Raises:
            InputError: the function returns no loss that depends on the network's weights.
        """
        name = getattr(self._function, "__qualname__", type(self._function).__name__)
        return total(self._function(network, batch), batch, f"loss={name}", "pass another loss=")


def objective_of(loss: Objective | Function) -> Objective:
    """Return an objective as it is, and a function of network and batch as a `MeanLoss`."""
    return loss if isinstance(loss, Objective) else MeanLoss(loss)


def total(loss: object, batch: Any, source: str, remedy: str) -> Tensor:
    """Return the sum over the examples of a batch, given their mean.

    Args:
        loss: the mean.
        batch: the batch.
        source: what returned the mean, for the message.
        remedy: what to do if it is not one number, for the message.

    Raises:
        InputError: the loss is not one number that depends on weights.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise InputError(
            f"{source} returned {found}, where one number that depends on the module's weights was expected: {remedy}"
        )
    return loss.sum() * examples(batch)


def first_tensor(batch: Any) -> Tensor:
    """Return the first tensor of a batch of any structure: the inputs, with the examples along the first axis.

    Raises:
        InputError: the batch holds no tensor.
    """
    tensor = next(_tensors(batch), None)
    if tensor is None:
        raise InputError(f"A batch of type {type(batch).__name__} holds no tensor with examples along its first axis.")
    return tensor


def examples(batch: Any) -> int:
    """Return the number of examples of a batch of any structure.

    It is the length of the first tensor, as in Lightning. Two kinds of batches do not have their examples along the
    first axis of that tensor: those that tell their size as `num_graphs` or `batch_size`, such as graphs that are
    joined to one, and lists of images with a dictionary of targets for each.

    Raises:
        InputError: the batch holds no tensor.

    Example:
        >>> import torch
        >>> from spl.criteria.objective import examples
        >>> examples({"text": "a", "tokens": torch.ones(4, 7)})
        4
        >>> image = torch.ones(3, 8, 8)
        >>> examples(([image, image], [{"boxes": torch.ones(5, 4)}, {"boxes": torch.ones(1, 4)}]))
        2
    """
    for size in (getattr(batch, "num_graphs", None), getattr(batch, "batch_size", None)):
        if isinstance(size, int):
            return size
        if isinstance(size, torch.Size) and size:
            return size[0]
    if isinstance(batch, list | tuple) and len(batch) > 1:
        lengths = {len(part) if isinstance(part, list | tuple) else 0 for part in batch}
        if len(lengths) == 1 and 0 not in lengths and all(isinstance(target, Mapping) for target in batch[-1]):
            return lengths.pop()
    return len(first_tensor(batch))


def _tensors(batch: Any, depth: int = 20) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield from [batch] if batch.ndim else []
    elif depth:
        for item in _parts(batch):
            yield from _tensors(item, depth - 1)


def _parts(batch: Any) -> Iterable[Any]:
    """Return what a container or an object with attributes holds."""
    if isinstance(batch, str | bytes | type | ModuleType | Iterator) or hasattr(batch, "__array__"):
        return ()
    if isinstance(batch, Mapping):
        return list(batch.values())
    if is_dataclass(batch):
        return [getattr(batch, field.name) for field in fields(batch)]
    if isinstance(batch, Iterable):
        return list(batch)
    return list(vars(batch).values()) if hasattr(batch, "__dict__") else ()


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
