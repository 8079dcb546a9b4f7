from pathlib import Path

import pytest
from matplotlib.figure import Figure
from synthetic_results import begin, finish

from spl.files import write_whole
from spl.reproduction.artefacts.artefact import Artefact, ArtefactReport, Finding
from spl.reproduction.budgets import BUDGETS
from spl.reproduction.markdown import table
from spl.reproduction.methods import LDI_CS, LDI_MAG, Experiment, mlp
from spl.reproduction.page import Page, summary_table, write_summary
from spl.reproduction.results import Results

SMOKE = BUDGETS["smoke"]
EXPERIMENT = Experiment(mlp("tanh"))
AT_INIT, PRETRAINED = (EXPERIMENT.run(SMOKE, method, 0) for method in (LDI_CS, LDI_MAG))


class Fig9(Artefact):
    name = "fig9"
    title = "one thing and another"

    def runs(self, budget):
        return [AT_INIT, PRETRAINED, AT_INIT]

    def report(self, budget, results):
        figure = Figure(figsize=(2, 1), layout="constrained")
        figure.subplots().plot([0, 1])
        findings = [
            Finding("Up is up.", True, "by 1; n = 3"),
            Finding("Down is up.", False, "by −1; n = 3"),
            Finding("Left is up.", None, "n = 0"),
        ]
        rows = [{"method": "LDI-CS", "error": 1 / 3}, {"method": "LDI-Mag", "error": 2}]
        return ArtefactReport(rows, findings, {"_loss": figure}, [table(["K"], [[7]])])


def page(root: Path) -> Page:
    return Page.of(Fig9(), SMOKE, Results(root))


def test_a_run_counts_once_and_so_does_what_it_starts_from(tmp_path):
    finish(tmp_path, AT_INIT)
    assert page(tmp_path).progress == "1 of 3 runs finished"
    finish(tmp_path, PRETRAINED)
    assert page(tmp_path).progress == "3 of 3 runs finished"
    assert "missing</summary>" not in page(tmp_path).markdown()


def test_a_page_names_what_is_missing_and_what_has_begun(tmp_path):
    begin(tmp_path, AT_INIT)
    missing = page(tmp_path).markdown().partition("3 runs are missing</summary>\n\n")[2].splitlines()
    assert missing == [
        f"- {AT_INIT.name} (begun, not finished)",
        f"- {PRETRAINED.pretrained.name}",
        f"- {PRETRAINED.name}",
        "",
        "</details>",
    ]


def test_a_page_says_where_and_how_its_runs_were_made(tmp_path):
    finish(tmp_path, PRETRAINED, device="NVIDIA H100", seconds=3600.0, population=12)
    finish(tmp_path, AT_INIT)
    text = page(tmp_path).markdown()
    assert "3 of 3 runs finished, at budget smoke: 20 iterations × 100, 1 run." in text
    assert "    spl reproduce fig9 --budget smoke" in text
    assert "| device | cpu (2 of 3 runs), NVIDIA H100 (1 of 3 runs) |" in text
    assert "| threads | 1 |" in text
    assert "| computing time of all runs | 1:02:00 h |" in text
    assert "| trained stacked with others | 1 of 3 |" in text
    assert "| versions | torch 2.15 |" in text


def test_a_page_has_findings_pictures_and_tables(tmp_path):
    text = page(tmp_path).markdown()
    assert text.startswith("# Figure 9: one thing and another\n")
    assert "| Up is up. | yes | by 1; n = 3 |\n| Down is up. | **no** | by −1; n = 3 |" in text
    assert "| Left is up. | cannot tell | n = 0 |" in text
    assert "![Figure 9: one thing and another, loss](fig9_loss.png)" in text
    assert "(fig9_loss.svg)" in text
    assert "| K |\n| --- |\n| 7 |" in text


def test_files_are_written_below_the_output(tmp_path):
    page(tmp_path / "runs").write(tmp_path / "pages")
    pages = tmp_path / "pages"
    assert sorted(file.name for file in pages.iterdir()) == ["fig9.csv", "fig9.md", "fig9_loss.png", "fig9_loss.svg"]
    assert (pages / "fig9.csv").read_text() == "method,error\nLDI-CS,0.333333\nLDI-Mag,2\n"
    assert (pages / "fig9_loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_budget_stands_on_the_picture_and_what_is_missing(tmp_path):
    stamp = "budget smoke: 20 iterations × 100, 1 run"
    page(tmp_path).write(tmp_path)
    assert f"{stamp}; 0 of 3 runs finished" in (tmp_path / "fig9_loss.svg").read_text()
    finish(tmp_path, AT_INIT)
    finish(tmp_path, PRETRAINED)
    page(tmp_path).write(tmp_path)
    assert f"<!-- {stamp} -->" in (tmp_path / "fig9_loss.svg").read_text()


def test_the_same_results_give_the_same_bytes(tmp_path):
    page(tmp_path).write(tmp_path / "once")
    page(tmp_path).write(tmp_path / "again")
    for file in (tmp_path / "once").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "fig9.md"
    write_whole(file, b"a long first version")
    write_whole(file, b"second")
    assert file.read_bytes() == b"second"

    def interrupted(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(file, b"third")
    assert file.read_bytes() == b"second"


def test_the_summary_counts_findings_and_says_where_ours_disagrees(tmp_path):
    row = summary_table([page(tmp_path)]).splitlines()[-1]
    assert row == (
        "| [Figure 9](fig9.md) | 1 of 3 | 1 | Down is up: by −1; n = 3 "
        "| budget smoke: 20 iterations × 100, 1 run; 0 of 3 runs finished |"
    )


def test_the_summary_is_written_with_every_finding(tmp_path):
    write_summary([page(tmp_path)], tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert summary_table([page(tmp_path)]) in text
    assert "| [Figure 9](fig9.md) | Up is up. | yes | by 1; n = 3 |" in text
    assert "| [Figure 9](fig9.md) | Left is up. | cannot tell | n = 0 |" in text


def test_bars_do_not_break_a_table():
    assert table(["|x|"], [["a|b"]]) == "| \\|x\\| |\n| --- |\n| a\\|b |"
