from dataclasses import replace

import pytest
import torch
from synthetic_results import finish

from spl.networks import ResNet
from spl.pruning import keep_count, prunable_parameters
from spl.reproduction.artefacts.figure_2 import Figure2
from spl.reproduction.artefacts.figure_3 import Figure3
from spl.reproduction.artefacts.figure_8 import Figure8
from spl.reproduction.artefacts.table_1 import Table1
from spl.reproduction.artefacts.table_2 import Table2
from spl.reproduction.artefacts.table_3 import Table3
from spl.reproduction.artefacts.table_4 import Table4
from spl.reproduction.budgets import BUDGETS
from spl.reproduction.results import Results

ARTEFACTS = [Table1(), Table2(), Table3(), Table4(), Figure3()]
SHORT = BUDGETS["short"]
PAIRS = replace(SHORT, mnist=replace(SHORT.mnist, seeds=2), cifar10=replace(SHORT.cifar10, seeds=2))


def report(root, artefact, best, scalars=None, budget=PAIRS):
    """Return a report on results whose errors and scalars depend on their cells; seed 1 adds 0.02 % to errors."""
    for key, cell in artefact.cells.items():
        for seed, run in enumerate(cell.runs(budget)):
            error = best(*key) + 0.02 * seed
            finish(root, run, final=error + 1, best=error, scalars=scalars(*key) if scalars else None)
    return artefact.report(budget, Results(root))


def verdicts(found):
    return [finding.holds for finding in found.findings]


@pytest.mark.parametrize(("artefact", "count"), list(zip(ARTEFACTS, (30, 60, 60, 40, 12), strict=True)))
def test_runs_at_the_short_budget(artefact, count):
    runs = artefact.runs(SHORT)
    assert len(runs) == len({run.digest for run in runs}) == len({run.name for run in runs}) == count


def test_runs_that_figures_have_too_are_planned_once():
    def shared(figure, table):
        return len({run.digest for run in figure.runs(SHORT)} & {run.digest for run in table.runs(SHORT)})

    assert shared(Figure2(), Table3()) == 5  # MLP-7 with labels
    assert shared(Figure8(), Table2()) == 9  # VGG16: VS-L, LDI and LDI-AI


@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_nothing_is_told_without_results(artefact, tmp_path):
    found = artefact.report(SHORT, Results(tmp_path))
    assert not found.rows
    assert {(finding.holds, finding.measured) for finding in found.findings} == {(None, "not measured in every cell")}


@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_nothing_is_told_at_the_smoke_budget(artefact, tmp_path):
    assert set(verdicts(report(tmp_path, artefact, lambda *key: 3.0, budget=BUDGETS["smoke"]))) == {None}


def table_1(variance):
    layers = [0.96, 0.8, 0.8, 0.8, 0.8, 0.81, 0.48] if variance < 1 else [0.85, 0.9, 0.99, 1.0, 1.0, 1.0, 0.9]
    means = {1e-4: 2.46e-7, 1e-3: 5.74e-4, 1e-2: 4.49e-1, 1e-1: 23.0, 1e0: 1.03e3, 1e1: 3.67e4}
    sparsities = {f"sparsity/fc{i}": sparsity for i, sparsity in enumerate(layers, start=1)}
    return {"jacobian/dense/mean": means[variance] * 0.95, "jacobian/pruned/mean": 7.0} | sparsities


def test_table_1_as_in_the_paper(tmp_path):
    found = report(tmp_path, Table1(), lambda variance: 90.2 if variance >= 1 else 2.7, table_1)
    assert verdicts(found) == [True, True, True, True]
    assert found.findings[0].measured.startswith("best error: 2.71 ± 0.01 (γ = 0.0001)")
    assert found.findings[2].measured.startswith("largest deviation -5.0%")
    assert found.findings[3].measured == "81.0% at most, and 99.0% at least; n = 2"
    row = found.rows[1]
    assert (row["variance"], row["seed"], row["sparsity_fc7"]) == (1e-4, 1, 0.48)
    assert (row["error_best"], row["error_final"]) == pytest.approx((2.72, 3.72))
    assert (
        "| 0.0001 | recalled | 2.46e-07 | 9.9e-08 | 4.66 | 0.97 0.80 0.80 0.80 0.80 0.81 0.48 | 2.66 |"
        in (found.tables[0])
    )
    assert (
        "ours, n = 2 | 2.34e-07 ± 0 | — | — | 0.96 0.80 0.80 0.80 0.80 0.81 0.48 | 2.71 ± 0.01 | 3.71 ± 0.01 |"
        in (found.tables[0])
    )


def test_table_1_where_ours_disagrees(tmp_path):
    def scalars(variance):
        return table_1(1.0) if variance < 1 else table_1(1e-4)

    found = report(tmp_path, Table1(), lambda variance: 50.0 if variance > 1e-3 else 2.7, scalars)
    assert verdicts(found) == [False, False, False, False]


