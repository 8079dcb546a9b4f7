"""TwoFourTraining: Linear layers that train on sparse tensor cores."""

from types import MethodType
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from spl.errors import InputError, first_line
from spl.export.two_four import is_two_four, obstacle
from spl.masked_weights import MaskedWeights


class TwoFourTraining(Callback):
    """Trains Linear layers on sparse tensor cores, which skip two of every four weights, where masks allow it.

    They must be 2:4 along both axes, as those of `spl.patterns.TransposableNM` are, for the backward pass multiplies by
    the transpose. The products of training steps are those of torchao's `SemiSparseLinear` (`pip install
    'spl[two-four]'`), which sorts the weights of each 4×4 tile before it multiplies: as pruned ones are 0, it finds the
    masks again. Validation and spectra take the masked dense weights, which give the same outputs up to rounding.

    Needs a CUDA device with sparse tensor cores and weights in half precision (`trainer.precision` 16-true or
    bf16-true). Other layers stay dense. Tests run it with the kernels emulated on a CPU.
    """

    def __init__(self) -> None:
        self._layers: list[nn.Linear] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse, before anything runs, what cannot be had here.

        Raises:
            InputError: torchao is missing.
        """
        try:
            import torchao.sparsity.training  # noqa: F401
        except ImportError as error:
            raise InputError("TwoFourTraining needs torchao: pip install 'spl[two-four]'.") from error

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the layers.

        Raises:
            InputError: none can be trained so; the message says why for each.
        """
        held = MaskedWeights.of(pl_module)
        found: dict[str, nn.Linear] = {}
        dense: dict[str, str] = {}
        for name, mask in (held.masks or {}).items():
            layer, _, kind = name.rpartition(".")
            module = held.network.get_submodule(layer)
            if kind == "weight" and type(module) is nn.Linear:
                if reason := _obstacle(module.weight, mask):
                    dense[layer] = reason
                else:
                    found[layer] = module
        if not found:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in dense.items()) or "no Linear layer has a mask"
            raise InputError(
                f"No layer can train as 2:4 ({reasons}). Prune with --pruning.pattern TransposableNM, on a CUDA device "
                "with sparse tensor cores, with --trainer.precision bf16-true or 16-true; or leave TwoFourTraining out."
            )
        self._layers = list(found.values())
        rank_zero_info(f"Train as 2:4: {', '.join(found)}; dense: {', '.join(dense) or 'none'}")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """From here on they multiply by sparse weights."""
        from torchao.sparsity.training import SemiSparseLinear

        for layer in self._layers:
            layer.forward = MethodType(SemiSparseLinear.forward, layer)  # type: ignore[method-assign]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """And no longer."""
        self._restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the network as it was found, after an error too."""
        self._restore()

    def _restore(self) -> None:
        for layer in self._layers:
            vars(layer).pop("forward", None)


def _obstacle(weight: Tensor, mask: Tensor) -> str:
    """Why a layer cannot train so; empty if it can."""
    if not is_two_four(mask.T):
        return "its mask is not 2:4 along the outputs"
    return obstacle(weight, mask) or _refusal(weight)


def _refusal(weight: Tensor) -> str:
    """What the kernels say to a weight, whose size they may not take, or nothing."""
    from torchao.sparsity import training

    try:
        training.semi_structured_sparsify(weight.detach(), backend="cusparselt")
    except (RuntimeError, ValueError) as error:
        return first_line(error)
    return ""
