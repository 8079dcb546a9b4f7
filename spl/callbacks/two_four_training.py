"""TwoFourTraining: Linear layers that train on sparse tensor cores."""

from types import MethodType
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from spl.errors import InputError, first_line
from spl.export.two_four import is_two_four, layers_of_use, obstacle, without_prototype_warning
from spl.masks.masked_weights import MaskedWeights
from spl.masks.masks import Masks


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
        _kernels()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the layers.

        Raises:
            InputError: none can be trained so; the message says why for each.
        """
        held = MaskedWeights.of(pl_module)
        found, dense = layers_of_use(
            held.network, held.masks or Masks({}), _refusal, "train",
            "Prune with --pruning.pattern TransposableNM, on a CUDA device with sparse tensor cores, with "
            "--trainer.precision bf16-true or 16-true; or leave TwoFourTraining out.",
        )  # fmt: skip
        self._layers = list(found.values())
        rank_zero_info(f"Train as 2:4: {', '.join(found)}; dense: {', '.join(dense) or 'none'}")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """From here on they multiply by sparse weights."""
        for layer in self._layers:
            layer.forward = MethodType(_kernels().SemiSparseLinear.forward, layer)  # type: ignore[method-assign]

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


def _kernels() -> Any:
    """The module of torchao that has them."""
    try:
        import torchao.sparsity.training
    except ImportError as error:
        raise InputError("TwoFourTraining needs torchao: pip install 'spl[two-four]'.") from error
    return torchao.sparsity.training


def _refusal(layer: nn.Linear, mask: Tensor) -> str:
    """Why a layer cannot train so; empty if it can."""
    if not is_two_four(mask.T):
        return "its mask is not 2:4 along the outputs"
    return obstacle(layer.weight, mask) or _tried(layer.weight)


def _tried(weight: Tensor) -> str:
    """What the kernels say against a weight, whose size they may not take, or nothing."""
    try:
        with without_prototype_warning():
            _kernels().semi_structured_sparsify(weight.detach(), backend="cusparselt")
    except (RuntimeError, ValueError) as error:
        return first_line(error)
    return ""
