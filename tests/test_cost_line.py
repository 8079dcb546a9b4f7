"""The line after fit that says what the pruned network costs."""

import re
import threading

import pytest
import torch
from fits import classifier, fit, pruning
from foreign import Plain, Trained, batches, images
from torch import nn

from spl.callbacks import CostLine
from spl.export import cost_line
from spl.masks.masks import Masks

DATA = batches(images(8, side=6), 4)


def network(act=nn.ReLU):
    """Return a network of 20 weights and 6 biases; the masks kill two of the four hidden units."""
    return nn.Sequential(nn.Linear(3, 4), act(), nn.Linear(4, 2))


MASKS = Masks({"0.weight": torch.tensor([[True] * 3] * 2 + [[False] * 3] * 2)})


def told(caplog):
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("The pruned network: ")]
    assert all(len(part) <= 80 for part in line.splitlines())
    return line.replace(";\n  ", "; ")


def test_it_tells_what_can_be_counted_by_hand():
    line = cost_line(network(), MASKS, torch.randn(5, 3))
    assert line.startswith(
        "kept 6 of 12 weights; parameters dense 26, compact 14; MACs dense 20, sparse 14, compact 10; bytes dense "
    )
    sizes = [
        int(n.replace(",", "")) for n in re.search(r"bytes dense (\S+), sparse (\S+), compact (\S+)$", line).groups()
    ]
    assert all(4 * 14 < size < 5000 for size in sizes)


def test_what_is_not_known_is_left_out():
    class Branching(nn.ReLU):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x.relu()

    assert re.fullmatch(
        r"kept 6 of 12 weights; parameters dense 26; bytes dense \S+, sparse \S+", cost_line(network(), MASKS)
    )
    assert "dense 26; MACs dense 20, sparse 14; bytes" in cost_line(network(Branching), MASKS, torch.randn(5, 3))
    assert "MACs" not in cost_line(network(), MASKS, torch.randn(5, 2))
    uncopied = network()
    uncopied.lock = threading.Lock()
    assert cost_line(uncopied, MASKS, torch.randn(5, 3)) == "kept 6 of 12 weights; parameters dense 26"


def test_a_foreign_module_has_it_after_fit(caplog):
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    masks = Trained(lambda: Plain(nn.Sequential(*layers)), DATA, sparsity=0.5).masks
    dense = 27 * 8 * 16 + 128 * 4
    sparse = 16 * int(masks["network.0.weight"].sum()) + int(masks["network.4.weight"].sum())
    assert f"kept {masks.kept} of 728 weights; parameters dense 756, " in told(caplog)
    assert f"MACs dense {dense:,}, sparse {sparse:,}, compact " in told(caplog)


@pytest.mark.parametrize("example", [torch.randn(2, 5), None])
def test_the_input_of_a_forward_that_reads_no_batch_is_its_example(caplog, example):
    class Generator(Plain):
        def __init__(self):
            super().__init__(nn.Linear(5, 4))
            self.example_input_array = example

        def training_step(self, batch, batch_idx):
            return self(torch.ones(len(batch[0]), 5)).square().mean()

    Trained(Generator, DATA)
    assert ("MACs dense 20, sparse 2, " in told(caplog)) == (example is not None)


def test_looking_leaves_no_trace(snapshot):
    class Untouched(CostLine):
        def on_fit_end(self, trainer, pl_module):
            before = snapshot(pl_module)
            super().on_fit_end(trainer, pl_module)
            assert snapshot(pl_module) == before
            self.looked = True

    looking = Untouched()
    fit(
        classifier(nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.BatchNorm1d(10), nn.Dropout())),
        [pruning(), looking],
    )
    assert looking.looked


def test_the_line_is_there_once_beside_a_callback_of_its_own(caplog):
    Trained(lambda: Plain(nn.Sequential(nn.Flatten(), nn.Linear(108, 4))), DATA, callbacks=[CostLine()])
    assert caplog.text.count("The pruned network: kept") == 1


def test_a_fit_that_does_not_train_has_no_line(caplog):
    fit(classifier(), [pruning()], limit_train_batches=0)
    assert "The pruned network" not in caplog.text
