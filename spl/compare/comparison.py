"""A comparison: methods × sparsities × seeds on one network, as runs of `spl fit`, and their results."""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from spl.compare.configuration import check_config, shortest
from spl.compare.lottery import Tickets
from spl.compare.methods import DENSE, ComparedMethod
from spl.errors import InputError
from spl.pruning import PruningChoices, check_sparsity
from spl.reproduction.results import Result, Results
from spl.reproduction.run import Run
from spl.reproduction.samples import Curve, Sample, windows

RUNS = Path("lightning_logs", "compare")  # where `spl fit` puts runs whose names begin with compare/
LOSS = "loss/train"

Cell = tuple[ComparedMethod, float]
"""A method and a sparsity."""


@dataclass(frozen=True)
class Comparison:
    """Methods × sparsities × seeds on one network.

    Attributes:
        config: the configuration of `spl fit`, in its shortest form, without a name.
        name: the name of the configuration.
        methods: the methods to compare.
        sparsities: the sparsities, ascending.
        seeds: the seeds.
    """

    config: dict[str, Any]
    name: str
    methods: Sequence[ComparedMethod]
    sparsities: Sequence[float]
    seeds: Sequence[int]

    @classmethod
    def of(
        cls, flags: Sequence[str], methods: Sequence[ComparedMethod], sparsities: Sequence[float], seeds: int
    ) -> "Comparison":
        """Return the comparison that a command line asks for.

        Args:
            flags: flags of `spl fit`, --config among them.
            methods: the methods to compare.
            sparsities: the sparsities; empty for that of the configuration.
            seeds: the number of seeds; they count from `seed_everything` of the configuration, or else from 0.

        Raises:
            InputError: something that is asked for is not possible.
        """
        if seeds < 1:
            raise InputError(f"seeds must be at least 1, got {seeds}.")
        config = shortest(flags)
        check_config(config)
        first = config.pop("seed_everything", 0)
        first = first if type(first) is int else 0  # true or false
        if not sparsities:
            sparsities = [config.get("pruning", {}).get("sparsity", PruningChoices.sparsity)]
        for sparsity in sparsities:
            check_sparsity(sparsity)
        config["trainer"] = config.get("trainer", {}) | {"devices": 1}
        name = config.pop("name", "default")
        return cls(config, name, list(dict.fromkeys(methods)), sorted(set(sparsities)), range(first, first + seeds))

    @property
    def cells(self) -> list[Cell]:
        """The cells: each method at each sparsity, and the dense network once, at 0."""
        return [(method, sparsity) for method in self.methods for sparsity in self.sparsities_of(method)]

    def sparsities_of(self, method: ComparedMethod) -> Sequence[float]:
        """Return the sparsities at which a method is compared."""
        return [0.0] if method.is_dense else self.sparsities

    @cached_property
    def _runs(self) -> dict[Cell, list[Run]]:
        return {cell: self._runs_of(*cell) for cell in self.cells}

    def runs(self, method: ComparedMethod, sparsity: float) -> list[Run]:
        """Return one run for each seed."""
        return self._runs[method, sparsity]

    @property
    def all_runs(self) -> list[Run]:
        """The runs of all cells."""
        return [run for cell in self.cells for run in self._runs[cell]]

    def _runs_of(self, method: ComparedMethod, sparsity: float) -> list[Run]:
        return [self._run(method, sparsity, seed) for seed in self.seeds]

    def _run(self, method: ComparedMethod, sparsity: float, seed: int) -> Run:
        label = re.sub(r"[^\w.+@-]", "-", method.label)
        config = method.with_sparsity(self._configs[method] | {"seed_everything": seed}, sparsity)
        if method.rewinding is not None:
            dense = self._run(ComparedMethod(DENSE), 0.0, seed)
            return Tickets(method.rewinding, dense, config, f"{self.name}_{label}").run(sparsity)
        return Run(f"{self.name}_{label}_{100 * sparsity:.6g}_seed{seed}", config, group=RUNS.name)

    @cached_property
    def _configs(self) -> dict[ComparedMethod, dict[str, Any]]:
        """The configuration of each method, which the parser of `spl fit` has checked."""
        return {method: self._config(method) for method in [*self.methods, ComparedMethod(DENSE)]}

    def _config(self, method: ComparedMethod) -> dict[str, Any]:
        config: dict[str, Any] = json.loads(json.dumps(self.config))
        chosen = method.configure(config, self.sparsities_of(method)[0])
        checked, pruning = shortest(chosen), chosen["pruning"]
        stated = {key: pruning[key] for key in ("sparsity", "isometry") if pruning[key] is None or key == "sparsity"}
        return checked | {"pruning": checked.get("pruning", {}) | stated, "trainer": config["trainer"]}


@dataclass(frozen=True)
class Measured:
    """The finished runs of a comparison."""

    comparison: Comparison
    results: Results

    def of(self, method: ComparedMethod, sparsity: float) -> dict[int, Result]:
        """Return the results of a cell by seed."""
        runs = zip(self.comparison.seeds, self.comparison.runs(method, sparsity), strict=True)
        return {seed: self.results[run.digest] for seed, run in runs if run.digest in self.results}

    def sample(self, method: ComparedMethod, sparsity: float, number: Callable[[Result], float]) -> Sample:
        """Return a number of each run of a cell."""
        return Sample.of(self.of(method, sparsity).values(), number)

    def curve(self, method: ComparedMethod, number: Callable[[Result], float]) -> Curve:
        """Return a number by sparsity."""
        sparsities = self.comparison.sparsities_of(method)
        return Curve(method.label, {x: map(number, self.of(method, x).values()) for x in sparsities})

    def log(self, method: ComparedMethod, sparsity: float, tag: str = LOSS) -> Curve:
        """Return what was logged during training, by iteration, as means over at most 100 windows."""
        values: dict[float, list[float]] = {}
        for result in self.of(method, sparsity).values():
            for iteration, value in zip(*windows(*result.series(tag)), strict=True):
                values.setdefault(iteration, []).append(value)
        return Curve(method.label, values)


def accuracy(result: Result) -> float:
    """Return the test accuracy in % of the final weights; NaN if they were not tested."""
    return 100 * result.test["final"]["accuracy"] if "final" in result.test else math.nan


def jsv(result: Result) -> float:
    """Return the mean Jacobian singular value at the start of training."""
    return result.jsv("mean")


def final_loss(result: Result) -> float:
    """Return the mean training loss over the last tenth of what was logged; NaN if nothing was."""
    values = result.series(LOSS)[1]
    return float(np.mean(values[-max(1, len(values) // 10) :])) if len(values) else math.nan


def is_diverged(result: Result) -> bool:
    """Return whether the loss of a run became NaN or infinite."""
    losses = [*result.series(LOSS)[1][-1:], *(metrics["loss"] for metrics in result.test.values())]
    return not all(map(math.isfinite, losses))
