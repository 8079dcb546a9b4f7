"""Short real fits for the tests that need one."""

from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from torch import nn

from spl import PruneAtInit, SparseClassifier
from spl.data import MNISTSample
from spl.initializers import Orthogonal
from spl.networks import MLP

PLAIN = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
    "max_epochs": 1,
    "limit_train_batches": 6,
}


def classifier(network: nn.Module | None = None, **kwargs: Any) -> SparseClassifier:
    """Return a classifier with a small, seeded tanh MLP."""
    L.seed_everything(0, verbose=False)
    kwargs.setdefault("initializer", Orthogonal())
    return SparseClassifier(network or MLP(depth=3, width=20), **kwargs)


def pruning(**kwargs: Any) -> PruneAtInit:
    """Return a PruneAtInit that scores a few batches, by default without a correction."""
    return PruneAtInit(**({"sparsity": 0.9, "batches": 4, "isometry": None} | kwargs))


def fit(
    model: SparseClassifier, callbacks: list[L.Callback], ckpt_path: str | Path | None = None, **trainer: Any
) -> L.Trainer:
    """Fit a model on MNISTSample."""
    runner = L.Trainer(**(PLAIN | {"callbacks": callbacks} | trainer))
    runner.fit(model, datamodule=MNISTSample(), ckpt_path=ckpt_path)
    return runner


class ZerosStay(L.Callback):
    """A callback that asserts after every step that each pruned weight and its optimizer state are exactly 0.0."""

    def __init__(self, state_too: bool = True) -> None:
        self.steps = 0
        self.state_too = state_too

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, SparseClassifier)
        assert pl_module.masks is not None
        parameters = dict(pl_module.network.named_parameters())
        assert pl_module.masks.revived(parameters) == {}
        assert any(parameters[name][mask].abs().sum() > 0 for name, mask in pl_module.masks.items())
        if self.state_too:
            for name, mask in pl_module.masks.items():
                for value in trainer.optimizers[0].state[parameters[name]].values():
                    if isinstance(value, torch.Tensor) and value.shape == mask.shape:
                        assert bool((value[~mask] == 0).all()), name
        self.steps += 1


class Drifting(torch.optim.SGD):
    """An optimizer that moves every weight a little, with or without a gradient, as Muon or Langevin noise would."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.add_(1e-3)
        return loss
