"""Measure with which tolerance of `ApproximateIsometry` pruned networks train best.

A network with orthogonal weights (LDI) is pruned by connection sensitivity, corrected to one of several tolerances, and
trained: SGD with momentum 0.9 and weight decay 5e-4, batches of 100, and a learning rate of 0.1 that is divided by 10
after each quarter of the steps, as in the paper. σ is the mean-field gain. The tolerances are the floor, several
multiples of √n, and no correction. A seed decides the weights, the masks and the order of the batches, so runs of the
same seed are paired. The seconds are those of the correction on one thread of the CPU.

MNIST and CIFAR-10 are read from the folder that SPL_DATA names. Without it, the MLPs train on MNISTSample, and
ResNet-20 is left out.

Runs are processes of one thread each. A row is appended to the CSV file as soon as its run is finished, and runs that
have a row are skipped, so the script can be stopped and go on. At the end it prints a table of all rows of the file.

    SPL_DATA=data python benchmarks/isometry_tolerance.py --jobs 16 --device auto
    python benchmarks/isometry_tolerance.py --networks MLP-7-tanh --seeds 3 --steps 300
    python benchmarks/isometry_tolerance.py --table
"""

import argparse
import csv
import logging
import math
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import islice, product
from pathlib import Path
from statistics import mean, stdev

import torch
from pytorch_lightning import Trainer, seed_everything
from tabulate import tabulate
from torch import Tensor, nn

from spl.classifier import SparseClassifier
from spl.criteria import ConnectionSensitivity
from spl.data import CIFAR10, MNIST, ImageDataModule, MNISTSample
from spl.initializers import Orthogonal
from spl.isometry import ApproximateIsometry
from spl.jacobian import singular_values
from spl.masks.masks import Masks
from spl.networks import MLP, LeNet300, ResNet
from spl.sparsify import Stage, sparsify

TOLERANCES = ("floor", "0.003", "0.01", "0.02", "0.05", "none")


@dataclass(frozen=True)
class Study:
    """A network of the study, the sparsities at which it is pruned, and how long it is trained.

    Attributes:
        build: makes the network.
        sparsities: the sparsities.
        steps: the number of training steps.
        is_convolutional: whether the network takes images of CIFAR-10.
    """

    build: Callable[[], nn.Module]
    sparsities: tuple[float, ...]
    steps: int
    is_convolutional: bool = False


STUDIES = {
    "MLP-7-tanh": Study(MLP, (0.9, 0.95), 2500),
    "MLP-7-ReLU": Study(partial(MLP, activation="relu"), (0.9, 0.95), 2500),
    "LeNet-300-100": Study(LeNet300, (0.9, 0.95), 2500),
    "ResNet-20": Study(partial(ResNet, 3), (0.9,), 2000, is_convolutional=True),
}


@dataclass(frozen=True)
class Run:
    """What decides the result of a run."""

    network: str
    data: str
    sparsity: float
    tolerance: str
    seed: int
    steps: int


@dataclass(frozen=True)
class Row(Run):
    """The result of a run.

    Attributes:
        error: the test error in percent.
        jsv: the mean Jacobian singular value before training.
        cosine: the cosine between the weights before and after the correction, mean over layers.
        vanished: the percentage of kept weights that the correction brought below 1e-4 of their layer's largest.
        seconds: the time of the correction.
    """

    error: float
    jsv: float
    cosine: float
    vanished: float
    seconds: float


def data_of(name: str) -> ImageDataModule:
    """Return the data module with batches of 100."""
    if name == "MNISTSample":
        return MNISTSample(batch_size=100)
    kind = {"MNIST": MNIST, "CIFAR10": CIFAR10}[name]
    return kind(os.environ["SPL_DATA"], batch_size=100, download=False)


def corrections(tolerance: str) -> ApproximateIsometry | None:
    """Return the correction that `tolerance` names."""
    if tolerance == "none":
        return None
    return ApproximateIsometry(tolerance=0.0 if tolerance == "floor" else float(tolerance))


def result(run: Run, device: str) -> Row:
    """Prune, correct and train a network."""
    torch.set_num_threads(1)
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    seed_everything(run.seed, verbose=False)
    data = data_of(run.data)
    data.setup("fit")
    batches = [(data.normalize(images), labels) for images, labels in islice(data.scoring_dataloader(0), 5)]
    network = STUDIES[run.network].build()
    Orthogonal()(network)
    weights: dict[str, dict[str, Tensor]] = {}
    times: dict[str, float] = {}

    def note(stage: Stage, masks: Masks | None) -> None:
        begin = time.perf_counter()
        weights[stage] = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        times[stage] = begin if stage == "corrected" else time.perf_counter()

    correction = corrections(run.tolerance)
    sparse = sparsify(
        network, ConnectionSensitivity(), run.sparsity, batches, correction, on_stage=note, include_bias=True
    )
    jsv = float(singular_values(network, batches[0][0][:50], chunk=10).mean())
    cosines = [
        float(
            nn.functional.cosine_similarity(weights["pruned"][name].flatten(), weights["corrected"][name].flatten(), 0)
        )
        for name in sparse.changes
    ]
    kept = sum(int(sparse.masks[name].sum()) for name in sparse.changes)
    vanished = 100 * sum(change.vanished for change in sparse.changes.values()) / max(1, kept)
    seconds = times["corrected"] - times["pruned"] if correction else 0.0
    error = trained_error(network, sparse.masks, data, run.steps, device)
    return Row(**asdict(run), error=error, jsv=jsv, cosine=mean(cosines or [1.0]), vanished=vanished, seconds=seconds)


