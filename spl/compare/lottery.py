"""Lottery tickets: rounds of training, pruning by trained magnitude and rewinding, each round an ordinary run."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spl.reproduction.run import TRAINED_MAGNITUDE, Run

_PRUNED_IN_A_ROUND = 0.2  # of the weights that are left, as in Frankle & Carbin 2019
_LATE = 0.01  # the share of the iterations after which late rewinding finds its weights
_OTHER_SEEDS = 10_000  # what the control that is initialized anew adds to its seed


@dataclass(frozen=True)
class Rewinding:
    """What the kept weights are in a round, and how its last round differs from the others.

    Attributes:
        description: what it is, in words.
        start: the values that the kept weights begin with: those of initialization (`init`), those after the first
            hundredth of dense training (`early`), or the trained ones (`trained`).
        shuffled: whether the last masks are shuffled within their layers.
        reinitialized: whether the last round draws its weights, and the order of its data, with another seed.
    """

    description: str
    start: str = "init"
    shuffled: bool = False
    reinitialized: bool = False


REWINDING = {
    "LTH": Rewinding("lottery tickets, rewound to initialization"),
    "LTH-late": Rewinding("lottery tickets, rewound to the weights after 1 % of the iterations", "early"),
    "LRR": Rewinding("learning rate rewinding: the weights stay, the schedule begins again", "trained"),
    "LTH-shuffled": Rewinding("lottery tickets whose last masks are shuffled within their layers", shuffled=True),
    "LTH-reinit": Rewinding("lottery tickets whose last weights are drawn anew", reinitialized=True),
}
"""The methods of iterative magnitude pruning, by their names."""


def sparsities_before(sparsity: float) -> Sequence[float]:
    """Return the sparsities of the rounds before the one that reaches `sparsity`: each prunes a fifth of what is left.

    Example:
        >>> from spl.compare.lottery import sparsities_before
        >>> [round(s, 4) for s in sparsities_before(0.5)]
        [0.2, 0.36, 0.488]
    """
    sparsities: list[float] = []
    kept = 1 - _PRUNED_IN_A_ROUND
    while 1 - kept < sparsity - 1e-9:
        sparsities.append(1 - kept)
        kept *= 1 - _PRUNED_IN_A_ROUND
    return sparsities


@dataclass(frozen=True)
class Tickets:
    """The runs that lead to lottery tickets of one network and one seed.

    Attributes:
        rewinding: the method.
        dense: the run of the dense network, which is the first round.
        pruned: the configuration of a pruned network, without its criterion and its sparsity.
        name: the first part of the names of the last round's runs. Rounds before it are shared with the methods that
            differ in the last round alone, so their names are without `-shuffled` and `-reinit`.
    """

    rewinding: Rewinding
    dense: Run
    pruned: dict[str, Any]
    name: str

    def run(self, sparsity: float) -> Run:
        """Return the run whose network has `sparsity`; the rounds before it are runs that it needs."""
        before = self.dense
        for earlier in sparsities_before(sparsity):
            before = self._round(before, earlier, is_last=False)
        return self._round(before, sparsity, is_last=True)

    def _round(self, before: Run, sparsity: float, is_last: bool) -> Run:
        """Return the run that begins with the weights that the last run has left, at a larger sparsity."""
        criterion: dict[str, Any] = {"class_path": TRAINED_MAGNITUDE}
        seed = self.pruned["seed_everything"]
        label = self.name if is_last else re.sub("-(shuffled|reinit)", "", self.name)
        name = f"{label}_{100 * sparsity:.6g}_seed{seed}"
        if is_last and self.rewinding.shuffled:
            criterion = {"class_path": "spl.criteria.ShuffledInLayers", "init_args": {"criterion": criterion}}
        if is_last and self.rewinding.reinitialized:
            seed += _OTHER_SEEDS
        pruning = self.pruned["pruning"] | {"sparsity": sparsity, "criterion": criterion, "isometry": None}
        config = self.pruned | {"seed_everything": seed, "pruning": pruning}
        return Run(name, config, self._start(before), self.dense.group, scored=before)

    def _start(self, before: Run) -> Run | None:
        """Return the run whose weights a round begins with; None for initialization."""
        if self.rewinding.start == "trained":
            return before
        if self.rewinding.start == "early":
            steps = max(1, round(_LATE * self.dense.steps))
            config = dict(self.dense.config)
            config["trainer"] = config["trainer"] | {"max_steps": steps}
            return Run(f"{self.dense.name}_{steps}-steps", config, group=self.dense.group)
        return None
