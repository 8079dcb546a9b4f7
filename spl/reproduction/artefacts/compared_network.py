"""A network on which methods are compared, and the measurements of its finished runs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from spl.reproduction.artefacts.artefact import Artefact, Finding
from spl.reproduction.budgets import Budget
from spl.reproduction.methods import Choice, Experiment, Method, mlp
from spl.reproduction.results import Result, Results
from spl.reproduction.run import Run
from spl.reproduction.samples import Curve, MissingResult, Sample, windows

SPARSITY = Experiment.sparsity  # the sparsity at which networks are trained


@dataclass(frozen=True, eq=False)
class ComparedNetwork:
    """A network on which methods are compared.

    Attributes:
        name: the name of the network in titles.
        config: the class_path and init_args of the network.
        data: the data set that it is trained on.
    """

    name: str
    config: Choice
    data: str = "MNIST"

    def runs(self, budget: Budget, method: Method, sparsity: float = SPARSITY) -> list[Run]:
        """Return one run per seed: trained at 90 % and if dense, otherwise for its spectra alone."""
        trained = sparsity == SPARSITY or method.criterion is None
        return Experiment(self.config, self.data, sparsity, trained=trained).runs(budget, method)


LINEAR = ComparedNetwork("linear", mlp("linear"))
TANH = ComparedNetwork("tanh", mlp("tanh"))


PAPER_NETWORKS = (LINEAR, TANH)


class NetworkFigure(Artefact):
    """A figure that shows the same of each network: of those of the paper, or of another one.

    Attributes:
        networks: the networks.
    """

    paper_title: str

    def __init__(self, network: ComparedNetwork | None = None, flags: str = "") -> None:
        self.networks = PAPER_NETWORKS if network is None else (network,)
        self.flags = flags
        self.title = self.paper_title if network is None else f"{self.paper_title}, {network.name}"

    def findings(self, findings: Iterable[Finding]) -> list[Finding]:
        """Return the findings, which are about the networks of the paper; none for another network."""
        return list(findings) if self.networks is PAPER_NETWORKS else []


@dataclass(frozen=True)
class Measurements:
    """The measurements of the finished runs of a network."""

    network: ComparedNetwork
    budget: Budget
    results: Results

    @property
    def trained(self) -> bool:
        """Whether the budget is large enough to compare how networks train."""
        return self.budget.protocol(self.network.data).iterations >= 1000

    def of(self, method: Method, sparsity: float = SPARSITY) -> list[Result]:
        """Return the results of the finished runs of a method."""
        return self.results.of(self.network.runs(self.budget, method, sparsity))

    def jsv(self, method: Method, statistic: str = "mean") -> Curve:
        """Return a statistic of the Jacobian singular values where training starts, by κ̄; at 0 before pruning."""
        values = {0.0: [result.jsv(statistic, "dense") for result in self.of(method)]}
        if method.criterion is not None:
            for sparsity in self.budget.sparsities:
                values[sparsity] = [result.jsv(statistic) for result in self.of(method, sparsity)]
        return Curve(f"JSV of {self.network.name} {method}", values)

    def diverged(self, method: Method) -> list[int]:
        """Return the seeds whose training loss was not a number at some iteration; the curves leave them out."""
        runs = [run for run in self.network.runs(self.budget, method) if run.digest in self.results]
        return [int(run.config["seed_everything"]) for run in runs if self.results[run.digest].has_diverged]

    def _trained(self, method: Method) -> list[Result]:
        """Return the results of the runs that did not diverge."""
        return [result for result in self.of(method) if not result.has_diverged]

    def log(self, method: Method, tag: str) -> Curve:
        """Return what was logged during training, by iteration, as means over at most 100 windows."""
        values: dict[float, list[float]] = {}
        for result in self._trained(method):
            for iteration, value in zip(*windows(*result.series(tag)), strict=True):
                values.setdefault(iteration, []).append(value)
        return Curve(f"{tag} of {self.network.name} {method}", values)

    def jsv_log(self, method: Method) -> Curve:
        """Return the mean Jacobian singular value by iteration, from the start of training."""
        values: dict[float, list[float]] = {}
        for result in self._trained(method):
            values.setdefault(0, []).append(result.jsv("mean"))
            for step, value in zip(*result.series("jacobian/train/mean"), strict=True):
                values.setdefault(step, []).append(value)
        return Curve(f"JSV during training of {self.network.name} {method}", values)

    def measure(self, method: Method, number: Callable[[Result], float]) -> Sample:
        """Return a sample of a number of each trained network.

        Raises:
            MissingResult: no run is finished.
        """
        sample = Sample.of(self.of(method), number)
        if not sample.n:
            raise MissingResult(f"{self.network.name} {method}")
        return sample

    def row(self, method: Method, statistic: str, sparsity: float, iteration: float, sample: Sample) -> dict[str, Any]:
        """Return a row of the CSV."""
        return {
            "network": self.network.name,
            "method": str(method),
            "statistic": statistic,
            "sparsity": sparsity,
            "iteration": int(iteration),
            "mean": sample.mean,
            "std": sample.std,
            "n": sample.n,
        }
