"""Measure how close corrections bring a pruned network to the floor of its masks, how far they move it, and their time.

The network has orthogonal weights (LDI) and is pruned by connection sensitivity on real data, with seed 0. The gain is
1. The following corrections start from the same weights:

- ApproximateIsometry, with the default tolerance, at other tolerances (--tolerances), to the floor, and (with --steps)
  stopped in each layer at the mean gap of the reference;
- the reference's gradient descent, for --steps steps (10,000 in the paper);
- alternating projections: replace the matrix by the nearest one with equal singular values, mask it, and repeat;
- the matching alone, a solution that exists for every mask.

For each sparsity the script prints the gaps between the residuals of layers and their floors, the mean cosine between
the weights before and after, the mean movement ‖ΔW‖/‖W‖, the share of kept weights that vanish (below 1e-4 of the
layer's largest), the mean Jacobian singular value (JSV) on five images, and the seconds. On the CPU it uses one thread.

    SPL_DATA=data python benchmarks/isometry.py MLP-7 --steps 10000
    SPL_DATA=data python benchmarks/isometry.py VGG16 --sparsities 0.9 --device cuda
"""

import argparse
import time
from collections.abc import Sequence
from statistics import mean
from typing import Any

import torch
from pruned_networks import NETWORKS, Pruned, pruned, scoring_batches
from tabulate import tabulate
from torch import Tensor

from spl.isometry import ApproximateIsometry, Correction, GradientDescentIsometry, PrunedLayer
from spl.isometry.structure import heaviest_matching
from spl.jacobian import singular_values


class WithinGap(ApproximateIsometry):
    """Approximate isometry that ends in each layer at the same gap, whatever the size of the layer."""

    def __init__(self, absolute: float) -> None:
        super().__init__(1.0)
        self.absolute = absolute

    def gap(self, n: int) -> float:
        """Return the gap."""
        return self.absolute


class AlternatingProjections(Correction):
    """Alternating projections, V ← C ⊙ polar(V), between masked matrices and matrices with equal singular values."""

    def __init__(self, iterations: int = 1000) -> None:
        super().__init__(1.0)
        self.iterations = iterations

    def correct_(self, layers: Sequence[PrunedLayer]) -> None:
        """Project each layer `iterations` times."""
        for layer in layers:
            kept = layer.mask.flatten(1)
            matrix = layer.weight.flatten(1)
            for _ in range(self.iterations):
                left, _, right = torch.linalg.svd(matrix, full_matrices=False)
                matrix = (left @ right) * kept
            layer.weight.copy_(matrix.view_as(layer.weight))


class MatchingAlone(Correction):
    """The heaviest maximum matching, set to ±1; every other weight becomes 0."""

    def __init__(self) -> None:
        super().__init__(1.0)

    def correct_(self, layers: Sequence[PrunedLayer]) -> None:
        """Replace the weights of each layer by its matching."""
        for layer in layers:
            weight, kept = layer.weight.flatten(1), layer.mask.flatten(1)
            if weight.shape[0] > weight.shape[1]:
                weight, kept = weight.mT, kept.mT
            signs = torch.where(weight[kept] < 0, -1.0, 1.0)
            matrix = torch.zeros_like(weight)
            matrix[kept] = signs * heaviest_matching(weight[kept], kept).to(weight.device)
            matrix = matrix if len(matrix) == len(layer.weight) else matrix.mT
            layer.weight.copy_(matrix.reshape(layer.weight.shape))


def measure(name: str, case: Pruned, correction: Correction) -> list[Any]:
    """Return a row of the table: name, gaps (least, worst, mean), cosine, movement, vanished share, JSV, seconds."""
    case.restore()
    synchronize()
    begin = time.perf_counter()
    changes = correction(case.network, case.masks).changes
    synchronize()
    seconds = time.perf_counter() - begin
    parameters = dict(case.network.named_parameters())
    gaps = [change.after.matrix - change.floor for change in changes.values()]
    cosine = mean(_cosine(case.state[key], parameters[key].detach()) for key in changes)
    vanished = sum(change.vanished for change in changes.values()) / case.masks.kept
    moved = mean(change.moved for change in changes.values())
    jsv = float(singular_values(case.network, case.images[:5], chunk=5).mean())
    return [name, min(gaps), max(gaps), mean(gaps), cosine, moved, vanished, jsv, seconds]


def synchronize() -> None:
    """Wait for the accelerator, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _cosine(a: Tensor, b: Tensor) -> float:
    norms = a.norm() * b.norm()
    return float((a * b).sum() / norms) if norms > 0 else 1.0


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("network", choices=NETWORKS)
    arguments.add_argument("--sparsities", type=float, nargs="+", default=[0.9, 0.95, 0.97, 0.98])
    arguments.add_argument("--batches", type=int, default=5, help="number of batches of 100 images to score on")
    arguments.add_argument("--steps", type=int, default=0, help="steps of the reference's gradient descent")
    arguments.add_argument("--projections", type=int, default=0, help="number of alternating projections")
    arguments.add_argument("--tolerances", type=float, nargs="+", default=[], help="other tolerances to measure")
    arguments.add_argument("--device", default="cpu", help="where the weights are, such as cuda; scoring is on the CPU")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    batches = scoring_batches(chosen.network, chosen.batches)
    for sparsity in chosen.sparsities:
        case = pruned(chosen.network, sparsity, batches).to(chosen.device)
        rows: list[list[Any]] = []

        if chosen.device != "cpu":
            measure("warm-up", case, ApproximateIsometry(1.0, tolerance=1.0))
        rows.append(measure("default", case, ApproximateIsometry(1.0)))
        for tolerance in chosen.tolerances:
            rows.append(measure(f"{tolerance:g} √n", case, ApproximateIsometry(1.0, tolerance)))
        rows.append(measure("to the floor", case, ApproximateIsometry(1.0, tolerance=0.0)))
        if chosen.steps:
            reference = GradientDescentIsometry(1.0, 0.1, chosen.steps)
            rows.append(measure(f"reference, {chosen.steps:,} steps", case, reference))
            mean_gap = rows[-1][3]
            rows.append(measure(f"ours, to gaps of {mean_gap:.2g}", case, WithinGap(mean_gap)))
        if chosen.projections:
            rows.append(
                measure(f"{chosen.projections:,} projections", case, AlternatingProjections(chosen.projections))
            )
        rows.append(measure("matching alone", case, MatchingAlone()))
        place = "1 thread" if chosen.device == "cpu" else chosen.device
        print(f"\n{chosen.network} at {sparsity}: {place}, torch {torch.__version__}, one run each")
        headers = ["", "least gap", "worst", "mean", "cosine", "moved", "vanished", "mean JSV", "seconds"]
        formats = ("", ".2e", ".2e", ".2e", ".3f", ".2f", ".3f", ".3g", ".2f")
        print(tabulate(rows, headers, floatfmt=formats), flush=True)


if __name__ == "__main__":
    main()
