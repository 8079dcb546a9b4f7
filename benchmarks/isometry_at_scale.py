"""Measure approximate isometry of one very large layer and of a very deep network.

- A layer of 4096×4096 at 95 % (random mask, orthogonal weights): seconds, the gap to the floor, and the peak memory
  beyond the weight, in copies of it, at a tolerance of 0.01 √n.
- A linear MLP of 1,000 layers of 128 units at 12.5 % density (random, uniform over layers): seconds to the floor,
  worst gap, and the mean Jacobian singular value.

    python benchmarks/isometry_at_scale.py [--threads 2] [--size 4096] [--depth 1000]
"""

import argparse
import resource
import time
from collections.abc import Callable
from math import sqrt

import torch
from torch import nn

from spl.criteria import Random
from spl.initializers import Orthogonal
from spl.isometry import ApproximateIsometry, Change, Correction
from spl.jacobian import Spectrum, singular_values
from spl.masks.masks import Masks
from spl.networks import MLP
from spl.pruning import prune
from spl.pruning.scopes import Uniform


def timed(correction: Correction, network: nn.Module, masks: Masks) -> tuple[dict[str, Change], float]:
    """Correct the network; return the changes and the seconds that it took."""
    masks.apply_(dict(network.named_parameters()))
    begin = time.perf_counter()
    return correction(network, masks).changes, time.perf_counter() - begin


def peak_bytes() -> int:
    """Return the peak memory of the process so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def large_layer(size: int) -> None:
    network = nn.Sequential(nn.Linear(size, size, bias=False))
    Orthogonal()(network)
    masks = Masks({"0.weight": torch.rand(size, size) < 0.05})
    copy = 4 * size**2
    before = peak_bytes()
    changes, seconds = timed(ApproximateIsometry(tolerance=0.01), network, masks)
    change = changes["0.weight"]
    print(f"{size}×{size} at 95 %: {seconds:.0f} s, residual {change.before.matrix:.2f} → {change.after.matrix:.4f},")
    print(f"    floor {change.floor:.4f}, asked for a gap of 0.01 √n = {0.01 * sqrt(size):.2f}")
    print(f"    the process took {before / copy:.1f} copies of the layer before, {peak_bytes() / copy:.1f} at its peak")


def deep_network(depth: int) -> None:
    network = MLP(depth=depth, width=128, activation="linear")
    Orthogonal()(network)
    masks = prune(network, Random(), 0.875, scope=Uniform())
    changes, seconds = timed(ApproximateIsometry(tolerance=0.0), network, masks)
    mean = Spectrum.of(singular_values(network, torch.randn(2, 784))).mean
    worst = max(change.after.matrix - change.floor for change in changes.values())
    above = sum(change.floor > 0 for change in changes.values())
    print(f"{depth} layers of 128: {seconds:.0f} s, worst gap {worst:.1e}, {above} floors above 0")
    print(f"    mean Jacobian singular value {mean:.4f}")


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--size", type=int, default=4096)
    arguments.add_argument("--depth", type=int, default=1000)
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    print(f"{chosen.threads} threads, torch {torch.__version__}, one run")
    for measure, size in ((large_layer, chosen.size), (deep_network, chosen.depth)):
        run: Callable[[int], None] = measure
        if size:
            run(size)


if __name__ == "__main__":
    main()
