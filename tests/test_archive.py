"""Archives that carry finished runs to other machines."""

import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from forking import python
from synthetic_results import finish

from spl.__main__ import main
from spl.reproduction import executors
from spl.reproduction.archive import export_runs
from spl.reproduction.artefacts import ARTEFACTS
from spl.reproduction.artefacts.artefact import Artefact, ArtefactReport
from spl.reproduction.budgets import BUDGETS
from spl.reproduction.execution import execute, missing
from spl.reproduction.executors import Executor
from spl.reproduction.importing import import_runs
from spl.reproduction.job import Job
from spl.reproduction.methods import LDI_CS, LDI_DENSE, LDI_MAG, Experiment, mlp
from spl.reproduction.results import Result, Results
from spl.reproduction.run import CHECKPOINT, RUN_FILE, RUNS, digest_of

SMOKE = BUDGETS["smoke"]
TANH = Experiment(mlp("tanh"))
DENSE, CS, HEIR = (TANH.run(SMOKE, method, 0) for method in (LDI_DENSE, LDI_CS, LDI_MAG))
OTHER = TANH.run(BUDGETS["short"], LDI_DENSE, 0)


class Few(Artefact):
    """An artefact of two runs, one of which starts from a third."""

    name = "few"
    title = "Few"

    def runs(self, budget):
        return [CS, HEIR]

    def report(self, budget, results):
        return ArtefactReport([], [])


class FewWithEvents(Few):
    reads_events = True


def place(run, version=0, weights=True):
    """Make a finished run, and the one that it starts from, where `spl fit` would; return its folder."""
    folder = RUNS / run.name / f"version_{version}"
    if not folder.exists():
        before = place(run.pretrained, version) / CHECKPOINT if run.pretrained else None
        (folder / "checkpoints").mkdir(parents=True)
        config = yaml.safe_dump(run.on_machine(Path("/data"), before), sort_keys=False)
        (folder / RUN_FILE).write_text(f"# spl fit --config {RUN_FILE}\n{config}")
        Result(folder, run.digest, {}, {}, {"seconds": 3.0}).write()
        (folder / "pruning.yaml").write_text("sparsity: 0.9\n")
        (folder / "events.out.tfevents.1.host").write_bytes(b"events")
        (folder / "config.yaml").write_text("{}")
        if weights:
            (folder / CHECKPOINT).write_bytes(b"weights")
    return folder


@pytest.fixture
def there(monkeypatch, tmp_path):
    """Go to the folder of one machine; the function that is returned goes to that of another."""

    def go(name):
        (tmp_path / name / RUNS).mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path / name)

    go("here")
    return go


def export(file="../runs.tar.xz", artefact=None):
    return export_runs(Path(file), [artefact or Few()], SMOKE, Results(RUNS))


def test_runs_come_back_on_another_machine(there):
    place(CS)
    place(HEIR)
    assert export() == 3
    with tarfile.open("../runs.tar.xz") as archive:
        names = archive.getnames()
    assert len(names) == 3 * 3
    assert {Path(name).name for name in names} == {"result.json", "run.yaml", "pruning.yaml"}
    there("other")
    assert import_runs(Path("../runs.tar.xz"), RUNS) == (3, 0)
    results = Results(RUNS)
    assert missing([CS, HEIR], results) == []
    assert results[HEIR.digest].record == {"seconds": 3.0}
    assert (results.folders[CS.digest] / RUN_FILE).read_text().startswith("# spl fit")
    assert import_runs(Path("../runs.tar.xz"), RUNS) == (0, 3)
    assert not [path for path in Path("lightning_logs").iterdir() if path.name != "reproduction"]


def test_the_same_runs_make_the_same_bytes_wherever_and_whenever_they_were_made(there):
    place(HEIR)
    place(CS)
    assert export("../one.tar.xz") == 3
    there("other")
    place(CS, version=4)
    place(HEIR, version=2)
    for path in RUNS.rglob("*"):
        os.utime(path, (10**9, 10**9))
    assert export("../two.tar.xz") == 3
    assert Path("../one.tar.xz").read_bytes() == Path("../two.tar.xz").read_bytes()
    with tarfile.open("../one.tar.xz") as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == sorted(member.name for member in members)
    assert {(member.mtime, member.uid, member.uname, member.mode) for member in members} == {(0, 0, "", 0o644)}


