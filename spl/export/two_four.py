"""Linear layers with 2:4 sparsity on sparse tensor cores, which skip two of every four weights."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor, nn

from spl.errors import InputError, first_line
from spl.export.comparison import difference_of_outputs
from spl.export.cost import pruned_copy
from spl.export.timing import layer_inputs, median_seconds
from spl.masks.masks import Masks


@dataclass(frozen=True)
class TwoFourResult:
    """A network with some layers on sparse tensor cores.

    Attributes:
        network: the network, in evaluation mode.
        converted: names of the layers on sparse tensor cores, with their times.
        dense: the reasons why the other Linear layers under a mask stay dense, by name.

    Example:
        >>> import torch
        >>> from spl.export import TwoFourResult
        >>> converted = {"fc1": "80 μs for a batch, dense 95 μs"}
        >>> print(TwoFourResult(torch.nn.Identity(), converted, {"fc2": "its mask is not 2:4"}).table())
        layer    used    why
        -------  ------  ------------------------------
        fc1      2:4     80 μs for a batch, dense 95 μs
        fc2      dense   its mask is not 2:4
    """

    network: nn.Module
    converted: dict[str, str]
    dense: dict[str, str]

    def table(self) -> str:
        """Return a table with one row per layer."""
        rows = [(name, "2:4", times) for name, times in self.converted.items()]
        rows += [(name, "dense", why) for name, why in self.dense.items()]
        return tabulate(rows, ["layer", "used", "why"], disable_numparse=True)


def to_two_four(network: nn.Module, masks: Masks, example_input: Tensor) -> TwoFourResult:
    """Return a copy whose Linear layers with 2:4 masks have PyTorch's semi-structured weights where these are faster.

    In each row, a 2:4 mask keeps at most two of every four consecutive inputs (`spl.pruning.patterns.NM`). The layers
    need a CUDA device with sparse tensor cores (Ampere or later), half precision (float16 or bfloat16), and sizes that
    the kernels support. Convolutions stay dense. The copy cannot be trained, so convert after fit; during fit,
    `spl.callbacks.TwoFourTraining` uses these cores. A layer stays dense if its outputs for random inputs would change
    by more than ten rounding units, or if it is not faster as 2:4. Each layer is timed on its own, on the inputs that
    it gets from `example_input`, so the choice holds for this device and for batches of this size.

    Args:
        network: the network, on the device and in the precision for inference; it is not changed.
        masks: the masks, by parameter name; pruned weights count as 0.
        example_input: one batch of inputs, on the device, in the precision and of the size that the copy is to be fast
            for.

    Raises:
        InputError: a mask does not fit the network, or no layer can be converted; the message gives the reason for
            each.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.export import to_two_four
        >>> network = torch.nn.Sequential(torch.nn.Linear(64, 64))
        >>> masks = Masks({"0.weight": torch.tensor([True, True, False, False]).repeat(64, 16)})
        >>> to_two_four(network, masks, torch.randn(8, 64))  # network.cuda().half() is accepted
        Traceback (most recent call last):
        spl.errors.InputError: No layer can run as 2:4 (0: it is on cpu, and the kernels need CUDA). Prune with ...
    """
    copied = pruned_copy(network, masks)
    candidates = _maskable(copied, masks)
    inputs = {candidates[name]: read for name, read in layer_inputs(copied, candidates, example_input).items()}
    times: dict[nn.Module, str] = {}

    def refusal(layer: nn.Linear, mask: Tensor) -> str:
        return obstacle(layer.weight, mask) or _convert_(layer, inputs.get(layer), times)

    converted, dense = layers_of_use(
        copied, masks, refusal, "run",
        "Prune with --pruning.pattern NM and move the network to a CUDA device with sparse tensor cores, in float16 or "
        "bfloat16; or export it as dense, csr or compact.",
    )  # fmt: skip
    return TwoFourResult(copied, {name: times[layer] for name, layer in converted.items()}, dense)


def layers_of_use(
    network: nn.Module, masks: Masks, refusal: Callable[[nn.Linear, Tensor], str], use: str, remedy: str
) -> tuple[dict[str, nn.Linear], dict[str, str]]:
    """Return the Linear layers under a mask that can be used as 2:4, and the reasons why others cannot, by name.

    Args:
        network: the network that has the layers.
        masks: the masks, by parameter name.
        refusal: returns the reason why a layer cannot be used with its mask, or an empty string if it can.
        use: what the layers are for, a verb for the message.
        remedy: what to do if no layer can be used, a sentence for the message.

    Raises:
        InputError: no layer can be used; the message gives the reason for each.
    """
    layers = _maskable(network, masks)
    refusals = {name: refusal(layer, masks[f"{name}.weight"]) for name, layer in layers.items()}
    dense = {name: reason for name, reason in refusals.items() if reason}
    if len(dense) == len(layers):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in dense.items()) or "no Linear layer has a mask"
        raise InputError(f"No layer can {use} as 2:4 ({reasons}). {remedy}")
    return {name: layer for name, layer in layers.items() if name not in dense}, dense


def _maskable(network: nn.Module, masks: Masks) -> dict[str, nn.Linear]:
    """Return the Linear layers under a mask, by name."""
    return {n: m for n, m in network.named_modules() if f"{n}.weight" in masks and type(m) is nn.Linear}


def is_two_four(mask: Tensor) -> bool:
    """Return whether each row of a mask [out, in] keeps at most two of every four consecutive inputs.

    Example:
        >>> import torch
        >>> from spl.export.two_four import is_two_four
        >>> is_two_four(torch.tensor([[True, True, False, False]])), is_two_four(torch.ones(1, 4, dtype=torch.bool))
        (True, False)
    """
    return mask.shape[1] % 4 == 0 and bool((mask.reshape(len(mask), -1, 4).sum(-1) <= 2).all())


def obstacle(weight: Tensor, mask: Tensor) -> str:
    """Return the reason why a layer cannot be converted, or an empty string if the kernels can be tried.

    Example:
        >>> import torch
        >>> from spl.export.two_four import obstacle
        >>> obstacle(torch.randn(1, 4), torch.ones(1, 4, dtype=torch.bool))
        'its mask is not 2:4'
    """
    if not is_two_four(mask):
        return "its mask is not 2:4"
    if weight.device.type != "cuda":
        return f"it is on {weight.device.type}, and the kernels need CUDA"
    if weight.dtype not in (torch.float16, torch.bfloat16):
        return f"it is in {str(weight.dtype).removeprefix('torch.')}"
    return ""


@contextmanager
def without_prototype_warning() -> Iterator[None]:
    """Silence the warning that PyTorch gives when a process makes its first semi-structured tensor."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of SparseSemiStructuredTensor is in prototype stage")
        yield


