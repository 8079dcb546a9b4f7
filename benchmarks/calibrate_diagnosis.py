"""Compare the diagnosis with training: many small networks on MNIST are diagnosed and then trained.

Each case is an MLP of width 100, pruned by scores over 50 batches of 100 images and diagnosed at 1,000 images. Then it
is trained by the package's default optimizer (SGD, learning rate 0.1, momentum 0.9, weight decay 5e-4) on batches of
100 for 2,000 steps; every 100 steps the test accuracy is compared with 90 %. The rule and its thresholds were made on
the cases `chosen`. The cases `checked` have another seed and other depths, and were run after both were fixed.

Cases that are already in `docs/diagnosis.csv` are not run again: delete the file, or rows of it, to run them again.
With `--rediagnose` they are diagnosed again, and the results of training are kept. At the end the table in
`docs/diagnosis.md` is rewritten. MNIST is read from the folder that the environment variable SPL_DATA names.

    SPL_DATA=data python benchmarks/calibrate_diagnosis.py [--rediagnose]
"""

import csv
import os
import re
from argparse import ArgumentParser
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor, nn
from tqdm import tqdm

from spl.classifier import sgd
from spl.criteria import ConnectionSensitivity, Criterion, GraSP, Magnitude, Random, SynFlow
from spl.data import MNIST
from spl.diagnosis import Evidence, diagnose, judge
from spl.initializers import Gaussian, GlorotNormal, HeNormal, Initializer, LeCunNormal, Orthogonal
from spl.isometry import EOI, ApproximateIsometry, Correction
from spl.masks.masks import BoundMasks, Masks
from spl.networks import MLP
from spl.pruning import prune
from spl.pruning.scopes import Global, Scope, Uniform

DOCS = Path(__file__).parent.parent / "docs"
STEPS, EVERY, GOAL = 2000, 100, 0.9

INITIALIZERS: dict[str, Initializer] = {
    "LDI": Orthogonal(),
    "VS-L": LeCunNormal(),
    "VS-G": GlorotNormal(),
    "VS-H": HeNormal(),
    **{f"SG({variance:g})": Gaussian(variance) for variance in (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)},
}
CORRECTIONS: dict[str, Correction | None] = {
    "none": None,
    "isometry": ApproximateIsometry(tolerance=0.0),
    "EOI": EOI(seed=0),
}
SCOPES: dict[str, Scope] = {"Global": Global(), "Uniform": Uniform()}


def criterion(name: str, seed: int) -> Criterion:
    criteria = {
        "CS": ConnectionSensitivity(),
        "SynFlow": SynFlow(),
        "GraSP": GraSP(),
        "magnitude": Magnitude(),
        "random": Random(seed),
    }
    return criteria[name]


@dataclass(frozen=True)
class Case:
    """The settings of one network."""

    part: str
    seed: int
    activation: str
    depth: int
    initializer: str
    criterion: str
    sparsity: float
    correction: str = "none"
    scope: str = "Global"


