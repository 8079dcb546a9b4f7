"""Compare spl's Jacobian singular values, in chunks of examples, with a plain loop over small batches and examples.

`spl.jacobian.singular_values` makes ten backward passes, one per output, for 250 examples at a time and reduces their
Jacobians together. The plain loop makes ten for every ten examples of MLP-7, and ten for each image of the
convolutional networks, and then computes the singular values of one example after another. MLP-7 is measured on 1,000
inputs of 784 numbers, ResNet-32 and VGG16 on 100 images of 32×32. With more examples the time grows, but not the memory
beyond that of one chunk.

Claims: plain loop / spl >= 5 for MLP-7, on all threads and on one; >= 2 for ResNet-32, >= 1.3 for VGG16, on one.

    python benchmarks/jacobian_spectrum.py
"""

import torch
from ratios import compare
from torch import Tensor, nn

from spl.initializers import Orthogonal
from spl.jacobian import singular_values
from spl.networks import MLP, VGG16, ResNet


def plain_singular_values(network: nn.Module, inputs: Tensor, batch: int) -> Tensor:
    """Compute the same numbers from a gradient per output and an SVD per example."""
    values = []
    for part in inputs.split(batch):
        part.requires_grad_()
        logits = network(part)
        rows = [torch.autograd.grad(column.sum(), part, retain_graph=True)[0] for column in logits.unbind(1)]
        values += [torch.linalg.svdvals(jacobian.flatten(1)) for jacobian in torch.stack(rows, 1)]
    return torch.stack(values)


def measure(title: str, network: nn.Module, inputs: Tensor, batch: int, repeats: int, warmups: int) -> None:
    """Compare both ways, after checking that they agree on ten examples."""
    Orthogonal()(network.eval())
    few = inputs[:10]
    torch.testing.assert_close(singular_values(network, few).float(), plain_singular_values(network, few, batch))
    candidates = {
        "spl": lambda: singular_values(network, inputs),
        "plain loop": lambda: plain_singular_values(network, inputs, batch),
    }
    compare(f"{title}, {len(inputs)} examples", candidates, repeats, warmups=warmups)


def main() -> None:
    torch.manual_seed(0)
    for threads in (torch.get_num_threads(), 1):
        torch.set_num_threads(threads)
        measure("MLP-7", MLP(), torch.randn(1000, 784), batch=10, repeats=10, warmups=3)
    for title, network in (("ResNet-32", ResNet(blocks_per_stage=5)), ("VGG16", VGG16())):
        measure(title, network, torch.randn(100, 3, 32, 32), batch=1, repeats=5, warmups=1)


if __name__ == "__main__":
    main()
