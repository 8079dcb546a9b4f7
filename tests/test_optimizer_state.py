"""Momentum of weights that come or go, in optimizers that keep it in forms of their own."""

from functools import partial

import pytest
import pytorch_optimizer
import torch
import torch.nn.functional as F
from torch import nn

from spl import MaskedWeights, MovingMasks, prune
from spl.criteria import Random
from spl.updates import RigL
from spl.updates.optimizer_state import clear_state


class Run:
    """Six steps of a network whose masks move once, before the fifth."""

    def __init__(self, optimizer):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))  # large enough to be quantized
        self.held = MaskedWeights(network)
        self.held.hold(prune(network, Random(), sparsity=0.7))
        self.moving = MovingMasks(self.held, RigL(every=4), steps=7)
        self.optimizer = optimizer(network.parameters())
        for step in range(6):
            if step == 4:
                self.before = self.first_moment()
                self.masks = self.held.masks["0.weight"]
            self.optimizer.zero_grad()
            F.cross_entropy(network(torch.randn(32, 64)), torch.randint(10, (32,))).backward()
            self.optimizer.step()
            assert self.held.masks.revived(self.held.parameters) == {}
        assert self.moving.updates == 1

    def first_moment(self):
        """Return the first moments of a layer in floating point, each as a share of its largest one."""
        state = self.optimizer.state[self.held.parameters["0.weight"]]
        if "exp_avg" in state:
            value = state["exp_avg"].dequantize()
        elif "qmap1" in state:
            blocks = state["absmax1"][..., None]
            value = state["qmap1"][state["state1"].long()].view(*blocks.shape[:-1], -1) * blocks
        else:
            value = state["state1"]
        value = value.reshape(-1, 128, 64).abs()
        return value / value.amax((1, 2), keepdim=True)

    def check(self):
        """Check that the optimizer has forgotten what was dropped, and only that."""
        dropped, stayed = self.masks & ~self.held.masks["0.weight"], self.masks & self.held.masks["0.weight"]
        after = self.first_moment()
        assert dropped.any()
        assert (self.before[:, dropped] > 1e-3).float().mean() > 0.5
        assert after[:, dropped].max() < 1e-4  # bitsandbytes rounds 0 to 1e-5 on the CPU
        assert (after[:, stayed] > 1e-3).float().mean() > 0.5


@pytest.mark.filterwarnings("ignore:.*moves weights that have no gradient")
@pytest.mark.parametrize("name", ["AdamW8bit", "AdamW4bit", "AdamWFp8"])
def test_torchao(name, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda f=None, **_: f or (lambda g: g))  # to compile a step takes a minute
    torchao = pytest.importorskip("torchao.optim")
    Run(partial(getattr(torchao, name), lr=0.01)).check()


@pytest.mark.filterwarnings("ignore:.*moves weights that have no gradient")
@pytest.mark.parametrize("name", ["AdamW8bit", "Lion8bit", "AdEMAMix8bit", "AdEMAMix", "AdamW"])
def test_bitsandbytes(name):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    Run(partial(getattr(bitsandbytes.optim, name), lr=0.01)).check()


@pytest.mark.filterwarnings("ignore:.*moves weights that have no gradient")
@pytest.mark.parametrize(("name", "keys"), [("AdaFactor", "exp_avg_sq_col, exp_avg_sq_row"), ("SOAP", "GG, Q")])
def test_what_cannot_be_cleared_is_named(name, keys):
    with pytest.warns(UserWarning, match=f"{name} keeps {keys} in another form"):
        Run(partial(getattr(pytorch_optimizer, name), lr=0.01))


def test_a_single_weight_is_forgotten_and_its_steps_are_not():
    weight = nn.Parameter(torch.ones(1, 1))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    clear_state(optimizer, {weight: torch.tensor([[True]])})
    state = optimizer.state[weight]
    assert [float(state[key]) for key in ("exp_avg", "exp_avg_sq", "step")] == [0.0, 0.0, 1.0]
