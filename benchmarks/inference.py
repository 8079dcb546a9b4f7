"""Compare the inference time of dense networks with that of CSR kernels and compact networks.

The networks are MLP-7 and a 4096-wide MLP with 90, 95 and 98 % of their weights pruned at random, and torchvision's
ResNet-18 with half of the channels of each layer pruned, at random and by connection sensitivity on random images, in
PyTorch and as ONNX files in onnxruntime. If there is a CUDA device, the two Linear layers of a Transformer block with
2:4 masks in float16 are measured too. `csr` uses CSR kernels in the layers where they are faster for the batch, and is
the dense network if they are faster in none. The script runs on one thread unless a number is given.

Claim: compact / dense <= 1 / 1.7 for ResNet-18 on a CPU.

    python benchmarks/inference.py
    python benchmarks/inference.py --threads 2
    python benchmarks/inference.py --tiny        # shows only that it runs
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime
import torch
from ratios import compare
from torch import Tensor, nn
from torchvision.models import resnet18

from spl.criteria import ConnectionSensitivity, Criterion, Magnitude, Random
from spl.errors import InputError
from spl.export import compact, save_onnx, to_csr, to_two_four
from spl.networks import MLP
from spl.pruning import prune
from spl.pruning.patterns import NM, Channels
from spl.pruning.scopes import Uniform


def inferring(network: nn.Module, inputs: Tensor, steps: int) -> Callable[[], None]:
    """Return a function that computes some batches."""

    def infer() -> None:
        with torch.inference_mode():
            for _ in range(steps):
                network(inputs)
        if inputs.is_cuda:
            torch.cuda.synchronize()

    return infer


def inferring_onnx(network: nn.Module, inputs: Tensor) -> Callable[[], None]:
    """Return a function that computes a batch with onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        save_onnx(path, network, inputs)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    batch = {"inputs": inputs.numpy()}
    return lambda: session.run(None, batch)


def compare_mlp(title: str, network: MLP, batch: int, sparsity: float, repeats: int, steps: int) -> None:
    masks = prune(network, Random(), sparsity=sparsity)
    masks.apply_(dict(network.named_parameters()))
    inputs = torch.randn(batch, network.in_features)
    faster, smaller = to_csr(network, masks, inputs), compact(network, masks, inputs)
    candidates = {
        "dense": inferring(network.eval(), inputs, steps),
        "csr": inferring(faster.network, inputs, steps),
        "compact": inferring(smaller.network, inputs, steps),
    }
    compare(f"{title} at {sparsity:.0%}, batch {batch}", candidates, repeats, steps)
    wins = sum(timing.csr_wins for timing in faster.timings)
    before, after = smaller.report.before, smaller.report.after
    print(
        f"CSR in {wins} of {len(faster.timings)} layers; parameters {before.parameters:,}, compact {after.parameters:,}"
    )


def compare_resnet(criterion: Criterion, size: int, batch: int, repeats: int) -> None:
    network, inputs = resnet18().eval(), torch.randn(batch, 3, size, size)
    batches = [(torch.randn(8, 3, size, size), torch.randint(1000, (8,)))]
    masks = prune(
        network, criterion, sparsity=0.5, batches=batches, pattern=Channels(), scope=Uniform(), exclude=["fc.*"]
    )
    masks.apply_(dict(network.named_parameters()))
    smaller = compact(network, masks, inputs)
    both = {"dense": network, "compact": smaller.network}
    title = f"ResNet-18, 50 % of channels by {type(criterion).__name__}, {size}×{size}, batch {batch}"
    compare(title, {name: inferring(one, inputs, 1) for name, one in both.items()}, repeats)
    compare(f"onnxruntime: {title}", {name: inferring_onnx(one, inputs) for name, one in both.items()}, repeats)
    before, after = smaller.report.before, smaller.report.after
    print(f"multiply-accumulates {before.macs:,}, compact {after.macs:,}: {before.macs / after.macs:.2f} times fewer")


def compare_two_four(width: int, tokens: int, repeats: int) -> None:
    network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)).cuda().half().eval()
    masks = prune(network, Magnitude(), sparsity=0.5, pattern=NM())
    masks.apply_(dict(network.named_parameters()))
    inputs = torch.randn(tokens, width, device="cuda", dtype=torch.float16)
    try:
        halves = to_two_four(network, masks, inputs).network
    except InputError as error:  # each layer is faster when it is dense
        print(error)
        return
    candidates = {"dense": inferring(network, inputs, 20), "2:4": inferring(halves, inputs, 20)}
    compare(
        f"Transformer's MLP of width {width}, {tokens} tokens, {torch.cuda.get_device_name()}", candidates, repeats, 20
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    tiny = chosen.tiny
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    for sparsity in (0.9, 0.95, 0.98):
        for batch in (1, 64):
            compare_mlp("MLP-7", MLP(), batch, sparsity, *((3, 2) if tiny else (50, 20)))
        for batch in (1, 64):
            width = 256 if tiny else 4096
            network = MLP(depth=3, width=width, in_features=width)
            compare_mlp(f"{width}-wide MLP-3", network, batch, sparsity, *((3, 1) if tiny else (15, 1)))
    for criterion in (Random(), ConnectionSensitivity()):
        for batch in (1, 8):
            compare_resnet(criterion, 32 if tiny else 224, batch, 3 if tiny else 15)
    if torch.cuda.is_available():
        for width in (1024, 4096):
            compare_two_four(width, 4096, 3 if tiny else 50)


if __name__ == "__main__":
    main()
