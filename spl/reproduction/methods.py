"""The methods of the paper's figures: how a network gets its weights and masks, as YAML."""

import re
from dataclasses import dataclass, field
from typing import Any

from spl.reproduction.budgets import Budget, Protocol
from spl.reproduction.run import Run

Choice = dict[str, Any]  # class_path and init_args

_SPARSITY = 0.9
_TOLERANCE = 0.02  # of approximate isometry, in units of √n: Table 2's scores are then those of the paper
_LEARNING_RATE = 0.1
_LONGEST_NAME = 80  # characters
_STABLE_LEARNING_RATE = 0.01  # at 0.1 the dense linear network diverges


@dataclass(frozen=True)
class Method:
    """A method: one curve of Figures 2, 4, 7 and 8.

    Attributes:
        label: the paper's name of the method: initialization, criterion, correction.
        initializer: a class in `spl.initializers`.
        criterion: a class in `spl.criteria`; None for a dense network.
        isometry: a class in `spl.isometry`; None without correction.
        pretrained: whether the dense network is trained before it is pruned.
        control: a class in `spl.criteria` that wraps the criterion.
    """

    label: str
    initializer: str = "Orthogonal"
    criterion: str | None = "ConnectionSensitivity"
    isometry: str | None = None
    pretrained: bool = False
    control: str | None = None

    def __str__(self) -> str:
        return self.label


LDI_DENSE = Method("LDI-Dense", criterion=None)
LDI_RAND = Method("LDI-Rand", criterion="Random")
LDI_RAND_AI = Method("LDI-Rand-AI", criterion="Random", isometry="ApproximateIsometry")
LDI_MAG = Method("LDI-Mag", criterion="Magnitude", pretrained=True)
VS_CS = Method("VS-CS", initializer="LeCunNormal")
LDI_CS = Method("LDI-CS")
LDI_CS_AI = Method("LDI-CS-AI", isometry="ApproximateIsometry")
LDI_CS_EOI = Method("LDI-CS-EOI", isometry="EOI")
LDI_SYNFLOW = Method("LDI-SynFlow", criterion="SynFlow")
LDI_SHUFFLED = Method("LDI-CS shuffled", control="ShuffledInLayers")

PAPER = (LDI_DENSE, LDI_MAG, LDI_RAND, LDI_RAND_AI, VS_CS, LDI_CS, LDI_CS_AI)
BEYOND = (LDI_CS_EOI, LDI_SYNFLOW, LDI_SHUFFLED)


