"""Scores and spectra are streamed: their memory does not grow with the data."""

import pytest
import torch
import torch.nn.functional as F
from memory import PeakMemory
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import VisionTransformer

from spl import jacobian
from spl.criteria import (
    FORCE,
    NPB,
    NTKSAP,
    PHEW,
    PX,
    ConnectionSensitivity,
    GraSP,
    IterativeSNIP,
    Magnitude,
    ProsPr,
    SynFlow,
)
from spl.criteria.schedules import Exponential
from spl.diagnosis.trial import trial_loss
from spl.errors import InputError
from spl.functional.linearized import path_gradients
from spl.jacobian import singular_values
from spl.networks import VGG16, ResNet
from spl.pruning import prunable_parameters, prune, score


def test_the_measure_counts_what_lives_at_once():
    with PeakMemory() as memory:
        a = torch.zeros(1000)
        b = a.view(10, 100) + 1  # a and b are alive
        del a
        c = b * 2  # b and c are alive
        del b
        d = c * 2  # c and d are alive
    assert memory.peak == 2 * 4000
    assert d.sum() == 4000


def test_scoring_vgg16_takes_no_more_than_a_step_of_adam():
    network, images, labels = VGG16(), torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    parameters = prunable_parameters(network, include_bias=True)
    copy = sum(4 * p.numel() for p in parameters.values())
    with PeakMemory() as once:
        F.cross_entropy(network.eval()(images), labels, reduction="sum").backward()
    network.zero_grad()
    peaks = []
    for batches in (1, 5):
        stream = ((images.clone(), labels) for _ in range(batches))
        with PeakMemory() as memory:
            score(network, parameters, ConnectionSensitivity(), stream)
        peaks.append(memory.peak)
    assert peaks[0] == peaks[1]
    assert 2 * copy < peaks[0] <= once.peak + 2 * copy


@pytest.mark.slow
def test_vit_b_16_is_pruned_exactly_in_the_memory_of_a_training_step():
    """With 4 of its 12 layers, which are alike."""
    network = VisionTransformer(32, 16, num_layers=4, num_heads=12, hidden_dim=768, mlp_dim=3072, num_classes=10)
    batches = [(torch.randn(8, 3, 32, 32), torch.arange(8) % 10) for _ in range(2)]
    held = sum(4 * p.numel() for p in network.parameters())
    with PeakMemory() as step:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9)
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
    optimizer.zero_grad()
    with PeakMemory() as scoring:
        masks = prune(network, ConnectionSensitivity(), 0.9, batches)
    assert masks.kept == round(0.1 * masks.size)
    assert masks.size == 4 * 12 * 768**2 + 768 * 3 * 16**2 + 768 * 10  # blocks, patches, classes
    assert held + scoring.peak <= 1.3 * (held + step.peak)


class Deep(nn.Module):
    """Blocks whose activations are kept for the backward pass or recomputed in it."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.again = again
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh()) for _ in range(6)
        )
        self.last = nn.Linear(32, 10)

    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.again else block(x)
        return self.last(x)


BATCHES = [(torch.randn(1000, 32, generator=torch.Generator().manual_seed(k)), torch.arange(1000) % 10) for k in (0, 1)]


@pytest.mark.parametrize(
    "criterion",
    [
        ConnectionSensitivity(),
        IterativeSNIP(),
        FORCE(),
        GraSP(),
        SynFlow(),
        NTKSAP(draws=2),
        NPB(),
        PHEW(),
        PX(),
        ProsPr(steps=1),
    ],
    ids=lambda criterion: type(criterion).__name__,
)
def test_activations_that_are_checkpointed_change_no_mask(criterion):
    kept, again = (prune(Deep(again), criterion, 0.9, BATCHES, schedule=Exponential(2)) for again in (False, True))
    assert kept == again


def test_checkpointing_spares_the_memory_of_activations():
    peaks = []
    for again in (False, True):
        with PeakMemory() as memory:
            prune(Deep(again), ConnectionSensitivity(), 0.9, BATCHES)
        peaks.append(memory.peak)
    # either 2 activations of each of 6 blocks, or the inputs of 6 and the 2 activations of one
    assert peaks[0] - peaks[1] >= 4 * (1000 * 32 * 4)


def test_checkpointing_changes_neither_paths_nor_a_trial():
    images, labels = BATCHES[0]
    masks = prune(Deep(False), Magnitude(), 0.5)
    found = []
    for network in (Deep(False), Deep(True)):
        weights = {name: 2 * p.detach() for name, p in network.named_parameters() if name in masks}
        found.append((path_gradients(network, weights, images), trial_loss(network, masks, images, labels)))
    (paths, loss), (again, loss_again) = found
    assert loss == loss_again
    assert all(torch.equal(paths[name], again[name]) for name in masks)
    assert all(float(gradient.sum()) > 0 for gradient in paths.values())


@pytest.mark.parametrize("network", [VGG16(width_multiplier=0.25), ResNet(blocks_per_stage=5)], ids=["VGG16", "ResNet"])
def test_a_spectrum_takes_the_memory_of_one_chunk(network):
    images = torch.randn(24, 3, 32, 32)
    peaks = {}
    for examples, chunk in ((4, 4), (24, 4), (24, 24)):
        with PeakMemory() as memory:
            singular_values(network, images[:examples], chunk)
        peaks[examples, chunk] = memory.peak
    result = 8 * 24 * 10
    assert peaks[24, 4] <= peaks[4, 4] + 2 * result
    assert peaks[24, 24] > 4 * peaks[24, 4]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 40960000 bytes."),
    ],
    ids=["CUDA", "CPU"],
)
def test_a_spectrum_that_runs_out_of_memory_says_what_to_do(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(jacobian, "_input_jacobian", fail)
    advice = r"ran out of memory at 20 examples at a time: lower the chunk \(spectrum\.chunk, .*\) to 5"
    with pytest.raises(InputError, match=advice):
        singular_values(ResNet(), torch.randn(40, 3, 32, 32), chunk=20)


def test_another_error_is_passed_on():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        singular_values(torch.nn.Linear(3, 2), torch.randn(4, 5))
