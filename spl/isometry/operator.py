"""A correction of convolutions as operators, in the frequency domain."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from tqdm import tqdm

from spl.isometry.approximate import ApproximateIsometry
from spl.isometry.pruned_layer import PrunedLayer
from spl.isometry.residuals import operator_matrices
from spl.isometry.solver import Matrices, minimize


class OperatorIsometry(ApproximateIsometry):
    """Approximate isometry of convolutions instead of reshaped kernels: minimizes ‖K ⋆ K − σ² δ‖_F.

    The minimum is over the kept entries of each kernel; see `spl.isometry.operator_residual`. Linear layers, and 1×1
    convolutions at stride 1, are corrected as by `ApproximateIsometry`. For other convolutions no floor is known, and
    the descent from the given weights ends when it comes no nearer. A kernel of 512×512×3×3 takes many minutes on a
    CPU.

    Args:
        gain: σ; see `spl.isometry.Correction`.
        tolerance: the residual, or the gap to the floor, at which a descent may end, in units of σ² √n, where n is the
            number of singular values at each frequency; see `ApproximateIsometry`.
        max_iterations: the most L-BFGS iterations per layer.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import Random
        >>> from spl.isometry import OperatorIsometry
        >>> from spl.pruning import prune
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Conv1d(2, 4, kernel_size=3))
        >>> masks, changes = OperatorIsometry(tolerance=0.01)(network, prune(network, Random(seed=1), sparsity=0.25))
        >>> changes["0.weight"].before.operator, changes["0.weight"].after.operator
        (0.96, 0.01)
    """

    def singular_value_count(self, layer: PrunedLayer) -> int:
        """Return how many singular values, σ each, a corrected layer has at each frequency."""
        outputs, inputs = layer.weight.shape[0] // layer.groups, layer.weight.shape[1]
        stride: tuple[int, ...] = layer.geometry.get("stride", ())
        return layer.groups * min(outputs, inputs * prod(stride))

    def correct_(self, layers: Sequence[PrunedLayer]) -> None:
        """Correct matrices as `ApproximateIsometry` does, and convolutions one after another."""
        spectra = {layer.name: Frequencies(layer) for layer in layers}
        super().correct_([layer for layer in layers if spectra[layer.name].is_matrix])
        convolutions = [layer for layer in layers if not spectra[layer.name].is_matrix and layer.mask.any()]
        for layer in tqdm(convolutions, desc="Isometry", unit="layer", delay=1, leave=False, disable=None):
            matrices = spectra[layer.name]
            start = layer.weight[layer.mask][None] / layer.gain
            start = start.to(torch.promote_types(start.dtype, torch.float32))
            floor = start.new_zeros(1, dtype=torch.float64)
            gap = self.gap(self.singular_value_count(layer))
            solved, _ = minimize(matrices, start, floor, gap, self.max_iterations)
            layer.weight[layer.mask] = (layer.gain * solved[0]).to(layer.weight.dtype)


class Frequencies(Matrices):
    """The matrices of one convolution at all frequencies, as linear functions of its kept taps.

    Args:
        layer: the convolution.

    Attributes:
        is_matrix: whether the layer is a matrix: it is Linear, or a 1×1 convolution at stride 1.
    """

    def __init__(self, layer: PrunedLayer) -> None:
        self.layer = layer
        dtype = torch.promote_types(layer.weight.dtype, torch.float32)
        spectrum, weights = self._spectrum(layer.weight.to(dtype))
        self.is_matrix = not spectrum.is_complex()
        self.weights = weights
        self.target = weights.new_ones(1)

    def _spectrum(self, kernel: Tensor) -> tuple[Tensor, Tensor]:
        return operator_matrices(kernel, **self.layer.geometry)

    def spread(self, parameters: Tensor) -> Tensor:
        """Return the transform of the kernel."""
        kernel = parameters.new_zeros(self.layer.mask.shape)
        kernel[self.layer.mask] = parameters[0]
        return self._spectrum(kernel)[0][None]

    def gather(self, matrices: Tensor) -> Tensor:
        """Apply the adjoint of the transform, by differentiating the transform."""
        kernel = torch.zeros(self.layer.mask.shape, dtype=self.weights.dtype, device=matrices.device)
        with torch.enable_grad():
            kernel.requires_grad_()
            spectrum, _ = self._spectrum(kernel)
            (gradient,) = torch.autograd.grad(spectrum, kernel, matrices[0])
        return gradient[self.layer.mask][None]

    def subset(self, chosen: Tensor) -> "Frequencies":
        """Return itself, since there is only one problem."""
        return self
