"""Population: many networks of one architecture, trained as one LightningModule with stacked weights."""

import hashlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from spl.callbacks.safety.checkpoint_io import WholeCheckpoints
from spl.classifier import SparseClassifier
from spl.data.tensors import Batch
from spl.masks.masked_weights import MaskedWeights
from spl.masks.masks import Masks
from spl.reproduction.stacked.linear import RoundAsSingle
from spl.reproduction.stacked.logs import Journal, Tally
from spl.reproduction.stacked.prepared_run import Member


class Population(SparseClassifier):
    """P networks whose parameters are stacked, [P, ...] each; one fused forward serves all.

    The loss is the sum of the members' mean cross-entropies, so that each member's gradient is its own; optimizers
    that act on each weight alone then take the step of its own run.

    Args:
        members: of one architecture, optimizer and schedule.

    Attributes:
        best: weights of each member where its validation accuracy was highest, and for the first time so.
        best_accuracy: that accuracy, [P]; −1 before the first validation.
        best_at: epoch and step of it, [P, 2].
    """

    best_accuracy: Tensor
    best_at: Tensor

    def __init__(self, members: Sequence[Member]) -> None:
        first = members[0].model
        network = _stacked([member.model.network for member in members])
        super().__init__(
            network, optimizer=first.optimizer, lr_scheduler=first.lr_scheduler, lr_interval=first.lr_interval
        )
        self.members = list(members)
        self.set_masks(_stacked_masks(members))
        for member in members:  # whose own weights no optimizer moves
            MaskedWeights.of(member.model).pause()
        self.fingerprint = _fingerprint(members)
        self.best = deepcopy(network).requires_grad_(False)
        self.register_buffer("best_accuracy", torch.full((len(members),), -1.0))
        self.register_buffer("best_at", torch.zeros(len(members), 2, dtype=torch.int64))
        self.journal = Journal([member.trainer.loggers for member in members])
        self.tally = Tally()
        self.evaluation = Tally()

    def forward(self, x: Tensor) -> Tensor:
        """Logits [P, N, classes] of inputs [P, N, ...], or of [1, N, ...] that all members are given."""
        parameters: dict[str, Tensor] = dict(self.network.named_parameters())
        shared = len(x) == 1
        with RoundAsSingle():
            logits: Tensor = vmap(self._member_logits, (0, None if shared else 0))(parameters, x[0] if shared else x)
        return logits

    def _member_logits(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.network, parameters, (x,))
        return logits

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy and number of correct predictions, [P] each."""
        inputs, labels = batch
        logits = self(inputs)
        labels = labels.expand(len(logits), -1)
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
        return losses.mean(1), (logits.detach().argmax(-1) == labels).sum(1)

    # Training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The sum of the members' losses, so that the gradient of each is its own."""
        losses, correct = self._losses(batch)
        self.tally.add(losses.detach(), correct, batch[1].shape[1])
        step = self.trainer.global_step
        if (step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._report(self.tally, "train", step)
        return losses.sum()

    def _evaluate(self, split: str, batch: Batch) -> None:
        losses, correct = self._losses(batch)
        self.evaluation.add(losses, correct, batch[1].shape[1])

    def on_validation_epoch_end(self) -> None:
        """Log, and keep the weights of members that have never been better."""
        accuracy = self._report(self.evaluation, "val", self.trainer.global_step - 1)["accuracy/val"]
        better = accuracy > self.best_accuracy
        self.best_accuracy[better] = accuracy[better]
        self.best_at[better] = torch.tensor([self.current_epoch, self.global_step], device=self.device)
        for best, now in zip(self.best.parameters(), self.network.parameters(), strict=True):
            best[better] = now[better]

    def on_test_epoch_end(self) -> None:
        """Log."""
        tested = [i for i, member in enumerate(self.members) if member.tested]
        self._report(self.evaluation, "test", self.trainer.global_step, tested)

    def _report(self, tally: Tally, split: str, step: int, who: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Log the means of all members, or of some."""
        means = tally.report(split)
        everyone = range(len(self.members))
        epoch = torch.full((len(self.members),), self.current_epoch)
        self.journal.log(step, everyone if who is None else who, means | {"epoch": epoch})
        return means

    def on_train_epoch_end(self) -> None:
        """Measure the spectra that are due."""
        step = self.trainer.global_step
        for i, member in enumerate(self.members):
            spectrum = member.spectrum
            if spectrum.due(self.current_epoch):
                self._unstack(self.network, i)
                spectrum.measure(member.trainer, member.model, "train", step)
                statistics = spectrum.spectra["train"].as_dict()
                self.journal.note(step, i, {f"jacobian/train/{name}": value for name, value in statistics.items()})

    def _unstack(self, stacked: nn.Module, i: int) -> SparseClassifier:
        """The model of member i with its share of stacked weights."""
        model = self.members[i].model.to(self.device)
        with torch.no_grad():
            for own, all_of_them in zip(model.network.parameters(), stacked.parameters(), strict=True):
                own.copy_(all_of_them[i])
        return model

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add whose population it is, and what has been logged."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["population"] = {
            "fingerprint": self.fingerprint,
            "journal": self.journal.entries,
            "tally": self.tally.batches,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back; the members' own loggers are told all that was logged."""
        super().on_load_checkpoint(checkpoint)
        self.journal.replay(checkpoint["population"]["journal"])
        self.tally.batches = [
            (losses.to(self.device), correct.to(self.device), examples)
            for losses, correct, examples in checkpoint["population"]["tally"]
        ]

    def write_checkpoints(self) -> None:
        """checkpoints/last.ckpt and, where there was a validation, best.ckpt in each member's folder."""
        for i, member in enumerate(self.members):
            folder = member.folder / "checkpoints"
            if self.best_accuracy[i] >= 0:
                epoch, step = self.best_at[i].tolist()
                _write(self._unstack(self.best, i), folder / "best.ckpt", epoch, step)
            _write(self._unstack(self.network, i), folder / "last.ckpt", self.current_epoch - 1, self.global_step)


def _write(model: SparseClassifier, path: Path, epoch: int, step: int) -> None:
    """A checkpoint of the weights and masks alone, in Lightning's format."""
    checkpoint = {
        "epoch": epoch,
        "global_step": step,
        "pytorch-lightning_version": metadata.version("pytorch-lightning"),
        "state_dict": model.state_dict(),
    }
    model.on_save_checkpoint(checkpoint)
    WholeCheckpoints().save_checkpoint(checkpoint, path)


def _stacked(networks: Sequence[nn.Module]) -> nn.Module:
    """A network of the same modules whose parameters are those of all, [P, ...]."""
    stacked = deepcopy(networks[0])
    own = [dict(network.named_parameters()) for network in networks]
    for name, parameter in stacked.named_parameters():
        parameter.data = torch.stack([parameters[name].detach() for parameters in own])
    return stacked


def _stacked_masks(members: Sequence[Member]) -> Masks:
    """The masks [P, ...] of every parameter that some member prunes; where a member does not, it keeps all."""
    own: list[Mapping[str, Tensor]] = [member.model.masks or {} for member in members]
    parameters = dict(members[0].model.network.named_parameters())
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


def _fingerprint(members: Sequence[Member]) -> str:
    """SHA-256 of the members' initial weights, masks and training orders."""
    sha = hashlib.sha256()
    for member in members:
        sha.update(f"{member.data.seed} {member.model.masks.digest() if member.model.masks else None}".encode())
        for parameter in member.model.network.parameters():
            sha.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
