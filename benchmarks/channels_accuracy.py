"""Compare the accuracy of coupled and uncoupled channels at equal multiply-accumulates (MACs) of the compact network.

The network is ResNet-18 for CIFAR-10 with projection shortcuts, at a quarter of its width. It is pruned at
initialization by `Channels(coupled=True)` and by `Channels()`, each with three criteria, then trained with its masks.
The sparsity is found by bisection: the compact network has half or a quarter of the dense MACs, within 2 %. The MACs in
the table are those after training. Coupled channels keep the outputs of the classifier, and `Channels()` leaves the
classifier dense. The scope is `Uniform`, so that both patterns prune all layers alike.

Results are appended to a file of JSON lines. Runs that are in it are skipped, so the script can be stopped and go on.

    python benchmarks/channels_accuracy.py --root data --results channels_accuracy.jsonl
    python benchmarks/channels_accuracy.py --table --results channels_accuracy.jsonl
    python benchmarks/channels_accuracy.py --time   # of the compact networks, without training
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from spl.criteria import ConnectionSensitivity, Criterion, Magnitude, SynFlow
from spl.criteria.schedules import Exponential
from spl.data import CIFAR10
from spl.data.augment import flip_and_shift
from spl.errors import InputError
from spl.export import compact
from spl.export.cost import Cost, network_cost
from spl.masks.masks import BoundMasks, Masks
from spl.pruning import prune
from spl.pruning.patterns import Channels
from spl.pruning.scopes import Uniform

CRITERIA: dict[str, Criterion] = {
    "ConnectionSensitivity": ConnectionSensitivity(),
    "SynFlow": SynFlow(),
    "Magnitude": Magnitude(),
}
SHARES = (0.5, 0.25)
WITHIN = 0.02
ROUNDS = 20
"""The rounds of SynFlow, which would take 100 by itself."""


class NarrowResNet18(nn.Module):
    """ResNet-18 for images of 32×32, with torchvision's blocks and any width.

    Args:
        width: the channels of the first stage; 64 in the original.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        blocks, channels = [], width
        for stage, place in product(range(4), range(2)):
            wider, stride = width * 2**stage, 2 if stage and not place else 1
            shortcut = None
            if wider != channels:
                shortcut = nn.Sequential(nn.Conv2d(channels, wider, 1, stride, bias=False), nn.BatchNorm2d(wider))
            blocks.append(BasicBlock(channels, wider, stride, shortcut))
            channels = wider
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, 10] for images [N, 3, 32, 32]."""
        logits: Tensor = self.fc(self.blocks(self.stem(x)).mean((2, 3)))
        return logits


def compact_cost(network: nn.Module, masks: Masks) -> Cost:
    """Return the cost of the compact network."""
    return compact(network, masks, torch.randn(2, 3, 32, 32)).report.after


def masks_at(
    network: nn.Module, criterion: Criterion, coupled: bool, share: float, batches: list[tuple[Tensor, Tensor]]
) -> tuple[Masks, float]:
    """Return the masks, and the sparsity, at which the compact network has this share of the dense MACs."""
    dense = network_cost(network, batches[0][0][:1]).total.macs
    low, high = 0.0, 1.0
    best: tuple[float, Masks, float] | None = None
    for _ in range(14):
        sparsity = (low + high) / 2
        try:
            masks = prune(
                network,
                criterion,
                sparsity,
                batches,
                pattern=Channels(coupled=coupled),
                scope=Uniform(),
                exclude=None if coupled else ["fc.*"],
                schedule=Exponential(ROUNDS) if isinstance(criterion, SynFlow) else None,
            )
            found = compact_cost(network, masks).macs / dense / share
        except InputError as error:
            if "ask for a sparsity of at most" not in str(error):
                raise
            high = sparsity
            continue
        if best is None or abs(found - 1) < abs(best[0] - 1):
            best = found, masks, sparsity
        if abs(found - 1) <= WITHIN / 4:
            break
        low, high = (sparsity, high) if found > 1 else (low, sparsity)
    assert best is not None
    return best[1:]


def train_(network: nn.Module, masks: Masks, images: Tensor, labels: Tensor, epochs: int, seed: int) -> None:
    """Train by SGD with a one-cycle rate, with pruned weights of 0."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    bound, batch = BoundMasks(masks, dict(network.named_parameters())), 64
    steps = epochs * (len(images) // batch)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    network.train()
    bound.mask_weights_()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images), generator=generator).split(batch):
            if len(chosen) < batch:
                continue
            optimizer.zero_grad()
            F.cross_entropy(network(flip_and_shift(images[chosen], 4, "zero", generator)), labels[chosen]).backward()
            bound.mask_gradients_()
            optimizer.step()
            bound.mask_weights_()
            rate.step()


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of right predictions."""
    network.eval()
    with torch.inference_mode():
        right = [(network(x).argmax(1) == y).sum() for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return float(sum(right)) / len(images)


def runs(seeds: int) -> Iterator[dict[str, Any]]:
    """Yield the runs: all of one seed before those of the next."""
    for seed in range(seeds):
        yield {"seed": seed, "pattern": "dense", "criterion": "", "share": 1.0}
        for share, criterion, coupled in product(SHARES, CRITERIA, (True, False)):
            pattern = "coupled" if coupled else "uncoupled"
            yield {"seed": seed, "pattern": pattern, "criterion": criterion, "share": share}


def result_of(run: dict[str, Any], args: argparse.Namespace, data: dict[str, Tensor]) -> dict[str, Any]:
    """Prune and train one network, and return what was measured."""
    torch.manual_seed(run["seed"])
    network = NarrowResNet18(args.width)
    images, labels = data["train_images"], data["train_labels"]
    start = time.perf_counter()
    masks, sparsity = prune(network, Magnitude(), 0.0), 0.0
    if run["criterion"]:
        batches = [(images[i : i + 128], labels[i : i + 128]) for i in (0, 128)]
        coupled = run["pattern"] == "coupled"
        masks, sparsity = masks_at(network, CRITERIA[run["criterion"]], coupled, run["share"], batches)
    found = time.perf_counter()
    train_(network, masks, images, labels, args.epochs, run["seed"])
    smaller = compact(network, masks, data["test_images"][:2])
    cost = smaller.report.after
    measured = accuracy(smaller.network, data["test_images"], data["test_labels"])
    return {
        "sparsity": sparsity,
        "accuracy": measured,
        "macs": cost.macs,
        "parameters": cost.parameters,
        "seconds": [round(found - start, 1), round(time.perf_counter() - found, 1)],
    }


def table(results: list[dict[str, Any]]) -> str:
    """Return a markdown table with a row for each share, criterion and pattern."""
    cells = defaultdict(list)
    for result in results:
        cells[result["share"], result["criterion"], result["pattern"]].append(result)
    dense = mean(own["macs"] for own in cells[1.0, "", "dense"])
    rows = ["| MACs asked for | criterion | pattern | n | accuracy, % | MACs / dense | parameters |", "|---" * 7 + "|"]
    for (share, criterion, pattern), own in sorted(cells.items(), key=lambda item: -item[0][0]):
        rates = [100 * result["accuracy"] for result in own]
        spread = f" ± {stdev(rates):.1f}" if len(own) > 1 else ""
        macs, parameters = (mean(result[name] for result in own) for name in ("macs", "parameters"))
        rows.append(
            f"| {share:g} | {criterion} | {pattern} | {len(own)} | {mean(rates):.1f}{spread} | {macs / dense:.3f} | "
            f"{parameters:,.0f} |"
        )
    return "\n".join(rows)


def print_times(width: int) -> None:
    """Print the median times of the dense network and of compact ones of equal MACs, which run in turn."""
    torch.manual_seed(0)
    dense, example = NarrowResNet18(width).eval(), torch.randn(2, 3, 32, 32)
    for share, batch in product(SHARES, (1, 64)):
        networks: list[nn.Module] = [dense]
        for coupled in (True, False):
            masks, _ = masks_at(dense, Magnitude(), coupled, share, [(example, torch.zeros(2).long())])
            networks.append(compact(dense, masks, example).network)
        images = torch.randn(batch, 3, 32, 32)
        times: list[list[float]] = [[] for _ in networks]
        with torch.inference_mode():
            for network, own in [*zip(networks, times, strict=True)] * 25:
                start = time.perf_counter()
                network(images)
                own.append(1000 * (time.perf_counter() - start))
        whole, *others = (f"{median(own):.2f} ms" for own in times)
        print(f"MACs × {share}, batch {batch}: dense {whole}; coupled {others[0]}; uncoupled {others[1]}")


def main() -> None:
    """Do the runs that are not in the file of results, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--results", type=Path, default=Path("channels_accuracy.jsonl"))
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--time", action="store_true", help="measure times instead")
    parser.add_argument("--table", action="store_true", help="print the table of the results that are there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.time:
        print_times(args.width)
        return
    results = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    if not args.table:
        cifar, data = CIFAR10(args.root, download=False), {}
        scale = [torch.tensor(own).view(3, 1, 1) for own in (cifar.mean, cifar.std)]
        for name, count, own in zip(("train", "test"), (args.images, 10000), cifar.load(), strict=True):
            data[f"{name}_images"] = (own.images[:count].float() / 255 - scale[0]) / scale[1]
            data[f"{name}_labels"] = own.labels[:count]
        for run in runs(args.seeds):
            if any(run.items() <= result.items() for result in results):
                continue
            results.append(run | result_of(run, args, data))
            with args.results.open("a") as file:
                file.write(json.dumps(results[-1]) + "\n")
            print(json.dumps(results[-1]), flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