@pytest.mark.parametrize(("corrected", "holds"), [(2.6, True), (2.8, False)])
def test_table_2_scores(corrected, holds, tmp_path):
    def scalars(initialization, network):
        after = {"isometry/score/corrected": corrected} if initialization == "LDI-AI" else {}
        return {"isometry/score/pruned": 4.0} | after

    scores = report(tmp_path, Table2(), lambda *key: 9.0, scalars)
    assert verdicts(scores)[0] is holds
    assert scores.rows[0] | {"error_best": 0, "error_final": 0} == {
        "initialization": "VS-L",
        "network": "VGG16",
        "seed": 0,
        "orthogonality_score": 4.0,
        "error_best": 0,
        "error_final": 0,
    }
    assert "| LDI | 4.00 ± 0.00 (13.33) | 4.00 ± 0.00 (4.43) |" in scores.tables[0]


def test_table_2_order_of_errors(tmp_path):
    best = {"VS-L": 9.2, "VS-G": 9.1, "VS-H": 9.3, "LDI": 9.0, "LDI-AI": 8.8}
    found = report(tmp_path, Table2(), lambda initialization, network: best[initialization])
    assert verdicts(found) == [None, True, True]
    assert "VGG16 +0.20 (s.e. 0.01)" in found.findings[1].measured
    assert "ResNet110 +0.10 (s.e. 0.01) (VS-G)" in found.findings[2].measured


def test_table_2_where_one_network_disagrees(tmp_path):
    found = report(tmp_path, Table2(), lambda i, network: 8.0 + (i == "LDI-AI" and network == "ResNet56"))
    assert verdicts(found)[1:] == [False, None]


def test_table_3(tmp_path):
    best = {"labels": 2.4, "uniform": 2.7, "prediction_softmax": 3.1, "prediction_logits": 3.3}
    found = report(tmp_path, Table3(), lambda targets, depth: best[targets] + 0.1 * (depth == 7))
    assert verdicts(found) == [True, True, True]
    assert "uniform +0.30 (s.e. 0.01), +0.30" in found.findings[1].measured
    assert "| labels | 2.41 ± 0.01 (2.46) | 2.41 ± 0.01 (2.43) | 2.51 ± 0.01 (2.61) |" in found.tables[0]
    assert "| labels | 3.41 ± 0.01 (2.46) |" in found.tables[1]


def test_table_3_where_ours_disagrees(tmp_path):
    found = report(tmp_path, Table3(), lambda targets, depth: 3.0 if targets == "uniform" else 2.4)
    assert verdicts(found) == [None, False, False]


def test_table_4(tmp_path):
    found = report(
        tmp_path, Table4(), lambda pruned, trained, targets: 3.0 + (pruned != trained and targets == "labels")
    )
    assert verdicts(found) == [True, True]
    assert "MNIST +1.00 (s.e. 0.01), FashionMNIST +1.00" in found.findings[0].measured
    assert "| FashionMNIST → MNIST | 4.01 ± 0.01 (2.66) | 3.01 ± 0.01 (2.80) |" in found.tables[0]


def test_table_4_scores_on_the_other_data_set_only_where_it_differs():
    run = Table4().cells["FashionMNIST", "MNIST", "uniform"].runs(SHORT)[0]
    assert run.config["data"]["class_path"] == "spl.data.MNIST"
    assert run.config["pruning"]["scoring_data"]["class_path"] == "spl.data.FashionMNIST"
    assert "scoring_data" not in Table4().cells["MNIST", "MNIST", "labels"].runs(SHORT)[0].config["pruning"]


def test_figure_3_networks_keep_as_many_parameters_as_the_base():
    kept = []
    for run in (cell.runs(SHORT)[0] for cell in Figure3().cells.values()):
        with torch.device("meta"):
            network = ResNet(**run.network["init_args"])
        size = sum(parameter.numel() for parameter in prunable_parameters(network, include_bias=True).values())
        kept.append(keep_count(size, run.config["pruning"]["sparsity"]))
    assert kept == [269_034] * 4


def test_figure_3(tmp_path):
    found = report(tmp_path, Figure3(), lambda network: {"R": 8.0, "s": 6.0, "a": 7.0, "l": 7.5}[network[0]])
    assert verdicts(found) == [True, True]
    assert "+2.00 (s.e. 0.01) (same blocks, 8× wider)" in found.findings[0].measured
    assert "| ResNet-20, dense, 269 k | 8.01 ± 0.01 | 9.01 ± 0.01 | 2 |" in found.tables[0]
    labels = [tick.get_text() for tick in found.figures[""].axes[0].get_yticklabels()]
    assert labels[1] == "same blocks, 8× wider\n17.0 M, pruned to 269 k"
