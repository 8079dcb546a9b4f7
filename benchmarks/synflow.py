"""What SynFlow's hundred rounds cost: the usual formulation against spl's, selection included.

On ResNet-32 and VGG16 for CIFAR-10, to 90 % sparsity. The usual formulation is that of the method's own description,
round by round: take the absolute values of a network in float64 and evaluation mode, send one example of ones forward
and back, score by |w ∂R/∂w|, give the weights their signs back, find the global threshold by a k-th value of all scores
and multiply the weights by the new masks. Both give the same masks, or the script fails. On one thread.

Claim: the usual formulation / spl >= 1.5 on ResNet-32 and >= 2.5 on VGG16.

    python benchmarks/synflow.py
"""

from copy import deepcopy

import torch
from ratios import compare
from torch import Tensor, nn

from spl.criteria import SynFlow
from spl.masks import Masks
from spl.networks import VGG16, ResNet
from spl.pruning import keep_count, prunable_parameters, prune
from spl.schedules import Exponential

SPARSITY, ROUNDS = 0.9, 100


def usual_scores(network: nn.Module, weights: dict[str, nn.Parameter], ones: Tensor) -> dict[str, Tensor]:
    state = [*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())]
    signs = [tensor.detach().sign() for tensor in state]
    with torch.no_grad():
        for tensor in state:
            tensor.abs_()
    network.zero_grad()
    network(ones).sum().backward()
    scores = {name: (weight.grad * weight.detach()).abs() for name, weight in weights.items()}
    with torch.no_grad():
        for tensor, sign in zip(state, signs, strict=True):
            tensor.mul_(sign)
    return scores


def usual(network: nn.Module, images: Tensor) -> Masks:
    network = deepcopy(network).double().eval()
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    weights = prunable_parameters(network)
    size = sum(weight.numel() for weight in weights.values())
    ones = torch.ones(1, *images.shape[1:], dtype=torch.float64)
    masks: dict[str, Tensor] = {}
    for keep in Exponential(ROUNDS).keeps(size, keep_count(size, SPARSITY)):
        scores = usual_scores(network, weights, ones)
        flat = torch.cat([score.flatten() for score in scores.values()])
        threshold = flat.kthvalue(size - keep).values
        masks = {name: score > threshold for name, score in scores.items()}
        with torch.no_grad():
            for name, weight in weights.items():
                weight.mul_(masks[name])
    return Masks(masks)


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