def test_events_of_interrupted_attempts_travel_too(there):
    place(HEIR)
    (attempt := place(CS)).joinpath("result.json").unlink()
    attempt.joinpath("events.out.tfevents.1.host").rename(attempt / "events.out.tfevents.0.host")
    place(CS, version=1)
    assert export(artefact=FewWithEvents()) == 3
    there("other")
    assert import_runs(Path("../runs.tar.xz"), RUNS) == (3, 0)
    events = sorted(path.name for path in Results(RUNS).folders[CS.digest].glob("events*"))
    assert events == ["events.out.tfevents.0.host", "events.out.tfevents.1.host"]


def test_events_travel_where_a_figure_reads_them(there):
    place(CS)
    assert export(artefact=FewWithEvents()) == 1
    there("other")
    import_runs(Path("../runs.tar.xz"), RUNS)
    assert (Results(RUNS).folders[CS.digest] / "events.out.tfevents.1.host").read_bytes() == b"events"
    assert [name for name, artefact in ARTEFACTS.items() if artefact.reads_events] == ["fig1"]


def test_a_run_is_not_exported_without_the_one_that_it_starts_from(there):
    (place(HEIR).parents[1] / DENSE.name / "version_0" / "result.json").unlink()
    assert export() == 0
    assert not Path("../runs.tar.xz").exists()


def test_a_folder_of_the_same_name_keeps_its_place_and_an_heir_finds_its_run(there):
    place(HEIR)
    export()
    there("other")
    taken = place(OTHER, weights=False)  # of another budget, and of the same name
    assert taken.parent.name == DENSE.name
    before = {path: path.read_bytes() for path in RUNS.rglob("*") if path.is_file()}
    assert import_runs(Path("../runs.tar.xz"), RUNS) == (2, 0)
    assert before.items() <= {path: path.read_bytes() for path in RUNS.rglob("*") if path.is_file()}.items()
    results = Results(RUNS)
    assert results.folders[OTHER.digest] == taken
    assert results.folders[DENSE.digest] == RUNS / DENSE.name / "version_1"
    heir = results.folders[HEIR.digest] / RUN_FILE
    assert yaml.safe_load(heir.read_text())["model"]["pretrained"] == str(RUNS / DENSE.name / "version_1" / CHECKPOINT)
    assert digest_of(heir) == HEIR.digest


def test_an_heir_goes_to_the_run_that_is_there_already(there):
    place(HEIR)
    export()
    there("other")
    mine = place(DENSE, version=7)
    assert import_runs(Path("../runs.tar.xz"), RUNS) == (1, 1)
    assert Results(RUNS).folders[DENSE.digest] == mine
    assert missing([HEIR], Results(RUNS)) == []


def test_paths_of_another_machine_are_understood(there):
    """An archive that another tool has made of absolute paths."""
    folder = place(HEIR)
    config = yaml.safe_load((folder / RUN_FILE).read_text())
    config["model"]["pretrained"] = f"/elsewhere/{config['model']['pretrained']}"
    (folder / RUN_FILE).write_text(yaml.safe_dump(config))
    with tarfile.open("../runs.tar.xz", "w:xz") as archive:
        archive.add("lightning_logs")
    there("other")
    assert import_runs(Path("../runs.tar.xz"), RUNS) == (2, 0)
    assert HEIR.digest in Results(RUNS)


def test_a_run_without_weights_is_made_again_only_for_one_that_starts_from_it(there):
    place(HEIR)
    export()
    there("other")
    import_runs(Path("../runs.tar.xz"), RUNS)
    assert missing([DENSE, HEIR], Results(RUNS)) == []
    shutil.rmtree(Results(RUNS).folders[HEIR.digest])
    assert [run.name for run in missing([DENSE, HEIR], Results(RUNS))] == [DENSE.name, HEIR.name]
    assert missing([DENSE], Results(RUNS)) == []
    place(DENSE, version=1)
    assert [run.name for run in missing([DENSE, HEIR], Results(RUNS))] == [HEIR.name]
    assert Results(RUNS).folders[DENSE.digest].name == "version_1"  # which has weights
    (RUNS / DENSE.name / "version_1").rename(RUNS / DENSE.name / "version_00")
    assert Results(RUNS).folders[DENSE.digest].name == "version_00"


