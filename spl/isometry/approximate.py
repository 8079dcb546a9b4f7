"""Approximate isometry: kept weights that bring each layer near the least residual that its mask allows."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor
from tqdm import tqdm

from spl.errors import InputError
from spl.isometry.correction import Correction, Gain
from spl.isometry.pruned_layer import PrunedLayer, wide_matrix
from spl.isometry.solver import KeptEntries, minimize
from spl.isometry.structure import heaviest_matching

DEFAULT_TOLERANCE = 0.05
"""The default `tolerance` of `ApproximateIsometry`, in units of σ² √n."""

_FLOOR = 1e-3  # a tolerance below it asks for the floor
_GAP_AT_FLOOR = 4e-4  # the gap that counts as the floor, in units of σ²: float32 gets that near in all layers
_PULLS = (0.0, 0.2, 0.3, 0.5, 0.8, 1.0)  # the values of p
_NEAR = 2  # a descent that has so many gaps left after all of its iterations goes on once, instead of starting again
_SOLVED_ALONE = 2**17  # a matrix of more entries is solved alone, without its empty rows and columns
_SOLVED_AT_ONCE = 2**24  # the most entries in a batch of matrices
_SOLVED_ON_CPU = 2**18  # a batch of no more entries takes longer on an accelerator than on the CPU


class ApproximateIsometry(Correction):
    """Approximate isometry (AI): brings ‖(C⊙W)(C⊙W)ᵀ − σ² I‖_F near its minimum over the kept weights of each layer.

    This is equation 8 of Lee et al. 2020, taken along the smaller side of each matrix; kernels are reshaped to
    matrices. The minimum is the floor that the structural rank of the mask sets (`isometry_floor`). A descent from
    the given weights W ends in local optima a rank or more above the floor, where rows have shrunk to nothing.
    So the descent starts from (1 − p) W + p σ M. M is a maximum matching of the mask, which is an optimum itself: of
    all matchings it is the one nearest to W, and W is brought to its norm. If fewer entries are kept than
    V Vᵀ = σ² I has equations, p is 0.3. If twice as many are kept, it is 0, and 0.2 in between. A layer that ends
    farther from its floor than `tolerance` starts again with the next larger p. At p = 1 the matching itself is the
    answer. A layer that was within twice the tolerance when its iterations ran out goes on from there instead, once.

    The last steps to the floor take most of the time, and bring most of the kept weights to 0. So the default ends
    before them; `docs/isometry.md` has measurements.

    Args:
        gain: σ; see `Correction`.
        tolerance: the gap to the floor at which a descent may end, in units of σ² √n, where n is the smaller side of
            the layer's matrix. A tolerance of 0 asks for the floor itself, to 4e-4 σ². Every tolerance below 0.001
            means the same, so 0.0004 in older configurations still asks for the floor.
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
        (4.27, 0.17, 0.00)
        >>> masks, changes = ApproximateIsometry(tolerance=0.0)(network, masks)
        >>> changes["0.weight"].after.matrix
        0.00
    """

    def __init__(
        self, gain: Gain = "mean_field", tolerance: float = DEFAULT_TOLERANCE, max_iterations: int = 1000
    ) -> None:
        super().__init__(gain)
        if not 0 <= tolerance < float("inf"):
            raise InputError(
                f"tolerance must be at least 0, got {tolerance}: 0 asks for the floor, and the default is "
                f"{DEFAULT_TOLERANCE}."
            )
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

    def gap(self, n: int) -> float:
        """Return the gap to the floor, in units of σ², at which a descent may end in a matrix with smaller side n."""
        return _GAP_AT_FLOOR if self.tolerance < _FLOOR else self.tolerance * sqrt(n)

    def _solve(self, blocks: list["_Block"]) -> None:
        """Bring each block to its floor, with the smallest pull that succeeds."""
        unsolved = self._unsolved(blocks, None)
        for pull in _PULLS:
            waiting = [block for block in unsolved if block.first_pull > pull]
            unsolved = waiting + self._unsolved([block for block in unsolved if block.first_pull <= pull], pull)

    def _unsolved(self, blocks: list["_Block"], pull: float | None) -> list["_Block"]:
        """Solve the blocks from the start that `pull` gives, and return those that miss their floor.

        Without a pull, the given weights are only measured.
        """
        if not blocks:
            return []
        device = _solving_device(blocks)
        masks = blocks[0].mask[None] if len(blocks) == 1 else torch.stack([block.mask for block in blocks])
        matrices = KeptEntries(masks.to(device))
        starts = [block.weight if pull is None else block.start(pull) for block in blocks]
        start = matrices.pack([start.to(device) for start in starts])
        floors = torch.tensor([block.floor for block in blocks], dtype=torch.float64, device=device)
        gap = self.gap(blocks[0].smaller_side)
        solved, norms = minimize(matrices, start, floors, gap, 0 if pull is None else self.max_iterations)
        unsolved = []
        for block, result, beyond in zip(blocks, matrices.unpack(solved), (norms - floors).tolist(), strict=True):
            block.result = result
            block.goes_on = pull is not None and not block.goes_on and gap < beyond < _NEAR * gap
            if beyond > gap:
                unsolved.append(block)
        return unsolved


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

    def __init__(
        self, gain: Gain = "mean_field", tolerance: float = DEFAULT_TOLERANCE, max_iterations: int = 1000
    ) -> None:
        super().__init__(gain, tolerance, max_iterations)

    def beside(self, criterion: object | None) -> ApproximateIsometry | None:
        """Return the correction, or None if a criterion is named and no argument of this is."""
        is_named = vars(self) != vars(DefaultIsometry())
        return ApproximateIsometry(**vars(self)) if criterion is None or is_named else None


@dataclass
class _Block:
    """The matrix of one group of a layer, in units of σ, with at least as many columns as rows.

    A large matrix comes without its empty rows and columns. All tensors are on the CPU, except the result.

    Attributes:
        mask: bool [n, m]. The next three attributes hold one number for each entry that it keeps, row by row.
        weight: the given weights.
        matching: ±1 at the entries of a maximum matching, 0 elsewhere.
        result: the solution.
        floor: the least residual of the rows that keep an entry.
        smaller_side: n, with the rows that keep no entry.
        device: the device of the layer.
        goes_on: whether the next descent starts at the result of the last one.
    """

    mask: Tensor
    weight: Tensor
    matching: Tensor
    result: Tensor
    floor: float
    smaller_side: int
    device: torch.device
    goes_on: bool = False

    @property
    def first_pull(self) -> float:
        """The value of p to begin with: the more entries are kept for each equation of V Vᵀ = I, the smaller it is."""
        n = len(self.mask)
        kept, equations = len(self.weight), n * (n + 1) // 2
        return 0.3 if kept < equations else 0.2 if kept < 2 * equations else 0.0

    def start(self, pull: float) -> Tensor:
        """Return (1 − p) W + p M, with W brought to the norm of M; the result of the last descent if it goes on."""
        if self.goes_on and pull < 1:
            return self.result
        norm = self.weight.norm()
        scale = self.matching.norm() / norm if norm > 0 else 1.0
        return (1 - pull) * scale * self.weight + pull * self.matching


def _blocks(layer: PrunedLayer) -> Iterator[_Block]:
    whole, whole_mask = layer.weight.cpu(), layer.mask.cpu()  # the search for a matching runs on the CPU
    for part, part_mask in zip(whole.chunk(layer.groups), whole_mask.chunk(layer.groups), strict=True):
        mask = wide_matrix(part_mask)
        smaller_side = len(mask)
        rows, columns = mask.any(1), mask.any(0)
        live = int(rows.sum())
        if mask.numel() <= _SOLVED_ALONE:
            rows, columns = torch.ones_like(rows), torch.ones_like(columns)
        precise = torch.promote_types(part.dtype, torch.float32)
        weight = wide_matrix(part)[mask].to(precise) / layer.gain  # rows and columns that are left out keep no entry
        if not (rows.all() and columns.all()):
            mask = mask[rows][:, columns]
        matched = heaviest_matching(weight, mask)
        signs = torch.where(weight < 0, -1.0, 1.0).to(precise)
        floor = sqrt(live - int(matched.sum()))
        yield _Block(mask, weight, signs * matched, weight, floor, smaller_side, layer.weight.device)


def _batches(blocks: list[_Block]) -> Iterator[list[_Block]]:
    """Group the blocks into batches of one shape, precision and device, up to `_SOLVED_AT_ONCE` entries."""
    by_kind: dict[object, list[_Block]] = defaultdict(list)
    for block in blocks:
        alone = block.mask.numel() > _SOLVED_ALONE
        kind = (block.mask.shape, block.weight.dtype, block.device)
        by_kind[id(block) if alone else kind].append(block)
    for batch in by_kind.values():
        size = max(1, _SOLVED_AT_ONCE // max(1, batch[0].mask.numel()))
        for start in range(0, len(batch), size):
            yield batch[start : start + size]


def _solving_device(blocks: list[_Block]) -> torch.device:
    """Return the device on which a batch is solved: that of its layers, or the CPU if the batch is small."""
    entries = sum(block.mask.numel() for block in blocks)
    return blocks[0].device if entries > _SOLVED_ON_CPU else torch.device("cpu")


def _write(layer: PrunedLayer, blocks: list[_Block]) -> None:
    """Write the results of the blocks into the weights of the layer."""
    for block, part, part_mask in zip(
        blocks, layer.weight.chunk(layer.groups), layer.mask.chunk(layer.groups), strict=True
    ):
        matrix, mask = part.flatten(1), part_mask.flatten(1)
        ordered = torch.zeros_like(wide_matrix(matrix))
        ordered[wide_matrix(mask)] = (layer.gain * block.result).to(part)
        part.copy_((ordered if ordered.shape == matrix.shape else ordered.mT).reshape(part.shape))
