"""Approximate isometry: kept weights that bring each layer to the least residual that its mask allows."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor
from tqdm import tqdm

from spl.errors import InputError
from spl.isometry.correction import Correction, Gain
from spl.isometry.pruned_layer import PrunedLayer
from spl.isometry.solver import KeptEntries, minimize
from spl.isometry.structure import heaviest_matching

_PULLS = (0.2, 0.5, 0.8, 1.0)  # the values of p that are tried after 0
_SOLVED_ALONE = 2**17  # a matrix of more entries is solved alone, without its empty rows and columns
_SOLVED_AT_ONCE = 2**24  # the most entries in a batch of matrices


class ApproximateIsometry(Correction):
    """Approximate isometry (AI): minimizes ‖(C⊙W)(C⊙W)ᵀ − σ² I‖_F over the kept weights of each layer.

    This is equation 8 of Lee et al. 2020, taken along the smaller side of each matrix; kernels are reshaped to
    matrices. The minimum is the floor that the structural rank of the mask sets (`isometry_floor`). A descent from
    the given weights W ends in local optima a rank or more above the floor, where rows have shrunk to nothing.
    So the descent starts from (1 − p) W + p σ M. M is a maximum matching of the mask, which is an optimum itself: of
    all matchings it is the one nearest to W, and W is brought to its norm. The smallest p that ends at the floor
    stays nearest to W. It is 0 if more entries are kept than V Vᵀ = σ² I has equations, and nearly always 0.2
    otherwise. At p = 1 the matching itself is the answer.

    Args:
        gain: σ; see `Correction`.
        tolerance: the gap to the floor at which a descent may end, in units of σ².
        max_iterations: the most L-BFGS iterations for each p.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import Magnitude
        >>> from spl.isometry import ApproximateIsometry
        >>> from spl.pruning import prune
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
        >>> masks, changes = ApproximateIsometry()(network, prune(network, Magnitude(), sparsity=0.5))
        >>> changes["0.weight"].before.matrix, changes["0.weight"].after.matrix, changes["0.weight"].floor
        (4.27, 0.00, 0.00)
    """

    def __init__(self, gain: Gain = "mean_field", tolerance: float = 4e-4, max_iterations: int = 1000) -> None:
        super().__init__(gain)
        if not tolerance > 0:
            raise InputError(f"tolerance must be positive, got {tolerance}.")
        if max_iterations < 1:
            raise InputError(f"max_iterations must be at least 1, got {max_iterations}.")
        self.tolerance = tolerance
        self.max_iterations = max_iterations

    def correct_(self, layers: Sequence[PrunedLayer]) -> None:
        """Correct the layers; small matrices of the same shape are solved together, and empty ones are skipped."""
        blocks = [list(_blocks(layer)) for layer in layers]
        batches = list(_batches([block for layer_blocks in blocks for block in layer_blocks if len(block.weight)]))
        for batch in tqdm(batches, desc="Isometry", unit="batch", delay=1, leave=False, disable=None):
            self._solve(batch)
        for layer, layer_blocks in zip(layers, blocks, strict=True):
            _write(layer, layer_blocks)

    def _solve(self, blocks: list["_Block"]) -> None:
        """Bring each block to its floor, with the smallest pull that succeeds."""
        unsolved = self._unsolved(blocks, 0.0, max_iterations=0)
        overdetermined = [block for block in unsolved if block.is_overdetermined]
        others = [block for block in unsolved if not block.is_overdetermined]
        unsolved = overdetermined + self._unsolved(others, 0.0, self.max_iterations)
        for pull in _PULLS:
            unsolved = self._unsolved(unsolved, pull, self.max_iterations)

    def _unsolved(self, blocks: list["_Block"], pull: float, max_iterations: int) -> list["_Block"]:
        """Solve the blocks from the start that `pull` gives, and return those that miss their floor."""
        if not blocks:
            return []
        masks = blocks[0].mask[None] if len(blocks) == 1 else torch.stack([block.mask for block in blocks])
        matrices = KeptEntries(masks)
        start = matrices.pack([block.start(pull) if max_iterations else block.weight for block in blocks])
        floors = torch.tensor([block.floor for block in blocks], dtype=torch.float64, device=start.device)
        solved, norms = minimize(matrices, start, floors, self.tolerance, max_iterations)
        for block, result in zip(blocks, matrices.unpack(solved), strict=True):
            block.result = result
        return [block for block, gap in zip(blocks, norms - floors, strict=True) if gap > self.tolerance]


class DefaultIsometry(ApproximateIsometry):
    """`ApproximateIsometry` as a default, which is left out where a criterion is named and this is not.

    A criterion that is named alone is the method as it was published. To name the correction is to give its class, or
    another value for one of its arguments.

    Args:
        gain: σ; see `Correction`.
        tolerance: see `ApproximateIsometry`.
        max_iterations: see `ApproximateIsometry`.

    Example:
        >>> from spl.isometry.approximate import DefaultIsometry
        >>> DefaultIsometry().beside(criterion=None), DefaultIsometry().beside(criterion="SynFlow")
        (<spl.isometry.approximate.ApproximateIsometry object at 0x...>, None)
        >>> DefaultIsometry(gain=1.0).beside(criterion="SynFlow").gain
        1.0
    """

    def __init__(self, gain: Gain = "mean_field", tolerance: float = 4e-4, max_iterations: int = 1000) -> None:
        super().__init__(gain, tolerance, max_iterations)

    def beside(self, criterion: object | None) -> ApproximateIsometry | None:
        """Return the correction, or None if a criterion is named and no argument of this is."""
        is_named = vars(self) != vars(DefaultIsometry())
        return ApproximateIsometry(**vars(self)) if criterion is None or is_named else None


@dataclass
class _Block:
    """The matrix of one group of a layer, in units of σ, with at least as many columns as rows.

    A large matrix comes without its empty rows and columns.

    Attributes:
        mask: bool [n, m]. The next three attributes hold one number for each entry that it keeps, row by row.
        weight: the given weights.
        matching: ±1 at the entries of a maximum matching, 0 elsewhere.
        result: the solution.
        floor: the least residual of the rows that keep an entry.
    """

    mask: Tensor
    weight: Tensor
    matching: Tensor
    result: Tensor
    floor: float

    @property
    def is_overdetermined(self) -> bool:
        """Return whether fewer entries are kept than V Vᵀ = I has equations.

        If not, a descent from anywhere solves them.
        """
        n = len(self.mask)
        return 2 * int(self.mask.sum()) < n * (n + 1)

    def start(self, pull: float) -> Tensor:
        """Return (1 − p) W + p M, with W brought to the norm of M."""
        norm = self.weight.norm()
        scale = self.matching.norm() / norm if norm > 0 else 1.0
        return (1 - pull) * scale * self.weight + pull * self.matching


def _blocks(layer: PrunedLayer) -> Iterator[_Block]:
    for part, part_mask in zip(layer.weight.chunk(layer.groups), layer.mask.chunk(layer.groups), strict=True):
        mask = _wide(part_mask)
        rows, columns = mask.any(1), mask.any(0)
        live = int(rows.sum())
        if mask.numel() <= _SOLVED_ALONE:
            rows, columns = torch.ones_like(rows), torch.ones_like(columns)
        precise = torch.promote_types(part.dtype, torch.float32)
        weight = _wide(part)[mask].to(precise) / layer.gain  # rows and columns that are left out keep no entry
        if not (rows.all() and columns.all()):
            mask = mask[rows][:, columns]
        matched = heaviest_matching(weight, mask).to(part.device)
        signs = torch.where(weight < 0, -1.0, 1.0).to(precise)
        floor = sqrt(live - int(matched.sum()))
        yield _Block(mask, weight, signs * matched, weight, floor)


def _wide(tensor: Tensor) -> Tensor:
    matrix = tensor.flatten(1)
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT


def _batches(blocks: list[_Block]) -> Iterator[list[_Block]]:
    """Group the blocks into batches of one shape and precision, up to `_SOLVED_AT_ONCE` entries."""
    by_kind: dict[object, list[_Block]] = defaultdict(list)
    for block in blocks:
        alone = block.mask.numel() > _SOLVED_ALONE
        by_kind[id(block) if alone else (block.mask.shape, block.weight.dtype)].append(block)
    for batch in by_kind.values():
        size = max(1, _SOLVED_AT_ONCE // max(1, batch[0].mask.numel()))
        for start in range(0, len(batch), size):
            yield batch[start : start + size]


def _write(layer: PrunedLayer, blocks: list[_Block]) -> None:
    """Write the results of the blocks into the weights of the layer."""
    for block, part, part_mask in zip(
        blocks, layer.weight.chunk(layer.groups), layer.mask.chunk(layer.groups), strict=True
    ):
        matrix, mask = part.flatten(1), part_mask.flatten(1)
        ordered = torch.zeros_like(_wide(matrix))
        ordered[_wide(mask)] = (layer.gain * block.result).to(part.dtype)
        part.copy_((ordered if ordered.shape == matrix.shape else ordered.mT).reshape(part.shape))
