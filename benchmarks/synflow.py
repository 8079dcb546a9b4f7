"""Compare the time of SynFlow's hundred rounds in the usual formulation and in spl, selection included.

The networks are ResNet-32 and VGG16 for CIFAR-10, pruned to 90 % sparsity. The usual formulation follows the method's
authors: layers multiply their weights by masks in every forward pass, in float64 and evaluation mode. A round replaces
all of the network's state by absolute values, runs one example of ones forward and backward, scores by |w ∂R/∂w|,
restores the signs, finds the global threshold as the k-th value of all scores, and writes the masks. The script fails
if the two formulations do not give the same masks. All on one thread.

Claim: the usual formulation / spl >= 1.5 on ResNet-32 and >= 2.5 on VGG16.

    python benchmarks/synflow.py
"""

from copy import deepcopy

import torch
import torch.nn.functional as F
from ratios import compare
from torch import Tensor, nn

from spl.criteria import SynFlow
from spl.criteria.schedules import Exponential
from spl.masks.masks import Masks
from spl.networks import VGG16, ResNet
from spl.pruning import keep_count, prune

SPARSITY, ROUNDS = 0.9, 100


class MaskedConv2d(nn.Conv2d):
    """A convolution that multiplies its weight by a mask."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the masked weight."""
        return self._conv_forward(x, self.weight_mask * self.weight, self.bias)


class MaskedLinear(nn.Linear):
    """A linear layer that multiplies its weight by a mask."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the masked weight."""
        return F.linear(x, self.weight_mask * self.weight, self.bias)


def masked(network: nn.Module) -> nn.Module:
    """Return a copy of the network in float64 with masks in its layers."""
    network = deepcopy(network).double().eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.__class__ = MaskedConv2d if isinstance(module, nn.Conv2d) else MaskedLinear
            module.register_buffer("weight_mask", torch.ones_like(module.weight))
            nn.init.zeros_(module.bias)
    return network


def usual_scores(network: nn.Module, layers: dict[str, nn.Module], ones: Tensor) -> dict[str, Tensor]:
    """Return the scores of one round."""
    state = {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    signs = {name: tensor.sign() for name, tensor in state.items()}
    for tensor in state.values():
        tensor.abs_()
    network.zero_grad()
    network(ones).sum().backward()
    scores = {name: (layer.weight.grad * layer.weight.detach()).abs() for name, layer in layers.items()}
    for name, tensor in state.items():
        tensor.mul_(signs[name])
    return scores


def usual(network: nn.Module, images: Tensor) -> Masks:
    """Return the masks after all rounds of the usual formulation."""
    network = masked(network)
    layers = {f"{name}.weight": m for name, m in network.named_modules() if isinstance(m, MaskedConv2d | MaskedLinear)}
    size = sum(layer.weight.numel() for layer in layers.values())
    ones = torch.ones(1, *images.shape[1:], dtype=torch.float64)
    for keep in Exponential(ROUNDS).keeps(size, keep_count(size, SPARSITY)):
        scores = usual_scores(network, layers, ones)
        threshold = torch.cat([score.flatten() for score in scores.values()]).kthvalue(size - keep).values
        for name, layer in layers.items():
            layer.weight_mask.copy_(torch.where(scores[name] <= threshold, 0.0, 1.0))
    return Masks({name: layer.weight_mask.bool() for name, layer in layers.items()})


def ours(network: nn.Module, images: Tensor) -> Masks:
    return prune(network, SynFlow(), SPARSITY, [(images, torch.zeros(len(images)))])


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.zeros(1, 3, 32, 32)
    for title, network in (("ResNet-32", ResNet(blocks_per_stage=5)), ("VGG16", VGG16())):
        if ours(network, images) != usual(network, images):
            raise SystemExit(f"{title}: the masks differ")
        candidates = {
            "spl": lambda network=network: ours(network, images),
            "usual": lambda network=network: usual(network, images),
        }
        compare(f"SynFlow, {title}, equal masks", candidates, repeats=3, steps=ROUNDS, warmups=0)


if __name__ == "__main__":
    main()
