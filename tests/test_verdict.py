"""The verdict: each of its rules, measurements on small networks, and the table of real runs."""

import runpy
from math import exp, inf, log
from pathlib import Path

import pytest
import torch
from torch import nn

from spl import Masks
from spl.diagnosis import Evidence, Verdict, diagnose, judge
from spl.diagnosis.trial import trial_loss
from spl.diagnosis.verdict import FAINT, SILENT, SMALL, STUCK, TRAINED, UNSEEN, WHOLE
from spl.functional.undisturbed import undisturbed
from spl.networks import MLP
from spl.pruning import prunable_parameters

ROOT = Path(__file__).parent.parent
WELL = {"outputs": 10, "reached": 10, "collapsed": "", "limit": None, "seen": 1.0, "signal": 1.0, "trial": 0.2,
        "linear": False, "size": 500.0, "accuracy": 0.1}  # fmt: skip
GUESSING = log(10)


@pytest.fixture(scope="module")
def calibration():
    """Return the functions of the script that made the table, and the rows of the table."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "calibrate_diagnosis.py"))
    return script, script["recorded"](ROOT / "docs" / "diagnosis.csv")


@pytest.mark.parametrize(
    ("measured", "says"),
    [
        ({}, "Will train: 10 of 10 outputs are reached, 100% of the input's variance is seen, signals arrive at 1 of "
         "their size, and 500 weights for each output lie on paths."),
        ({"reached": 0, "collapsed": "fc5, fc6", "signal": 0.0}, "Will not train: the output is cut off from the "
         "input, because fc5, fc6 lost every weight. Lower the sparsity, give every layer its share"),
        ({"reached": 0, "collapsed": "fc5", "limit": 0.93, "signal": 0.0}, "Lower the sparsity below 0.93, give"),
        ({"reached": 0, "signal": 0.0}, "because all paths break off, though no layer is empty"),
        ({"signal": 7e-4}, "Will not train: signals shrink on their way, the strongest to 0.0007 of its size. Bring "
         "layers to isometry"),
        ({"signal": 7e-4, "reached": 8}, "Will not train: signals shrink"),
        ({"signal": float("nan")}, "Will not train: signals"),
        ({"reached": 8}, "Trains poorly: only 8 of 10 outputs are reached"),
        ({"reached": 9}, "Will train"),
        ({"seen": 0.14}, "Trains poorly: it sees 14% of the variance of its input"),
        ({"seen": 0.96, "linear": True}, "Trains poorly: it is a linear classifier, which needs all of its input, and "
         "sees 96% of the variance. Let it have activations"),
        ({"seen": 0.96}, "Will train"),
        ({"size": 249.0}, "Trains poorly: only 249 weights for each output lie on a path"),
        ({"trial": 1.6}, "Trains poorly: steps of 0.1 with momentum 0.9 overshoot: after a hundred, a copy of it has a "
         "loss of 1.6, and guessing one of 2.3. Lower the learning rate"),
        ({"trial": inf}, "Trains poorly: steps of 0.1 with momentum 0.9 overshoot"),
        ({"trial": 1.6, "signal": 0.09}, "Will train"),
        ({"accuracy": TRAINED, "trial": 1.6}, "Will train: it has already, and answers 90% of the examples right"),
    ],
)  # fmt: skip
def test_each_rule_says_what_was_measured_and_what_to_change(measured, says):
    assert says in str(judge(Evidence(**WELL | measured)))


def test_a_threshold_itself_is_fine():
    for fine in (
        {"seen": UNSEEN, "size": SMALL, "signal": SILENT},
        {"seen": WHOLE, "linear": True},
        {"signal": FAINT, "trial": STUCK * GUESSING},
    ):
        assert judge(Evidence(**WELL | fine)).answer == "Will train"


def test_a_trial_ends_where_the_optimizer_does():
    # two classes, logits (w x, 0) of x = 1 and x = −1: at w, the loss is ln(1 + e^−w) and its slope −1/(1 + e^w)
    network = nn.Sequential(nn.Linear(1, 2, bias=False))
    nn.init.zeros_(network[0].weight)
    masks = Masks({"0.weight": torch.tensor([[True], [False]])})
    w = velocity = 0.0
    losses = []
    for _ in range(100):
        losses.append(log(1 + exp(-w)))
        velocity = 0.9 * velocity - 1 / (1 + exp(w)) + 5e-4 * w
        w -= 0.1 * velocity
    found = trial_loss(network, masks, torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]))
    assert found == pytest.approx(sum(losses[90:]) / 10, rel=1e-4)
    assert not network[0].weight.any()


def test_a_trial_that_diverges_has_an_infinite_loss():
    network = nn.Sequential(nn.Linear(1, 30), nn.Linear(30, 2))
    masks = Masks({})
    inputs = torch.tensor([[1e6], [-1e6]])
    assert trial_loss(network, masks, inputs, torch.tensor([0, 1])) == inf


def test_a_trial_leaves_no_trace(snapshot):
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2))
    network[0].bias.requires_grad_(False)
    before = snapshot(network)
    with undisturbed(network, "batch"):
        trial_loss(network, Masks({}), torch.randn(7, 4), torch.randint(2, (7,)))
    assert snapshot(network) == before


def verdict(network: nn.Module, inputs: torch.Tensor, **kept: torch.Tensor) -> Verdict:
    """Return the verdict for the network with masks for some of its layers."""
    masks = Masks({f"{name}.weight": mask for name, mask in kept.items()})
    masks.apply_(dict(network.named_parameters()))
    return diagnose(network, masks, inputs, torch.randint(10, (len(inputs),))).verdict


def test_measured_networks_get_the_verdict_of_their_trouble():
    inputs = torch.randn(50, 20)

    def mlp(gain: float = 1.0, activation: str = "tanh") -> MLP:
        network = MLP(depth=3, width=60, activation=activation, in_features=20)
        for weight in prunable_parameters(network).values():
            nn.init.orthogonal_(weight, gain)
        return network

    none = torch.zeros(60, 60, dtype=torch.bool)
    half = (torch.arange(20) < 10).expand(60, 20)
    assert verdict(mlp(), inputs).answer == "Will train"
    assert "because fc2 lost every weight" in verdict(mlp(), inputs, fc2=none).reason
    assert "signals shrink" in verdict(mlp(gain=1e-2), inputs).reason
    assert "only 7 of 10" in verdict(mlp(), inputs, fc3=(torch.arange(10) < 7)[:, None].expand(10, 60)).reason
    assert "only 225 weights" in verdict(mlp(), inputs, fc2=(torch.arange(60) < 15)[:, None].expand(60, 60)).reason
    assert "overshoot" in verdict(mlp(activation="linear"), 20 * inputs).reason
    even = inputs / inputs.std(0)
    assert "it sees 10%" in verdict(mlp(), even, fc1=(torch.arange(20) < 2).expand(60, 20)).reason
    assert "it is a linear classifier" in verdict(mlp(activation="linear"), even, fc1=half).reason
    assert verdict(mlp(activation="relu"), even, fc1=half).answer == "Will train"


# The committed table


def test_the_rule_gives_the_committed_verdicts(calibration):
    script, rows = calibration
    for row in rows:
        assert judge(script["evidence_of"](row)).answer == row["verdict"], row


def test_verdicts_agree_with_what_training_did(calibration):
    script, rows = calibration
    assert len(rows) >= 30
    assert sum(not row["steps"] for row in rows) >= len(rows) / 3
    for part in ("chosen", "checked"):
        agreed = [script["agrees"](row) for row in rows if row["part"] == part]
        assert sum(agreed) >= 0.9 * len(agreed), part


def test_the_document_shows_the_table(calibration):
    script, rows = calibration
    assert script["table"](rows) in (ROOT / "docs" / "diagnosis.md").read_text()


def test_every_case_of_the_script_is_in_the_table(calibration):
    script, rows = calibration
    assert len(script["cases"]()) == len(set(script["cases"]())) == len(rows)
