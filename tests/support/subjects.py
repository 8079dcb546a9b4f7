"""Networks and data for the tests of criteria."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from spl.criteria import Subject, scoring_loss
from spl.criteria.criterion import Batch
from spl.criteria.objective import LossOfLogits
from spl.masks.masks import Masks


def subject(
    network: nn.Module,
    batches: Iterable[Batch] = (),
    masks: Masks | None = None,
    keep: int = 1,
    include_bias: bool = True,
) -> Subject:
    """Return `network` as the subject of the first round or, with masks, of a later one. Masks are applied in place."""
    names = [name for name, _ in network.named_parameters() if include_bias or not name.endswith("bias")]
    parameters = dict(network.named_parameters())
    weights = {name: parameters[name].detach().clone() for name in names}
    if masks is not None:
        masks.apply_(parameters)
    return Subject(network, weights, masks, batches, LossOfLogits(scoring_loss("labels")), keep)


def chain(*weights: list[list[float]], activation: type[nn.Module] = nn.Identity) -> nn.Sequential:
    """Return linear layers named fc1, fc2, … with these weights and without biases, in float64."""
    network = nn.Sequential()
    for i, weight in enumerate(weights, start=1):
        tensor = torch.tensor(weight, dtype=torch.float64)
        layer = nn.Linear(tensor.shape[1], tensor.shape[0], bias=False, dtype=torch.float64)
        layer.weight.data.copy_(tensor)
        network.add_module(f"fc{i}", layer)
        if i < len(weights):
            network.add_module(f"act{i}", activation())
    return network


def examples(n: int, *shape: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Return random inputs and labels, in float64."""
    return torch.randn(n, *shape, dtype=torch.float64), torch.randint(classes, (n,))
