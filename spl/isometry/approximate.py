"""Approximate isometry: the kept weights of a layer at the least residual that its mask admits."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor
from tqdm import tqdm

from spl.errors import InputError
from spl.isometry.correction import Correction, Gain, Layer
from spl.isometry.solver import KeptEntries, minimize
from spl.isometry.structure import heaviest_matching

_PULLS = (0.2, 0.5, 0.8, 1.0)
_ALONE = 2**17  # weights from which a matrix is solved alone, without its empty rows and columns
_BATCH = 2**24  # weights that are solved at once, at most


class ApproximateIsometry(Correction):
    """AI: min over the kept entries of ‖(C⊙W)(C⊙W)ᵀ − σ² I‖_F, layer by layer; kernels reshaped to matrices.

    Equation 8 of Lee et al. 2020, along the smaller side of each matrix, to the floor that the structural rank of
    the mask sets (`isometry_floor`). A descent from the given weights ends in local optima a rank or more above it,
    where rows have shrunk to nothing. So it starts from (1 − p) W + p σ M, where M, a maximum matching of the mask,
    is an optimum itself, and among the matchings the one nearest to W, which is brought to the norm of M. The
    smallest p that ends at the floor stays nearest to W: 0 where more entries are kept than V Vᵀ = σ² I has
    equations, else nearly always 0.2; at 1 the matching itself is the answer.

    Args:
        gain: σ; see `Correction`.
        tolerance: the gap to the floor, in units of σ², that will do.
        max_iterations: L-BFGS iterations for each p.
    """

    def __init__(self, gain: Gain = "mean_field", tolerance: float = 4e-4, max_iterations: int = 1000) -> None:
        super().__init__(gain)
        if not tolerance > 0:
            raise InputError(f"tolerance must be positive, got {tolerance}.")
        if max_iterations < 1:
            raise InputError(f"max_iterations must be at least 1, got {max_iterations}.")
        self.tolerance = tolerance
        self.max_iterations = max_iterations

    def correct_(self, layers: Sequence[Layer]) -> None:
        """See `Correction`; matrices of one shape, small enough for it to pay, are solved together."""
        blocks = [block for layer in layers for block in _blocks(layer)]
        batches = list(_batches(blocks))
        for batch in tqdm(batches, desc="Isometry", unit="batch", delay=1, leave=False, disable=None):
            self._solve(batch)
        for layer in layers:
            _write(layer, [block for block in blocks if block.layer is layer])

    def _solve(self, blocks: list["_Block"]) -> None:
        """Bring the blocks to their floors, each with the smallest pull that does."""
        missed = self._missed(blocks, 0.0, max_iterations=0)
        bound = [block for block in missed if block.bound]
        missed = bound + self._missed([block for block in missed if not block.bound], 0.0, self.max_iterations)
        for pull in _PULLS:
            missed = self._missed(missed, pull, self.max_iterations)

    def _missed(self, blocks: list["_Block"], pull: float, max_iterations: int) -> list["_Block"]:
        """Solve the blocks from one pull on; those that do not come to their floor."""
        if not blocks:
            return []
        matrices = KeptEntries(torch.stack([block.mask for block in blocks]))
        start = torch.stack([block.start(pull) if max_iterations else block.weight for block in blocks])
        floors = torch.tensor([block.floor for block in blocks], dtype=torch.float64, device=start.device)
        solved, norms = minimize(matrices, matrices.gather(start[:, None]), floors, self.tolerance, max_iterations)
        for block, result in zip(blocks, matrices.spread(solved)[:, 0], strict=True):
            block.result = result
        return [block for block, gap in zip(blocks, norms - floors, strict=True) if gap > self.tolerance]


@dataclass
class _Block:
    """The matrix of one group of a layer, wide, without what is empty if it is large, in units of σ.

    Attributes:
        layer: what it belongs to.
        rows: which rows of the wide matrix it has.
        columns: which columns.
        mask: bool [n, m].
        weight: [n, m], as it was given.
        matching: [n, m], ±1 at the places of a maximum matching.
        floor: the least residual of its rows that keep anything.
        result: the solution.
    """

    layer: Layer
    rows: Tensor
    columns: Tensor
    mask: Tensor
    weight: Tensor
    matching: Tensor
    floor: float
    result: Tensor

    @property
    def bound(self) -> bool:
        """Whether fewer entries are kept than V Vᵀ = I has equations; else a descent from anywhere meets them."""
        n = len(self.mask)
        return 2 * int(self.mask.sum()) < n * (n + 1)

    def start(self, pull: float) -> Tensor:
        """(1 − p) W + p M, with W brought to the norm of M."""
        norm = self.weight.norm()
        scale = self.matching.norm() / norm if norm > 0 else 1.0
        return (1 - pull) * scale * self.weight + pull * self.matching


def _blocks(layer: Layer) -> Iterator[_Block]:
    for weight, mask in zip(layer.weight.chunk(layer.groups), layer.mask.chunk(layer.groups), strict=True):
        wide_weight, wide_mask = _wide(weight), _wide(mask)
        rows, columns = wide_mask.any(1), wide_mask.any(0)
        live = int(rows.sum())
        if mask.numel() <= _ALONE:
            rows, columns = torch.ones_like(rows), torch.ones_like(columns)
        kept = wide_mask[rows][:, columns]
        values = wide_weight[rows][:, columns].to(torch.promote_types(weight.dtype, torch.float32)) / layer.gain
        matched = tuple(axis.to(weight.device) for axis in heaviest_matching(values, kept))
        matching = torch.zeros_like(values)
        matching[matched] = torch.where(values[matched] < 0, -1.0, 1.0).to(values)
        yield _Block(layer, rows, columns, kept, values, matching, sqrt(live - len(matched[0])), values)


def _wide(tensor: Tensor) -> Tensor:
    matrix = tensor.flatten(1)
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT


def _batches(blocks: list[_Block]) -> Iterator[list[_Block]]:
    """Blocks of one shape and precision, up to a size."""
    alike: dict[object, list[_Block]] = defaultdict(list)
    for block in blocks:
        alone = block.mask.numel() > _ALONE
        alike[id(block) if alone else (block.mask.shape, block.weight.dtype)].append(block)
    for batch in alike.values():
        size = max(1, _BATCH // max(1, batch[0].mask.numel()))
        for start in range(0, len(batch), size):
            yield batch[start : start + size]


def _write(layer: Layer, blocks: list[_Block]) -> None:
    parts = []
    for block, part in zip(blocks, layer.weight.chunk(layer.groups), strict=True):
        whole = torch.zeros_like(_wide(part))
        places = block.rows.nonzero(), block.columns.nonzero().mT
        whole[places] = (layer.gain * block.result).to(whole.dtype)
        parts.append(whole if whole.shape == part.flatten(1).shape else whole.mT)
    layer.weight.copy_(torch.cat(parts).view_as(layer.weight))
