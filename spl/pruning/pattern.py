"""The base class of patterns."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

Shape = tuple[int, ...]


class Pattern(ABC):
    """The structure of the masks. Weights are [out, in, ...], biases [out].

    Attributes:
        coupled: whether channels that belong together in several layers are kept or pruned as one; see `Channels`.
    """

    coupled: bool = False

    def check(self, shapes: Mapping[str, Shape], keep: int) -> None:  # noqa: B027
        """Raise an `InputError` if weights of `shapes`, of which `keep` are kept, cannot have the pattern."""

    @abstractmethod
    def pooled(self, scores: Tensor) -> Tensor:
        """Return one score for each unit that is kept or pruned as a whole: the mean over its weights."""

    @abstractmethod
    def spread(self, units: Tensor, shape: Shape) -> Tensor:
        """Return the mask of the weights of `shape` that keeps the `units`."""

    @abstractmethod
    def units(self, shape: Shape) -> int:
        """Return the number of units."""

    def sizes(self, shape: Shape) -> Tensor | None:
        """Return how many weights each unit has, in the shape of the pooled scores; None if each has one."""
        return None

    def least(self, shape: Shape) -> int:
        """Return how many units are kept whatever the scores."""
        return 0

    def first(self, scores: Tensor) -> Tensor | None:
        """Return which units are kept before all others; None if there are none."""
        return None
