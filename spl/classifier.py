"""SparseClassifier: the LightningModule that holds a network and its masks, and trains what is left of it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from spl.data.tensors import Batch
from spl.errors import InputError
from spl.files import read_checkpoint
from spl.functional.optimizer import sgd
from spl.initializers import Initializer
from spl.loading.hyperparameters import check_hyperparameters
from spl.loading.network_entry import build_network
from spl.masks.masked_weights import MaskedWeights
from spl.masks.masks import Masks
from spl.masks.sharding import note_pieces


class SparseClassifier(LightningModule):
    """Trains a classifier whose pruned weights stay exactly 0.0, by cross-entropy.

    Masks come from a callback such as `PruneAtInit`, from a checkpoint, or from `set_masks`. They are applied to
    the gradients before each optimizer step: after the reduction over processes and the unscaling of mixed
    precision, before clipping, so that norms and moments see live weights only.

    Args:
        network: maps inputs [N, ...] to logits [N, classes].
        num_classes: number of classes.
        initializer: draws the weights; without one they are as the network made them.
        optimizer: from parameters to an optimizer. Weight decay spares BatchNorm's parameters.
        lr_scheduler: from an optimizer to a learning rate schedule.
        lr_interval: whether the schedule counts optimizer steps or epochs.
        pretrained: checkpoint of this command whose weights fit starts from, for pruning after training.
        channels_last: lay images and kernels out in memory channel by channel of a pixel, which convolutions in
            mixed precision prefer.
        compile: train through `torch.compile`; scores and spectra are taken without it.
    """

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
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.memory_format = torch.channels_last if channels_last else torch.preserve_format
        self.network_config: dict[str, Any] | None = None
        if initializer is not None:
            initializer(network)
        network.to(memory_format=self.memory_format)
        if compile:
            network.compile()
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.lr_interval = lr_interval
        self.pretrained = pretrained
        self.metrics = nn.ModuleDict({"loss/train": MeanMetric(), "accuracy/train": MeanMetric()})
        for split in ("val", "test"):
            self.metrics[f"loss/{split}"] = MeanMetric()
            self.metrics[f"accuracy/{split}"] = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self._unlogged: list[tuple[Tensor, Tensor, int]] = []
        self._masked_weights = MaskedWeights(network)

    # Masks

    @property
    def masks(self) -> Masks | None:
        """Which weights of `network` are alive, by its parameter names; None until it is pruned."""
        return self._masked_weights.masks

    def set_masks(self, masks: Masks) -> None:
        """Hold `masks` and set the pruned weights to exactly 0.0.

        Raises:
            InputError: a mask has no parameter of its name and shape.
        """
        self._masked_weights.hold(masks)

    def on_fit_start(self) -> None:
        """Set weights that were changed since they were pruned back to 0.0, before the sanity check sees them."""
        if not self._masked_weights.kept_by_callback:
            self._masked_weights.restart()
            self._masked_weights.keep("when fit started")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Undo what was written to pruned weights since the last batch."""
        if not self._masked_weights.kept_by_callback:
            self._masked_weights.check()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Mask the gradients before they are clipped."""
        if not self._masked_weights.kept_by_callback:
            self._masked_weights.mask_gradients_()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Set pruned weights back to 0.0 that something else than an optimizer's step has moved."""
        if not self._masked_weights.kept_by_callback:
            self._masked_weights.keep()

    def on_validation_start(self) -> None:
        """Let no pruned weight act in validation."""
        self._masked_weights.keep("before validation", look=True)

    def on_test_start(self) -> None:
        """Let no pruned weight act in the test."""
        self._masked_weights.keep("before the test", look=True)

    def on_predict_start(self) -> None:
        """Let no pruned weight act in predictions."""
        self._masked_weights.keep("before predictions", look=True)

    # Training

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] of inputs [N, ...]."""
        if x.ndim == 4:
            x = x.to(memory_format=self.memory_format)
        logits: Tensor = self.network(x)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean cross-entropy of a batch. Logged are means since the last log, not single batches."""
        inputs, labels = batch
        logits = self(inputs)
        loss = F.cross_entropy(logits, labels)
        accuracy = (logits.detach().argmax(-1) == labels).float().mean()
        trainer = self.trainer
        if every := trainer.log_every_n_steps:  # type: ignore[attr-defined]  # 0 for never
            self._unlogged.append((loss.detach(), accuracy, len(labels)))
            if (trainer.global_step + 1) % every == 0:
                self._log_train()
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the validation metrics."""
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the test metrics."""
        self._evaluate("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Class probabilities [N, classes]."""
        logits: Tensor = self(batch[0])
        return logits.softmax(-1)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log("test")

    def _metric(self, name: str) -> Metric:
        metric = self.metrics[name]
        assert isinstance(metric, Metric)
        return metric

    def _evaluate(self, split: str, batch: Batch) -> None:
        inputs, labels = batch
        logits = self(inputs)
        self._metric(f"loss/{split}").update(F.cross_entropy(logits, labels), weight=len(labels))
        self._metric(f"accuracy/{split}").update(logits, labels)

    def _log_train(self) -> None:
        """Feed the metrics all batches since the last log at once: one update a step would be felt on a small net."""
        losses, accuracies, sizes = zip(*self._unlogged, strict=True)
        self._unlogged = []
        weights = torch.tensor(sizes, device=self.device)
        self._metric("loss/train").update(torch.stack(losses), weights)
        self._metric("accuracy/train").update(torch.stack(accuracies), weights)
        self._log("train")

    def _log(self, split: str) -> None:
        for name in (f"loss/{split}", f"accuracy/{split}"):
            metric = self._metric(name)
            self.log(name, metric.compute(), prog_bar=True, sync_dist=self.trainer.world_size > 1)
            metric.reset()

    def configure_optimizers(self) -> Any:
        """The optimizer and the schedule that were given.

        Raises:
            InputError: they cannot be made with the arguments they were given.
        """
        norms = {
            id(p) for module in self.network.modules() if isinstance(module, _BatchNorm) for p in module.parameters()
        }
        groups: list[dict[str, Any]] = [{"params": [p for p in self.network.parameters() if id(p) not in norms]}]
        if norms:
            norm_parameters = [p for p in self.network.parameters() if id(p) in norms]
            groups.append({"params": norm_parameters, "weight_decay": 0.0})
        try:
            optimizer = self.optimizer(groups)
            schedule = self.lr_scheduler(optimizer) if self.lr_scheduler is not None else None
        except Exception as error:
            raise InputError(
                f"The optimizer or its schedule cannot be made: {error}. Correct model.optimizer or model.lr_scheduler."
            ) from error
        for group in optimizer.param_groups:  # other numbers may be infinite by design, such as Prodigy's growth rate
            if not abs(rate := float(group.get("lr", 0.0))) <= torch.finfo(torch.float32).max:
                raise InputError(
                    f"The optimizer's lr is {rate}, which is no finite number in single precision: correct "
                    "model.optimizer."
                )
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self.lr_interval}}

    # Checkpoints

    def setup(self, stage: str) -> None:
        """Load the pretrained weights, which a checkpoint that is resumed, and not known here yet, replaces."""
        self._masked_weights.kept_by_callback = False  # until one says that it does, as fit starts
        if stage == "fit" and self.pretrained is not None:
            state = read_checkpoint(self.pretrained)["state_dict"]
            prefix = "network."
            weights = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
            _check_state_fits(weights, self.network, self.pretrained)
            self.network.load_state_dict(weights)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the masks (bool tensors by name) and, from the command line, the network's class and arguments."""
        self._masked_weights.save(checkpoint)
        if self.network_config is not None:
            checkpoint["network"] = self.network_config

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the masks back, before the weights are loaded.

        Raises:
            InputError: it is of another network, or its masks and weights disagree.
        """
        if self._trainer is not None:
            note_pieces(self.trainer.strategy.model)
        self._masked_weights.load(checkpoint, prefix="network.")
        if "state_dict" in checkpoint:  # which a strategy that shards weights has taken out and loaded
            _check_state_fits(checkpoint["state_dict"], self, "The checkpoint")

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
            map_location: where to put it; see `torch.load`.
            trust: paths of the classes that a checkpoint of the `spl` command may name as its network or in the
                network's arguments, such as "mynet.Net". They are imported.
            kwargs: arguments of `SparseClassifier`. `network` is needed where the checkpoint was not made by the
                `spl` command, which records how to build it.

        Raises:
            InputError: there is no such file, it is not whole, it asks for other classes, or it does not say how to
                build the network and none is given.
        """
        checkpoint = read_checkpoint(checkpoint_path)
        check_hyperparameters(checkpoint, checkpoint_path, kwargs)
        if "network" not in kwargs:
            kwargs["network"] = build_network(checkpoint, checkpoint_path, trust)
        kwargs["weights_only"] = True  # Lightning reads the file again, and might unpickle another one
        model = super().load_from_checkpoint(checkpoint_path, map_location=map_location, **kwargs)
        assert isinstance(model, cls)
        return model


def _check_state_fits(state: dict[str, Tensor], module: nn.Module, what: str | Path) -> None:
    own = module.state_dict()
    wrong = [
        f"{name} ({_shape(state[name]) if name in state else 'absent'}, wanted {_shape(tensor)})"
        for name, tensor in own.items()
        if name not in state or _shape(state[name]) != _shape(tensor)
    ]
    wrong += [f"{name} (not wanted)" for name in state if name not in own]
    if wrong:
        raise InputError(
            f"{what} does not fit the network: {', '.join(wrong)}. Use the network that it was made with: the "
            "config.yaml of its run names it."
        )


def _shape(value: Any) -> Any:
    """Of a tensor; of anything else, which a changed checkpoint may have, its type."""
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
