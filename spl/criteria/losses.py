"""Losses of logits that criteria score by, with labels and without."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from spl.errors import InputError

Loss = Callable[[Tensor, Tensor], Tensor]
Targets = Literal["labels", "uniform", "prediction_logits", "prediction_softmax"]


def scoring_loss(targets: Targets) -> Loss:
    """Return the cross-entropy −Σᵢ tᵢ log softmax(z)ᵢ, summed over the examples of a batch.

    It is a sum, not a mean, so that scores do not depend on how the examples are split into batches.

    Args:
        targets: the targets t. With `labels`, they are the classes. The others need no labels (section 5 of Lee et al.
            2020). With `uniform`, each is 1/classes. With `prediction_logits`, they are the network's own logits z.
            With `prediction_softmax`, they are its own softmax(z). Predictions are not held constant: otherwise the
            gradient for `prediction_softmax` would be zero everywhere.

    Returns:
        A function that maps logits [N, classes] and labels [N] to a scalar.

    Example:
        >>> import torch
        >>> from spl.criteria import scoring_loss
        >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
        >>> scoring_loss("labels")(logits, labels).item()
        0.82
        >>> scoring_loss("uniform")(logits, labels).item()
        1.82
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
