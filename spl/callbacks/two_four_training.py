"""A callback that trains Linear layers on sparse tensor cores."""

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spl.callbacks.base import SplCallback
from spl.errors import InputError, first_line
from spl.export.timing import median_seconds
from spl.export.two_four import is_two_four, layers_of_use, obstacle, without_prototype_warning
from spl.lightning_api import LightningModule, Trainer, rank_zero_info
from spl.masks.masked_weights import MaskedWeights
from spl.masks.masks import Masks

_BACKENDS = ("cusparselt", "cutlass")  # the first is the faster one
_ROWS = 128  # of the inputs with which a layer is tried


class TwoFourTraining(SplCallback):
    """A callback that trains Linear layers on sparse tensor cores, which skip two of every four weights.

    The masks must be 2:4 along both axes (`spl.pruning.patterns.TransposableNM`), because the backward pass multiplies
    by the transpose. Other layers stay dense. Training steps multiply by torchao's semi-structured weights
    (`pip install 'spl-lightning[two-four]'`), for which the weights of each 4×4 tile are sorted: because pruned weights
    are 0, the masks are found again. The kernels are those of cuSPARSELt or, where a trial of them fails, of CUTLASS.
    Validation and spectra use the masked dense weights, which give the
    same outputs up to rounding.

    The first step trains all of these layers as 2:4. Then each is timed on the inputs that it got, forward and
    backward, and goes on as 2:4 only if that is faster than the dense layer.

    The callback needs a CUDA device with sparse tensor cores, and weights in half precision (`trainer.precision`
    16-true or bf16-true). Tests run it with the kernels emulated on a CPU.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> from spl import PruneAtInit
        >>> from spl.callbacks import TwoFourTraining
        >>> from spl.pruning.patterns import TransposableNM
        >>> callbacks = [PruneAtInit(sparsity=0.5, pattern=TransposableNM()), TwoFourTraining()]
        >>> trainer = Trainer(callbacks=callbacks, precision="bf16-true", logger=False, enable_checkpointing=False)
    """

    def __init__(self) -> None:
        self._layers: dict[str, nn.Linear] = {}
        self._backends: dict[nn.Linear, str] = {}
        self._inputs: dict[str, Tensor] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check, before anything runs, that torchao is installed.

        Raises:
            InputError: torchao is not installed.
        """
        super().setup(trainer, pl_module, stage)
        _kernels()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the layers that can be trained on sparse tensor cores.

        Raises:
            InputError: there is none; the message gives the reason for each layer.
        """
        held = MaskedWeights.of(pl_module)
        found, dense = layers_of_use(
            held.network, held.masks or Masks({}), self._refusal, "train",
            "Prune with --pruning.pattern TransposableNM, on a CUDA device with sparse tensor cores, with "
            "--trainer.precision bf16-true or 16-true; or leave TwoFourTraining out.",
        )  # fmt: skip
        self._layers, self._inputs = found, {}
        rank_zero_info(f"Can train as 2:4: {', '.join(found)}; dense: {', '.join(dense) or 'none'}")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Make the layers multiply by sparse weights."""
        for name, layer in self._layers.items():
            layer.forward = MethodType(self._forward(name), layer)  # type: ignore[method-assign]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Make the layers multiply by dense weights again, for good where that is faster."""
        self._restore()
        if self._inputs is not None:
            used = {name: self._layers[name] for name in self._inputs}
            times = {n: _times(layer, self._inputs[n], self._backends[layer]) for n, layer in used.items()}
            self._inputs = None
            self._layers = {name: self._layers[name] for name, (dense, sparse) in times.items() if sparse < dense}
            rank_zero_info(_report(times))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the layers multiply by dense weights again, also after an error."""
        self._restore()

    def _forward(self, name: str) -> Any:
        """Return the forward method of a layer, which notes its inputs in the first step."""
        read = self._inputs

        def forward(layer: nn.Linear, x: Tensor) -> Tensor:
            if read is not None:
                read[name] = x.detach()
            return _product(layer, x, self._backends[layer])

        return forward

    def _refusal(self, layer: nn.Linear, mask: Tensor) -> str:
        """Return why a layer cannot be trained on sparse tensor cores, or an empty string if it can."""
        if not is_two_four(mask.T):
            return "its mask is not 2:4 along the outputs"
        if reason := obstacle(layer.weight, mask):
            return reason
        errors = []
        for backend in _BACKENDS:
            if not (error := _error_of_a_trial(layer, backend)):
                self._backends[layer] = backend
                return ""
            errors.append(error)
        return " and ".join(dict.fromkeys(errors))

    def _restore(self) -> None:
        for layer in self._layers.values():
            vars(layer).pop("forward", None)


def _kernels() -> Any:
    """Import the module of torchao that has the sparse kernels."""
    try:
        import torchao.sparsity.training
    except ImportError as error:
        raise InputError("TwoFourTraining needs torchao: pip install 'spl-lightning[two-four]'.") from error
    return torchao.sparsity.training


def _product(layer: nn.Linear, x: Tensor, backend: str) -> Tensor:
    """Return the outputs of a layer with its weights as semi-structured ones."""
    return F.linear(x, _kernels().semi_structured_sparsify(layer.weight, backend=backend), layer.bias)


def _step(layer: nn.Linear, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], None]:
    """Return a function that does the work of a step of the layer, forward and backward, and changes nothing."""

    def run(x: Tensor) -> None:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            torch.autograd.grad(forward(x).sum(), [x, layer.weight])

    return run


def _times(layer: nn.Linear, inputs: Tensor, backend: str) -> tuple[float, float]:
    """Return the seconds of a step of the layer, dense and as 2:4."""
    forwards = (layer.forward, lambda x: _product(layer, x, backend))
    dense, sparse = median_seconds([_step(layer, forward) for forward in forwards], inputs)
    return dense, sparse


def _error_of_a_trial(layer: nn.Linear, backend: str) -> str:
    """Return the error of the kernels in a step of this layer, for example because of its size; or an empty string."""
    try:
        with without_prototype_warning():
            _step(layer, lambda x: _product(layer, x, backend))(layer.weight.new_ones(_ROWS, layer.in_features))
    except (RuntimeError, ValueError) as error:
        return first_line(error)
    return ""


def _report(times: dict[str, tuple[float, float]]) -> str:
    """Return what was decided for each layer, with its times."""
    rows = [
        f"{name} {'2:4' if sparse < dense else 'dense'} ({1e6 * sparse:.0f} μs as 2:4, {1e6 * dense:.0f} μs dense)"
        for name, (dense, sparse) in times.items()
    ]
    return f"Each layer trains in the way that is faster here: {', '.join(rows)}"
