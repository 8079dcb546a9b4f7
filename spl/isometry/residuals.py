"""The distance of a layer from isometry, as a matrix and as the convolution that it is."""

from collections.abc import Iterable, Sequence
from math import prod

import torch
from torch import Tensor

_BLOCKED = 256  # V Vᴴ of a matrix V with so many rows is computed in blocks


def isometry_residual(weight: Tensor, gain: float = 1.0, groups: int = 1) -> Tensor:
    """Return ‖V Vᵀ − σ² I‖_F of a weight that is reshaped to a matrix V, whose rows are along its smaller side.

    It is 0 if and only if all singular values of V equal σ = `gain`. The reference takes the Gram matrix of the output
    side whatever its size; along the smaller side the target can be met.

    Args:
        weight: the weight [out, in, ...] of a Linear or convolutional layer.
        gain: σ.
        groups: the groups of the convolution. Each group is a matrix of its own, and the squares of their residuals
            add up.

    Returns:
        A scalar, differentiable.

    Example:
        >>> import torch
        >>> from spl.isometry import isometry_residual
        >>> isometry_residual(2 * torch.eye(3, 5), gain=2.0).item()
        0.0
        >>> isometry_residual(torch.tensor([[1.0, 0.0], [0.0, 0.0]])).item()
        1.0
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
    """Return ‖K ⋆ K − σ² δ‖_F of a kernel K: 0 if and only if the convolution itself is σ times an isometry.

    The self-convolution is taken along the side with fewer channels. Let A be the operator on images whose borders
    wrap around. Along the outputs, K ⋆ K = σ² δ says that A Aᵀ = σ² I; along the inputs, that Aᵀ A = σ² I. With a
    stride, each phase of the image counts as an input channel. See Wang et al. 2020 (orthogonal convolutional neural
    networks). By Parseval's theorem the square of the residual is the mean over frequencies of ‖K̂ K̂ᴴ − σ² I‖²_F.
    For a 1×1 convolution at stride 1, or a matrix, it equals the `isometry_residual`.

    Args:
        weight: the weight [out, in, ...] of a convolution, transposed or not, or of a Linear layer.
        gain: σ.
        stride: the stride of the convolution, one number for each axis; 1 if it is left out.
        dilation: the dilation of the convolution, one number for each axis; 1 if it is left out.
        groups: the groups of the convolution. The squares of their residuals add up.

    Returns:
        A scalar, differentiable.

    Example:
        >>> import torch
        >>> from spl.isometry import isometry_residual, operator_residual
        >>> kernel = torch.tensor([[[0.6, 0.8]]])
        >>> isometry_residual(kernel).item(), operator_residual(kernel).item()
        (0.00, 0.68)
        >>> operator_residual(kernel, stride=(2,)).item()
        0.0
    """
    matrices, shares = operator_matrices(weight, stride, dilation, groups)
    return (_squared_deviation(matrices, gain) @ shares).sqrt()


def orthogonality_score(weights: Iterable[Tensor]) -> float:
    """Return the orthogonality score (OS) of Table 2 of Lee et al. 2020: the mean over layers of ‖Wᵀ W − I‖_F.

    W is the weight of a layer, reshaped to [inputs, outputs]. The Gram matrix is always that of the outputs, so a
    layer with more outputs than inputs contributes at least √(out − in). It is computed from the smaller Gram matrix:
    ‖Wᵀ W − I‖²_F = ‖W Wᵀ − I‖²_F + out − in.

    Args:
        weights: the masked weights [out, in, ...] of the layers.

    Example:
        >>> import torch
        >>> from spl.isometry import orthogonality_score
        >>> orthogonality_score([torch.eye(3), torch.eye(5, 4)])
        0.5
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
    """Return the matrices K̂ of a convolution, one for each frequency and group, and their shares in the mean.

    K ⋆ K has 2k − 1 taps along an axis of k taps, so as many frequencies make the mean exact. For a 1×1 convolution at
    stride 1, or a matrix, the results are the matrices of the groups themselves, and real.

    Returns:
        Matrices [matrices, n, m] with n ≤ m, and real shares [matrices].
    """
    kernel = _grouped(weight, groups)
    strides = tuple(stride) or (1,) * (kernel.ndim - 3)
    if max(strides, default=1) > 1:
        kernel = _phases(_dilated(kernel, tuple(dilation) or (1,) * len(strides)), strides)
    if prod(kernel.shape[3:]) == 1:
        return _wide(kernel.flatten(2)), kernel.new_ones(groups)
    sizes = [2 * k - 1 for k in kernel.shape[3:]]
    waves = _waves(kernel.shape[3:], sizes).to(kernel)
    taps = kernel.flatten(3).movedim(3, 0).flatten(1)
    parts = (waves @ taps).view(2, -1, *kernel.shape[:3])  # for few taps a product is faster than torch.fft
    spectrum = torch.complex(parts[0], parts[1])  # [frequencies, groups, out, in]
    shares = _multiplicity(sizes, kernel) / prod(sizes)
    return _wide(spectrum.flatten(0, 1)), shares.repeat_interleave(groups)


