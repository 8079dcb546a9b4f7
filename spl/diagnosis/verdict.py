"""The verdict: a few measured quantities, a threshold for each, and what to change where one is missed."""

from dataclasses import dataclass

UNSEEN = 0.45
"""Below this share of the input's variance the network sees too little of it."""

SILENT = 2e-3
"""Below this largest Jacobian singular value neither signals nor gradients get through."""

STABLE = 38.0
"""2 (1 + β)/η: above this sharpness steps of length η = 0.1 with momentum β = 0.9 climb, where they should descend."""


@dataclass(frozen=True)
class Evidence:
    """What the verdict rests on, at the weights with which training starts.

    Attributes:
        outputs: number of logits.
        reached: how many of them a path from the input leads to.
        collapsed: the layers that have no weight left, by name, with commas between.
        seen: share of the input's variance, over examples, at inputs that a path leads from.
        signal: the largest singular value of the input-output Jacobian.
        sharpness: ĝᵀ H ĝ, curvature of the loss along its gradient, over the kept weights.
    """

    outputs: int
    reached: int
    collapsed: str
    seen: float
    signal: float
    sharpness: float


@dataclass(frozen=True)
class Verdict:
    """Will it train?

    Attributes:
        trains: `Will train`, `Trains poorly` or `Will not train`.
        reason: what was measured that says so.
        remedy: what to change; empty where nothing need be.
    """

    trains: str
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.trains}: {self.reason}." + (f" {self.remedy}." if self.remedy else "")


def judge(evidence: Evidence) -> Verdict:
    """Whether 2,000 steps of the default optimizer (SGD, 0.1, momentum 0.9, batches of 100) will train the network.

    The first of these rules that holds decides, in the order of the damage. `docs/diagnosis.md` has the runs that the
    thresholds were chosen on, and those that they were checked on.

    1. No output is reached by a path: will not train.
    2. `signal` below SILENT: will not train, because gradients vanish.
    3. Some outputs are not reached: trains poorly, as it cannot tell these classes apart.
    4. `sharpness` above STABLE: trains poorly, because steps overshoot.
    5. `seen` below UNSEEN: trains poorly, because it is blind to most of the input.
    6. Otherwise it will train.
    """
    e = evidence
    if e.reached == 0:
        cause = f"{e.collapsed} lost every weight" if e.collapsed else "every path breaks off, though no layer is empty"
        return Verdict(
            "Will not train",
            f"the output is cut off from the input, because {cause}",
            "Lower the sparsity, compare scores layer by layer (scope layerwise), or keep the layer dense (exclude)",
        )
    if not e.signal >= SILENT:
        return Verdict(
            "Will not train",
            f"signals shrink on their way, the strongest to {e.signal:.1g} of its size, and gradients with them",
            "Correct the pruned network (ApproximateIsometry), or start from larger weights",
        )
    if e.reached < e.outputs:
        return Verdict(
            "Trains poorly",
            f"only {e.reached} of {e.outputs} outputs are reached from the input, and the other classes are guessed",
            "Lower the sparsity, compare scores layer by layer (scope layerwise), or keep the last layer (exclude)",
        )
    if not e.sharpness <= STABLE:
        return Verdict(
            "Trains poorly",
            f"the loss is too sharp, {e.sharpness:.3g} along its gradient, for steps of 0.1 with momentum 0.9",
            f"Lower the learning rate below {0.1 * STABLE / e.sharpness:.1g}, start from smaller weights, or correct "
            "the pruned network (ApproximateIsometry)",
        )
    if e.seen < UNSEEN:
        return Verdict(
            "Trains poorly",
            f"it sees {e.seen:.0%} of the variance of its input, since the rest lost every weight into the network",
            "Lower the sparsity, score with data (ConnectionSensitivity), or compare layer by layer (scope layerwise)",
        )
    return Verdict(
        "Will train",
        f"every output is reached, {e.seen:.0%} of the input's variance is seen, and signals arrive at "
        f"{e.signal:.2g} of their size",
    )