def cases() -> list[Case]:
    """Return all cases. More lines can be added."""
    both = ("none", "isometry")
    return [
        *_grid("chosen", 0, "tanh", 7, "LDI", {"CS": (0.9, 0.98), "random": (0.9,)}, both),
        *_grid("chosen", 0, "tanh", 7, "LDI", {"CS": (0.995,), "random": (0.98,), "magnitude": (0.9,)}, ("isometry",)),
        *_grid("chosen", 0, "tanh", 7, "LDI", {"magnitude": (0.98,)}),
        *_grid("chosen", 0, "tanh", 7, "SG(0.0001)", {"CS": (0.9,)}, both),
        *_grid("chosen", 0, "tanh", 7, "SG(0.1)", {"CS": (0.9,)}),
        *_grid("chosen", 0, "tanh", 7, "SG(1)", {"CS": (0.9,)}),
        *_grid("chosen", 0, "tanh", 15, "LDI", {"CS": (0.0, 0.9)}),
        *_grid("chosen", 0, "tanh", 15, "LDI", {"CS": (0.9,)}, ("isometry",)),
        *_grid("chosen", 0, "relu", 7, "VS-H", {"CS": (0.9,), "random": (0.9,)}, both),
        *_grid("chosen", 0, "relu", 7, "VS-H", {"CS": (0.98,)}, ("isometry",)),
        *_grid("chosen", 0, "relu", 15, "VS-H", {"CS": (0.0, 0.9)}),
        *_grid("chosen", 0, "relu", 15, "VS-H", {"CS": (0.9,)}, ("isometry",)),
        *_grid("chosen", 0, "linear", 5, "LDI", {"CS": (0.9,), "random": (0.9, 0.98)}),
        *_grid("chosen", 0, "linear", 5, "LDI", {"CS": (0.98,), "random": (0.9,)}, ("isometry",)),
        *_grid("chosen", 0, "linear", 15, "LDI", {"CS": (0.0,)}),
        *_grid("chosen", 0, "linear", 15, "LDI", {"random": (0.9,)}, ("isometry",)),
        *_grid("chosen", 1, "tanh", 5, "VS-L", {"CS": (0.9, 0.95, 0.99), "random": (0.95,)}, both),
        *_grid("chosen", 1, "tanh", 5, "VS-L", {"magnitude": (0.95,), "random": (0.998,)}, ("isometry",)),
        *_grid("chosen", 1, "tanh", 7, "LDI", {"CS": (0.95, 0.98)}, both, scope="Uniform"),
        *_grid("chosen", 1, "tanh", 7, "SG(0.001)", {"CS": (0.9,)}),
        *_grid("chosen", 1, "tanh", 7, "SG(0.01)", {"CS": (0.95,)}, both),
        *_grid("chosen", 1, "tanh", 7, "SG(10)", {"CS": (0.9,)}, ("isometry",)),
        *_grid("chosen", 1, "tanh", 10, "LDI", {"CS": (0.9,), "random": (0.8,)}, both),
        *_grid("chosen", 1, "relu", 5, "LDI", {"CS": (0.95,), "random": (0.95,)}, both),
        *_grid("chosen", 1, "relu", 10, "VS-H", {"CS": (0.0, 0.9), "random": (0.8,)}),
        *_grid("chosen", 1, "linear", 3, "VS-L", {"CS": (0.95,), "random": (0.99,)}),
        *_grid("chosen", 1, "linear", 7, "LDI", {"CS": (0.0,), "random": (0.9,)}),
        *_grid("chosen", 1, "linear", 7, "LDI", {"CS": (0.995,)}, ("isometry",)),
        *_grid("chosen", 2, "tanh", 6, "LDI", {"CS": (0.9, 0.97), "random": (0.9,)}, both),
        *_grid("chosen", 2, "tanh", 4, "VS-L", {"CS": (0.98,), "random": (0.97,)}, both),
        *_grid("chosen", 2, "tanh", 4, "VS-L", {"magnitude": (0.9,)}, ("isometry",)),
        *_grid("chosen", 2, "tanh", 9, "SG(0.01)", {"CS": (0.9,)}, both),
        *_grid("chosen", 2, "tanh", 7, "SG(0.1)", {"CS": (0.95,)}),
        *_grid("chosen", 2, "tanh", 12, "VS-G", {"CS": (0.0, 0.9)}),
        *_grid("chosen", 2, "tanh", 12, "VS-G", {"CS": (0.9,)}, both, scope="Uniform"),
        *_grid("chosen", 2, "relu", 6, "VS-H", {"CS": (0.9,), "random": (0.9,)}, both),
        *_grid("chosen", 2, "relu", 6, "VS-H", {"CS": (0.95,)}, ("isometry",)),
        *_grid("chosen", 2, "relu", 8, "LDI", {"CS": (0.0, 0.9)}),
        *_grid("chosen", 2, "relu", 8, "LDI", {"CS": (0.9,)}, ("isometry",)),
        *_grid("chosen", 2, "relu", 4, "VS-H", {"CS": (0.98,)}, both),
        *_grid("chosen", 2, "relu", 4, "VS-H", {"random": (0.99,)}, ("isometry",)),
        *_grid("chosen", 2, "linear", 4, "LDI", {"CS": (0.9, 0.97), "random": (0.9,)}),
        *_grid("chosen", 2, "linear", 4, "LDI", {"random": (0.9, 0.98)}, ("isometry",)),
        *_grid("chosen", 2, "linear", 10, "LDI", {"CS": (0.0, 0.9), "random": (0.8,)}),
        *_grid("chosen", 3, "tanh", 8, "LDI", {"CS": (0.9, 0.99), "random": (0.9, 0.98)}, both),
        *_grid("chosen", 3, "tanh", 3, "VS-L", {"CS": (0.9, 0.99), "random": (0.9, 0.98)}, both),
        *_grid("chosen", 3, "relu", 5, "VS-H", {"CS": (0.9, 0.99), "random": (0.9, 0.98)}, both),
        *_grid("chosen", 3, "tanh", 7, "LDI", {"SynFlow": (0.9, 0.99), "GraSP": (0.9, 0.99)}),
        *_grid("chosen", 3, "tanh", 7, "LDI", {"CS": (0.9, 0.98)}, ("EOI",)),
        *_grid("chosen", 3, "linear", 6, "LDI", {"CS": (0.9, 0.99), "random": (0.9, 0.98)}, both),
        *_grid("chosen", 4, "tanh", 9, "LDI", {"CS": (0.9, 0.98), "random": (0.9, 0.97)}, both),
        *_grid("chosen", 4, "tanh", 5, "VS-G", {"SynFlow": (0.9, 0.98), "GraSP": (0.9, 0.98)}, both),
        *_grid("chosen", 4, "tanh", 6, "LDI", {"CS": (0.9, 0.99), "random": (0.95,)}, ("EOI",)),
        *_grid("chosen", 4, "relu", 6, "VS-H", {"CS": (0.9, 0.97), "random": (0.9, 0.98)}, both),
        *_grid("chosen", 4, "relu", 9, "LDI", {"CS": (0.9,), "SynFlow": (0.95,)}, ("isometry",)),
        *_grid("chosen", 4, "linear", 5, "VS-L", {"CS": (0.97,), "random": (0.95,)}, both),
        *_grid("chosen", 4, "linear", 8, "LDI", {"CS": (0.0,)}),
        *_grid("chosen", 5, "tanh", 8, "LDI", {"SynFlow": (0.9, 0.95, 0.97), "GraSP": (0.95,)}),
        *_grid("chosen", 5, "tanh", 8, "LDI", {"CS": (0.95, 0.97)}, ("isometry", "EOI")),
        *_grid("chosen", 5, "tanh", 4, "VS-L", {"SynFlow": (0.95,), "CS": (0.97,), "magnitude": (0.9, 0.95)}),
        *_grid("chosen", 5, "tanh", 4, "VS-L", {"magnitude": (0.95,), "random": (0.95,)}, ("isometry",)),
        *_grid("chosen", 5, "relu", 5, "VS-H", {"CS": (0.95, 0.97)}, both),
        *_grid("chosen", 5, "relu", 5, "VS-H", {"SynFlow": (0.9, 0.95), "GraSP": (0.9, 0.95)}),
        *_grid("chosen", 5, "relu", 8, "VS-H", {"CS": (0.8, 0.9, 0.95)}),
        *_grid("chosen", 5, "relu", 8, "VS-H", {"CS": (0.9,), "random": (0.8,)}, ("isometry",)),
        *_grid("chosen", 5, "relu", 12, "VS-H", {"CS": (0.9,), "GraSP": (0.9,)}, both),
        *_grid("chosen", 5, "linear", 4, "VS-G", {"CS": (0.95,)}, both),
        *_grid("chosen", 5, "linear", 4, "VS-G", {"SynFlow": (0.95,), "random": (0.9,)}),
        *_grid("chosen", 5, "linear", 9, "LDI", {"CS": (0.8,), "random": (0.9,)}, both),
        *_grid("chosen", 5, "tanh", 11, "LDI", {"CS": (0.95,), "random": (0.9,)}, both),
        *_grid("chosen", 5, "tanh", 6, "SG(0.01)", {"SynFlow": (0.9,), "random": (0.9,)}),
        *_grid("checked", 6, "tanh", 10, "VS-L", {"CS": (0.8, 0.95), "random": (0.9,)}, both),
        *_grid("checked", 6, "tanh", 13, "LDI", {"SynFlow": (0.9,), "GraSP": (0.9,)}, both),
        *_grid("checked", 6, "tanh", 6, "VS-L", {"CS": (0.95, 0.99), "SynFlow": (0.95,)}, ("EOI",)),
        *_grid("checked", 6, "tanh", 4, "SG(0.1)", {"CS": (0.97,), "magnitude": (0.9,)}),
        *_grid("checked", 6, "tanh", 3, "LDI", {"random": (0.9, 0.99)}, both),
        *_grid("checked", 6, "relu", 7, "LDI", {"CS": (0.8, 0.95), "random": (0.9,)}, both),
        *_grid("checked", 6, "relu", 11, "VS-H", {"CS": (0.9,), "SynFlow": (0.9,)}, both),
        *_grid("checked", 6, "relu", 4, "SG(0.01)", {"GraSP": (0.9, 0.98), "magnitude": (0.95,)}),
        *_grid("checked", 6, "relu", 3, "VS-H", {"CS": (0.99,), "random": (0.95,)}, ("isometry",)),
        *_grid("checked", 6, "linear", 8, "VS-G", {"CS": (0.9,), "random": (0.9,)}, both),
    ]