@dataclass(frozen=True)
class Experiment:
    """An experiment: what runs have in common, whatever their budget, method and seed.

    `run` turns it into a run of `spl fit`.

    Attributes:
        network: the class_path and init_args of the network.
        data: the data set MNIST, FashionMNIST or CIFAR10.
        sparsity: the sparsity κ̄, with biases counted.
        targets: what the scoring loss compares predictions with; see `PruneAtInit`.
        scoring_data: another data set to score on; None for `data`.
        initializer: class_path and init_args of an initializer that replaces the method's.
        trained: whether the network is trained; if not, only its spectra are measured.
    """

    network: Choice
    data: str = "MNIST"
    sparsity: float = _SPARSITY
    targets: str = "labels"
    scoring_data: str | None = None
    initializer: Choice = field(default_factory=dict)
    trained: bool = True

    def runs(self, budget: Budget, method: Method) -> list[Run]:
        """Return one run of `method` for each seed, from 0."""
        return [self.run(budget, method, seed) for seed in range(budget.protocol(self.data).seeds)]

    def run(self, budget: Budget, method: Method, seed: int) -> Run:
        """Return the run of `method` with `seed`."""
        network = _widened(self.network, budget.protocol(self.data).width)
        before = None
        if method.pretrained:
            before = Experiment(self.network, self.data, initializer=self.initializer).run(budget, LDI_DENSE, seed)
        name = "_".join(
            [
                self.data,
                short_name(network),
                str(method).replace(" ", "-"),
                f"{0 if method.criterion is None else 100 * self.sparsity:.3g}",
                *([] if self.targets == "labels" else [self.targets]),
                *([f"from-{self.scoring_data}"] if self.scoring_data else []),
                *(f"{value:g}" for value in self.initializer.get("init_args", {}).values()),
                *([] if self.trained else ["untrained"]),
                f"seed{seed}",
            ]
        )
        return Run(name, self._config(network, budget, method, seed), before)

    def _config(self, network: Choice, budget: Budget, method: Method, seed: int) -> dict[str, Any]:
        protocol = budget.protocol(self.data)
        initializer = self.initializer or {"class_path": f"spl.initializers.{method.initializer}"}
        model: dict[str, Any] = {"network": network, "initializer": initializer}
        trainer: dict[str, Any] = {
            "max_steps": protocol.iterations if self.trained else 0,
            "accelerator": "auto",
            "devices": 1,
            "log_every_n_steps": max(1, min(50, protocol.iterations // 5)),
            "enable_model_summary": False,
        }
        if protocol.test_share < 1:
            limits = dict.fromkeys(("limit_val_batches", "limit_test_batches"), protocol.test_share)
            trainer |= limits | {"num_sanity_val_steps": 0}
        if protocol.precision is not None:
            trainer["precision"] = protocol.precision
        if protocol.channels_last:
            model["channels_last"] = True
        if self.trained:
            interval = min(protocol.validation_interval, protocol.iterations // 2)
            trainer |= {"max_epochs": -1, "val_check_interval": interval, "check_val_every_n_epoch": None}
            model |= {"optimizer": self._optimizer(method), "lr_scheduler": _schedule(protocol)}
            if protocol.compile is not None:
                model["compile"] = protocol.compile
        spectrum = {"examples": protocol.examples, "every_n_epochs": protocol.every_n_epochs}
        return {
            "seed_everything": seed,
            "trainer": trainer,
            "data": {"class_path": f"spl.data.{self.data}", "init_args": {"batch_size": protocol.batch_size}},
            "model": model,
            "pruning": self._pruning(budget, method, seed),
            "test_after_fit": self.trained,
            "spectrum": spectrum if protocol.chunk is None else spectrum | {"chunk": protocol.chunk},
        }

    def _optimizer(self, method: Method) -> Choice:
        linear = self.network.get("init_args", {}).get("activation") == "linear"
        rate = _STABLE_LEARNING_RATE if linear and method in (LDI_DENSE, LDI_MAG) else _LEARNING_RATE
        return {"class_path": "torch.optim.SGD", "init_args": {"lr": rate, "momentum": 0.9, "weight_decay": 5e-4}}

    def _pruning(self, budget: Budget, method: Method, seed: int) -> dict[str, Any]:
        protocol = budget.protocol(self.data)
        if method.criterion is None:
            return {"sparsity": 0.0, "include_bias": True, "isometry": None, "batches": protocol.scoring_batches}
        pruning: dict[str, Any] = {
            "sparsity": self.sparsity,
            "include_bias": True,
            "criterion": _criterion(method, seed),
            "isometry": _isometry(method, seed, protocol.correction_iterations),
            "targets": self.targets,
            "batches": protocol.scoring_batches,
        }
        if self.scoring_data is not None:
            arguments = {"batch_size": protocol.batch_size}
            pruning["scoring_data"] = {"class_path": f"spl.data.{self.scoring_data}", "init_args": arguments}
        return pruning


def _criterion(method: Method, seed: int) -> Choice:
    criterion: Choice = {"class_path": f"spl.criteria.{method.criterion}"}
    if method.criterion == "Random":
        criterion["init_args"] = {"seed": seed}
    if method.control is not None:
        return {"class_path": f"spl.criteria.{method.control}", "init_args": {"criterion": criterion, "seed": seed}}
    return criterion


def _isometry(method: Method, seed: int, iterations: int) -> Choice | None:
    """Return the correction with the paper's gain, 1.

    The tolerance is named, so that results with another one are those of other runs.
    """
    if method.isometry is None:
        return None
    own: dict[str, Any] = {"tolerance": _TOLERANCE, "max_iterations": iterations}
    if method.isometry == "EOI":
        own = {"seed": seed}
    return {"class_path": f"spl.isometry.{method.isometry}", "init_args": {"gain": 1.0} | own}


def _schedule(protocol: Protocol) -> Choice:
    """Return the learning rate schedule: one cycle, or the steps of the paper."""
    if protocol.peak_rate is not None:
        cycle = {"max_lr": protocol.peak_rate, "total_steps": protocol.iterations, "cycle_momentum": False}
        return {"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": cycle}
    steps = {"step_size": max(1, protocol.iterations // 4), "gamma": 0.1}
    return {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": steps}


def _widened(network: Choice, width: float) -> Choice:
    """Return the network with its `width_multiplier` multiplied by `width`."""
    if width == 1:
        return network
    arguments = network["init_args"]
    return network | {"init_args": arguments | {"width_multiplier": width * arguments.get("width_multiplier", 1)}}


def short_name(network: Choice) -> str:
    """Return a name of a network, from its class and arguments, that can be part of the name of a folder."""
    arguments = network.get("init_args", {}).values()
    name = "-".join([network["class_path"].rpartition(".")[2], *map(str, arguments)])
    return re.sub(r"[^\w.,+\[\] -]", "-", name)[:_LONGEST_NAME]


def mlp(activation: str, depth: int = 7) -> Choice:
    """Return an MLP of width 100 with `depth` layers, the paper's MLP-K."""
    return {"class_path": "spl.networks.MLP", "init_args": {"activation": activation, "depth": depth}}
