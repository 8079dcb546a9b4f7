"""How far a layer is from isometry: as a matrix, and as the convolution that it is."""

from collections.abc import Iterable, Sequence
from math import prod

import torch
from torch import Tensor


def isometry_residual(weight: Tensor, gain: float = 1.0, groups: int = 1) -> Tensor:
    """‖V Vᵀ − σ² I‖_F of a weight [out, in, ...] reshaped to a matrix V, rows along its smaller side.

    Zero if and only if the singular values of V all equal σ = `gain`. The reference takes the Gram matrix of the
    output side whatever its size; along the smaller side the target can be met.

    Args:
        weight: of a Linear or convolutional layer.
        gain: σ.
        groups: of the convolution; each group is a matrix of its own, and their squares add up.
    """
    matrices = _grouped(weight, groups).flatten(2)
    return _squared_deviation(_wide(matrices), gain).sum().sqrt()


def operator_residual(
    weight: Tensor,
    gain: float = 1.0,
    stride: Sequence[int] = (),
    dilation: Sequence[int] = (),
    groups: int = 1,
) -> Tensor:
    """‖K ⋆ K − σ² δ‖_F of a kernel K [out, in, ...]: zero if and only if the convolution itself is an isometry.

    The self-convolution is that of the side with fewer channels: over the outputs K ⋆ K = σ² δ says that A Aᵀ = σ² I
    for the operator A on images whose borders wrap around, over the inputs that Aᵀ A = σ² I. A stride makes each
    phase of the image an input channel of its own. Wang et al. 2020 (orthogonal convolutional neural networks). By
    Parseval its square is the mean over frequencies of ‖K̂ K̂ᴴ − σ² I‖²_F. Of a 1×1 convolution at stride 1, or a
    matrix, it is the `isometry_residual`.

    Args:
        weight: of a convolution, transposed or not, or of a Linear layer.
        gain: σ.
        stride: of the convolution, one number an axis; 1 each where left out.
        dilation: of the convolution, likewise.
        groups: of the convolution; their squares add up.
    """
    matrices, shares = operator_matrices(weight, stride, dilation, groups)
    return (_squared_deviation(matrices, gain) @ shares).sqrt()


def orthogonality_score(weights: Iterable[Tensor]) -> float:
    """OS: the mean over layers of ‖Wᵀ W − I‖_F, W reshaped to [inputs, outputs]; Table 2 of Lee et al. 2020.

    Always the outputs' Gram matrix, so a layer of more outputs than inputs adds at least √(out − in): it is computed
    by the smaller Gram matrix, ‖Wᵀ W − I‖²_F = ‖W Wᵀ − I‖²_F + out − in.

    Args:
        weights: masked weights [out, in, ...], one a layer.
    """
    squares = []
    for weight in weights:
        matrix = weight.detach().flatten(1).double()
        surplus = max(0, matrix.shape[0] - matrix.shape[1])
        squares.append(_squared_deviation(_wide(matrix), 1.0) + surplus)
    return float(torch.stack(squares).sqrt().mean())


def operator_matrices(
    weight: Tensor, stride: Sequence[int] = (), dilation: Sequence[int] = (), groups: int = 1
) -> tuple[Tensor, Tensor]:
    """The matrices K̂ of a convolution at its frequencies and of its groups, wide, and their shares in the mean.

    K ⋆ K has 2k − 1 taps along an axis of k, so as many frequencies make the mean exact. Of a 1×1 convolution at
    stride 1, or a matrix, they are the groups' matrices themselves, and real.

    Returns:
        [matrices, n, m], and real shares [matrices].
    """
    kernel = _grouped(weight, groups)
    strides = tuple(stride) or (1,) * (kernel.ndim - 3)
    if max(strides, default=1) > 1:
        kernel = _phases(_dilated(kernel, tuple(dilation) or (1,) * len(strides)), strides)
    if prod(kernel.shape[3:]) == 1:
        return _wide(kernel.flatten(2)), kernel.new_ones(groups)
    sizes = [2 * k - 1 for k in kernel.shape[3:]]
    axes = tuple(range(3, kernel.ndim))
    spectrum = torch.fft.rfftn(kernel, sizes, axes).flatten(3).movedim(3, 0)  # [frequencies, groups, out, in]
    shares = _multiplicity(sizes, kernel) / prod(sizes)
    return _wide(spectrum.flatten(0, 1)), shares.repeat_interleave(groups)


def _grouped(weight: Tensor, groups: int) -> Tensor:
    """[out, in, ...] → [groups, out/groups, in, ...]."""
    return weight.reshape(groups, -1, *weight.shape[1:])


def _multiplicity(sizes: Sequence[int], like: Tensor) -> Tensor:
    """How many frequencies each of the real transform stands for: 1 where the last axis is still, 2 elsewhere."""
    half = like.new_full((sizes[-1] // 2 + 1,), 2.0)
    half[0] = 1.0
    return half.repeat(prod(sizes[:-1]))


def _dilated(kernel: Tensor, dilation: Sequence[int]) -> Tensor:
    """The kernel with zeros between its taps."""
    sizes = [(k - 1) * d + 1 for k, d in zip(kernel.shape[3:], dilation, strict=True)]
    spread = kernel.new_zeros(*kernel.shape[:3], *sizes)
    spread[(slice(None),) * 3 + tuple(slice(None, None, d) for d in dilation)] = kernel
    return spread


def _phases(kernel: Tensor, strides: Sequence[int]) -> Tensor:
    """[groups, out, in, ...] of a strided convolution → [groups, out, in·Πs, ...] of the same at stride 1."""
    for axis, s in enumerate(strides, start=3):
        missing = -kernel.shape[axis] % s
        rest = kernel.ndim - 1 - axis
        kernel = torch.nn.functional.pad(kernel, (0, 0) * rest + (0, missing))
        cut = kernel.reshape(*kernel.shape[:axis], -1, s, *kernel.shape[axis + 1 :])
        kernel = cut.movedim(axis + 1, 2).flatten(2, 3)
    return kernel


def _wide(matrices: Tensor) -> Tensor:
    """The matrices [..., m, n], conjugate transposed where m > n."""
    return matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mH


def _squared_deviation(matrices: Tensor, gain: float) -> Tensor:
    """‖V Vᴴ − σ² I‖²_F of matrices [..., m, n] → [...]."""
    deviation = matrices @ matrices.mH
    deviation.diagonal(dim1=-2, dim2=-1).sub_(gain**2)
    return (deviation.conj() * deviation).real.sum((-2, -1))
