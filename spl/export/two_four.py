"""Linear layers on sparse tensor cores, which skip two of every four weights."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from tabulate import tabulate
from torch import Tensor, nn

from spl.errors import InputError, first_line
from spl.export.cost import pruned_copy
from spl.masks.masks import Masks


@dataclass(frozen=True)
class TwoFourResult:
    """A network with some layers on sparse tensor cores.

    Attributes:
        network: in evaluation mode.
        converted: names of the layers.
        dense: by name, why the other Linear layers under a mask stay dense.
    """

    network: nn.Module
    converted: list[str]
    dense: dict[str, str]

    def table(self) -> str:
        """One row a layer."""
        rows = [*((name, "2:4", "") for name in self.converted), *((n, "dense", why) for n, why in self.dense.items())]
        return tabulate(rows, ["layer", "taken", "why"], disable_numparse=True)


def to_two_four(network: nn.Module, masks: Masks) -> TwoFourResult:
    """A copy for inference whose Linear layers with 2:4 masks have PyTorch's semi-structured weights.

    Of every four consecutive inputs, a row's mask keeps two at most (`spl.patterns.NM`). Needs a CUDA device with
    sparse tensor cores (Ampere or later), half precision (float16, bfloat16) and layers of the sizes that its kernels
    take; convolutions stay dense. The copy cannot be trained: convert after fit, in which
    `spl.callbacks.TwoFourTraining` uses these cores.

    Args:
        network: on the device, in the precision to infer in; left as it was found.
        masks: by the names of its parameters; pruned weights count as 0.

    Raises:
        InputError: a mask does not fit, or no layer can be converted; the message says why for each.
    """
    copied = pruned_copy(network, masks)
    converted, dense = layers_of_use(
        copied, masks, lambda layer, mask: obstacle(layer.weight, mask) or _convert_(layer), "run",
        "Prune with --pruning.pattern NM and move the network to a CUDA device with sparse tensor cores, in float16 or "
        "bfloat16; or export it as csr or compact.",
    )  # fmt: skip
    return TwoFourResult(copied, list(converted), dense)


def layers_of_use(
    network: nn.Module, masks: Masks, refusal: Callable[[nn.Linear, Tensor], str], use: str, remedy: str
) -> tuple[dict[str, nn.Linear], dict[str, str]]:
    """The Linear layers under a mask that can be used as 2:4, and why the others cannot, both by name.

    Args:
        network: whose layers they are.
        masks: by the names of its parameters.
        refusal: of a layer and its mask, why it cannot be used; empty if it can.
        use: what they are to do, a verb.
        remedy: a sentence that says what to do where none can.

    Raises:
        InputError: none can; the message says why for each.
    """
    layers = {n: m for n, m in network.named_modules() if f"{n}.weight" in masks and type(m) is nn.Linear}
    refusals = {name: refusal(layer, masks[f"{name}.weight"]) for name, layer in layers.items()}
    dense = {name: reason for name, reason in refusals.items() if reason}
    if len(dense) == len(layers):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in dense.items()) or "no Linear layer has a mask"
        raise InputError(f"No layer can {use} as 2:4 ({reasons}). {remedy}")
    return {name: layer for name, layer in layers.items() if name not in dense}, dense


def is_two_four(mask: Tensor) -> bool:
    """Whether each row [out, in] keeps two at most of every four consecutive inputs."""
    return mask.shape[1] % 4 == 0 and bool((mask.reshape(len(mask), -1, 4).sum(-1) <= 2).all())


def obstacle(weight: Tensor, mask: Tensor) -> str:
    """Why a layer cannot be tried; empty if it can."""
    if not is_two_four(mask):
        return "its mask is not 2:4"
    if weight.device.type != "cuda":
        return f"it is on {weight.device.type}, and the kernels are CUDA's"
    if weight.dtype not in (torch.float16, torch.bfloat16):
        return f"it is in {str(weight.dtype).removeprefix('torch.')}"
    return ""


@contextmanager
def without_prototype_warning() -> Iterator[None]:
    """Silence what PyTorch says when a process makes its first semi-structured tensor."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of SparseSemiStructuredTensor is in prototype stage")
        yield


def _convert_(layer: nn.Linear) -> str:
    """Give it a semi-structured weight; why that cannot be, or nothing."""
    try:
        with without_prototype_warning():
            weight = torch.sparse.to_sparse_semi_structured(layer.weight.detach().contiguous())
    except (RuntimeError, ValueError) as error:  # its size, or a device without the kernels
        return first_line(error)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return ""
