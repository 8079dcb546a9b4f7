"""The verdict: its rules one by one, measured on small networks, and against the table of real runs."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from spl import Masks
from spl.diagnosis import Evidence, Verdict, diagnose, judge
from spl.diagnosis.sharpness import sharpness
from spl.diagnosis.verdict import SILENT, SMALL, STABLE, TRAINED, UNSEEN, WEAK
from spl.networks import MLP
from spl.pruning import prunable_parameters

ROOT = Path(__file__).parent.parent
WELL = {"outputs": 10, "reached": 10, "collapsed": "", "limit": None, "seen": 1.0, "signal": 1.0, "pull": 0.01,
        "sharpness": 0.5, "size": 500.0, "accuracy": 0.1}  # fmt: skip


@pytest.fixture(scope="module")
def calibration():
    """The functions of the script that made the table, and its rows."""
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
        ({"signal": 0.0019, "pull": 2e-4}, "Will not train: signals shrink on their way, the strongest to 0.002 of "
         "its size, and the gradient of the weakest layer is only 0.0002 of its weights. Bring layers to"),
        ({"signal": 0.0019, "pull": 2e-4, "reached": 9}, "Will not train: signals shrink"),
        ({"signal": float("nan"), "pull": float("nan")}, "Will not train: signals"),
        ({"signal": 0.0019, "pull": WEAK}, "Will train"),
        ({"signal": SILENT, "pull": 2e-4}, "Will train"),
        ({"reached": 8}, "Trains poorly: only 8 of 10 outputs are reached"),
        ({"reached": 9}, "Will train"),
        ({"sharpness": None}, "Will train"),
        ({"size": 159.0}, "Trains poorly: only 159 weights for each output lie on a path"),
        ({"sharpness": 152.0}, "Trains poorly: the loss is too sharp, 152, for steps of 0.1 with "
         "momentum 0.9. Lower the learning rate below 0.05"),
        ({"sharpness": float("nan")}, "Trains poorly: the loss is too sharp"),
        ({"seen": 0.44}, "Trains poorly: it sees 44% of the variance of its input"),
        ({"accuracy": TRAINED, "sharpness": 152.0}, "Will train: it has already, and answers 90% of the"),
    ],
)  # fmt: skip
def test_each_rule_says_what_was_measured_and_what_to_change(measured, says):
    assert says in str(judge(Evidence(**WELL | measured)))


def test_a_threshold_itself_is_fine():
    assert judge(Evidence(**WELL | {"sharpness": STABLE, "seen": UNSEEN, "size": SMALL})).answer == "Will train"


def test_the_sharpness_of_softmax_regression():
    # logits 0 at x = 3: g ∝ (−1, 1), H = x² [[¼, −¼], [−¼, ¼]]
    network = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(network.weight)
    batch = torch.tensor([[3.0]]), torch.tensor([0])
    assert sharpness(network, {"weight": torch.tensor([[True], [True]])}, *batch) == pytest.approx(9 / 2)
    assert sharpness(network, {"weight": torch.tensor([[True], [False]])}, *batch) == pytest.approx(9 / 4)
    assert sharpness(network, {"weight": torch.tensor([[False], [False]])}, *batch) == 0.0


def verdict(network: nn.Module, inputs: torch.Tensor, **kept: torch.Tensor) -> Verdict:
    """Of the network with masks for some of its layers."""
    masks = Masks({f"{name}.weight": mask for name, mask in kept.items()})
    masks.apply_(dict(network.named_parameters()))
    return diagnose(network, masks, inputs, torch.randint(10, (len(inputs),))).verdict


def test_measured_networks_get_the_verdict_of_their_trouble():
    inputs = torch.randn(50, 20)

    def mlp(gain: float = 1.0) -> MLP:
        network = MLP(depth=3, width=30, activation="linear", in_features=20)
        for weight in prunable_parameters(network).values():
            nn.init.orthogonal_(weight, gain)
        return network

    none = torch.zeros(30, 30, dtype=torch.bool)
    assert verdict(mlp(), inputs).answer == "Will train"
    assert "because fc2 lost every weight" in verdict(mlp(), inputs, fc2=none).reason
    assert "signals shrink" in verdict(mlp(gain=1e-4), inputs).reason
    assert "only 7 of 10" in verdict(mlp(), inputs, fc3=(torch.arange(10) < 7)[:, None].expand(10, 30)).reason
    assert "only 105 weights" in verdict(mlp(), inputs, fc1=(torch.arange(30) < 15)[:, None].expand(30, 20)).reason
    assert "too sharp" in verdict(mlp(gain=0.5), inputs + 20).reason
    eight = inputs / inputs.std(0)  # 8 of 20 inputs of equal variance
    assert "it sees 40%" in verdict(mlp(), eight, fc1=(torch.arange(20) < 8).expand(30, 20)).reason


def test_sharpness_is_left_out_where_normalization_takes_care_of_it():
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    evidence = diagnose(network, None, torch.randn(8, 4), torch.randint(2, (8,))).evidence
    assert evidence.sharpness is None


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
