"""Patterns: which weights are kept or pruned together. Other packages call this the sparsity type or structure.

The first dimension of a weight counts as its outputs and the second as its inputs, also for transposed convolutions,
whose weights have them the other way round.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from spl.errors import InputError
from spl.pruning.groups import Groups as Groups
from spl.pruning.pattern import Pattern, Shape
from spl.pruning.tiles import LARGEST_TILE, best_tile_masks


class Unstructured(Pattern):
    """Single weights.

    Example:
        >>> Unstructured().units((10, 784))
        7840
    """

    def pooled(self, scores: Tensor) -> Tensor:
        """Return the scores."""
        return scores

    def spread(self, units: Tensor, shape: Shape) -> Tensor:
        """Return the units: they are the mask."""
        return units

    def units(self, shape: Shape) -> int:
        """Return the number of weights."""
        return math.prod(shape)


class NM(Unstructured):
    """N:M sparsity: of every m consecutive weights along the input dimension, the n of the largest scores are kept.

    In a convolution these are m consecutive input channels, for each position in the kernel. Sparse tensor cores run
    2:4. Every layer has the sparsity 1 − n/m, so the scope matters only in the early rounds of a schedule: at least n
    of every m weights are kept there, and the scope decides about the others.

    Args:
        n: how many weights of a group are kept.
        m: how many weights a group has.

    Example:
        >>> from spl.pruning import select
        >>> select({"fc1": torch.tensor([[1.0, 4.0, 3.0, 2.0]])}, sparsity=0.5, pattern=NM(n=2, m=4))["fc1"]
        tensor([[False,  True,  True, False]])
    """

    def __init__(self, n: int = 2, m: int = 4) -> None:
        if not 1 <= n <= m:
            raise InputError(f"n must lie in [1, m], got n = {n} and m = {m}.")
        self.n = n
        self.m = m

    def check(self, shapes: Mapping[str, Shape], keep: int) -> None:
        """Raise an `InputError` unless input dimensions are multiples of m and the density is n/m."""
        for name, shape in shapes.items():
            if len(shape) == 1:
                raise self._indivisible(name, "no input dimension")
            if shape[1] % self.m:
                raise self._indivisible(name, f"an input dimension of {shape[1]}")
        if keep != sum(self.least(shape) for shape in shapes.values()):
            size = sum(math.prod(shape) for shape in shapes.values())
            raise InputError(
                f"{self.n}:{self.m} keeps {self.n} of every {self.m} weights, which is sparsity "
                f"{1 - self.n / self.m:.12g}, but {1 - keep / size:.6g} is asked for: set sparsity to "
                f"{1 - self.n / self.m:.12g}."
            )

    def least(self, shape: Shape) -> int:
        """Return n of every m."""
        return math.prod(shape) // self.m * self.n

    def first(self, scores: Tensor) -> Tensor | None:
        """Return the n weights of the largest scores of every m; of equal scores the earlier."""
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
    """N:M sparsity along both dimensions: n weights in each row and each column of every m×m tile are kept.

    The backward pass multiplies by the transpose of the weight, so sparse tensor cores can run it as well (Hubara et
    al. 2021, 2102.08124). Of all such masks of a tile, of which there are 90 at 2:4, the one with the largest sum of
    scores is taken. A convolution has tiles for each position in its kernel.

    Args:
        n: how many weights of each row and column of a tile are kept.
        m: the side of a tile, at most 4.

    Example:
        >>> mask = TransposableNM(n=2, m=4).first(torch.rand(4, 4))
        >>> mask.sum(0).tolist(), mask.sum(1).tolist()
        ([2, 2, 2, 2], [2, 2, 2, 2])
    """

    def __init__(self, n: int = 2, m: int = 4) -> None:
        super().__init__(n, m)
        if m > LARGEST_TILE:
            raise InputError(f"m must be at most {LARGEST_TILE}, as all masks of a tile are compared, got {m}.")

    def check(self, shapes: Mapping[str, Shape], keep: int) -> None:
        """Raise an `InputError` unless output dimensions are multiples of m as well."""
        super().check(shapes, keep)
        for name, shape in shapes.items():
            if shape[0] % self.m:
                raise self._indivisible(name, f"an output dimension of {shape[0]}")

    def first(self, scores: Tensor) -> Tensor | None:
        """Return the weights that the best masks of the tiles keep."""
        return best_tile_masks(scores, self.n, self.m)


class Rectangles(Pattern):
    """Whole rectangles of the weight as a matrix [out, in·k]. Those at its right and lower edges may be smaller.

    A rectangle's score is the mean of its weights' scores, so that rectangles of all sizes compare. They are kept in
    the order of their scores as long as they fit into the number of weights asked for.
    """

    @abstractmethod
    def sides(self, shape: Shape) -> tuple[int, int]:
        """Return the numbers of rows and columns of a rectangle, for a weight of this shape."""

    def pooled(self, scores: Tensor) -> Tensor:
        """Return the mean score of each rectangle, in float64."""
        return self._sums(scores) / self.sizes(scores.shape).to(scores.device)

    def spread(self, units: Tensor, shape: Shape) -> Tensor:
        """Return the mask in which each unit fills its rectangle."""
        rows, columns = self.sides(shape)
        height, width = _matrix(shape)
        wide = units.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
        return wide[:height, :width].clone().reshape(shape)

    def units(self, shape: Shape) -> int:
        """Return the number of rectangles."""
        return math.prod(-(-side // step) for side, step in zip(_matrix(shape), self.sides(shape), strict=True))

    def sizes(self, shape: Shape) -> Tensor:
        """Return the number of weights in each rectangle."""
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
    """Whole blocks of rows × columns weights, smaller at the right and lower edges, by their mean scores.

    The number of weights asked for is met from below, and missed by less than the next block.

    Args:
        rows: the number of output units or channels of a block.
        columns: the number of consecutive inputs of a block; for a convolution, of input channels times kernel size.

    Example:
        >>> Blocks(rows=4, columns=4).units((10, 784))  # of the last row of blocks, each has two rows of weights
        588
    """

    def __init__(self, rows: int = 4, columns: int = 4) -> None:
        if rows < 1 or columns < 1:
            raise InputError(f"rows and columns must be at least 1, got {rows} and {columns}.")
        self.rows = rows
        self.columns = columns

    def sides(self, shape: Shape) -> tuple[int, int]:
        """Return the sides that were given."""
        return self.rows, self.columns


class Channels(Rectangles):
    """Whole output channels, or units of a linear layer (structured pruning), by their mean scores.

    A channel is a row of the weight. The number of weights asked for is met from below, and missed by less than the
    next channel. A unit whose row is pruned still adds its bias, if it has one. Exclude the layer whose outputs are
    the classes (`exclude: [fc7.*]`), or the network cannot tell some of them apart.

    Where several layers write into one stream (residual sums, gates, depthwise convolutions), nearly every channel of
    the stream stays alive in some layer. With `coupled` such channels are one: its score is the mean of those of all
    weights that write to it or read it, and if it is pruned, these are all pruned. The network is traced to find them.
    At least one channel of each stream stays, and so do the outputs of the network.

    A head of self-attention is one such channel: its rows of the queries, keys and values, and the columns that read
    it. Heads are found in `nn.MultiheadAttention` and where `F.scaled_dot_product_attention` follows one layer for all
    three, as in timm; both without masks. As a head has many more weights than a channel, the number of weights asked
    for may be missed by more. In other attention, each row of the projections is a channel by itself.

    Args:
        coupled: whether to prune channels that belong together as one.

    Example:
        >>> Channels().units((10, 784))
        10
    """

    def __init__(self, coupled: bool = False) -> None:
        self.coupled = coupled

    def sides(self, shape: Shape) -> tuple[int, int]:
        """Return the sides of one row."""
        return 1, _matrix(shape)[1]


def _matrix(shape: Shape) -> tuple[int, int]:
    """Return the shape [out, in·k] of a weight as a matrix; [out, 1] for a bias."""
    return shape[0], math.prod(shape[1:])