def _convert_(layer: nn.Linear, inputs: Tensor | None, times: dict[nn.Module, str]) -> str:
    """Give a layer a semi-structured weight, and note its times; return a reason if the layer is to stay dense.

    Args:
        layer: the layer.
        inputs: the inputs of the layer for the example; None if it is not called.
        times: where to note the times of the layer.
    """
    if inputs is None:
        return "the network does not call it"
    try:
        with without_prototype_warning():
            weight = torch.sparse.to_sparse_semi_structured(layer.weight.detach().contiguous())
        difference = _difference(layer, weight)
        dense, sparse = median_seconds([layer, lambda x: F.linear(x, weight, layer.bias)], inputs)
    except (RuntimeError, ValueError) as error:  # an unsupported size, or a device without the kernels
        return first_line(error)
    if difference:
        return f"its 2:4 kernel computes something else: {difference.removesuffix('.')}"
    measured = f"{1e6 * sparse:.0f} μs for a batch, dense {1e6 * dense:.0f} μs"
    if sparse >= dense:
        return f"it is not faster as 2:4: {measured}"
    times[layer] = measured
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return ""


def _difference(layer: nn.Linear, weight: Tensor) -> str:
    """Return how the outputs of a layer for random inputs change with the semi-structured weight."""
    example = layer.weight.new_zeros(1, layer.in_features)
    return difference_of_outputs(
        layer, example, lambda batches: [F.linear(inputs, weight, layer.bias) for inputs in batches]
    )
