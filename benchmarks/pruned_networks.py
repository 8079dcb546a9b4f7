"""Networks of the paper with orthogonal weights, pruned by connection sensitivity on real data, for the benchmarks."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from spl.criteria import ConnectionSensitivity
from spl.criteria.criterion import Batch
from spl.data import CIFAR10, MNIST
from spl.initializers import Orthogonal
from spl.masks.masks import Masks
from spl.networks import MLP, VGG16, ResNet
from spl.pruning import prune

NETWORKS: dict[str, tuple[Callable[[], nn.Module], type[MNIST] | type[CIFAR10]]] = {
    "MLP-7": (MLP, MNIST),
    "ResNet-20": (lambda: ResNet(3), CIFAR10),
    "ResNet-32": (lambda: ResNet(5), CIFAR10),
    "VGG16": (VGG16, CIFAR10),
}


@dataclass
class Pruned:
    """A pruned network, the images that it was scored on, and its weights before it is corrected."""

    network: nn.Module
    masks: Masks
    images: Tensor
    state: dict[str, Tensor]

    def restore(self) -> None:
        """Restore the weights from before a correction."""
        self.network.load_state_dict(self.state)

    def to(self, device: str) -> "Pruned":
        """Return the same on another device."""
        state = {key: tensor.to(device) for key, tensor in self.state.items()}
        masks = Masks({name: mask.to(device) for name, mask in self.masks.items()})
        return Pruned(self.network.to(device), masks, self.images.to(device), state)


def scoring_batches(name: str, count: int) -> list[Batch]:
    """Return batches of 100 examples, read from the folder that the environment variable SPL_DATA names."""
    data = NETWORKS[name][1](os.environ["SPL_DATA"], batch_size=100, download=False)
    data.setup()
    return [(data.normalize(images), labels) for images, labels in islice(data.scoring_dataloader(0), count)]


def pruned(name: str, sparsity: float, batches: list[Batch]) -> Pruned:
    """Return a network pruned with seed 0 at orthogonal weights (LDI), biases counted as in the paper."""
    torch.manual_seed(0)
    network = NETWORKS[name][0]()
    Orthogonal()(network)
    masks = prune(network, ConnectionSensitivity(), sparsity, batches, include_bias=True)
    masks.apply_(dict(network.named_parameters()))
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    return Pruned(network, masks, batches[0][0], state)
