"""PruneAtInit with modules that step one or several optimizers manually."""

from functools import partial

import pytest
import pytorch_lightning as L
import torch
import torch.nn.functional as F
from fits import Drifting
from foreign import Trained, batches, invariants
from torch import nn
from torch.utils.data import TensorDataset

from spl.criteria import Magnitude
from spl.masks.masked_weights import MaskedWeights
from spl.pruning.scopes import Uniform

ADAM = partial(torch.optim.Adam, lr=1e-2, betas=(0.5, 0.9))


class GAN(L.LightningModule):
    """A module of two networks with two optimizers and two steps per batch."""

    def __init__(self, wrapped=True, optimizer=ADAM):
        super().__init__()
        self.automatic_optimization = False
        self.wrapped = wrapped
        self.optimizer = optimizer
        self.generator = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16))
        self.discriminator = nn.Sequential(nn.Linear(16, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
        self.register_buffer("noise", torch.randn(16, 8))

    def losses(self, real):
        fake = self.generator(self.noise[: len(real)])
        d_real, d_fake = self.discriminator(real), self.discriminator(fake.detach())
        critic = F.softplus(-d_real).mean() + F.softplus(d_fake).mean()
        return critic, F.softplus(-self.discriminator(fake)).mean()

    def training_step(self, batch, batch_idx):
        (real,) = batch
        for number, optimizer in enumerate(self.optimizers(use_pl_optimizer=self.wrapped)):
            part = (self.discriminator, self.generator)[number]
            optimizer.zero_grad()
            loss = self.losses(real)[number]
            self.backward_of(loss)
            self.see(part)
            optimizer.step()
            self.log(f"loss_{number}", loss)
            if number == 0:
                critic = loss
        return {"loss": critic.detach()}

    def backward_of(self, loss):
        self.manual_backward(loss)

    def see(self, part):
        """Inspect the gradients before the step."""

    def configure_optimizers(self):
        return [self.optimizer(self.discriminator.parameters()), self.optimizer(self.generator.parameters())]


def both(module, batch):
    return sum(module.losses(batch[0]))


def data():
    return batches(TensorDataset(torch.randn(32, 16, generator=torch.Generator().manual_seed(1)) + 2.0), 16)


def moments(trained):
    """Yield the optimizer state of pruned weights."""
    states = {}
    for optimizer in trained.trainer.optimizers:
        states |= optimizer.state
    parameters = dict(trained.module.named_parameters())
    for name, mask in trained.masks.items():
        for value in states[parameters[name]].values():
            if value.shape == mask.shape:
                yield value[~mask]


def test_a_gan(tmp_path):
    trained = invariants(GAN, data(), tmp_path, epochs=8, loss=both, scope=Uniform())
    assert {name.split(".")[0] for name in trained.masks} == {"generator", "discriminator"}
    assert all(bool((value == 0).all()) for value in moments(trained))


class Seeing(GAN):
    """A GAN that records for each step whether gradients of pruned weights were nonzero before it.

    They come from Lightning's `manual_backward`, after which they are masked at once, or from `backward`.
    """

    def __init__(self, announced, **kwargs):
        super().__init__(**kwargs)
        self.announced = announced
        self.dense = []

    def backward_of(self, loss):
        if self.announced:
            self.manual_backward(loss)
        else:
            loss.backward()

    def see(self, part):
        masks = MaskedWeights.of(self).masks
        gradients = {name: p.grad for name, p in part.named_parameters(prefix=self.name_of(part))}
        self.dense.append(any(bool(gradients[name][~masks[name]].any()) for name in gradients if name in masks))

    def name_of(self, part):
        return "generator" if part is self.generator else "discriminator"


@pytest.mark.parametrize("announced", [True, False], ids=["manual_backward", "backward"])
@pytest.mark.parametrize("wrapped", [True, False], ids=["LightningOptimizer", "optimizer itself"])
def test_gradients_are_masked_before_the_step_of_each_optimizer(wrapped, announced):
    momentum = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    make = partial(Seeing, announced, wrapped=wrapped, optimizer=momentum)
    trained = Trained(make, data(), epochs=2, loss=both, scope=Uniform())
    assert trained.module.dense == [not announced] * 8
    assert sum(1 for _ in moments(trained)) == 4
    assert all(bool((value == 0).all()) for value in moments(trained))


def test_an_optimizer_that_moves_weights_without_gradients_is_undone_whichever_it_is():
    make = partial(GAN, optimizer=partial(Drifting, lr=0.01))
    with pytest.warns(UserWarning, match=r"pruned ones are set back to 0\.0"):
        trained = Trained(make, data(), criterion=Magnitude(), scope=Uniform())
    assert len(trained.check.losses) == 2
