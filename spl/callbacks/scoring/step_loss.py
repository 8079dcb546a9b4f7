"""The loss by which a LightningModule is scored: a classifier's cross-entropy, or the loss that it trains by."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn

from spl.classifier import SparseClassifier
from spl.criteria import Targets
from spl.criteria.objective import LossOfLogits, Objective, first_tensor
from spl.errors import InputError
from spl.functional.torch_private import write_counts

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


class TrainingStepLoss(Objective):
    """The loss that `training_step` returns, a mean over the examples of its batch, times their number.

    The call leaves no trace: what the step logs is dropped, and metrics, counters and lists that are attributes of the
    module or of its submodules are given their values back. Its hooks (`on_train_batch_start`, ...) are not called.

    Args:
        trainer: the module's Trainer, which gives the precision, and what the module asks of it.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def __call__(self, network: nn.Module, batch: Any) -> Tensor:
        """Return the loss of the LightningModule `network`.

        Raises:
            InputError: it optimizes manually, or its training step returns no loss that depends on its weights.
        """
        assert isinstance(network, LightningModule)
        if not network.automatic_optimization:
            raise InputError(
                f"{type(network).__name__} optimizes manually, and its training_step takes whole steps: pass "
                "PruneAtInit a function, loss=lambda module, batch: ..."
            )
        indexed = is_param_in_hook_signature(network.training_step, "batch_idx", min_args=2)
        with traceless(network, self._trainer), self._trainer.precision_plugin.train_step_context():
            output = network.training_step(*((batch, 0) if indexed else (batch,)))
        loss = output.get("loss") if isinstance(output, Mapping) else output
        return _total(loss, batch, f"training_step of {type(network).__name__}")


class GivenLoss(Objective):
    """A user's function of module and batch, a mean over the examples of the batch, times their number.

    Args:
        function: a function that is differentiable by the module's weights.
        trainer: the module's Trainer.
    """

    def __init__(self, function: StepLoss, trainer: Trainer) -> None:
        self.function = getattr(function, "__qualname__", type(function).__name__)
        self._function = function
        self._trainer = trainer

    def __call__(self, network: nn.Module, batch: Any) -> Tensor:
        """Return the loss of the LightningModule `network`.

        Raises:
            InputError: the function returns no loss that depends on its weights.
        """
        assert isinstance(network, LightningModule)
        with traceless(network, self._trainer), self._trainer.precision_plugin.train_step_context():
            loss = self._function(network, batch)
        return _total(loss, batch, f"loss={self.function}")


def _total(loss: object, batch: Any, source: str) -> Tensor:
    """Return the sum over the examples of a batch, given their mean."""
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise InputError(
            f"{source} returned {found}, where one number that depends on the module's weights was expected: pass "
            "PruneAtInit a function, loss=lambda module, batch: ..."
        )
    return loss.sum() * len(first_tensor(batch))


@contextmanager
def traceless(module: LightningModule, trainer: Trainer) -> Iterator[None]:
    """Let `module` run without logging, and give it and its submodules their attributes back at the end.

    These are Python attributes: the states of metrics, counters, lists of outputs. `undisturbed` looks after
    parameters, buffers and modes. A tensor that did not change is not touched, because a graph may need it.
    """
    before = [(vars(part), _Attributes(vars(part))) for part in module.modules()]
    loggers = trainer.loggers
    trainer.loggers = [DummyLogger() for _ in loggers]
    module._trainer = trainer  # a copy of the module has lost it
    for part in module.modules():
        if isinstance(part, LightningModule):
            vars(part).update(log=_log_nothing, log_dict=_log_nothing)
    try:
        yield
    finally:
        trainer.loggers = loggers
        for attributes, values in before:
            values.restore(attributes)


def _log_nothing(*args: Any, **kwargs: Any) -> None:
    """Stand in for `LightningModule.log`, which refuses to be called outside of the training loop."""


class _Attributes:
    """The attributes of an object, with copies of those that can change in place."""

    def __init__(self, attributes: dict[str, Any]) -> None:
        self.values = dict(attributes)
        self.tensors = [(v, write_counts([v]), v.detach().clone()) for v in self.values.values() if type(v) is Tensor]
        self.lists = [(v, list(v)) for v in self.values.values() if isinstance(v, list | deque)]
        self.tables = [(v, v.copy()) for v in self.values.values() if isinstance(v, dict | set)]

    def restore(self, attributes: dict[str, Any]) -> None:
        """Give the object its attributes back."""
        attributes.clear()
        attributes.update(self.values)
        for tensor, writes, content in self.tensors:
            if write_counts([tensor]) != writes:
                tensor.detach().copy_(content)
        for items, held in self.lists:
            items.clear()
            items.extend(held)
        for table, entries in self.tables:
            table.clear()
            table.update(entries)
