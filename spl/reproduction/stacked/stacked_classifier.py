"""The stacked classifier: many networks of one architecture, trained as one LightningModule with stacked weights."""

import hashlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import stack_module_state

from spl import lightning_api
from spl.callbacks.safety.checkpoint_io import WholeCheckpoints
from spl.classifier import SparseClassifier
from spl.data.tensors import Batch
from spl.masks.masked_weights import MaskedWeights
from spl.masks.masks import Masks
from spl.reproduction.stacked.forward_pass import ForwardPass
from spl.reproduction.stacked.logs import Journal, Tally
from spl.reproduction.stacked.prepared_run import PreparedRun


class StackedClassifier(SparseClassifier):
    """P networks whose parameters are stacked, [P, ...] each; one fused forward pass serves all.

    The loss is the sum of the networks' mean cross-entropies, so the gradient of each network is its own. An optimizer
    that updates each weight from its own gradients alone then takes the same step as in the separate runs.

    Args:
        runs: prepared runs of one architecture, optimizer and schedule.

    Attributes:
        best: the weights of each network at its highest validation accuracy, the first time it was reached.
        best_accuracy: Tensor [P] of these accuracies; −1 before the first validation.
        best_at: Tensor [P, 2] of their epochs and steps.
    """

    best_accuracy: Tensor
    best_at: Tensor

    def __init__(self, runs: Sequence[PreparedRun]) -> None:
        first = runs[0].model
        network = _stacked([run.model.network for run in runs])
        super().__init__(
            network, optimizer=first.optimizer, lr_scheduler=first.lr_scheduler, lr_interval=first.lr_interval
        )
        self.runs = list(runs)
        self.set_masks(_stacked_masks(runs))
        for run in runs:  # no optimizer updates a run's own weights
            MaskedWeights.of(run.model).pause()
        self.fingerprint = _fingerprint(runs)
        self.best = deepcopy(network).requires_grad_(False)
        self.register_buffer("best_accuracy", torch.full((len(runs),), -1.0))
        self.register_buffer("best_at", torch.zeros(len(runs), 2, dtype=torch.int64))
        self._forward_pass = ForwardPass(network)
        self.journal = Journal([run.trainer.loggers for run in runs])
        self.tally = Tally()
        self.evaluation = Tally()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [P, N, classes] for inputs [P, N, ...], or for inputs [1, N, ...] that all networks share."""
        return self._forward_pass(x)

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy and the number of correct predictions of each network, [P] each."""
        inputs, labels = batch
        logits = self(inputs)
        labels = labels.expand(len(logits), -1)
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
        return losses.mean(1), (logits.detach().argmax(-1) == labels).sum(1)

    # Training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the sum of the networks' losses, so that the gradient of each network is its own."""
        losses, correct = self._losses(batch)
        self.tally.add(losses.detach(), correct, batch[1].shape[1])
        step = self.trainer.global_step
        if (step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._report(self.tally, "train", step)
        return losses.sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the evaluation."""
        losses, correct = self._losses(batch)
        self.evaluation.add(losses, correct, batch[1].shape[1])

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log the validation, and keep the weights of the networks that are better than ever before."""
        accuracy = self._report(self.evaluation, "val", self.trainer.global_step - 1)["accuracy/val"]
        better = accuracy > self.best_accuracy
        self.best_accuracy[better] = accuracy[better]
        self.best_at[better] = torch.tensor([self.current_epoch, self.global_step], device=self.device)
        for best, now in zip(self.best.parameters(), self.network.parameters(), strict=True):
            best[better] = now[better]

    def on_test_epoch_end(self) -> None:
        """Log the test of the runs that ask for one."""
        tested = [i for i, run in enumerate(self.runs) if run.tested]
        self._report(self.evaluation, "test", self.trainer.global_step, tested)

    def _report(self, tally: Tally, split: str, step: int, indices: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Log the means of the runs with these indices, or of all runs, and return the means of all."""
        means = tally.report(split)
        everyone = range(len(self.runs))
        epoch = torch.full((len(self.runs),), self.current_epoch)
        self.journal.log(step, everyone if indices is None else indices, means | {"epoch": epoch})
        return means

    def on_train_epoch_end(self) -> None:
        """Measure the spectra that are due."""
        step = self.trainer.global_step
        for i, run in enumerate(self.runs):
            spectrum = run.spectrum
            if spectrum.due(self.current_epoch):
                self._unstack(self.network, i)
                spectrum.measure(run.trainer, run.model, "train", step)
                statistics = spectrum.spectra["train"].as_dict()
                self.journal.note(step, i, {f"jacobian/train/{name}": value for name, value in statistics.items()})

    def _unstack(self, stacked: nn.Module, i: int) -> SparseClassifier:
        """Return the model of run i with its share of the stacked weights."""
        model = self.runs[i].model.to(self.device)
        with torch.no_grad():
            for own, all_of_them in zip(model.network.parameters(), stacked.parameters(), strict=True):
                own.copy_(all_of_them[i])
        return model

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the fingerprint of the runs, and what has been logged."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["population"] = {
            "fingerprint": self.fingerprint,
            "journal": self.journal.entries,
            "tally": self.tally.batches,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what has been logged, and log it to the new loggers of the runs."""
        super().on_load_checkpoint(checkpoint)
        self.journal.replay(checkpoint["population"]["journal"])
        self.tally.batches = [
            (losses.to(self.device), correct.to(self.device), examples)
            for losses, correct, examples in checkpoint["population"]["tally"]
        ]

    def write_checkpoints(self) -> None:
        """Write checkpoints/last.ckpt and, if there was a validation, best.ckpt in the folder of each run."""
        for i, run in enumerate(self.runs):
            folder = run.folder / "checkpoints"
            if self.best_accuracy[i] >= 0:
                epoch, step = self.best_at[i].tolist()
                _write_checkpoint(self._unstack(self.best, i), folder / "best.ckpt", epoch, step)
            last = self._unstack(self.network, i)
            _write_checkpoint(last, folder / "last.ckpt", self.current_epoch - 1, self.global_step)


def _write_checkpoint(model: SparseClassifier, path: Path, epoch: int, step: int) -> None:
    """Write the weights and masks alone, in Lightning's format."""
    checkpoint = {
        "epoch": epoch,
        "global_step": step,
        "pytorch-lightning_version": lightning_api.version(),
        "state_dict": model.state_dict(),
    }
    model.on_save_checkpoint(checkpoint)
    WholeCheckpoints().save_checkpoint(checkpoint, path)


def _stacked(networks: Sequence[nn.Module]) -> nn.Module:
    """Return a network of the same modules with the stacked parameters [P, ...] of all."""
    parameters, _ = stack_module_state(list(networks))
    stacked = deepcopy(networks[0])
    for name, parameter in stacked.named_parameters():
        parameter.data = parameters[name].detach()
    return stacked


def _stacked_masks(runs: Sequence[PreparedRun]) -> Masks:
    """Return the masks [P, ...] of all parameters that a run prunes; a run that does not prune one keeps all of it."""
    own: list[Mapping[str, Tensor]] = [run.model.masks or {} for run in runs]
    parameters = dict(runs[0].model.network.named_parameters())
    pruned = [name for name in parameters if any(name in masks for masks in own)]
    return Masks(
        {
            name: torch.stack(
                [
                    masks[name] if name in masks else torch.ones(parameters[name].shape, dtype=torch.bool)
                    for masks in own
                ]
            )
            for name in pruned
        }
    )


def _fingerprint(runs: Sequence[PreparedRun]) -> str:
    """Return the SHA-256 of the runs' initial weights, masks and training orders."""
    sha = hashlib.sha256()
    for run in runs:
        sha.update(f"{run.data.seed} {run.model.masks.digest() if run.model.masks else None}".encode())
        for parameter in run.model.network.parameters():
            sha.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
