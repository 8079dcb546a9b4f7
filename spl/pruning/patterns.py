"""Patterns: which weights are kept or pruned together.

The first dimension of a weight counts as its outputs, the second as its inputs; of a transposed convolution, whose
weight has them the other way round, too.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from spl.errors import InputError

Shape = tuple[int, ...]


class Pattern(ABC):
    """The form of the masks. Weights are [out, in, ...], biases [out]."""

    def check(self, shapes: Mapping[str, Shape], keep: int) -> None:  # noqa: B027 (most have nothing to refuse)
        """Raise an `InputError` where weights of `shapes` cannot have the pattern, or cannot with `keep` kept."""

    @abstractmethod
    def pooled(self, scores: Tensor) -> Tensor:
        """One score for each unit that is kept or pruned as a whole, on average over its weights."""

    @abstractmethod
    def spread(self, units: Tensor, shape: Shape) -> Tensor:
        """The mask of weights that has the `units`."""

    @abstractmethod
    def units(self, shape: Shape) -> int:
        """Their number."""

    def sizes(self, shape: Shape) -> Tensor | None:
        """How many weights each unit has, in the shape of the pooled scores; None where it is one."""
        return None

    def least(self, shape: Shape) -> int:
        """How many units are kept whatever the scores."""
        return 0

    def first(self, scores: Tensor) -> Tensor | None:
        """Which units are kept before all others; None where there are none."""
        return None


class Unstructured(Pattern):
    """Each weight by itself."""

    def pooled(self, scores: Tensor) -> Tensor:
        """The scores."""
        return scores

    def spread(self, units: Tensor, shape: Shape) -> Tensor:
        """The same mask."""
        return units

    def units(self, shape: Shape) -> int:
        """The number of weights."""
        return math.prod(shape)


class NM(Unstructured):
    """N:M: of every m consecutive weights along the input dimension, exactly the n of the largest scores are kept.

    Of a convolution these are m consecutive input channels, tap by tap. 2:4 is what sparse tensor cores run. The
    sparsity must be 1 − n/m, and every layer has it, so the scope matters only in the early rounds of a schedule: at
    least n of each m are kept there, and the others are chosen as the scope has it.

    Args:
        n: how many are kept.
        m: of how many.
    """

    def __init__(self, n: int = 2, m: int = 4) -> None:
        if not 1 <= n <= m:
            raise InputError(f"n must lie in [1, m], got n = {n} and m = {m}.")
        self.n = n
        self.m = m

    def check(self, shapes: Mapping[str, Shape], keep: int) -> None:
        """Input dimensions must be multiples of m, and the density n/m."""
        for name, shape in shapes.items():
            width = shape[1] if len(shape) > 1 else None
            if width is None or width % self.m:
                raise self._indivisible(
                    name, "no input dimension" if width is None else f"an input dimension of {width}"
                )
        if keep != sum(self.least(shape) for shape in shapes.values()):
            size = sum(math.prod(shape) for shape in shapes.values())
            raise InputError(
                f"{self.n}:{self.m} keeps {self.n} of every {self.m} weights, which is sparsity "
                f"{1 - self.n / self.m:.12g}, but {1 - keep / size:.6g} is asked for: set sparsity to "
                f"{1 - self.n / self.m:.12g}."
            )

    def least(self, shape: Shape) -> int:
        """n of every m."""
        return math.prod(shape) // self.m * self.n

    def first(self, scores: Tensor) -> Tensor | None:
        """The n largest of every m, of equal ones the earlier."""
        last = scores.movedim(1, -1)
        groups = last.reshape(*last.shape[:-1], -1, self.m)
        order = groups.argsort(dim=-1, descending=True, stable=True)[..., : self.n]
        kept = torch.zeros(groups.shape, dtype=torch.bool, device=scores.device).scatter_(-1, order, True)
        return kept.flatten(-2).movedim(-1, 1).contiguous()

    def _indivisible(self, name: str, what: str) -> InputError:
        return InputError(
            f"{name} has {what}, which {self.n}:{self.m} cannot divide into groups of {self.m}: exclude it, "
            f"exclude: [{name}]."
        )


class TransposableNM(NM):
    """N:M along the output dimension too: of every m×m tile of outputs and inputs, n in each row and each column.

    The backward pass multiplies by the transpose of the weight, so that sparse tensor cores run it as well (Hubara et
    al. 2021, 2102.08124). Of all such masks of a tile, 90 at 2:4, the one of the largest sum of scores is taken; of a
    convolution tap by tap.

    Args:
        n: how many are kept.
        m: of how many, at most 4.
    """

    def __init__(self, n: int = 2, m: int = 4) -> None:
        super().__init__(n, m)
        if m > _LARGEST_TILE:
            raise InputError(f"m must be at most {_LARGEST_TILE}, as all masks of a tile are compared, got {m}.")

    def check(self, shapes: Mapping[str, Shape], keep: int) -> None:
        """Output dimensions must be multiples of m as well."""
        super().check(shapes, keep)
        for name, shape in shapes.items():
            if shape[0] % self.m:
                raise self._indivisible(name, f"an output dimension of {shape[0]}")

    def first(self, scores: Tensor) -> Tensor | None:
        """The best masks of the tiles, of equal ones an arbitrary one; none with a score of -∞ where others do."""
        last = scores.detach().double().movedim((0, 1), (-2, -1))
        *taps, rows, columns = last.shape
        tiles = last.reshape(*taps, rows // self.m, self.m, columns // self.m, self.m).transpose(-3, -2)
        masks = _tile_masks(self.n, self.m).to(scores.device)
        best = torch.cat([_best_masks(some, masks) for some in torch.split(tiles.reshape(-1, self.m**2), _TILES)])
        kept = masks[best].view(tiles.shape).transpose(-3, -2).reshape(last.shape)
        return kept.bool().movedim((-2, -1), (0, 1)).contiguous()


_LARGEST_TILE = 4
_TILES = 1 << 16  # at a time, for 90 masks of each take 47 MB


def _tile_masks(n: int, m: int) -> Tensor:
    """All m×m matrices of 0 and 1 with n ones in each row and each column, [masks, m²], in float64."""
    rows = [row for row in product((0.0, 1.0), repeat=m) if sum(row) == n]
    found = [mask for mask in product(rows, repeat=m) if all(sum(column) == n for column in zip(*mask, strict=True))]
    return torch.tensor(found, dtype=torch.float64).flatten(1)


def _best_masks(tiles: Tensor, masks: Tensor) -> Tensor:
    """Of each tile [tiles, m²] the index of the mask that keeps the largest sum."""
    dead = tiles.isneginf()
    sums = tiles.masked_fill(dead, 0.0) @ masks.T
    return sums.masked_fill_(dead.double() @ masks.T > 0, -math.inf).argmax(1)


class Rectangles(Pattern):
    """Whole rectangles of the weight as a matrix [out, in·k]; those at its right and lower edges may be smaller.

    A rectangle's score is the mean of its weights' scores, so that rectangles of all sizes compare. They are kept
    whole, in order of score, while they fit into the number of weights asked for: that number is met from below, and
    missed by less than the next rectangle.
    """

    @abstractmethod
    def sides(self, shape: Shape) -> tuple[int, int]:
        """Rows and columns of a rectangle of a weight of this shape."""

    def pooled(self, scores: Tensor) -> Tensor:
        """Means, in float64."""
        return self._sums(scores) / self.sizes(scores.shape).to(scores.device)

    def spread(self, units: Tensor, shape: Shape) -> Tensor:
        """Each unit as a rectangle."""
        rows, columns = self.sides(shape)
        height, width = _matrix(shape)
        wide = units.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
        return wide[:height, :width].clone().reshape(shape)

    def units(self, shape: Shape) -> int:
        """The number of rectangles."""
        return math.prod(-(-side // step) for side, step in zip(_matrix(shape), self.sides(shape), strict=True))

    def sizes(self, shape: Shape) -> Tensor:
        """The number of weights in each rectangle."""
        height, width = (
            torch.tensor([min(step, side - i) for i in range(0, side, step)])
            for side, step in zip(_matrix(shape), self.sides(shape), strict=True)
        )
        return height[:, None] * width

    def _sums(self, values: Tensor) -> Tensor:
        rows, columns = self.sides(values.shape)
        height, width = _matrix(values.shape)
        padded = F.pad(values.detach().reshape(height, width), (0, -width % columns, 0, -height % rows))
        down, across = len(padded) // rows, padded.shape[1] // columns
        return padded.view(down, rows, across, columns).sum((1, 3), dtype=torch.float64)


class Blocks(Rectangles):
    """Whole blocks of rows × columns weights, smaller at the right and lower edges; the best by their mean score.

    The number of weights asked for is met from below, and missed by less than the next block.

    Args:
        rows: output units or channels of a block.
        columns: consecutive inputs of a block; of a convolution, input channels times taps.
    """

    def __init__(self, rows: int = 4, columns: int = 4) -> None:
        if rows < 1 or columns < 1:
            raise InputError(f"rows and columns must be at least 1, got {rows} and {columns}.")
        self.rows = rows
        self.columns = columns

    def sides(self, shape: Shape) -> tuple[int, int]:
        """As given."""
        return self.rows, self.columns


class Channels(Rectangles):
    """Whole output channels, or units of a linear layer: the rows of the weight; the best by their mean score.

    The number of weights asked for is met from below, and missed by less than the next channel. Without a row of its
    weight a unit still adds its bias, if it has one. Exclude the layer whose outputs are the classes (`exclude:
    [fc7.*]`), or the network cannot tell some of them apart.
    """

    def sides(self, shape: Shape) -> tuple[int, int]:
        """One row."""
        return 1, _matrix(shape)[1]


def _matrix(shape: Shape) -> tuple[int, int]:
    """[out, in·k]; of a bias [out, 1]."""
    return shape[0], math.prod(shape[1:])
