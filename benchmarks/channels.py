"""Compare coupled channels with those of Torch-Pruning: the size and the speed of networks with half of the channels.

In twelve networks of torchvision, half of the output channels of every convolution and hidden Linear layer are pruned
by magnitude, but none of the classifier. Both sides have the same weights and inputs, in one run, on one thread, with
batches of one image; a time is the median of turns in which dense, Torch-Pruning and spl run one after the other.
Torch-Pruning is not needed by this package: `pip install torch-pruning`.

Claim: compact networks are at most as large as those of Torch-Pruning 1.6, and compute what the pruned ones do.

    python benchmarks/channels.py
    python benchmarks/channels.py resnet18 convnext_tiny
    python benchmarks/channels.py --tiny        # shows only that it runs
"""

import argparse
import copy
import platform
import time
import warnings
from collections.abc import Callable
from statistics import median

import torch
import torchvision
from torch import Tensor, nn

from spl.criteria import Magnitude
from spl.export import compact
from spl.export.cost import network_cost
from spl.masks import Masks
from spl.pruning import PruningChoices
from spl.pruning.coupled_rule import CoupledRule
from spl.pruning.coupling import find_coupling
from spl.pruning.patterns import Channels
from spl.pruning.rounds import score
from spl.pruning.scopes import Uniform

NETWORKS = (
    *("resnet18", "resnet50", "efficientnet_b0", "convnext_tiny", "regnet_y_400mf", "mobilenet_v2", "densenet121"),
    *("vgg16_bn", "vit_b_16", "googlenet", "shufflenet_v2_x1_0", "swin_t"),
)
CLASSIFIERS = ("fc", "classifier", "heads", "head")


def made(name: str) -> nn.Module:
    """Return a network with random weights, in evaluation mode."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GoogLeNet warns of its initialization
        return torchvision.models.get_model(name, weights=None).eval()


def classifier(network: nn.Module) -> str:
    """Return the name of the last layer."""
    return next(name for name in CLASSIFIERS if hasattr(network, name))


def share_of_channels(alive: Masks) -> float:
    """Return the share of coupled channels that are kept."""
    return alive.kept / alive.size


def half_of(network: nn.Module, example: Tensor) -> nn.Module:
    """Return the compact network of coupled channels, at the sparsity that keeps half of them."""
    choices = PruningChoices(pattern=Channels(coupled=True), scope=Uniform())
    weights = choices.parameters(network)
    rule = CoupledRule(choices.scope, find_coupling(network, example, weights))
    scores, shapes = rule.pooled(score(network, weights, Magnitude())), choices.sizes(weights)[0]
    low, high = 0, sum(weight.numel() for weight in weights.values())
    while high - low > 1:
        middle = (low + high) // 2
        masks = rule.masks(scores, shapes, middle) if middle > high // 20 else None
        low, high = (middle, high) if masks is None or share_of_channels(rule.alive(masks)) <= 0.5 else (low, middle)
    return compact(network, rule.masks(scores, shapes, low), example).network


def half_by_torch_pruning(network: nn.Module, example: Tensor) -> nn.Module:
    """Return the network that Torch-Pruning makes."""
    import torch_pruning

    smaller = copy.deepcopy(network)
    last = smaller.get_submodule(classifier(smaller))
    pruner = torch_pruning.pruner.MagnitudePruner(
        smaller,
        example,
        importance=torch_pruning.importance.MagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=[module for module in last.modules() if isinstance(module, nn.Linear)][-1:],
    )
    pruner.step()
    return smaller


def milliseconds(networks: list[nn.Module], example: Tensor, turns: int) -> list[float]:
    """Return the median times of the networks, which run in turn."""
    times: list[list[float]] = [[] for _ in networks]
    with torch.inference_mode():
        for _ in range(turns):
            for network, own in zip(networks, times, strict=True):
                start = time.perf_counter()
                network(example)
                own.append(1000 * (time.perf_counter() - start))
    return [median(own) for own in times]


def attempt(make: Callable[[nn.Module, Tensor], nn.Module], network: nn.Module, example: Tensor) -> nn.Module | str:
    """Return what `make` makes, or why it failed."""
    try:
        smaller = make(network, example).eval()
        smaller(example)
    except Exception as error:
        return f"fails ({type(error).__name__})"
    return smaller


def main() -> None:
    """Print a table with a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, {platform.machine()}, 1 thread")
    size, turns = (64, 1) if args.tiny else (224, 15)
    for name in args.networks[:1] if args.tiny else args.networks:
        network, example = made(name), torch.randn(1, 3, size, size)
        found = [network, *(attempt(make, network, example) for make in (half_by_torch_pruning, half_of))]
        networks = [own for own in found if isinstance(own, nn.Module)]
        times = iter(milliseconds(networks, example, turns))
        cells = [
            own
            if isinstance(own, str)
            else f"{network_cost(own, example).total.macs / 1e9:.3f} GMAC, {next(times):.1f} ms"
            for own in found
        ]
        print(f"{name}: dense {cells[0]}; Torch-Pruning {cells[1]}; spl {cells[2]}", flush=True)


if __name__ == "__main__":
    main()
