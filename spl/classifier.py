"""SparseClassifier: the LightningModule that holds a network and its masks, and trains what is left of it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spl.data.tensors import Batch
from spl.errors import InputError
from spl.files import read_checkpoint
from spl.functional.compiled import CompiledNetwork, CompileMode
from spl.functional.metrics import ClassifierMetrics
from spl.functional.optimizer import check_learning_rate, parameter_groups, sgd
from spl.initializers import Initializer
from spl.lightning_api import LightningModule, LRSchedulerCallable, OptimizerCallable, warn_if_imported_late
from spl.masks.masked_weights import MaskedWeights
from spl.masks.masks import Masks
from spl.masks.sharding import note_pieces
from spl.networks.loading.hyperparameters import check_hyperparameters
from spl.networks.loading.network_entry import build_network
from spl.networks.loading.state import check_state_fits, load_pretrained


class SparseClassifier(LightningModule):
    """Train a classifier by cross-entropy, and keep its pruned weights at exactly 0.0.

    The masks come from a callback such as `PruneAtInit`, from a checkpoint, or from `set_masks`. They are applied to
    the gradients before each optimizer step: after the reduction over processes and the unscaling of mixed precision,
    and before clipping, so that norms and moments see only the weights that are kept.

    Args:
        network: maps inputs [N, ...] to logits [N, classes].
        num_classes: the number of classes.
        initializer: draws the weights; without one they stay as the network made them.
        optimizer: makes an optimizer from parameters. Weight decay is not applied to BatchNorm's parameters.
        lr_scheduler: makes a learning rate schedule from an optimizer.
        lr_interval: whether the schedule counts optimizer steps or epochs.
        pretrained: a checkpoint of the spl command from whose weights fit starts, to prune after training.
        channels_last: store images and kernels in this memory format, which convolutions in mixed precision prefer.
        compile: train through `torch.compile`, or in one of its modes; see `spl.functional.compiled`.

    Example:
        >>> from spl.networks import MLP
        >>> print(SparseClassifier(MLP()).masks)  # until PruneAtInit prunes it
        None
    """

    # what TorchScript cannot compile, and forward does not need
    __jit_unused_properties__: list[str] = [*LightningModule.__jit_unused_properties__, "masks"]  # noqa: RUF012

    def __init__(
        self,
        network: nn.Module,
        num_classes: int = 10,
        initializer: Initializer | None = None,
        optimizer: OptimizerCallable = sgd,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["step", "epoch"] = "step",
        pretrained: Path | None = None,
        channels_last: bool = False,
        compile: bool | CompileMode = False,
    ) -> None:
        warn_if_imported_late()
        super().__init__()
        self.network = network
        self.channels_last = channels_last
        self.network_config: dict[str, Any] | None = None
        if initializer is not None:
            initializer(network)
        if channels_last:
            network.to(memory_format=torch.channels_last)
        self._compiled = CompiledNetwork(network, compile) if compile else None
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.lr_interval = lr_interval
        self.pretrained = pretrained
        self.metrics = ClassifierMetrics(num_classes)
        self._masked_weights = MaskedWeights(network)

    @property
    def masks(self) -> Masks | None:
        """Which weights of `network` are kept, by its parameter names; None until it is pruned."""
        return self._masked_weights.masks

    def set_masks(self, masks: Masks) -> None:
        """Hold `masks` and set the pruned weights to exactly 0.0.

        Raises:
            InputError: a mask has no parameter of its name and shape.
        """
        self._masked_weights.hold(masks)

    def on_fit_start(self) -> None:
        """Set pruned weights that were changed back to 0.0, before the sanity check sees them."""
        if not self._masked_weights.kept_by_callback:
            self._masked_weights.restart()
            self._masked_weights.keep("when fit started")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Undo what was written to pruned weights since the last batch."""
        if self._compiled is not None:
            self._compiled.announce(batch[0])
        if not self._masked_weights.kept_by_callback:
            self._masked_weights.check()

    def on_after_backward(self) -> None:
        """Keep gradients that the next batch is added to."""
        if self._compiled is not None and self.trainer.accumulate_grad_batches != 1:
            self._compiled.own_gradients_()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Move the masks if it is time, and mask the gradients before they are clipped."""
        if not self._masked_weights.kept_by_callback:
            self._masked_weights.mask_gradients_(optimizer)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Set pruned weights back to 0.0 if something other than an optimizer's step has moved them."""
        if not self._masked_weights.kept_by_callback:
            self._masked_weights.keep()

    def on_validation_start(self) -> None:
        """Set pruned weights to 0.0 before validation."""
        self._masked_weights.keep("before validation", look=True)

    def on_test_start(self) -> None:
        """Set pruned weights to 0.0 before the test."""
        self._masked_weights.keep("before the test", look=True)

    def on_predict_start(self) -> None:
        """Set pruned weights to 0.0 before predictions."""
        self._masked_weights.keep("before predictions", look=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [N, classes] of inputs [N, ...]."""
        if self.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.network(x) if self._compiled is None else self._compiled(x)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of a batch. What is logged are means since the last log, not single batches."""
        inputs, labels = batch
        logits = self(inputs)
        loss = F.cross_entropy(logits, labels)
        if every := self.trainer.log_every_n_steps:  # type: ignore[attr-defined]  # 0 for never
            self.metrics.add_training_batch(loss, logits, labels)
            if (self.trainer.global_step + 1) % every == 0:
                self._log(self.metrics.read_training())
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the validation metrics."""
        self.metrics.evaluate("val", self(batch[0]), batch[1])

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the test metrics."""
        self.metrics.evaluate("test", self(batch[0]), batch[1])

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the class probabilities [N, classes] of a batch."""
        return torch.softmax(self(batch[0]), -1)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log(self.metrics.read("val"))

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log(self.metrics.read("test"))

    def _log(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.log(name, value, prog_bar=True, sync_dist=self.trainer.world_size > 1)

    def configure_optimizers(self) -> Any:
        """Make the optimizer and the learning rate schedule.

        Raises:
            InputError: they cannot be made with the arguments that they were given.
        """
        try:
            optimizer = self.optimizer(parameter_groups(self.network))
            schedule = self.lr_scheduler(optimizer) if self.lr_scheduler is not None else None
        except Exception as error:
            raise InputError(
                f"The optimizer or its schedule cannot be made: {error}. Correct model.optimizer or model.lr_scheduler."
            ) from error
        check_learning_rate(optimizer)
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self.lr_interval}}

    def setup(self, stage: str) -> None:
        """Load the pretrained weights. A checkpoint that is resumed is not known here yet, and will replace them."""
        self._masked_weights.kept_by_callback = False  # until a callback says so when fit starts
        if stage == "fit" and self.pretrained is not None:
            load_pretrained(self.network, self.pretrained)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the masks (bool tensors by name) and, for the command line, the network's class and arguments."""
        self._masked_weights.save(checkpoint)
        if self.network_config is not None:
            checkpoint["network"] = self.network_config

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the masks from the checkpoint, before its weights are loaded.

        Raises:
            InputError: the checkpoint is of another network, or its masks and weights disagree.
        """
        if self._trainer is not None:
            note_pieces(self.trainer.strategy.model)
        self._masked_weights.load(checkpoint, prefix="network.")
        if "state_dict" in checkpoint:  # a strategy that shards weights has taken it out and loaded it
            check_state_fits(checkpoint["state_dict"], self, "The checkpoint")

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        trust: str | Iterable[str] = (),
        **kwargs: Any,
    ) -> Self:
        """Return the trained classifier with its masks.

        A checkpoint is data. Nothing that it names is imported or called, but for the classes of `spl.networks` and
        those that you trust.

        Args:
            checkpoint_path: a checkpoint of this class.
            map_location: the device to load it to; see `torch.load`.
            trust: paths of the classes that a checkpoint of the `spl` command may name as its network or in the
                network's arguments, such as "mynet.Net". They are imported.
            kwargs: arguments of `SparseClassifier`. `network` is needed where the checkpoint was not made by the
                `spl` command, which records how to build it.

        Raises:
            InputError: there is no such file, it is not whole, it names classes that are not trusted, or it does not
                say how to build the network and none is given.
        """
        checkpoint = read_checkpoint(checkpoint_path)
        check_hyperparameters(checkpoint, checkpoint_path, kwargs)
        if "network" not in kwargs:
            kwargs["network"] = build_network(checkpoint, checkpoint_path, trust)
        kwargs["weights_only"] = True  # Lightning reads the file again, and might unpickle another one
        return super().load_from_checkpoint(checkpoint_path, map_location=map_location, **kwargs)
