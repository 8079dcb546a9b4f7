"""Compare a training step of `fit` with a step of a bare loop, in the modes of torch.compile.

VGG16, ResNet-20, ResNet-32 and MLP-7 are trained on random images at batch 128, pruned to 90 %, in bf16-mixed and (the
convolutional networks) channels_last. The bare loop draws, normalizes and trains on the same images, dense, in the same
precision and eagerly. Each time is that of steps 60 to 260 of one fit, waited for at both ends; `first` is the time to
the end of the first step, which has to compile.

    python benchmarks/training_step.py [NETWORK ...] [--device cuda] [--modes eager default reduce-overhead]
"""

import argparse
import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import nn

from spl.classifier import SparseClassifier
from spl.criteria import Random
from spl.data import ImageDataModule
from spl.data.tensors import ImageTensors
from spl.functional.optimizer import sgd
from spl.lightning_api import Callback, Trainer
from spl.networks import MLP, VGG16, ResNet
from spl.pruning import prune

BATCH = 128
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "VGG16": (VGG16, (3, 32, 32)),
    "ResNet-20": (lambda: ResNet(blocks_per_stage=3), (3, 32, 32)),
    "ResNet-32": (lambda: ResNet(blocks_per_stage=5), (3, 32, 32)),
    "MLP-7": (lambda: MLP(depth=7), (1, 28, 28)),
}
MODES: dict[str, Any] = {
    "eager": False, "default": True, "reduce-overhead": "reduce-overhead", "max-autotune": "max-autotune",
}  # fmt: skip


class RandomImages(ImageDataModule):
    """Random images of ten classes, in whole batches."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(BATCH)
        self.shape = shape
        self.mean, self.std = (0.5,) * shape[0], (0.25,) * shape[0]

    def load(self) -> tuple[ImageTensors, ImageTensors]:
        """Return 40 batches of images for training, and one for the rest."""
        images = torch.randint(256, (45 * BATCH, *self.shape), dtype=torch.uint8)
        split = ImageTensors(images[: 400 * BATCH // 9], torch.arange(400 * BATCH // 9) % 10)
        return split, ImageTensors(images[:BATCH], torch.arange(BATCH) % 10)


class Clock(Callback):
    """Waits for the device at the end of some steps, and notes the time."""

    def __init__(self, first: int, last: int) -> None:
        self.times: dict[int, float] = {}
        self.steps = (0, 1, first, last)

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Note when training starts."""
        self._note(0)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Note when the step ends."""
        if trainer.global_step in self.steps:
            self._note(trainer.global_step)

    def _note(self, step: int) -> None:
        wait()
        self.times[step] = time.perf_counter()


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def bare(name: str, device: str, first: int, last: int) -> float:
    """Return the ms per step of the loop that one would write by hand."""
    make, shape = NETWORKS[name]
    images = torch.randint(256, (40 * BATCH, *shape), dtype=torch.uint8, device=device)
    labels = torch.arange(40 * BATCH, device=device) % 10
    network = make().to(device)
    if len(shape) == 3 and shape[0] == 3:
        network = network.to(memory_format=torch.channels_last)
    optimizer = sgd(network.parameters())
    order = torch.randperm(len(labels), device=device).split(BATCH)
    start = 0.0
    for step in range(last):
        if step == first:
            wait()
            start = time.perf_counter()
        chosen = order[step % len(order)]
        inputs = images[chosen].float().sub_(127.5).div_(64.0)
        if shape[0] == 3:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            loss = F.cross_entropy(network(inputs), labels[chosen])
        loss.backward()
        optimizer.step()
    wait()
    return 1e3 * (time.perf_counter() - start) / (last - first)


def fit(name: str, mode: str, device: str, first: int, last: int) -> tuple[float, float]:
    """Return the ms per step of fit, and the seconds of its first step."""
    make, shape = NETWORKS[name]
    model = SparseClassifier(make(), channels_last=shape[0] == 3, compile=MODES[mode])
    model.set_masks(prune(model.network, Random(), sparsity=0.9))
    clock = Clock(first, last)
    Trainer(
        max_steps=last, max_epochs=-1, accelerator=device, devices=1, precision="bf16-mixed", callbacks=[clock],
        logger=False, limit_val_batches=0, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(model, datamodule=RandomImages(shape))  # fmt: skip
    times = clock.times
    return 1e3 * (times[last] - times[first]) / (last - first), times[1] - times[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--modes", nargs="+", default=["eager", "default", "reduce-overhead"], choices=MODES)
    parser.add_argument("--first", type=int, default=60, help="first step that is timed")
    parser.add_argument("--last", type=int, default=260, help="last step that is timed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    span = (options.first, options.last)
    rows = []
    for name in options.networks:
        torch.manual_seed(0)
        by_hand = bare(name, options.device, *span)
        rows.append((name, "bare loop, eager", by_hand, 1.0, None))
        for mode in options.modes:
            step, first = fit(name, mode, options.device, *span)
            rows.append((name, f"fit, masked, {mode}", step, step / by_hand, first))
    device = torch.cuda.get_device_name() if options.device == "cuda" else options.device
    print(f"\nBatch {BATCH}, bf16-mixed, {device}, torch {torch.__version__}, one thread")
    headers = ["network", "", "ms per step", "ratio to bare loop", "first, s"]
    print(tabulate(rows, headers=headers, floatfmt=("", "", ".3f", ".3f", ".1f")))


if __name__ == "__main__":
    main()