def _waves(taps: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Return the matrix of the real Fourier transform of `taps` taps at `sizes` frequencies along each axis.

    Its rows are the cosines of all frequencies and then the negative sines, in the order of `torch.fft.rfftn`.
    """
    counts = [*sizes[:-1], sizes[-1] // 2 + 1]
    angles = torch.zeros(1, 1, dtype=torch.float64)
    for k, size, count in zip(taps, sizes, counts, strict=True):
        turns = torch.outer(torch.arange(count, dtype=torch.float64), torch.arange(k, dtype=torch.float64)) / size
        angles = (angles[:, None, :, None] + turns[None, :, None, :]).flatten(2).flatten(0, 1)
    return torch.cat([(2 * torch.pi * angles).cos(), -(2 * torch.pi * angles).sin()])


def _grouped(weight: Tensor, groups: int) -> Tensor:
    """Reshape a weight [out, in, ...] to [groups, out/groups, in, ...]."""
    return weight.reshape(groups, -1, *weight.shape[1:])


def _multiplicity(sizes: Sequence[int], like: Tensor) -> Tensor:
    """Return how many frequencies each frequency of the real transform stands for.

    It is 1 at frequency 0 of the last axis, and 2 elsewhere.
    """
    half = like.new_full((sizes[-1] // 2 + 1,), 2.0)
    half[0] = 1.0
    return half.repeat(prod(sizes[:-1]))


def _dilated(kernel: Tensor, dilation: Sequence[int]) -> Tensor:
    """Insert the zeros of a dilation between the taps of a kernel."""
    sizes = [(k - 1) * d + 1 for k, d in zip(kernel.shape[3:], dilation, strict=True)]
    spread = kernel.new_zeros(*kernel.shape[:3], *sizes)
    spread[(slice(None),) * 3 + tuple(slice(None, None, d) for d in dilation)] = kernel
    return spread


def _phases(kernel: Tensor, strides: Sequence[int]) -> Tensor:
    """Turn the kernel [groups, out, in, ...] of a strided convolution into [groups, out, in·Πs, ...] at stride 1."""
    for axis, s in enumerate(strides, start=3):
        missing = -kernel.shape[axis] % s
        rest = kernel.ndim - 1 - axis
        kernel = torch.nn.functional.pad(kernel, (0, 0) * rest + (0, missing))
        cut = kernel.reshape(*kernel.shape[:axis], -1, s, *kernel.shape[axis + 1 :])
        kernel = cut.movedim(axis + 1, 2).flatten(2, 3)
    return kernel


def _wide(matrices: Tensor) -> Tensor:
    """Return the matrices [..., m, n], conjugate transposed if m > n."""
    return matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mH


def _squared_deviation(matrices: Tensor, gain: float) -> Tensor:
    """Return ‖V Vᴴ − σ² I‖²_F of matrices V [..., n, m], in the shape [...]."""
    if not matrices.is_complex():
        return _minus_identity(gram(matrices), gain).square().sum((-2, -1))
    # V Vᴴ = (A Aᵀ + B Bᵀ) + i (B Aᵀ − A Bᵀ) with V = A + iB: products of real matrices take less than half the time
    a, b = matrices.real, matrices.imag
    real = _minus_identity(gram(torch.cat([a, b], -1)), gain)
    half = b @ a.mT
    return (real.square() + (half - half.mT).square()).sum((-2, -1))


def _minus_identity(product: Tensor, gain: float) -> Tensor:
    """Subtract σ² from the diagonal in place, and return the product."""
    product.diagonal(dim1=-2, dim2=-1).sub_(gain**2)
    return product


def gram(matrices: Tensor) -> Tensor:
    """Return V Vᴴ of matrices V [..., n, m].

    On the CPU only the blocks on and above the diagonal of a large product are computed, which takes two thirds of the
    time.

    Example:
        >>> import torch
        >>> from spl.isometry.residuals import gram
        >>> gram(torch.tensor([[3.0, 4.0], [1.0, 0.0]])).tolist()
        [[25.0, 3.0], [3.0, 1.0]]
    """
    rows = matrices.shape[-2]
    if rows < _BLOCKED or matrices.device.type != "cpu" or matrices.requires_grad:
        return matrices @ matrices.mH
    product = matrices.new_empty(*matrices.shape[:-1], rows)
    step = -(-rows // 4)
    for start in range(0, rows, step):
        end = min(start + step, rows)
        block = matrices[..., start:end, :] @ matrices[..., start:, :].mH
        product[..., start:end, start:] = block
        product[..., end:, start:end] = block[..., end - start :].mH
    return product
