"""Linear layers on PyTorch's kernels for compressed sparse rows (CSR), where these are faster."""

import math
import warnings
from dataclasses import dataclass

import torch
from tabulate import tabulate
from torch import Tensor, nn

from spl.errors import InputError
from spl.export.comparison import difference_of_outputs
from spl.export.cost import pruned_copy
from spl.export.timing import layer_inputs, median_seconds
from spl.functional.undisturbed import undisturbed
from spl.masks.masks import Masks


class CSRLinear(nn.Module):
    """A Linear layer, x Wᵀ + b, with W as compressed sparse rows. It is for inference: its weights have no gradient.

    Args:
        linear: the layer to convert; the weights that are not 0 are stored.

    Example:
        >>> import torch
        >>> from spl.export.csr import CSRLinear
        >>> linear = torch.nn.Linear(4, 2)
        >>> linear.weight.data[:, 1:] = 0.0
        >>> sparse, inputs = CSRLinear(linear), torch.randn(5, 4)
        >>> sparse
        CSRLinear(in_features=4, out_features=2, kept=2)
        >>> torch.allclose(sparse(inputs), linear(inputs))
        True
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            rows = linear.weight.detach().to_sparse_csr()
        self.register_buffer("starts", rows.crow_indices().clone())
        self.register_buffer("columns", rows.col_indices().clone())
        self.register_buffer("values", rows.values().clone())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs [..., out] of inputs [..., in]."""
        flat = x.reshape(-1, self.in_features)
        output: Tensor = torch.ops.spl.csr_linear(flat, self.starts, self.columns, self.values, self.bias)
        return output.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Return the sizes of the layer and the number of its stored weights."""
        kept = self.get_buffer("values").numel()
        return f"in_features={self.in_features}, out_features={self.out_features}, kept={kept}"


@dataclass(frozen=True)
class Timing:
    """The measured times of one layer.

    Attributes:
        name: name of the module.
        density: share of the weights that are kept.
        dense: seconds for a batch, with the dense layer.
        csr: seconds for the same batch, on CSR kernels; infinite where there is no kernel for the type of the weights.

    Example:
        >>> from spl.export.csr import Timing
        >>> Timing("fc1", density=0.05, dense=2e-5, csr=1e-5).csr_wins
        True
    """

    name: str
    density: float
    dense: float
    csr: float

    @property
    def csr_wins(self) -> bool:
        """Return whether CSR kernels are faster; the layer of the result then runs on them."""
        return self.csr < self.dense


@dataclass(frozen=True)
class CSRResult:
    """A network with some layers on CSR kernels.

    Attributes:
        network: the network, in evaluation mode.
        timings: the times of each Linear layer under a mask.

    Example:
        >>> import torch
        >>> from spl.export.csr import CSRResult, Timing
        >>> print(CSRResult(torch.nn.Identity(), [Timing("fc1", density=0.05, dense=2e-5, csr=1e-5)]).table())
        layer      density    dense μs    csr μs  used
        -------  ---------  ----------  --------  ------
        fc1         0.0500        20.0      10.0  csr
    """

    network: nn.Module
    timings: list[Timing]

    def table(self) -> str:
        """Return the times as a table with one row per layer."""
        rows = [
            [t.name, f"{t.density:.4f}", f"{1e6 * t.dense:.1f}", f"{1e6 * t.csr:.1f}", "csr" if t.csr_wins else "dense"]
            for t in self.timings
        ]
        headers = ["layer", "density", "dense μs", "csr μs", "used"]
        return tabulate(rows, headers, disable_numparse=True, colalign=("left", "right", "right", "right", "left"))


def to_csr(network: nn.Module, masks: Masks, example_input: Tensor) -> CSRResult:
    """Return a copy of the network whose Linear layers run on CSR kernels where these are faster on this machine.

    Each layer under a mask is timed on its own, dense and as CSR, on the inputs that it gets from `example_input`, with
    PyTorch's current number of threads. The choice holds for batches of this size.

    Args:
        network: the network; it is not changed.
        masks: the masks, by parameter name; pruned weights count as 0.
        example_input: one batch of inputs, on the device and of the size that the copy is to be fast for.

    Raises:
        InputError: a mask does not fit the network, or outputs for random inputs differ from those of the dense network
            by more than rounding explains.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.export import to_csr
        >>> network = torch.nn.Sequential(torch.nn.Linear(40, 40))
        >>> result = to_csr(network, Masks({"0.weight": torch.eye(40, dtype=torch.bool)}), torch.randn(8, 40))
        >>> [(timing.name, timing.density) for timing in result.timings]
        [('0', 0.025)]
    """
    copied = pruned_copy(network, masks)
    layers = {name.removesuffix(".weight"): mask for name, mask in masks.items() if name.endswith(".weight")}
    linear = {n: m for n, m in copied.named_modules() if n in layers and type(m) is nn.Linear}
    timings = []
    for name, inputs in layer_inputs(copied, linear, example_input).items():
        sparse = CSRLinear(linear[name])
        density = float(layers[name].float().mean())
        candidates = [linear[name], sparse] if _has_kernel(sparse, inputs) else [linear[name]]
        dense, *csr = median_seconds(candidates, inputs)
        timings.append(Timing(name, density, dense, *(csr or [math.inf])))
        if timings[-1].csr_wins:
            copied.set_submodule(name, sparse)
    _check_outputs(copied, pruned_copy(network, masks), example_input)
    return CSRResult(copied, timings)


def _check_outputs(faster: nn.Module, dense: nn.Module, example: Tensor) -> None:
    """Refuse a network on CSR kernels whose outputs for random inputs are not those of the dense one."""
    with undisturbed(faster):
        difference = difference_of_outputs(dense, example, lambda batches: [faster(inputs) for inputs in batches])
    if difference:
        raise InputError(
            f"On CSR kernels, {type(dense).__name__} would compute something else: {difference} Export it as dense or "
            "compact."
        )


def _has_kernel(layer: nn.Module, inputs: Tensor) -> bool:
    try:
        layer(inputs)
    except RuntimeError:  # as for half precision on a CPU
        return False
    return True


def _csr_linear(x: Tensor, starts: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    shape = (starts.shape[0] - 1, x.shape[1])
    weight = torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)
    # W xᵀ instead of x Wᵀ, because the kernel of the latter is several times slower
    return (weight @ x.mT if bias is None else torch.addmm(bias[:, None], weight, x.mT)).mT


def _fake_csr_linear(x: Tensor, starts: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(starts.shape[0] - 1, x.shape[0]).mT


# an operator of its own, because torch.export cannot write CSR tensors into files
torch.library.define(
    "spl::csr_linear", "(Tensor x, Tensor starts, Tensor columns, Tensor values, Tensor? bias) -> Tensor"
)
torch.library.impl("spl::csr_linear", ("cpu", "cuda"), _csr_linear)
torch.library.register_fake("spl::csr_linear", _fake_csr_linear)
