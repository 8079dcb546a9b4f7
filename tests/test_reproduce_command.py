"""`spl reproduce`, as a user calls it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from forking import python
from matplotlib.image import imread

from spl.__main__ import main
from spl.reproduction import command, executors, page_parts
from spl.reproduction.artefacts import ARTEFACTS, figure_7, table_2
from spl.reproduction.budgets import BUDGETS
from spl.reproduction.execution import Failure
from spl.reproduction.results import Results
from spl.reproduction.run import RUNS

ON_CIFAR10 = {"fig3", "fig8", "table2"}


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", *words])
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def least(monkeypatch):
    """Leave one sparsity and a few steps of small networks of the budget smoke, and fork the processes of jobs."""
    smoke = BUDGETS["smoke"]
    few = {"examples": 4, "correction_iterations": 2}
    mnist = replace(smoke.mnist, iterations=4, scoring_batches=1, **few)
    cifar10 = replace(smoke.cifar10, batch_size=8, width=1 / 16, **few)
    monkeypatch.setitem(BUDGETS, "smoke", replace(smoke, mnist=mnist, cifar10=cifar10, sparsities=(0.9,)))
    depths = zip(("ResNet32", "ResNet56", "ResNet110"), (1, 2, 4), strict=True)
    for name, blocks in depths:
        monkeypatch.setitem(table_2._NETWORKS[name]["init_args"], "blocks_per_stage", blocks)
    monkeypatch.setattr(figure_7, "_NETWORKS", figure_7._NETWORKS[:1])
    monkeypatch.setattr(page_parts, "_DPI", 50)
    monkeypatch.setattr(executors, "COMMAND", [*python(), "-m", "spl.reproduction.worker"])


@pytest.mark.slow
@pytest.mark.usefixtures("least")
@pytest.mark.parametrize("names", [sorted(ON_CIFAR10), sorted(ARTEFACTS.keys() - ON_CIFAR10)], ids=["CIFAR10", "MNIST"])
def test_every_figure_and_table_comes_out_of_one_command(folder, spl_data, capsys, names):
    words = ["reproduce", *names, "--budget", "smoke", "--data.root", str(spl_data), "--jobs", "1"]
    main(words)
    pages = folder / "reproduction" / "smoke"
    assert f"{Path('reproduction', 'smoke', 'README.md')}" in capsys.readouterr().out
    summary = (pages / "README.md").read_text()
    for name in names:
        page = (pages / f"{name}.md").read_text()
        assert f"{name}.md" in summary
        assert f"spl reproduce {name} --budget smoke" in page
        assert "runs are missing" not in page
        assert len((pages / f"{name}.csv").read_text().splitlines()) > 1
        shown = re.findall(r"\]\(([^)]*\.(?:png|svg))\)", page)
        assert {".png", ".svg"} == {Path(picture).suffix for picture in shown}
        for picture in shown:
            if picture.endswith(".png"):
                assert imread(pages / picture)[..., :3].std() > 0.05  # neither empty nor uniform
            else:
                assert "<svg" in (pages / picture).read_text()
    wanted = {run.digest for name in names for run in ARTEFACTS[name].runs(BUDGETS["smoke"])}
    assert wanted <= Results(RUNS).keys()

    jobs = list((RUNS / "jobs").iterdir())
    pictures = {picture: picture.read_bytes() for picture in pages.glob("*.svg")}
    main(["reproduce", names[0], *words[1 + len(names) :]])
    assert list((RUNS / "jobs").iterdir()) == jobs  # no run was repeated
    assert pictures == {picture: picture.read_bytes() for picture in pages.glob("*.svg")}


@pytest.mark.slow
@pytest.mark.usefixtures("least")
def test_figures_can_be_made_of_any_network(folder, spl_data, capsys):
    words = ["--network", "spl.networks.MLP", "--network.depth", "3", "--network.activation", "torch.nn.GELU"]
    words += ["--budget", "smoke", "--data.root", str(spl_data), "--jobs", "1"]
    main(["reproduce", "fig2", "fig6", *words])
    said = capsys.readouterr().out
    networks = {run.network["class_path"] for run in ARTEFACTS["fig2"].runs(BUDGETS["smoke"])}
    assert networks == {"spl.networks.MLP"}  # the figures of the paper are as they were
    assert not Results(RUNS).keys() & {run.digest for run in ARTEFACTS["fig2"].runs(BUDGETS["smoke"])}
    for name, pictures in (("fig2", ("fig2.png", "fig2_beyond.png")), ("fig6", ("fig6.png",))):
        own = Path("reproduction", "smoke", f"{name}-MLP-3-GELU")
        assert str(own / f"{name}.md") in said
        page = (own / f"{name}.md").read_text()
        assert f"    spl reproduce {name} --budget smoke --network spl.networks.MLP --network.depth 3 " in page
        assert "The paper has no findings about this network" in page
        assert "holds here" not in page
        assert "runs are missing" not in page
        assert {row.split(",")[0] for row in (own / f"{name}.csv").read_text().splitlines()[1:]} == {"MLP-3-GELU"}
        for picture in pictures:
            assert imread(own / picture)[..., :3].std() > 0.05
    assert sorted(path.name for path in Path("reproduction", "smoke").iterdir()) == [
        "fig2-MLP-3-GELU",
        "fig6-MLP-3-GELU",
    ]


def test_a_network_that_does_not_fit_is_refused(capsys):
    network = ("--network", "spl.networks.MLP")
    assert "--network is for fig2, fig4, fig6, not for fig1" in refused(capsys, "fig1", "fig2", *network)
    small = refused(capsys, "fig2", *network, "--network.in_features", "100")
    assert "MLP takes 100 numbers per example" in small
    classes = refused(capsys, "fig2", *network, "--network.out_features", "7")
    assert "spl.networks.MLP returns (2, 7) for two images of MNIST: the figures need logits [N, 10]" in classes
    linear = refused(
        capsys, "fig4", "--network", "torch.nn.Linear", "--network.in_features=3", "--network.out_features=3"
    )
    assert "torch.nn.Linear does not take images of MNIST" in linear


def test_a_dry_run_lists_runs_and_time_and_makes_nothing(folder, capsys):
    main(["reproduce", "table1", "fig5", "--dry-run", "--jobs", "2"])
    said = capsys.readouterr().out
    assert len(re.findall(r"^MNIST_MLP-tanh-7_LDI-CS_90_0.0001_seed[0-4] +10,000 ", said, re.MULTILINE)) == 5
    assert re.search(r"70 runs are missing: about [\d.]+ (min|h) with 2 processes\.", said)
    assert not list(folder.iterdir())


def test_what_is_not_in_the_paper_is_refused(capsys):
    assert "There is no 'fig9' in the paper: ask for fig1, fig2" in refused(capsys, "fig1", "fig9")
    assert "expected one of smoke, short, paper, got 'huge'" in refused(capsys, "fig1", "--budget", "huge")
    assert "jobs must be at least 1, got 0" in refused(capsys, "fig1", "--jobs", "0")
    assert "artefacts" in refused(capsys)


def test_jobs_are_of_this_machine(capsys):
    said = refused(capsys, "fig1", "--jobs", "2", "--cluster", "slurm", "--data.root", "nowhere")
    assert "for a cluster, use --cluster_parameters '{slurm_array_parallelism: 2}' instead" in said


def test_data_that_cannot_be_had_are_one_error_before_anything_runs(monkeypatch, capsys, folder):
    def unreachable(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.MNIST.__init__", unreachable)
    said = refused(capsys, "fig1", "--budget", "smoke", "--data.root", "nowhere")
    assert "nowhere" in said
    assert [path.name for path in (folder / RUNS).rglob("*")] == [".lock"]


def test_failures_are_told_with_their_logs_and_the_pages_are_written(monkeypatch, capsys, folder):
    first, second, *_ = ARTEFACTS["table3"].runs(BUDGETS["smoke"])
    failures = [Failure(first, Path("jobs/000.log")), Failure(second, None)]
    monkeypatch.setattr(command, "execute", lambda *_: failures)
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "table3", "--budget", "smoke"])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "2 runs failed; the pages do not include them. The same command tries them again." in said
    assert f"{first.name}: jobs/000.log" in said
    assert f"{second.name}: not tried, because the run that it starts from failed" in said
    assert "12 runs are missing" in (folder / "reproduction" / "smoke" / "table3.md").read_text()


def test_an_interruption_says_how_to_go_on(monkeypatch, capsys):
    def pressed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "execute", pressed)
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "fig1"])
    assert ended.value.code == 130
    assert "Finished runs are kept; the same command continues." in capsys.readouterr().err


def test_the_command_is_listed(capsys):
    main(["--help"])
    assert "reproduce" in capsys.readouterr().out
