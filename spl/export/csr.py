"""Linear layers on PyTorch's CSR kernels, where these are faster."""

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from spl.export.cost import pruned_copy
from spl.functional.undisturbed import undisturbed
from spl.masks.masks import Masks

_LEAST_SECONDS = 0.1  # for which a layer is measured at least,
_LEAST_CALLS = 5  # and how many times


class CSRLinear(nn.Module):
    """x Wᵀ + b with W as compressed sparse rows: for inference, its weights have no gradient.

    Args:
        linear: the layer whose weights other than 0 it has.
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
        """[..., in] → [..., out]."""
        flat = x.reshape(-1, self.in_features)
        output: Tensor = torch.ops.spl.csr_linear(flat, self.starts, self.columns, self.values, self.bias)
        return output.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Its sizes."""
        kept = self.get_buffer("values").numel()
        return f"in_features={self.in_features}, out_features={self.out_features}, kept={kept}"


@dataclass(frozen=True)
class Timing:
    """Of one layer, measured.

    Attributes:
        name: of the module.
        density: share of the weights that are kept.
        dense: seconds for a batch.
        csr: seconds for the same batch; infinite where there is no kernel for the type of the weights.
    """

    name: str
    density: float
    dense: float
    csr: float

    @property
    def csr_wins(self) -> bool:
        """Whether the layer is on CSR kernels now."""
        return self.csr < self.dense


@dataclass(frozen=True)
class CSRResult:
    """A network with some layers on CSR kernels.

    Attributes:
        network: in evaluation mode.
        timings: of each Linear layer under a mask.
    """

    network: nn.Module
    timings: list[Timing]

    def table(self) -> str:
        """One row a layer."""
        rows = [
            [t.name, f"{t.density:.4f}", f"{1e6 * t.dense:.1f}", f"{1e6 * t.csr:.1f}", "csr" if t.csr_wins else "dense"]
            for t in self.timings
        ]
        headers = ["layer", "density", "dense μs", "csr μs", "taken"]
        return tabulate(rows, headers, disable_numparse=True, colalign=("left", "right", "right", "right", "left"))


def to_csr(network: nn.Module, masks: Masks, example_input: Tensor) -> CSRResult:
    """A copy whose Linear layers are on CSR kernels where these are faster here, for batches of this size.

    Each layer under a mask is timed by itself, dense and as CSR, on what it reads of `example_input`, with the
    threads that PyTorch has now.

    Args:
        network: left as it was found.
        masks: by the names of its parameters; pruned weights count as 0.
        example_input: one batch of inputs, on the device and of the size to be fast for.

    Raises:
        InputError: a mask does not fit.
    """
    copied = pruned_copy(network, masks)
    layers = {name.removesuffix(".weight"): mask for name, mask in masks.items() if name.endswith(".weight")}
    linear = {n: m for n, m in copied.named_modules() if n in layers and type(m) is nn.Linear}
    timings = []
    for name, inputs in _layer_inputs(copied, linear, example_input).items():
        sparse = CSRLinear(linear[name])
        density = float(layers[name].float().mean())
        candidates = [linear[name], sparse] if _has_kernel(sparse, inputs) else [linear[name]]
        dense, *csr = _median_seconds(candidates, inputs)
        timings.append(Timing(name, density, dense, *(csr or [math.inf])))
        if timings[-1].csr_wins:
            copied.set_submodule(name, sparse)
    return CSRResult(copied, timings)


def _layer_inputs(network: nn.Module, layers: dict[str, nn.Linear], example: Tensor) -> dict[str, Tensor]:
    """What each layer reads, the last time that it is called."""
    read: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        return lambda _, inputs: read.update({name: inputs[0].detach()})

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    with undisturbed(network), torch.no_grad():
        network(example)
    for handle in handles:
        handle.remove()
    return read


def _has_kernel(layer: nn.Module, inputs: Tensor) -> bool:
    try:
        layer(inputs)
    except RuntimeError:  # half precision, on a CPU
        return False
    return True


def _median_seconds(layers: Sequence[nn.Module], inputs: Tensor) -> list[float]:
    """Median times of each for a batch, called in turn so that the noise of the machine hits all alike."""
    seconds: list[list[float]] = [[] for _ in layers]
    with torch.no_grad():
        for layer in layers:
            layer(inputs)
        while sum(map(sum, seconds)) < _LEAST_SECONDS or len(seconds[0]) < _LEAST_CALLS:
            for layer, own in zip(layers, seconds, strict=True):
                own.append(_call_seconds(layer, inputs))
    return [median(own) for own in seconds]


def _call_seconds(layer: nn.Module, inputs: Tensor) -> float:
    if inputs.is_cuda:
        torch.cuda.synchronize(inputs.device)
    begin = time.perf_counter()
    layer(inputs)
    if inputs.is_cuda:
        torch.cuda.synchronize(inputs.device)
    return time.perf_counter() - begin


def _csr_linear(x: Tensor, starts: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    shape = (starts.shape[0] - 1, x.shape[1])
    weight = torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)
    # W xᵀ and not x Wᵀ, the kernel of which is several times slower
    return (weight @ x.mT if bias is None else torch.addmm(bias[:, None], weight, x.mT)).mT


def _fake_csr_linear(x: Tensor, starts: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(starts.shape[0] - 1, x.shape[0]).mT


# an operator of its own, for torch.export writes no CSR tensors into files
torch.library.define(
    "spl::csr_linear", "(Tensor x, Tensor starts, Tensor columns, Tensor values, Tensor? bias) -> Tensor"
)
torch.library.impl("spl::csr_linear", ("cpu", "cuda"), _csr_linear)
torch.library.register_fake("spl::csr_linear", _fake_csr_linear)
