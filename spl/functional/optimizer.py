"""The optimizer that networks are trained by unless another is asked for."""

from typing import Any

import torch


def sgd(parameters: Any) -> torch.optim.Optimizer:
    """The paper's optimizer: SGD with learning rate 0.1, momentum 0.9, weight decay 5e-4."""
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4)
