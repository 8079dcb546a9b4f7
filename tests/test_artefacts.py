"""Figures of the paper, made from results written by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from spl.callbacks.reporting import tensorboard
from spl.masks.masks import Masks
from spl.reproduction.artefacts.artefact import Artefact, ArtefactReport, Finding
from spl.reproduction.artefacts.compared_network import LINEAR, TANH, Measurements
from spl.reproduction.artefacts.figure_1 import Figure1
from spl.reproduction.artefacts.figure_2 import Figure2
from spl.reproduction.artefacts.figure_4 import Figure4
from spl.reproduction.artefacts.figure_5 import Figure5
from spl.reproduction.artefacts.figure_6 import Figure6
from spl.reproduction.artefacts.figure_7 import Figure7
from spl.reproduction.artefacts.figure_8 import Figure8
from spl.reproduction.artefacts.training_logs import draw_training
from spl.reproduction.budgets import BUDGETS, Budget, Protocol
from spl.reproduction.drawing import STYLES, draw_curve, draw_level
from spl.reproduction.methods import (
    BEYOND,
    LDI_CS,
    LDI_CS_AI,
    LDI_CS_EOI,
    LDI_DENSE,
    LDI_MAG,
    LDI_RAND,
    LDI_RAND_AI,
    LDI_SHUFFLED,
    PAPER,
    VS_CS,
)
from spl.reproduction.results import RESULT_FILE, Results
from spl.reproduction.run import RUN_FILE, Run
from spl.reproduction.samples import Curve, MissingResult, Sample

FIGURES = [Figure1(), Figure2(), Figure4(), Figure5(), Figure6(), Figure7(), Figure8()]
PROTOCOL = Protocol(iterations=2000, batch_size=100, seeds=2)
BUDGET = Budget("test", mnist=PROTOCOL, cifar10=PROTOCOL, sparsities=(0.5, 0.9))
SHORT_OF_TRAINING = replace(BUDGET, mnist=replace(PROTOCOL, iterations=20), cifar10=replace(PROTOCOL, iterations=20))

Scalars = dict[str, Any]


def finish(root: Path, run: Run, scalars: Scalars, accuracy: float = 0.9) -> Path:
    """Write the folder of a finished run, and of the run that it starts from."""
    folder = root / run.name
    if not (folder / RESULT_FILE).exists():
        folder.mkdir()
        before = finish(root, run.pretrained, {}) / "checkpoints" / "last.ckpt" if run.pretrained else None
        (folder / RUN_FILE).write_text(yaml.safe_dump(run.on_machine(Path("data"), before)))
        test = {"final": {"loss": 1.0, "accuracy": accuracy}}
        content = {"digest": run.digest, "test": test, "scalars": scalars, "record": {}}
        (folder / RESULT_FILE).write_text(json.dumps(content))
    return folder


def jsv(**means: float) -> Scalars:
    """Return scalars with the mean singular value of each stage."""
    return {f"jacobian/{stage}/mean": [[0, mean]] for stage, mean in means.items()}


def losses(*values: float) -> Scalars:
    """Return training losses that were logged every 100 iterations."""
    return {"loss/train": [[100 * (i + 1) - 1, value] for i, value in enumerate(values)]}


def finding(report: ArtefactReport, statement: str) -> Finding:
    (found,) = (finding for finding in report.findings if statement in finding.statement)
    return found


# Curves


def test_a_curve_is_in_order_and_leaves_out_what_is_not_measured() -> None:
    curve = Curve("JSV", {0.9: [1.0], 0.5: [2.0, 4.0], 0.7: [math.nan]})
    assert list(curve.x) == [0.5, 0.9]
    assert list(curve.mean) == [3.0, 1.0]
    assert [s.n for s in curve.values()] == [2, 1]
    with pytest.raises(MissingResult, match=r"JSV at 0\.7"):
        curve[0.7]


# Runs


def test_each_figure_needs_these_runs() -> None:
    counts = {figure.name: len({run.digest for run in figure.runs(BUDGETS["smoke"])}) for figure in FIGURES}
    # 2 sparsities, 1 seed, 2 networks; a dense network is one run
    two = 2 * (1 + 9 * 2)
    assert counts == {"fig1": 4, "fig2": two, "fig4": two, "fig5": 6, "fig6": 6, "fig7": 2 * (1 + 5 * 2), "fig8": 7}


def test_networks_are_trained_at_90_percent_and_dense_and_no_run_is_planned_twice() -> None:
    runs = Figure2().runs(BUDGET)
    assert {run.config["pruning"]["sparsity"] for run in runs if run.steps} == {0.0, 0.9}
    assert {run.config["pruning"]["sparsity"] for run in runs if not run.steps} == {0.5}
    assert len({run.digest for run in runs}) == len(runs)


def test_figures_4_5_and_6_need_no_run_that_figure_2_does_not() -> None:
    planned = {run.digest for run in Figure2().runs(BUDGET)}
    assert all(run.digest in planned for figure in (Figure4(), Figure5(), Figure6()) for run in figure.runs(BUDGET))


def test_magnitude_starts_from_the_dense_run() -> None:
    (dense, *_) = TANH.runs(BUDGET, LDI_DENSE)
    for sparsity in (0.5, 0.9):
        before = TANH.runs(BUDGET, LDI_MAG, sparsity)[0].pretrained
        assert before is not None
        assert before.digest == dense.digest


# Measurements


def test_singular_values_are_those_where_training_starts(tmp_path: Path) -> None:
    for seed, run in enumerate(TANH.runs(BUDGET, LDI_CS_AI, 0.9)):
        finish(tmp_path, run, jsv(dense=1.0, pruned=0.1, corrected=2.0 + 2 * seed))
    curve = Measurements(TANH, BUDGET, Results(tmp_path)).jsv(LDI_CS_AI)
    assert curve == {0.0: Sample((1.0, 1.0)), 0.9: Sample((2.0, 4.0))}


def test_a_log_has_the_iteration_at_which_each_window_ends(tmp_path: Path) -> None:
    run, _ = TANH.runs(BUDGET, LDI_CS)
    finish(tmp_path, run, losses(*range(200)))
    curve = Measurements(TANH, BUDGET, Results(tmp_path)).log(LDI_CS, "loss/train")
    assert len(curve) == 100
    assert curve[200].mean == 0.5  # the mean of 0 and 1
    assert curve[20_000].mean == 198.5


def test_a_seed_that_diverged_is_left_out_of_curves_and_named_in_the_picture(tmp_path: Path) -> None:
    for seed, run in enumerate(TANH.runs(BUDGET, LDI_DENSE)):
        losses = [[0, 2.0], [1000, math.nan if seed == 1 else 0.5]]
        finish(tmp_path, run, {"loss/train": losses, "accuracy/train": [[0, 0.1], [1000, 0.1 if seed == 1 else 0.9]]})
    measured = Measurements(TANH, BUDGET, Results(tmp_path))
    assert measured.diverged(LDI_DENSE) == [1]
    assert measured.log(LDI_DENSE, "accuracy/train")[1001].values == (0.9,)
    axes = Figure().subplots()
    draw_training(axes, measured, [LDI_DENSE])
    assert [text.get_text() for text in axes.texts] == ["LDI-Dense: without seed 1, which diverged"]


def test_singular_values_during_training_begin_with_those_before_it(tmp_path: Path) -> None:
    run, _ = TANH.runs(BUDGET, LDI_CS)
    finish(tmp_path, run, jsv(dense=1.0, pruned=0.1) | {"jacobian/train/mean": [[540, 0.4]]})
    curve = Measurements(TANH, BUDGET, Results(tmp_path)).jsv_log(LDI_CS)
    assert {iteration: s.mean for iteration, s in curve.items()} == {0: 0.1, 540: 0.4}


# Findings


@pytest.fixture
def figure_2(tmp_path: Path) -> Results:
    """Return the results of linear networks with two seeds, without tanh and without SynFlow."""
    measured = {  # mean JSV at 50 and 90 %, training loss early and late, accuracy
        LDI_CS: (0.5, 0.1, 1.0, 0.2, 0.96),
        LDI_CS_AI: (0.9, 1.1, 0.6, 0.1, 0.97),
        LDI_RAND: (0.05, 0.001, 2.3, 2.2, 0.5),
        LDI_RAND_AI: (0.8, 0.7, 0.8, 0.2, 0.95),
        VS_CS: (0.6, 0.05, 1.1, 0.2, 0.96),
        LDI_CS_EOI: (0.5, 1.0, 0.6, 0.1, 0.97),
        LDI_SHUFFLED: (0.5, 0.1, 1.0, 0.2, 0.90),
    }
    for run in LINEAR.runs(BUDGET, LDI_DENSE):
        finish(tmp_path, run, jsv(dense=1.0) | losses(1.0, 0.05), 0.98)
    for method, (half, most, early, late, accuracy) in measured.items():
        stage = "corrected" if method.isometry else "pruned"
        for run in LINEAR.runs(BUDGET, method, 0.5):
            finish(tmp_path, run, jsv(dense=1.0, **{stage: half}))
        for run in LINEAR.runs(BUDGET, method, 0.9):
            finish(tmp_path, run, jsv(dense=1.0, **{stage: most}) | losses(early, late), accuracy)
    return Results(tmp_path)


def test_figure_2_says_how_signals_propagate(figure_2: Results) -> None:
    report = Figure2().report(BUDGET, figure_2)
    falls = finding(report, "linear: with LDI-CS, the mean JSV falls")
    assert falls.holds is True
    assert falls.measured == "mean JSV 1 ± 0 (n = 2) dense, 0.1 ± 0 (n = 2) at κ̄ = 90 %"
    restored = finding(report, "linear: LDI-CS-AI brings the mean JSV back")
    assert restored.holds is True
    assert restored.measured.startswith("1.1 times the dense network's at κ̄ = 90 %")
    eoi = finding(report, "linear: LDI-CS-EOI brings the mean JSV back")
    assert eoi.holds is False
    assert eoi.measured.endswith("furthest at κ̄ = 50 %: 0.5 times")
    assert finding(report, "linear: signals vanish in networks pruned by LDI-Rand").holds is True
    assert finding(report, "linear: signals propagate better with LDI-Rand-AI").holds is True
    scaled = finding(report, "linear: signals propagate better with LDI-CS than with VS-CS")
    assert scaled.holds is False
    assert scaled.measured.endswith("; not at κ̄ = 50 %")


def test_figure_2_says_how_networks_train(figure_2: Results) -> None:
    report = Figure2().report(BUDGET, figure_2)
    fastest = finding(report, "linear: of the networks pruned at initialization, LDI-CS-AI trains fastest")
    assert fastest.holds is True
    assert "iterations: LDI-CS-AI 0.35 ± 0 (n = 2), LDI-Rand-AI 0.5 ± 0 (n = 2), LDI-Dense" in fastest.measured
    assert fastest.measured.endswith("; no result of LDI-Mag")
    assert finding(report, "linear: LDI-CS-AI trains to the loss of LDI-Dense").holds is False
    shuffled = finding(report, "linear, beyond the paper: shuffling")
    assert shuffled.holds is False
    assert (
        shuffled.measured == "test error in % of the final weights: 4 ± 0 (n = 2), shuffled 10 ± 0 (n = 2), +6 (s.e. 0)"
    )


def test_findings_without_results_are_undecided_and_name_them(figure_2: Results) -> None:
    report = Figure2().report(BUDGET, figure_2)
    assert all(finding.holds is None for finding in report.findings if finding.statement.startswith("tanh"))
    assert (
        finding(report, "linear: signals propagate better with LDI-SynFlow").measured
        == "no result of JSV of linear LDI-SynFlow at 0.9"
    )
    assert finding(report, "tanh: LDI-CS-AI trains to the loss").measured == "no result of tanh LDI-CS-AI"


def test_differences_within_two_standard_errors_cannot_be_told(tmp_path: Path) -> None:
    for method, values in ((LDI_CS, (0.1, 0.3)), (VS_CS, (0.05, 0.25))):
        for run, value in zip(LINEAR.runs(BUDGET, method), values, strict=True):
            finish(tmp_path, run, jsv(dense=1.0, pruned=value))
    better = finding(Figure2().report(BUDGET, Results(tmp_path)), "linear: signals propagate better with LDI-CS than")
    assert better.holds is None
    assert better.measured.endswith("; unclear at κ̄ = 90 %")


def test_one_seed_cannot_tell_how_signals_propagate(tmp_path: Path) -> None:
    for method, value in ((LDI_DENSE, 1.0), (LDI_CS_AI, 1.0), (LDI_RAND, 0.0)):
        finish(tmp_path, LINEAR.runs(BUDGET, method)[0], jsv(dense=1.0, pruned=value, corrected=value))
    report = Figure2().report(BUDGET, Results(tmp_path))
    restored = finding(report, "linear: LDI-CS-AI brings the mean JSV back")
    assert restored.holds is None
    assert restored.measured.startswith("1 times the dense network's at κ̄ = 90 %: 1 (n = 1) of 1 (n = 1)")
    assert finding(report, "linear: signals vanish in networks pruned by LDI-Rand").holds is None


def test_rows_are_tidy(figure_2: Results) -> None:
    rows = Figure2().report(BUDGET, figure_2).rows
    common = {"network": "linear", "method": "LDI-CS", "std": 0.0, "n": 2}
    assert common | {"statistic": "JSV mean", "sparsity": 0.5, "iteration": 0, "mean": 0.5} in rows
    assert common | {"statistic": "training loss", "sparsity": 0.9, "iteration": 200, "mean": 0.2} in rows
    assert {"tanh", "LDI-SynFlow"}.isdisjoint({row["network"] for row in rows} | {row["method"] for row in rows})
    assert len({tuple(row) for row in rows}) == 1


def test_a_small_budget_cannot_tell_of_training(tmp_path: Path) -> None:
    for method, loss in ((LDI_CS, 1.0), (LDI_CS_AI, 0.5)):
        for run in TANH.runs(SHORT_OF_TRAINING, method):
            finish(tmp_path, run, losses(loss))
    report = Figure2().report(SHORT_OF_TRAINING, Results(tmp_path))
    fastest = finding(report, "tanh: of the networks pruned at initialization, LDI-CS-AI trains fastest")
    assert fastest.holds is None
    assert fastest.measured.endswith("; too few iterations to tell")


def test_figure_4_says_of_condition_numbers_and_errors(tmp_path: Path) -> None:
    for method, accuracy in ((LDI_CS, 0.97), (LDI_CS_AI, 0.96)):
        for run in TANH.runs(BUDGET, method):
            condition = {"jacobian/dense/condition": [[0, 4.0]], "jacobian/pruned/condition": [[0, math.inf]]}
            finish(tmp_path, run, jsv(dense=1.0, pruned=0.1) | condition, accuracy)
    report = Figure4().report(BUDGET, Results(tmp_path))
    spread = finding(report, "tanh: with LDI-CS, singular values spread")
    assert spread.holds is True
    assert spread.measured == "condition number 4 ± 0 (n = 2) dense, inf (n = 2) at κ̄ = 90 %"
    best = finding(report, "tanh: of the networks pruned at initialization, LDI-CS-AI generalizes best")
    assert best.holds is False
    assert best.measured.startswith(
        "test error in % of the final weights: LDI-CS 3 ± 0 (n = 2), LDI-CS-AI 4 ± 0 (n = 2)"
    )


def test_figure_5_says_when_each_method_reaches_the_loss_of_connection_sensitivity(tmp_path: Path) -> None:
    logs = {LDI_CS: [2.0, 1.0] + [0.5] * 18, LDI_RAND: [2.3] * 20, LDI_MAG: [0.9] * 20}
    for method, log in logs.items():
        for run in TANH.runs(BUDGET, method):
            finish(tmp_path, run, losses(*log))
    report = Figure5().report(BUDGET, Results(tmp_path))
    target = "a training loss of 1, which LDI-CS has after 200 iterations, "
    never = finding(report, "tanh: LDI-Rand takes longer")
    assert never.holds is True
    assert never.measured == target + "is not reached within 2,000 (n = 2)"
    sooner = finding(report, "tanh: LDI-Mag takes longer")
    assert sooner.holds is False
    assert sooner.measured == target + "is reached after 100 (n = 2)"


def test_figure_6_says_where_singular_values_change(tmp_path: Path) -> None:
    def spread(dense: float, pruned: float) -> dict[str, list[list[float]]]:
        return {"jacobian/dense/std": [[0, dense]], "jacobian/pruned/std": [[0, pruned]]}

    for run in TANH.runs(BUDGET, LDI_DENSE):
        finish(tmp_path, run, jsv(dense=1.0) | spread(0.1, 0.1))
    for sparsity, std in ((0.5, 1.0), (0.9, 0.5)):
        for run in TANH.runs(BUDGET, LDI_MAG, sparsity):
            finish(tmp_path, run, jsv(dense=1.5, pruned=2.0) | spread(1.5, std))
    report = Figure6().report(BUDGET, Results(tmp_path))
    abrupt = finding(report, "tanh: the JSV change most between initialization")
    assert abrupt.holds is True  # ×10, then ÷2
    assert "a factor of 10; later steps change it by at most 2" in abrupt.measured
    smooth = finding(report, "tanh, beyond the paper: the JSV change most between the pretrained network")
    assert smooth.holds is False  # ÷1.5, then ÷2
    assert finding(report, "linear: the JSV change most").holds is None
    scattered = finding(report, "tanh: the JSV are not concentrated")
    assert scattered.holds is True  # at least 0.5 / 2, compared with 0.1 / 1
    assert "from 0.25 (κ̄ = 90 %) to 1 (κ̄ = 0 %); 0.1 at initialization (n = 2)" in scattered.measured


def test_figure_1_says_where_weights_are_left(tmp_path: Path) -> None:
    shares = {"linear": 0.9, "tanh": 0.99}
    for run in Figure1().runs(BUDGET):
        activation = run.network["init_args"]["activation"]
        layers = {f"sparsity/fc{i}": [[0, 0.9 if i < 4 else shares[activation]]] for i in range(1, 8)}
        folder = finish(tmp_path, run, layers)
        writer = SummaryWriter(str(folder))
        tensorboard.add_masks(writer, Masks({f"fc{i}.weight": torch.eye(100).bool() for i in range(2, 7)}))
        tensorboard.add_saliency(writer, {"fc1.weight": torch.logspace(-6, -2, 1001)})
        writer.close()
    report = Figure1().report(BUDGET, Results(tmp_path))
    assert [finding.holds for finding in report.findings] == [True, True, True]
    assert "fc3 0.9000, fc4 0.9900" in finding(report, "tanh: at κ̄ = 90 %").measured
    row = {"network": "tanh", "sparsity": 0.5, "layer": "fc6", "statistic": "layer sparsity", "value": 0.99, "n": 1}
    assert row in report.rows
    (median,) = {row["value"] for row in report.rows if row["statistic"] == "50 % quantile of log10 s"}
    assert median == pytest.approx(-4, abs=0.05)
    images = [axes.images[0].get_array() for axes in report.figures["_masks"].axes if axes.images]
    assert len(images) == 2 * 2 * 5  # networks, sparsities, layers
    assert all(image is not None and image.sum() == 100 for image in images)


# Pictures


@pytest.mark.parametrize("figure", FIGURES, ids=[figure.name for figure in FIGURES])
def test_a_figure_without_results_decides_nothing_and_is_drawn(figure: Artefact, tmp_path: Path) -> None:
    report = figure.report(BUDGET, Results(tmp_path))
    assert report.rows == []
    assert report.findings
    assert all(finding.holds is None and finding.measured.startswith("no result of") for finding in report.findings)
    for picture in report.figures.values():
        picture.draw_without_rendering()


def test_a_picture_shows_every_method_and_keeps_its_legend_off_the_data(figure_2: Results) -> None:
    picture = Figure2().report(BUDGET, figure_2).figures[""]
    picture.draw_without_rendering()
    (legend,) = picture.legends
    assert [text.get_text() for text in legend.get_texts()] == [str(method) for method in PAPER]
    assert all(axes.get_window_extent().y1 < legend.get_window_extent().y0 for axes in picture.axes)


def test_methods_can_be_told_apart_in_black_and_white() -> None:
    assert set(STYLES) == {*PAPER, *BEYOND}
    assert len({(str(style["linestyle"]), style["marker"]) for style in STYLES.values()}) == len(STYLES)


def test_what_a_logarithmic_axis_cannot_show_is_marked_on_its_edge() -> None:
    axes = Figure().subplots()
    axes.set_yscale("log")
    draw_curve(axes, Curve("JSV", {0: [1.0, 3.0], 10: [0.0], 20: [math.inf], 30: [1.0]}), STYLES[LDI_CS])
    curve, infinite, zero = axes.lines
    assert [bool(gap) for gap in map(math.isnan, curve.get_ydata())] == [False, True, True, False]
    assert (list(infinite.get_xdata()), infinite.get_marker()) == ([20], r"$\infty$")
    assert (list(zero.get_xdata()), zero.get_marker()) == ([10], "$0$")
    axes.figure.draw_without_rendering()


def test_bands_reach_one_standard_deviation_and_one_seed_has_none() -> None:
    axes = Figure().subplots()
    draw_curve(axes, Curve("loss", {0: [1.0, 3.0], 1: [1.0, 3.0]}), STYLES[LDI_CS])
    draw_level(axes, Sample((2.0,)), STYLES[LDI_DENSE])
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((2 - math.sqrt(2), 2 + math.sqrt(2)))
    assert not axes.patches