def _grid(
    part: str,
    seed: int,
    activation: str,
    depth: int,
    initializer: str,
    sparsities: dict[str, tuple[float, ...]],
    corrections: tuple[str, ...] = ("none",),
    scope: str = "Global",
) -> list[Case]:
    return [
        Case(part, seed, activation, depth, initializer, criterion, sparsity, correction, scope)
        for criterion, chosen in sparsities.items()
        for sparsity in chosen
        for correction in corrections
    ]


@dataclass(frozen=True)
class Images:
    """The normalized images of MNIST, in memory."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    scoring: list[tuple[Tensor, Tensor]]

    @classmethod
    def read(cls) -> "Images":
        """Read MNIST from the folder that SPL_DATA names."""
        data = MNIST(Path(os.environ["SPL_DATA"]), download=False)
        data.setup()
        train, test = ((data.normalize(split.images).flatten(1), split.labels) for split in (data.train, data.test))
        scoring = [(data.normalize(x).flatten(1), y) for x, y in islice(data.scoring_dataloader(0), 50)]
        return cls(train, test, scoring)


def run(case: Case, images: Images, outcome: tuple[str, str] | None) -> dict[str, str]:
    """Diagnose one network, and train it if its outcome (test accuracy and steps) is not known."""
    torch.manual_seed(case.seed)
    network = MLP(case.depth, 100, case.activation)
    INITIALIZERS[case.initializer](network)
    parameters = dict(network.named_parameters())
    masks = prune(
        network, criterion(case.criterion, case.seed), case.sparsity, images.scoring, scope=SCOPES[case.scope]
    )
    masks.apply_(parameters)
    if (correction := CORRECTIONS[case.correction]) is not None:
        masks = correction(network, masks).masks
    diagnosis = diagnose(network, masks, *(part[:1000] for part in images.train))
    accuracy, steps = outcome or train(network, masks, images, case.seed)
    measured = asdict(diagnosis.evidence) | {"effective_sparsity": diagnosis.effective_sparsity}
    return {
        **{name: str(value) for name, value in asdict(case).items()},
        **{name: _short(value) for name, value in measured.items()},
        "verdict": diagnosis.verdict.answer,
        "test_accuracy": _short(accuracy),
        "steps": str(steps),
    }


def train(network: nn.Module, masks: Masks, images: Images, seed: int) -> tuple[float, int | str]:
    """Train the network; return its best test accuracy, and the step at which it reached the goal, if it did."""
    optimizer = sgd(network.parameters())
    bound = BoundMasks(masks, dict(network.named_parameters()))
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = images.train
    best = 0.0
    for step in range(STEPS):
        if step * 100 % len(labels) == 0:
            order = torch.randperm(len(labels), generator=generator).split(100)
        batch = order[step % len(order)]
        loss = F.cross_entropy(network(inputs[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        bound.mask_gradients_()
        optimizer.step()
        if (step + 1) % EVERY == 0:
            with torch.no_grad():
                right = network(images.test[0]).argmax(1) == images.test[1]
            best = max(best, float(right.float().mean()))
            if best >= GOAL:
                return best, step + 1
    return best, ""


def _short(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def recorded(path: Path) -> list[dict[str, str]]:
    """Return the rows of the table that have been recorded so far."""
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def evidence_of(row: dict[str, str]) -> Evidence:
    """Return the measurements of a row as evidence for the rule."""
    numbers = {name: float(row[name]) for name in ("seen", "signal", "trial", "size", "accuracy")}
    return Evidence(
        outputs=int(row["outputs"]),
        reached=int(row["reached"]),
        collapsed=row["collapsed"],
        limit=float(row["limit"]) if row["limit"] else None,
        linear=row["linear"] == "True",
        **numbers,
    )


def agrees(row: dict[str, str]) -> bool:
    """Return whether the verdict of the current rule agrees with the outcome of training."""
    return (judge(evidence_of(row)).answer == "Will train") == bool(row["steps"])


def table(rows: list[dict[str, str]]) -> str:
    """Return the table of the document, preceded by how often the verdicts agree."""
    lines = []
    for part in ("chosen", "checked"):
        own = [row for row in rows if row["part"] == part]
        failed = sum(not row["steps"] for row in own)
        lines.append(
            f"- **{part}**: {sum(map(agrees, own))} of {len(own)} verdicts agree; {failed} did not reach 90 %."
        )
    headers = ["part", "network", "weights", "criterion", "sparsity", "correction", "reached", "seen", "size",
               "signal", "trial", "verdict", "test accuracy", "steps", ""]  # fmt: skip
    cells = [
        [
            row["part"],
            f"{row['activation']}-{row['depth']}",
            row["initializer"],
            row["criterion"] + (f", {row['scope']}" if row["scope"] != "Global" else ""),
            *(row[name] for name in ("sparsity", "correction", "reached")),
            f"{float(row['seen']):.2f}",
            f"{float(row['size']):.0f}",
            f"{float(row['signal']):.2g}",
            f"{float(row['trial']):.2f}",
            judge(evidence_of(row)).answer,
            f"{float(row['test_accuracy']):.3f}",
            row["steps"],
            "" if agrees(row) else "miss",
        ]
        for row in rows
    ]
    return "\n".join(lines) + "\n\n" + tabulate(cells, headers, tablefmt="github", disable_numparse=True)


def write_document(rows: list[dict[str, str]]) -> None:
    """Replace the table in docs/diagnosis.md."""
    path = DOCS / "diagnosis.md"
    written = re.sub(r"(?s)(?<=<!-- table -->\n).*(?=<!-- end -->)", lambda _: f"\n{table(rows)}\n\n", path.read_text())
    path.write_text(written)


def main() -> None:
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rediagnose", action="store_true", help="measure all cases again; train only the new ones")
    again = parser.parse_args().rediagnose
    torch.set_num_threads(1)
    images = Images.read()
    path = DOCS / "diagnosis.csv"
    names = [field.name for field in fields(Case)]
    rows: dict[tuple[str, ...], dict[str, str]] = {tuple(row[name] for name in names): row for row in recorded(path)}
    for case in tqdm(cases(), unit="network"):
        key = tuple(str(getattr(case, name)) for name in names)
        known = rows.get(key)
        if known is None or again:
            rows[key] = run(case, images, known and (known["test_accuracy"], known["steps"]))
            with path.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, rows[key], extrasaction="ignore", lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows.values())
    write_document(recorded(path))
    print(table(recorded(path)))


if __name__ == "__main__":
    main()
