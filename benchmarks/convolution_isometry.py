"""What the corrections do to a convolutional network: as matrices, as convolutions, and to its signals.

LDI, pruned to 90 % by connection sensitivity on some batches of 100 images of CIFAR-10, seed 0; then each correction
from the same weights. Printed are the orthogonality score of the paper's Table 2, the mean residuals of matrices and
convolutions over the layers, the mean Jacobian singular value at 50 images, and the time on one thread. VGG16 takes
minutes a correction; `OperatorIsometry`, which would take hours, is left out of it. Reads CIFAR-10 from the folder in
the variable SPL_DATA.

    SPL_DATA=data python benchmarks/convolution_isometry.py ResNet-20 --steps 10000
"""

import argparse
import os
import time
from itertools import islice
from statistics import mean

import torch
from tabulate import tabulate

from spl.criteria import ConnectionSensitivity
from spl.data import CIFAR10
from spl.initializers import Orthogonal
from spl.isometry import ApproximateIsometry, GradientDescentIsometry, OperatorIsometry, orthogonality_score
from spl.jacobian import Spectrum, singular_values
from spl.networks import VGG16, ResNet
from spl.pruning import prune

NETWORKS = {"ResNet-20": lambda: ResNet(3), "ResNet-32": lambda: ResNet(5), "VGG16": VGG16}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("network", choices=NETWORKS)
    arguments.add_argument("--batches", type=int, default=5, help="of 100 images, to score on")
    arguments.add_argument("--steps", type=int, default=1000, help="of the reference's gradient descent")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    data = CIFAR10(os.environ["SPL_DATA"], batch_size=100, download=False)
    data.setup()
    batches = [
        (data.normalize(images), labels) for images, labels in islice(data.scoring_dataloader(0), chosen.batches)
    ]

    torch.manual_seed(0)
    network = NETWORKS[chosen.network]()
    Orthogonal()(network)
    dense = Spectrum.of(singular_values(network, batches[0][0][:50])).mean
    masks = prune(network, ConnectionSensitivity(), 0.9, batches, include_bias=True)
    parameters = dict(network.named_parameters())
    masks.apply_(parameters)
    pruned = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    corrections = {
        "ApproximateIsometry": ApproximateIsometry(),
        f"GradientDescentIsometry, {chosen.steps:,} steps": GradientDescentIsometry(iterations=chosen.steps),
    }
    if chosen.network != "VGG16":
        corrections["OperatorIsometry"] = OperatorIsometry()

    def measured() -> tuple[float, float]:
        """Orthogonality score and mean JSV of the network as it is."""
        score = orthogonality_score(parameters[name] for name in masks if masks[name].ndim > 1)
        return score, Spectrum.of(singular_values(network, batches[0][0][:50])).mean

    rows = []
    score, signal = measured()
    for name, correction in corrections.items():
        network.load_state_dict(pruned)
        begin = time.perf_counter()
        changes = correction(network, masks).values()
        seconds = time.perf_counter() - begin
        before, after = ([mean(c[i][kind] for c in changes) for kind in (0, 1)] for i in (0, 1))
        if not rows:
            rows.append(["none", score, *before, signal, 0.0])
        score, signal = measured()
        rows.append([name, score, *after, signal, seconds])
    print(f"{chosen.network}, dense mean JSV {dense:.3g}, 1 thread, torch {torch.__version__}")
    headers = ["correction", "orthogonality score", "matrix", "convolution", "mean JSV", "seconds"]
    print(tabulate(rows, headers, floatfmt=("", ".3f", ".3f", ".3f", ".3g", ".1f")))


if __name__ == "__main__":
    main()
