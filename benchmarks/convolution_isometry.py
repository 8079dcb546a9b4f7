"""Measure what the corrections do to a convolutional network: to its matrices, to its convolutions and to its signals.

The network has orthogonal weights (LDI) and is pruned to 90 % by connection sensitivity on some batches of 100 images
of CIFAR-10, with seed 0. Each correction starts from the same weights. The script prints the orthogonality score of the
paper's Table 2, the mean residuals of matrices and convolutions over the layers, the mean Jacobian singular value at 50
images, and the time on one thread. A correction of VGG16 takes minutes; `OperatorIsometry` would take hours and is left
out. CIFAR-10 is read from the folder that the environment variable SPL_DATA names.

    SPL_DATA=data python benchmarks/convolution_isometry.py ResNet-20 --steps 10000
"""

import argparse
import time
from statistics import mean

import torch
from pruned_networks import NETWORKS, pruned, scoring_batches
from tabulate import tabulate

from spl.isometry import ApproximateIsometry, GradientDescentIsometry, OperatorIsometry, orthogonality_score
from spl.jacobian import Spectrum, singular_values


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("network", choices=[name for name in NETWORKS if name != "MLP-7"])
    arguments.add_argument("--batches", type=int, default=5, help="number of batches of 100 images to score on")
    arguments.add_argument("--steps", type=int, default=1000, help="steps of the reference's gradient descent")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    batches = scoring_batches(chosen.network, chosen.batches)
    case = pruned(chosen.network, 0.9, batches)
    network, masks = case.network, case.masks
    parameters = dict(network.named_parameters())

    corrections = {
        "ApproximateIsometry": ApproximateIsometry(1.0, tolerance=0.0),
        f"GradientDescentIsometry, {chosen.steps:,} steps": GradientDescentIsometry(iterations=chosen.steps),
    }
    if chosen.network != "VGG16":
        corrections["OperatorIsometry"] = OperatorIsometry(1.0, tolerance=0.0)

    def measure() -> tuple[float, float]:
        """Return the orthogonality score and the mean JSV of the network in its current state."""
        score = orthogonality_score(parameters[name] for name in masks if masks[name].ndim > 1)
        return score, Spectrum.of(singular_values(network, batches[0][0][:50])).mean

    rows = []
    score, signal = measure()
    for name, correction in corrections.items():
        case.restore()
        begin = time.perf_counter()
        changes = correction(network, masks).changes.values()
        seconds = time.perf_counter() - begin
        before, after = ([mean(c[i][kind] for c in changes) for kind in (0, 1)] for i in (0, 1))
        if not rows:
            rows.append(["none", score, *before, signal, 0.0])
        score, signal = measure()
        rows.append([name, score, *after, signal, seconds])
    print(f"{chosen.network}, 1 thread, torch {torch.__version__}")
    headers = ["correction", "orthogonality score", "matrix", "convolution", "mean JSV", "seconds"]
    print(tabulate(rows, headers, floatfmt=("", ".3f", ".3f", ".3f", ".3g", ".1f")))


if __name__ == "__main__":
    main()
