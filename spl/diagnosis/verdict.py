"""The verdict: a few measured quantities, a threshold for each, and what to change where one is missed."""

from dataclasses import dataclass
from math import log
from typing import Literal

SILENT = 8e-4
"""Below this largest Jacobian singular value signals hardly arrive."""

FAINT = 0.1
"""Below this largest Jacobian singular value training sets in late, and the trial says nothing."""

STUCK = 0.65
"""Above this share of the loss of guessing, ln C, the trial has failed."""

UNSEEN = 0.15
"""Below this share of the input's variance the network sees too little of it."""

WHOLE = 0.97
"""Below this share a linear network does: it reaches 92 % at best, and has nothing to lose."""

SMALL = 250.0
"""Below this number of weights on paths per output the network is too small."""

TRAINED = 0.9
"""From this share of right answers a network counts as trained."""


@dataclass(frozen=True)
class Evidence:
    """What the verdict rests on, at the weights with which training starts.

    Attributes:
        outputs: number of logits.
        reached: how many of them a path from the input leads to.
        collapsed: the layers that have no weight left, by name, with commas between.
        limit: the sparsity from which the first of them is empty; None where it is not known.
        seen: share of the input's variance, over examples, at inputs that a path leads from.
        signal: the largest singular value of the input-output Jacobian.
        trial: the loss, in nats, that a copy of the network comes to in a hundred steps.
        linear: whether it is a linear classifier, its output an affine function of its input.
        size: number of weights on input-output paths, per output.
        accuracy: share of examples that are answered right already.
    """

    outputs: int
    reached: int
    collapsed: str
    limit: float | None
    seen: float
    signal: float
    trial: float
    linear: bool
    size: float
    accuracy: float


@dataclass(frozen=True)
class Verdict:
    """Will it train?

    Attributes:
        answer: `Will train`, `Trains poorly` or `Will not train`.
        reason: what was measured that says so.
        remedy: what to change; empty where nothing need be.
    """

    answer: Literal["Will train", "Trains poorly", "Will not train"]
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.answer}: {self.reason}." + (f" {self.remedy}." if self.remedy else "")


def judge(evidence: Evidence) -> Verdict:
    """Whether 2,000 steps of the default optimizer (SGD, 0.1, momentum 0.9, batches of 100) will train the network.

    The first of these rules that holds decides, in the order of the damage. `docs/diagnosis.md` has the runs that the
    thresholds were chosen on, and those that they were checked on.

    1. `accuracy` from TRAINED on: it has trained already.
    2. No output is reached by a path: will not train.
    3. `signal` below SILENT: will not train, because signals and gradients vanish.
    4. Two outputs or more are not reached: trains poorly, as it cannot tell these classes apart. One may be constant:
       the others rise above it, or not.
    5. `seen` below UNSEEN, or below WHOLE where it is `linear`: trains poorly, because it is blind to too much of the
       input.
    6. `size` below SMALL: trains poorly, because too little is left of it.
    7. `trial` above STUCK · ln `outputs`, and `signal` not below FAINT: trains poorly, because steps overshoot.
    8. Otherwise it will train.
    """
    e = evidence
    sparsity = "Lower the sparsity" + (f" below {e.limit:.4g}" if e.limit else "")
    layers = "give every layer its share (scope Uniform, or a minimum)"
    if e.accuracy >= TRAINED:
        return Verdict("Will train", f"it has already, and answers {e.accuracy:.0%} of the examples right")
    if e.reached == 0:
        cause = f"{e.collapsed} lost every weight" if e.collapsed else "all paths break off, though no layer is empty"
        return Verdict(
            "Will not train",
            f"the output is cut off from the input, because {cause}",
            f"{sparsity}, {layers}, or score by SynFlow, which keeps paths",
        )
    if not e.signal >= SILENT:
        return Verdict(
            "Will not train",
            f"signals shrink on their way, the strongest to {e.signal:.1g} of its size",
            "Bring layers to isometry (ApproximateIsometry), or start from larger weights",
        )
    if e.reached < e.outputs - 1:
        return Verdict(
            "Trains poorly",
            f"only {e.reached} of {e.outputs} outputs are reached from the input, and the other classes are guessed",
            f"{sparsity}, {layers}, or keep the last layer dense (exclude)",
        )
    if e.seen < UNSEEN:
        return Verdict(
            "Trains poorly",
            f"it sees {e.seen:.0%} of the variance of its input, since the rest lost every weight into the network",
            f"{sparsity}, score with data (ConnectionSensitivity), or {layers}",
        )
    if e.linear and e.seen < WHOLE:
        return Verdict(
            "Trains poorly",
            f"it is a linear classifier, which needs all of its input, and sees {e.seen:.0%} of the variance",
            f"Let it have activations, or {layers}",
        )
    if e.size < SMALL:
        return Verdict(
            "Trains poorly",
            f"only {e.size:.0f} weights for each output lie on a path through the network",
            f"{sparsity}, or prune a larger network to as many weights",
        )
    if e.signal >= FAINT and not e.trial <= STUCK * log(e.outputs):
        return Verdict(
            "Trains poorly",
            f"steps of 0.1 with momentum 0.9 overshoot: after a hundred, a copy of it has a loss of {e.trial:.3g}, and "
            f"guessing one of {log(e.outputs):.3g}",
            "Lower the learning rate, start from smaller weights, or bring the layers to isometry "
            "(ApproximateIsometry)",
        )
    return Verdict(
        "Will train",
        f"{e.reached} of {e.outputs} outputs are reached, {e.seen:.0%} of the input's variance is seen, signals arrive "
        f"at {e.signal:.2g} of their size, and {e.size:.0f} weights for each output lie on paths",
    )
