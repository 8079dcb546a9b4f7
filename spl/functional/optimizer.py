"""Optimizers: the one that networks are trained by unless another is asked for, and what is checked of all."""

from typing import Any

import torch
from torch import nn

from spl.errors import InputError
from spl.functional.torch_private import BatchNorm


def sgd(parameters: Any) -> torch.optim.Optimizer:
    """Return the optimizer of the paper: SGD with learning rate 0.1, momentum 0.9, weight decay 5e-4.

    Example:
        >>> from torch import nn
        >>> from spl.functional.optimizer import sgd
        >>> optimizer = sgd(nn.Linear(2, 1).parameters())
        >>> optimizer.defaults["lr"], optimizer.defaults["weight_decay"]
        (0.1, 0.0005)
    """
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4)


def parameter_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Return the parameters of `network` in groups for an optimizer: those of BatchNorm have no weight decay.

    Example:
        >>> [group.get("weight_decay") for group in parameter_groups(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))]
        [None, 0.0]
    """
    norms = {id(p) for module in network.modules() if isinstance(module, BatchNorm) for p in module.parameters()}
    groups: list[dict[str, Any]] = [{"params": [p for p in network.parameters() if id(p) not in norms]}]
    if norms:
        groups.append({"params": [p for p in network.parameters() if id(p) in norms], "weight_decay": 0.0})
    return groups


def check_learning_rate(optimizer: torch.optim.Optimizer) -> None:
    """Raise an `InputError` if the learning rate of `optimizer` is not finite in single precision.

    Other numbers of a group may be infinite by design, such as Prodigy's growth rate.
    """
    for group in optimizer.param_groups:
        if not abs(rate := float(group.get("lr", 0.0))) <= torch.finfo(torch.float32).max:
            raise InputError(
                f"The optimizer's lr is {rate}, which is no finite number in single precision: correct model.optimizer."
            )
