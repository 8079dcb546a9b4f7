"""The verdict: a few measured quantities, a threshold for each, and a remedy if a threshold is missed."""

from dataclasses import dataclass
from math import log
from typing import Literal

SILENT = 8e-4
"""The largest Jacobian singular value below which signals hardly arrive."""

FAINT = 0.1
"""The largest Jacobian singular value below which training sets in late, so that the trial says nothing."""

STUCK = 0.65
"""The share of the loss of guessing, ln C, above which the trial has failed."""

UNSEEN = 0.15
"""The share of the input's variance below which the network sees too little of its input."""

WHOLE = 0.97
"""The same for a linear network, which reaches 92 % at best and has nothing to lose."""

SMALL = 250.0
"""The number of weights on paths per output below which the network is too small."""

TRAINED = 0.9
"""The share of right answers from which a network counts as trained."""


@dataclass(frozen=True)
class Evidence:
    """The quantities that the verdict rests on, measured at the weights with which training starts.

    Attributes:
        outputs: the number of logits.
        reached: the number of logits that a path from the input leads to.
        collapsed: the names of the layers that have lost every weight, separated by commas.
        limit: the sparsity from which the first of these layers is empty; None if it is not known.
        seen: the share of the input's variance, over examples, at inputs that a path leads from.
        signal: the largest singular value of the input-output Jacobian.
        trial: the loss, in nats, that a copy of the network reaches in a hundred steps.
        linear: whether the network is a linear classifier: its output is an affine function of its input.
        size: the number of weights on input-output paths, per output.
        accuracy: the share of examples that the network already answers right.

    Example:
        >>> from spl.diagnosis import Evidence, judge
        >>> network = {"outputs": 10, "reached": 4, "collapsed": "", "limit": None, "linear": False, "size": 900.0}
        >>> measured = {"seen": 0.9, "signal": 1.0, "trial": 0.5, "accuracy": 0.1}
        >>> judge(Evidence(**network, **measured)).reason
        'only 4 of 10 outputs are reached from the input, and the other classes are guessed'
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
    """The answer to whether a network will train, with its reason and a remedy.

    Attributes:
        answer: `Will train`, `Trains poorly` or `Will not train`.
        reason: the measurement that the answer follows from.
        remedy: what to change; empty if nothing needs to be changed.

    Example:
        >>> from spl.diagnosis import Verdict
        >>> verdict = Verdict("Will not train", "fc2 lost every weight", "Lower the sparsity")
        >>> print(verdict)
        Will not train: fc2 lost every weight. Lower the sparsity.
    """

    answer: Literal["Will train", "Trains poorly", "Will not train"]
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.answer}: {self.reason}." + (f" {self.remedy}." if self.remedy else "")


def judge(evidence: Evidence) -> Verdict:
    """Judge whether 2,000 steps of the default optimizer (SGD, 0.1, momentum 0.9, batches of 100) train the network.

    The first of these rules that holds decides; they are in the order of the damage. `docs/diagnosis.md` has the runs
    on which the thresholds were chosen, and the runs on which they were checked.

    1. `accuracy` is at least TRAINED: will train, as it already has.
    2. No path reaches an output: will not train.
    3. `signal` is below SILENT: will not train, because signals and gradients vanish.
    4. Two outputs or more are not reached: trains poorly, because it cannot tell these classes apart. One output may
       be constant: the others rise above it, or not.
    5. `seen` is below UNSEEN, or below WHOLE and the network is `linear`: trains poorly, because it is blind to too
       much of the input.
    6. `size` is below SMALL: trains poorly, because too little of the network is left.
    7. `trial` is above STUCK · ln `outputs`, and `signal` is not below FAINT: trains poorly, because steps overshoot.
    8. Otherwise it will train.

    Example:
        >>> from dataclasses import replace
        >>> from spl.diagnosis import Evidence, judge
        >>> network = {"outputs": 10, "reached": 10, "collapsed": "", "limit": None, "linear": False, "size": 900.0}
        >>> evidence = Evidence(**network, seen=1.0, signal=1.0, trial=0.5, accuracy=0.1)
        >>> judge(evidence).answer
        'Will train'
        >>> judge(replace(evidence, signal=1e-5)).answer
        'Will not train'
        >>> judge(replace(evidence, size=100.0)).answer
        'Trains poorly'
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
