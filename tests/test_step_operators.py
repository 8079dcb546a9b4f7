"""A training step under fit: the operators that it runs, and that it neither waits for the device nor copies to it."""

from collections import Counter

import pytest
import pytorch_lightning as L
import torch
import torch.nn.functional as F
from fits import PLAIN, pruning
from torch.utils._python_dispatch import TorchDispatchMode

from spl import SparseClassifier
from spl.data import CIFAR10
from spl.data.tensors import ImageTensors
from spl.functional.optimizer import parameter_groups, sgd
from spl.networks import MLP, ResNet

QUIET_STEPS = range(35, 47)  # between the 32nd and the 64th look for weights that have moved
WAITING = {
    "aten._local_scalar_dense.default",
    "aten.nonzero.default",
    "aten.equal.default",
    "aten.masked_select.default",
}
COPYING = {"aten.lift_fresh.default", "aten.lift_fresh_copy.default"}  # torch.tensor of Python's numbers


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not str(func).startswith("profiler."):
            self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


class EachStep(L.Callback):
    """Counts the operators from the end of one step to the end of the next, with the next batch of data."""

    def __init__(self):
        self.steps = {}
        self.mode = None

    def on_train_batch_end(self, trainer, *_):
        if self.mode is not None:
            self.mode.__exit__(None, None, None)
            self.steps[trainer.global_step] = self.mode.counts
        self.mode = Operators()
        self.mode.__enter__()

    def on_train_end(self, *_):
        self.mode.__exit__(None, None, None)


class Photographs(CIFAR10):
    """A few random images that are mirrored, shifted and cut out as those of CIFAR-10."""

    def prepare_data(self):
        pass

    def load(self):
        images = torch.randint(256, (120, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        split = ImageTensors(images, torch.arange(120) % 10)
        return split, split


def settings(**trainer):
    return PLAIN | {"max_epochs": -1, "max_steps": QUIET_STEPS.stop, "limit_train_batches": None} | trainer


def counted(network, sparsity=0.9, **options):
    counts = EachStep()
    callbacks = [pruning(sparsity=sparsity, batches=1), counts]
    trainer = L.Trainer(**settings(callbacks=callbacks))
    trainer.fit(SparseClassifier(network, **options), datamodule=Photographs(batch_size=2, cutout=8))
    return counts.steps


NETWORKS = {
    "MLP": lambda: MLP(in_features=3 * 32 * 32, depth=3, width=20),
    "ResNet": lambda: ResNet(blocks_per_stage=1, width_multiplier=0.25),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_waits_for_nothing_and_copies_nothing_to_the_device(name):
    steps = counted(NETWORKS[name]())
    for step in QUIET_STEPS:
        found = {operator: steps[step][operator] for operator in WAITING | COPYING if steps[step][operator]}
        assert not found, f"step {step}"


def test_the_watch_of_this_test_sees_what_waits_and_what_copies():
    with Operators() as mode:
        torch.ones(3).sum().item()
        torch.tensor([1.0])
        torch.ones(3).nonzero()
    assert {name for name in WAITING | COPYING if mode.counts[name]} == {
        "aten._local_scalar_dense.default",
        "aten.nonzero.default",
        "aten.lift_fresh.default",
    }


def bare_step(network):
    """Return how many operators a step of a loop takes that one would write by hand."""
    optimizer = sgd(parameter_groups(network))
    data = Photographs(batch_size=2, cutout=8)
    data.setup()
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        with Operators() as mode:
            chosen = torch.arange(2)
            images, labels = data.train.batch(chosen)
            images = data.normalize(data.augment(images, generator))
            optimizer.zero_grad()
            loss = F.cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()
    return mode.counts.total()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_masked_step_runs_a_few_operators_more_than_a_loop_by_hand(name):
    bare = bare_step(NETWORKS[name]())
    steps = counted(NETWORKS[name]())
    masked = max(steps[step].total() for step in QUIET_STEPS)
    assert masked <= bare + 30, f"{masked} operators, by hand {bare}"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compile", [False, "reduce-overhead"])
def test_on_an_accelerator_no_step_waits(compile):
    class Strict(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            torch.cuda.set_sync_debug_mode("error" if trainer.global_step in QUIET_STEPS[:-1] else "default")

    options = settings(callbacks=[pruning(batches=1), Strict()], accelerator="gpu", devices=1)
    model = SparseClassifier(NETWORKS["ResNet"](), compile=compile, channels_last=True)
    try:
        L.Trainer(**options).fit(model, datamodule=Photographs(batch_size=2, cutout=8))
    finally:
        torch.cuda.set_sync_debug_mode("default")