def trained_error(network: nn.Module, masks: Masks, data: ImageDataModule, steps: int, device: str) -> float:
    """Train the network with its masks, and return its test error in percent."""
    model = SparseClassifier(
        network,
        optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=5e-4),
        lr_scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=max(1, steps // 4), gamma=0.1),
    )
    model.set_masks(masks)
    trainer = Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator=device,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, datamodule=data)
    return 100 * (1 - float(trainer.test(model, datamodule=data, verbose=False)[0]["accuracy/test"]))


def read(path: Path) -> list[Row]:
    """Return the rows of a CSV file, none if there is no file."""
    if not path.exists():
        return []
    kinds = {"int": int, "float": float, "str": str}
    with path.open(newline="") as file:
        return [
            Row(
                **{
                    field.name: kinds[getattr(field.type, "__name__", str(field.type))](row[field.name])
                    for field in fields(Row)
                }
            )
            for row in csv.DictReader(file)
        ]


def table(rows: Iterable[Row]) -> str:
    """Return the results as a Markdown table: a line for each network, sparsity and tolerance."""
    by_case: dict[tuple[str, str, float, int], dict[str, list[Row]]] = {}
    for row in rows:
        case = by_case.setdefault((row.network, row.data, row.sparsity, row.steps), {})
        case.setdefault(row.tolerance, []).append(row)
    lines = []
    for (network, data, sparsity, steps), by_tolerance in by_case.items():
        floor = {row.seed: row.error for row in by_tolerance.get("floor", [])}
        for tolerance in sorted(by_tolerance, key=order):
            found = by_tolerance[tolerance]
            pairs = [row.error - floor[row.seed] for row in found if row.seed in floor and tolerance != "floor"]
            difference = spread(pairs, len(pairs) ** 0.5) if pairs else ""
            numbers = [mean(getattr(row, name) for row in found) for name in ("jsv", "cosine", "vanished", "seconds")]
            error = f"{spread([row.error for row in found])} ({len(found)})"
            lines.append(
                [f"{network}, {data}, {steps:,}", f"{sparsity:g}", label(tolerance), error, difference, *numbers]
            )
    headers = ["network, data, steps", "sparsity", "tolerance", "test error in % ± std (n)", "minus floor ± SE"]
    headers += ["mean JSV", "cosine", "vanished in %", "seconds"]
    return tabulate(
        lines, headers, "github", floatfmt=("", "", "", "", "", ".3g", ".3f", ".1f", ".2f"), disable_numparse=[1]
    )


def order(tolerance: str) -> float:
    """Return a number by which tolerances are sorted, the floor first and no correction last."""
    return 0.0 if tolerance == "floor" else math.inf if tolerance == "none" else float(tolerance)


def label(tolerance: str) -> str:
    """Return how the table writes a tolerance."""
    return {"floor": "floor", "none": "no correction"}.get(tolerance, f"{tolerance} √n")


def spread(values: Sequence[float], divisor: float = 1.0) -> str:
    """Return the mean of the values and their standard deviation, divided by `divisor`."""
    deviation = f"{stdev(values) / divisor:.2f}" if len(values) > 1 else "?"
    return f"{mean(values):.2f} ± {deviation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--sparsities", type=float, nargs="+", help="instead of those of each network")
    parser.add_argument("--tolerances", nargs="+", default=TOLERANCES, help="floor, none, or a multiple of √n")
    parser.add_argument("--seeds", type=int, default=5, help="the number of seeds, from 0")
    parser.add_argument("--steps", type=int, help="training steps, instead of those of each network")
    parser.add_argument("--jobs", type=int, default=1, help="the number of processes")
    parser.add_argument("--device", default="cpu", help="where to train: cpu, cuda or auto")
    parser.add_argument("--results", type=Path, default=Path("isometry_tolerance.csv"))
    parser.add_argument("--table", action="store_true", help="print the table of the results so far, and end")
    chosen = parser.parse_args()
    rows = read(chosen.results)
    if not chosen.table:
        done = {tuple(getattr(row, field.name) for field in fields(Run)) for row in rows}
        runs = [
            run for run in asked_for(chosen) if tuple(getattr(run, field.name) for field in fields(Run)) not in done
        ]
        with ProcessPoolExecutor(chosen.jobs, multiprocessing.get_context("spawn")) as pool:
            futures = [pool.submit(result, run, chosen.device) for run in runs]
            for count, future in enumerate(as_completed(futures), start=1):
                rows.append(future.result())
                write(chosen.results, rows[-1])
                print(f"{count}/{len(runs)} {rows[-1]}", flush=True)
    print(table(rows))


def asked_for(chosen: argparse.Namespace) -> Iterable[Run]:
    """Yield the runs that the command line asks for, all tolerances of one seed before the next seed."""
    has_data = "SPL_DATA" in os.environ
    for seed, name in product(range(chosen.seeds), chosen.networks):
        study = STUDIES[name]
        if study.is_convolutional and not has_data:
            continue
        data = "CIFAR10" if study.is_convolutional else "MNIST" if has_data else "MNISTSample"
        for sparsity, tolerance in product(chosen.sparsities or study.sparsities, chosen.tolerances):
            yield Run(name, data, sparsity, tolerance, seed, chosen.steps or study.steps)


def write(path: Path, row: Row) -> None:
    """Append a row to the CSV file."""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        if is_new:
            writer.writeheader()
        writer.writerow(asdict(row))


if __name__ == "__main__":
    main()
