"""The loss by which a LightningModule is scored: a classifier's cross-entropy, or the loss that it trains by."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spl.callbacks.lightning_private import showing, training_loader
from spl.classifier import SparseClassifier
from spl.criteria import Targets
from spl.criteria.objective import LossOfLogits, Objective, total
from spl.criteria.processes import Processes
from spl.errors import InputError
from spl.functional.module_state import ModuleState
from spl.lightning_api import DummyLogger, LightningModule, Trainer, is_param_in_hook_signature

StepLoss = Callable[[LightningModule, Any], Any]  # it returns a Tensor; --help would list all subclasses of that


def check_objective(pl_module: LightningModule, loss: StepLoss | None, targets: Targets) -> None:
    """Refuse a loss for a SparseClassifier, and targets for any other module."""
    classifies, name = isinstance(pl_module, SparseClassifier), type(pl_module).__name__
    if classifies and loss is not None:
        raise InputError(f"{name} is scored by the cross-entropy of its logits: choose targets instead of a loss.")
    if not classifies and targets != "labels":
        raise InputError(
            f"targets: {targets} applies to the logits of a SparseClassifier, and {name} is scored by its own loss: "
            "pass a function loss(module, batch) instead."
        )


def objective(
    trainer: Trainer, pl_module: LightningModule, loss: StepLoss | None, of_logits: LossOfLogits
) -> Objective:
    """Return what a module is scored by: `of_logits` for a SparseClassifier, else `loss` or its training step."""
    if isinstance(pl_module, SparseClassifier):
        return of_logits
    return GivenLoss(loss, trainer) if loss else TrainingStepLoss(trainer)


class _StepLoss(Objective):
    """A loss that code of the user computes, a mean over the examples of its batch, times their number.

    The call leaves no trace: what it logs is dropped, and all that it changes about the module is given back: what its
    attributes hold before the loss is differentiated, and tensors after that, because the graph needs them.
    """

    as_trained = True

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._state: ModuleState | None = None
        self._training_loader: Any = None
        self._calls = 0
        self._losses = 0
        self._skipped = ""

    def _loss(self, module: LightningModule, batch: Any, source: str, function: Callable[[], Any]) -> Tensor:
        """Return what `function` returns, times the number of examples; for None, a 0 that depends on nothing."""
        self._give_back()
        with self._traceless(module), self._trainer.precision_plugin.train_step_context():
            try:
                loss = function()
            except (InputError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                raise InputError(_explained(source, error)) from error
        self._calls += 1
        if loss is None:
            self._skipped = source
            return torch.zeros((), device=module.device, requires_grad=True)
        self._losses += 1
        return total(loss, batch, source, _REMEDY)

    def finish(self, processes: Processes) -> None:
        """Give the module its tensors back.

        Raises:
            InputError: no batch of any process had a loss.
        """
        self._give_back()
        calls, losses, self._calls, self._losses = self._calls, self._losses, 0, 0
        if calls and not losses and processes.size == 1:
            raise InputError(
                f"{self._skipped} returned NoneType, where one number that depends on the module's weights was "
                f"expected, for each of the {calls} batches: {_REMEDY}"
            )

    def _give_back(self) -> None:
        if self._state is not None:
            self._state.restore_tensors()
            self._state.close()
            self._state = None

    @contextmanager
    def _traceless(self, module: LightningModule) -> Iterator[None]:
        """Let `module` run without logging, and give it and its submodules their attributes back at the end."""
        self._state = ModuleState(module)
        trainer, loggers = self._trainer, self._trainer.loggers
        if self._training_loader is None:
            self._training_loader = training_loader(trainer)
        trainer.loggers = [DummyLogger() for _ in loggers]
        module._trainer = trainer  # a copy of the module has lost it
        for part in module.modules():
            if isinstance(part, LightningModule):
                vars(part).update(log=_log_nothing, log_dict=_log_nothing)
        try:
            with showing(trainer, self._training_loader):
                yield
        finally:
            trainer.loggers = loggers
            self._state.note_writes()
            self._state.restore_attributes()


class TrainingStepLoss(_StepLoss):
    """The loss that `training_step` returns, a mean over the examples of its batch, times their number.

    The call leaves no trace. The module's hooks (`on_train_batch_start`, ...) are not called. A batch for which the
    step returns None is skipped, as it is in training.

    Args:
        trainer: the module's Trainer, which gives the precision, and what the module asks of it.
    """

    def __call__(self, network: nn.Module, batch: Any) -> Tensor:
        """Return the loss of the LightningModule `network`.

        Raises:
            InputError: it optimizes manually or fetches its own batches, or its training step raises an error or
                returns no loss that depends on its weights.
        """
        assert isinstance(network, LightningModule)
        name, step = type(network).__name__, network.training_step
        if not network.automatic_optimization:
            raise InputError(f"{name} optimizes manually, and its training_step takes whole steps: {_REMEDY}")
        if is_param_in_hook_signature(step, "dataloader_iter", explicit=True):
            raise InputError(f"training_step(dataloader_iter) of {name} fetches its own batches: {_REMEDY}")
        indexed = is_param_in_hook_signature(step, "batch_idx", min_args=2)

        def loss() -> Any:
            output = step(*((batch, 0) if indexed else (batch,)))
            return output.get("loss") if isinstance(output, Mapping) else output

        return self._loss(network, batch, f"training_step of {name}", loss)


class GivenLoss(_StepLoss):
    """A user's function of module and batch, a mean over the examples of the batch, times their number.

    Args:
        function: a function that is differentiable by the module's weights. A batch for which it returns None is
            skipped.
        trainer: the module's Trainer.
    """

    def __init__(self, function: StepLoss, trainer: Trainer) -> None:
        super().__init__(trainer)
        self.function = getattr(function, "__qualname__", type(function).__name__)
        self._function = function

    def __call__(self, network: nn.Module, batch: Any) -> Tensor:
        """Return the loss of the LightningModule `network`.

        Raises:
            InputError: the function raises an error, or returns no loss that depends on the module's weights.
        """
        assert isinstance(network, LightningModule)
        return self._loss(network, batch, f"loss={self.function}", lambda: self._function(network, batch))


_REMEDY = "pass PruneAtInit a function, loss=lambda module, batch: ..."


def _explained(source: str, error: Exception) -> str:
    return (
        f"{source} raised {type(error).__name__} while the weights were scored: {error}\nPruneAtInit calls it on "
        "training batches when fit starts. Hooks such as on_fit_start and on_train_epoch_start have not run yet: make "
        f"what it needs in __init__ or setup, or {_REMEDY}, which is a mean over the batch."
    )


def _log_nothing(*args: Any, **kwargs: Any) -> None:
    """Stand in for `LightningModule.log`, which refuses to be called outside of the training loop."""
