"""Seeds: where the random streams of criteria and corrections begin."""

from copy import copy
from hashlib import sha256
from typing import Any, Self

import torch


class Seeded:
    """What may draw from a random stream of its own, or hold others that do, as a control holds its criterion.

    Attributes:
        seed: of what draws, where its stream begins; None for a number that the seed of the run decides.
    """

    seed: int | None

    def seeded(self, run_seed: int) -> Self:
        """Return it as it draws in a run of this seed: with numbers for the seeds that are None, its own and theirs.

        That is a copy, or itself where no seed is None.
        """
        held = vars(self)
        decided: dict[str, Any] = {n: v.seeded(run_seed) for n, v in held.items() if isinstance(v, Seeded)}
        if held.get("seed", 0) is None:
            decided["seed"] = derived_seed(run_seed, type(self).__name__)
        if all(held[name] is value for name, value in decided.items()):
            return self
        twin = copy(self)
        vars(twin).update(decided)
        return twin

    @property
    def start(self) -> int:
        """Where the stream begins; of what nobody has given a seed, as in a run that torch's global stream began."""
        seed = self.seeded(torch.initial_seed()).seed
        assert seed is not None
        return seed


def derived_seed(run_seed: int, purpose: str) -> int:
    """Return a seed in [0, 2⁶³) for one purpose in a run, by SHA-256.

    A stream that began at the seed of the run itself would repeat the very numbers from which the weights were drawn:
    a random mask would keep the largest of them.
    """
    digest = sha256(f"{run_seed} {purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
