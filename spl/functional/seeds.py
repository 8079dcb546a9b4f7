"""The seeds at which the random streams of criteria and corrections begin."""

from copy import copy
from hashlib import sha256
from typing import Any, Self

import torch

from spl.errors import InputError


class Seeded:
    """An object that may draw from a random stream of its own, or hold such objects, as a control holds a criterion.

    Attributes:
        seed: where the stream of an object that draws begins; None to derive the seed from that of the run.

    Example:
        >>> from spl.functional.seeds import Seeded
        >>> class Noise(Seeded):
        ...     def __init__(self, seed=None):
        ...         self.seed = seed
        >>> Noise(seed=3).start, Noise().seeded(run_seed=1).seed == Noise().seeded(run_seed=1).seed
        (3, True)
    """

    seed: int | None

    def seeded(self, run_seed: int) -> Self:
        """Return the object with seeds derived from that of the run in place of None, also in the objects it holds.

        This is a copy, or the object itself if no seed is None.
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
        """The number at which the stream begins; without a seed, it is derived from that of torch's global stream.

        Raises:
            InputError: the object has no attribute `seed`.
        """
        seed: int | None = getattr(self.seeded(torch.initial_seed()), "seed", None)
        if seed is None:
            raise InputError(
                f"{type(self).__name__} draws random numbers and has no seed: set self.seed = None in __init__ to "
                "derive one from that of the run, or a number."
            )
        return seed


def derived_seed(run_seed: int, purpose: str) -> int:
    """Return a seed in [0, 2⁶³) for one purpose in a run, by SHA-256.

    A stream that began at the seed of the run itself would repeat the numbers from which the weights were drawn, so
    that a random mask would keep the largest weights.

    Args:
        run_seed: the seed of the run.
        purpose: a name for what draws, such as the name of its class.

    Example:
        >>> from spl.functional.seeds import derived_seed
        >>> derived_seed(1, "RandomScores") == derived_seed(1, "Shuffled")
        False
    """
    digest = sha256(f"{run_seed} {purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
