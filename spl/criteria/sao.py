"""SAO: regular masks that allow exactly orthogonal weights, without data."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spl.criteria.criterion import Criterion, Scores, Subject
from spl.criteria.layer_counts import order_by, ranked_scores, ranks_of, weights_per_layer, with_others
from spl.functional.layers import RECURRENT, gates
from spl.functional.self_attention import SelfAttention
from spl.functional.torch_private import ConvNd


class SAO(Criterion):
    """The masks of sparsity-aware orthogonal initialization (SAO): regular bipartite graphs of inputs and outputs.

    Esguerra et al. 2023 (IEEE Access, doi:10.1109/ACCESS.2023.3295344). Let a layer have n units on its smaller side
    and m on its larger side. Both sides are divided at random into g blocks. All pairs within a block are connected.
    So each unit of the smaller side has m/g connections (the degree), and each unit of the larger side n/g. The weights
    of a block can be orthogonal, and blocks share neither rows nor columns. So these masks allow exactly orthogonal
    weights wherever a layer keeps n weights or more, and `spl.isometry.SparseOrthogonal` draws them.

    g is the smallest number of blocks that have no more weights than are kept. Surplus weights connect other pairs,
    spread evenly, so that the number of kept weights is exact. If g does not divide n and m, degrees differ by 1. A
    connection of a convolution is a kernel, of which all taps are kept. If there are too few weights for n kernels,
    each kernel keeps fewer taps, the middle one first.

    Where the degree is a whole number that divides m, these are the masks of the authors' code. It defines no others.
    They call the graphs Ramanujan. But a layer of g blocks is not connected: g singular values of its adjacency matrix
    are √(nm)/g, and only the others, which are 0, are below the bound of Ramanujan graphs.

    Under the scope Global all layers have the same density, as in the paper. Other scopes take other numbers from the
    same order, which are less regular. Weights do not matter. The masks are drawn on the CPU from a random stream of
    their own, so they are equal on every rank and device. It needs no data.

    Args:
        seed: the seed of that stream; null for a number that the seed of the run decides.

    Example:
        >>> from torch import nn
        >>> from spl.criteria import SAO
        >>> from spl.pruning import prune
        >>> masks = prune(nn.Linear(12, 8), SAO(seed=0), sparsity=0.75)
        >>> masks["weight"].sum(dim=1), masks["weight"].sum(dim=0)
        (tensor([3, 3, 3, 3, 3, 3, 3, 3]), tensor([2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]))
    """

    needs_data = False

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def __call__(self, subject: Subject) -> Scores:
        """Return −(i + ½)/s for the weight that is kept as number i = 0, 1, … of a matrix of s weights."""
        generator = torch.Generator().manual_seed(self.start)
        matrices = {
            name: list(_matrices(subject.network, name, w)) for name, w in subject.weights.items() if w.ndim > 1
        }
        shapes = {f"{name} {i}": shape for name, found in matrices.items() for i, shape in enumerate(found)}
        sizes = {key: shape.outputs * shape.inputs * shape.taps for key, shape in shapes.items()}
        shares = {key: float(size) for key, size in sizes.items()}
        keep = weights_per_layer(shares, sizes, subject.keep)
        scores = ranked_scores(
            {key: block_ranks(*shape, keep[key], generator) for key, shape in shapes.items()}, shares
        )
        joined = {
            name: torch.cat([scores[f"{name} {i}"] for i in range(len(found))]).view(subject.weights[name].shape)
            for name, found in matrices.items()
        }
        return with_others(joined, subject.weights)


class _Matrix(NamedTuple):
    outputs: int
    inputs: int
    taps: int


def _matrices(network: nn.Module, name: str, weight: Tensor) -> Iterator[_Matrix]:
    """Yield the shapes of the matrices of which a weight consists, one below the other."""
    path, _, own = name.rpartition(".")
    layer = network.get_submodule(path)
    number = 1
    if isinstance(layer, ConvNd):
        number = layer.groups
    elif isinstance(layer, RECURRENT):
        number = gates(layer, own)
    elif isinstance(layer, nn.MultiheadAttention | SelfAttention) and own == "in_proj_weight":
        number = 3
    for _ in range(number):
        yield _Matrix(weight.shape[0] // number, weight.shape[1], weight[0, 0].numel())


def block_ranks(outputs: int, inputs: int, taps: int, keep: int, generator: torch.Generator) -> Tensor:
    """Return the place of each weight in the order in which a layer keeps them; the first `keep` are the mask of `SAO`.

    Fewer of them keep a weight for each unit of the smaller side as long as they can.

    Args:
        outputs: the number of outputs.
        inputs: the number of inputs.
        taps: the number of weights in a kernel; 1 for a matrix.
        keep: the number of weights that the layer keeps.
        generator: a random generator on the CPU.

    Returns:
        Tensor [outputs, inputs, taps] of whole numbers from 0.

    Example:
        >>> import torch
        >>> from spl.criteria.sao import block_ranks
        >>> (block_ranks(4, 4, taps=1, keep=8, generator=torch.Generator().manual_seed(0))[:, :, 0] < 8).int()
        tensor([[0, 0, 1, 1],
                [1, 1, 0, 0],
                [1, 1, 0, 0],
                [0, 0, 1, 1]], dtype=torch.int32)
    """
    n, m = sorted((outputs, inputs))
    whole = max(1, min(taps, keep // n))  # the taps of each kernel
    rows, columns = _blocks(n, m, keep // whole)
    row, place = torch.arange(n)[:, None], torch.arange(m)
    in_block = row - torch.searchsorted(rows, rows)[:, None], place - torch.searchsorted(columns, columns)
    width = torch.bincount(columns)[rows][:, None]
    tap = _middle_first(taps)
    # each turn gives every row one pair: first a pair within its block, then another one
    turn = ((in_block[1] - in_block[0]) % width)[:, :, None]
    inside = ((tap >= whole) * taps + tap) * m * n + turn * n + row[:, :, None]
    turn = torch.randperm(m, generator=generator)[(place - row) % m][:, :, None]
    outside = (turn * n + row[:, :, None]) * taps + tap + 2 * taps * m * n
    order = torch.where((rows[:, None] == columns)[:, :, None], inside, outside).flatten().argsort()
    shuffle_rows, shuffle_columns = (torch.randperm(side, generator=generator) for side in (n, m))
    ranks = ranks_of(order, (n, m, taps))[shuffle_rows][:, shuffle_columns]
    return ranks if outputs <= inputs else ranks.transpose(0, 1)


def _middle_first(taps: int) -> Tensor:
    """Return the order of the taps of a kernel, the middle one first."""
    middle = (taps - 1) // 2
    return ranks_of(order_by((torch.arange(taps) - middle).abs()), (taps,))


def _blocks(n: int, m: int, connections: int) -> tuple[Tensor, Tensor]:
    """Return the block of each row and each column, in ascending order, for at most so many connections, if possible.

    With fewer connections than columns, each row is a block.
    """
    g = torch.arange(1, n + 1)
    (rows, more_rows), (columns, more_columns) = ((side // g, side % g) for side in (n, m))
    both = torch.minimum(more_rows, more_columns)
    size = g * rows * columns + more_rows * columns + more_columns * rows + both
    fitting = (size <= connections).nonzero()
    blocks = int(g[fitting[0]]) if len(fitting) else n
    return _in_blocks(n, blocks), _in_blocks(m, blocks)


def _in_blocks(side: int, blocks: int) -> Tensor:
    """Return the block of each of `side` units: blocks of equal sizes, the first ones larger by 1 if they must."""
    sizes = torch.full((blocks,), side // blocks)
    sizes[: side % blocks] += 1
    return torch.arange(blocks).repeat_interleave(sizes)
