"""The budgets: how much computation is spent on the figures and tables."""

from dataclasses import dataclass

from spl.errors import InputError


@dataclass(frozen=True)
class Protocol:
    """How the networks of one data set are scored, trained and measured.

    Attributes:
        iterations: the number of training steps.
        batch_size: the number of examples per step.
        seeds: the number n of runs, with seeds 0 to n − 1.
        scoring_batches: the number of batches that decide the masks; None for the whole training split.
        examples: the number of training examples at which the spectra are measured; None for all.
        every_n_epochs: how often spectra are measured during training; None for never.
        correction_iterations: the most iterations of approximate isometry.
        test_share: the share of the validation and test examples on which errors are measured.
        width: the width of convolutional networks, as a multiple of the paper's.
        chunk: the number of examples at which spectra are measured at a time; None for the default of `spl fit`.
        validation_interval: the number of steps between validations, 1,000 as in the paper, or half of all steps if
            that is less.
        peak_rate: the highest learning rate of one cycle over all steps; None for the paper's schedule, by which the
            learning rate falls to a tenth after each quarter of the steps.
        precision: the `precision` of the Trainer; None for single precision.
        channels_last: whether images and kernels are stored in this memory format.
        compile: the mode of `torch.compile` in which networks train, `model.compile` of `spl fit`; None for not
            compiled.
    """

    iterations: int
    batch_size: int
    seeds: int
    scoring_batches: int | None = None
    examples: int | None = None
    every_n_epochs: int | None = 1
    correction_iterations: int = 1000
    test_share: float = 1.0
    width: float = 1.0
    chunk: int | None = None
    validation_interval: int = 1000
    peak_rate: float | None = None
    precision: str | None = None
    channels_last: bool = False
    compile: str | None = None

    def describe(self) -> str:
        """Return what the protocol spends, and where it departs from the paper's."""
        runs = "1 run" if self.seeds == 1 else f"{self.seeds} runs"
        own = [] if self.width == 1 else [f"{self.width:g} times as wide as the paper's"]
        own += [] if self.peak_rate is None else ["one cycle"]
        own += [] if self.precision is None else [self.precision]
        return ", ".join([f"{self.iterations:,} iterations × {self.batch_size}", runs, *own])


@dataclass(frozen=True)
class Budget:
    """A budget: a protocol for each data set, and the sparsities of the curves.

    Attributes:
        name: smoke, short or paper.
        mnist: the protocol of MNIST and Fashion-MNIST.
        cifar10: the protocol of CIFAR-10.
        sparsities: the sparsities κ̄ of the curves, 90 % among them.
    """

    name: str
    mnist: Protocol
    cifar10: Protocol
    sparsities: tuple[float, ...]

    def protocol(self, data: str) -> Protocol:
        """Return the protocol of the data set MNIST, FashionMNIST or CIFAR10."""
        return self.cifar10 if data == "CIFAR10" else self.mnist

    def describe(self, data: str) -> str:
        """Return the line that stands on every picture."""
        return f"budget {self.name}: {self.protocol(data).describe()}"


_CIFAR10_EPOCH = 352  # steps: 45,000 images in batches of 128
_TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

BUDGETS = {
    "smoke": Budget(
        "smoke",
        mnist=Protocol(20, 100, 1, 5, 20, None, 20, test_share=0.04),
        cifar10=Protocol(2, 32, 1, 1, 2, None, 3, test_share=0.04, width=0.25, chunk=50),
        sparsities=(0.5, 0.9),
    ),
    "short": Budget(
        "short",
        mnist=Protocol(10_000, 100, 5, examples=1000, every_n_epochs=2),
        cifar10=Protocol(
            16 * _CIFAR10_EPOCH,
            128,
            3,
            examples=1000,
            every_n_epochs=4,
            chunk=250,
            validation_interval=_CIFAR10_EPOCH,
            peak_rate=0.2,
            precision="bf16-mixed",
            channels_last=True,
            compile="reduce-overhead",
        ),
        sparsities=_TENTHS,
    ),
    "paper": Budget(
        "paper",
        mnist=Protocol(80_000, 100, 10, every_n_epochs=15),
        cifar10=Protocol(100_000, 128, 5, every_n_epochs=30, chunk=50),
        sparsities=_TENTHS,
    ),
}


def budget_named(name: str) -> Budget:
    """Return the budget smoke, short or paper."""
    if name not in BUDGETS:
        raise InputError(f"budget must be one of {', '.join(BUDGETS)}, got {name!r}.")
    return BUDGETS[name]