class _Made(Executor):
    """An executor that makes a run of the names that it is told."""

    def __init__(self, *makes):
        self.makes = makes

    def run(self, files):
        for file in files:
            for run in self.makes:
                if run.digest in Job.read(file).digests:
                    place(run, version=9)
        yield list(files)


def test_a_run_that_could_not_be_made_again_has_failed_and_so_has_its_heir(there, monkeypatch):
    monkeypatch.setattr("spl.reproduction.execution._prepare_data", lambda _: None)
    place(DENSE, weights=False)
    failures = execute([HEIR], RUNS, None, _Made())
    assert [(failure.run.digest, failure.log is None) for failure in failures] == [
        (DENSE.digest, False),
        (HEIR.digest, True),
    ]
    assert execute([HEIR], RUNS, None, _Made(DENSE, HEIR)) == []
    assert Results(RUNS).folders[DENSE.digest].name == "version_9"


def test_the_command_exports_and_imports(there, capsys):
    for run in ARTEFACTS["table3"].runs(SMOKE):
        finish(RUNS, run)
    words = ["reproduce", "table3", "--budget", "smoke"]
    main([*words, "--export", "../runs.tar.xz", "--dry-run"])
    assert "12 finished runs: ../runs.tar.xz" in capsys.readouterr().out
    there("other")
    main([*words, "--dry-run", "--export", "none.tar.xz"])
    said = capsys.readouterr().out
    assert "12 runs are missing" in said
    assert "No run is finished: none.tar.xz is not written." in said
    main([*words, "--import", "../runs.tar.xz", "--dry-run"])
    said = capsys.readouterr().out
    assert "12 runs imported from ../runs.tar.xz; 0 of its runs were here already." in said
    assert "0 runs are missing" in said
    main([*words, "--import", "../runs.tar.xz", "--export", "again.tar.xz"])
    said = capsys.readouterr().out
    assert "0 runs imported from ../runs.tar.xz; 12 of its runs were here already." in said
    assert "12 of 12 runs finished" in Path("reproduction/smoke/table3.md").read_text()
    assert Path("again.tar.xz").read_bytes() == Path("../runs.tar.xz").read_bytes()


def test_an_export_replaces_nothing_but_an_archive_of_the_same_runs(there, capsys):
    words = ["reproduce", "table3", "--budget", "smoke", "--dry-run", "--export"]

    def refused(file):
        with pytest.raises(SystemExit) as ended:
            main([*words, file])
        assert ended.value.code == 2
        return capsys.readouterr().err

    runs = ARTEFACTS["table3"].runs(SMOKE)
    for run in runs[:5]:
        finish(RUNS, run)
    main([*words, "runs.tar.xz"])
    finish(RUNS, runs[5])
    main([*words, "runs.tar.xz"])
    assert "6 finished runs: runs.tar.xz" in capsys.readouterr().out
    before = Path("runs.tar.xz").read_bytes()
    Path("thesis.txt").write_text("all of it")
    assert "thesis.txt exists and is no archive of runs, so it is not replaced" in refused("thesis.txt")
    assert "There is no folder nowhere" in refused("nowhere/runs.tar.xz")
    there("fewer")
    Path("runs.tar.xz").write_bytes(before)
    assert "runs.tar.xz exists and has 6 runs that the new archive would not have: --import it" in refused(
        "runs.tar.xz"
    )
    assert Path("runs.tar.xz").read_bytes() == before


@pytest.mark.slow
def test_pages_of_imported_runs_are_those_of_the_runs_themselves(there, monkeypatch, spl_data):
    """Figure 1 reads masks and scores from events."""
    monkeypatch.setitem(BUDGETS, "smoke", replace(SMOKE, sparsities=(0.9,)))
    monkeypatch.setattr(executors, "COMMAND", [*python(), "-m", "spl.reproduction.worker"])
    words = ["reproduce", "fig1", "--budget", "smoke", "--data.root", str(spl_data), "--jobs", "1"]
    main([*words, "--export", "../runs.tar.xz"])
    pages = {path.name: path.read_bytes() for path in Path("reproduction/smoke").iterdir()}
    there("other")
    main([*words, "--import", "../runs.tar.xz"])
    assert not (RUNS / "jobs").exists()
    assert pages == {path.name: path.read_bytes() for path in Path("reproduction/smoke").iterdir()}
    assert Path("../runs.tar.xz").stat().st_size < 10**6
