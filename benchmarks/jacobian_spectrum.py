"""Jacobian singular values of many examples: spl's chunks against small batches and an SVD of each example.

MLP-7 on 1,000 inputs of 784 numbers. `spl.jacobian.singular_values` takes ten backward passes, one per output, for 250
examples at a time and reduces their Jacobians together; the plain loop takes ten for every ten examples, then the
singular values of one example after the other.

Claim: plain loop / spl >= 5, on all threads and on one.

    python benchmarks/jacobian_spectrum.py
"""

import torch
from ratios import compare
from torch import Tensor, nn

from spl.initializers import Orthogonal
from spl.jacobian import singular_values
from spl.networks import MLP


def plain_singular_values(network: nn.Module, inputs: Tensor) -> Tensor:
    """The same numbers from a gradient per output and an SVD per example."""
    values = []
    for part in inputs.split(10):
        part.requires_grad_()
        logits = network(part)
        rows = [torch.autograd.grad(column.sum(), part, retain_graph=True)[0] for column in logits.unbind(1)]
        values += [torch.linalg.svdvals(jacobian) for jacobian in torch.stack(rows, 1)]
    return torch.stack(values)


def main() -> None:
    torch.manual_seed(0)
    network = MLP()
    Orthogonal()(network)
    inputs = torch.randn(1000, 784)
    torch.testing.assert_close(singular_values(network, inputs).float(), plain_singular_values(network, inputs))
    for threads in (torch.get_num_threads(), 1):
        torch.set_num_threads(threads)
        candidates = {
            "spl": lambda: singular_values(network, inputs),
            "plain loop": lambda: plain_singular_values(network, inputs),
        }
        compare("MLP-7, 1,000 examples", candidates, repeats=10)


if __name__ == "__main__":
    main()
