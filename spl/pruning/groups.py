"""Patterns of one's own: any groups of weights that are kept or pruned as a whole."""

from abc import abstractmethod

import torch
from torch import Tensor

from spl.errors import InputError
from spl.pruning.pattern import Pattern, Shape


class Groups(Pattern):
    """Groups of weights that are kept or pruned as a whole, by their mean scores: a base for patterns of your own.

    The number of weights asked for is met from below, and missed by less than the next group.

    Example:
        >>> class Inputs(Groups):  # columns of the weight
        ...     def groups(self, shape):
        ...         return torch.arange(shape[1]).expand(shape)
        >>> from spl.pruning import select
        >>> scores = {"fc1.weight": torch.tensor([[1.0, 3.0, 4.0], [2.0, 0.0, 5.0]])}
        >>> select(scores, sparsity=0.5, pattern=Inputs())["fc1.weight"]
        tensor([[False, False,  True],
                [False, False,  True]])
    """

    @abstractmethod
    def groups(self, shape: Shape) -> Tensor:
        """Return the number of the group to which each weight belongs, a tensor of whole numbers in `shape`, from 0."""

    def pooled(self, scores: Tensor) -> Tensor:
        """Return the mean score of each group, in float64."""
        numbers, sizes = self._numbers(scores.shape)
        numbers, sizes = numbers.to(scores.device), sizes.to(scores.device)
        sums = torch.zeros(len(sizes), dtype=torch.float64, device=scores.device)
        return sums.index_add_(0, numbers, scores.detach().flatten().double()) / sizes

    def spread(self, units: Tensor, shape: Shape) -> Tensor:
        """Return the mask that keeps the weights of the kept groups."""
        return units[self._numbers(shape)[0].to(units.device)].view(shape)

    def units(self, shape: Shape) -> int:
        """Return the number of groups."""
        return len(self._numbers(shape)[1])

    def sizes(self, shape: Shape) -> Tensor:
        """Return the number of weights in each group."""
        return self._numbers(shape)[1]

    def _numbers(self, shape: Shape) -> tuple[Tensor, Tensor]:
        """Return the number of the group of each weight in a row, and the sizes of the groups.

        Raises:
            InputError: they are no numbers of groups, or a group is empty.
        """
        groups = self.groups(tuple(shape))
        whole = isinstance(groups, Tensor) and not groups.is_floating_point() and groups.shape == tuple(shape)
        numbers = groups.flatten().long() if whole else torch.empty(0)
        if not whole or bool((numbers < 0).any()) or bool((sizes := numbers.bincount()).eq(0).any()):
            found = f"{groups.dtype} {tuple(groups.shape)}" if isinstance(groups, Tensor) else type(groups).__name__
            raise InputError(
                f"{type(self).__name__}.groups returned {found} for weights of shape {tuple(shape)}: return whole "
                "numbers in that shape, from 0 and without gaps."
            )
        return numbers, sizes
