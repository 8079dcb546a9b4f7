"""Planned runs, their digests, results, jobs and executors; next to no network is trained here."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from pytorch_lightning.utilities.exceptions import SIGTERMException

from spl.errors import InputError
from spl.reproduction import executors
from spl.reproduction.budgets import BUDGETS, budget_named
from spl.reproduction.cost import seconds
from spl.reproduction.deadline import Deadline
from spl.reproduction.executors import Cluster, LocalProcesses
from spl.reproduction.job import Group, Job, PlannedRun, batches, plan_run, waves
from spl.reproduction.methods import LDI_CS, LDI_CS_AI, LDI_DENSE, LDI_MAG, LDI_RAND, LDI_SHUFFLED, Experiment, mlp
from spl.reproduction.results import Result, Results
from spl.reproduction.run import RUN_FILE, Run, digest_of, with_ancestors
from spl.reproduction.session import forecast
from spl.reproduction.worker import work

SMOKE, SHORT, PAPER = BUDGETS.values()
TANH = Experiment(mlp("tanh"))
TINY = {
    "name": "tiny",
    "model": {"network": {"class_path": "spl.networks.MLP", "init_args": {"depth": 3, "width": 10}}},
    "data": {"class_path": "spl.data.MNISTSample"},
    "pruning": {"batches": 1, "isometry": None},
    "spectrum": {"examples": 2},
    "trainer": {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "limit_train_batches": 2},
}


def make(run: Run, root: Path, weights: Path | None = None, finished: bool = True) -> Path:
    """Make a folder with an arbitrary name, as the run would leave it."""
    folder = root / f"anything-{len(list(root.glob('*')))}"
    folder.mkdir(parents=True)
    (folder / RUN_FILE).write_text("# a comment\n" + yaml.safe_dump(run.on_machine(Path("/anywhere"), weights)))
    if finished:
        Result(folder, run.digest, {}, {}, {}).write()
    return folder


def test_a_result_is_found_by_what_was_run_wherever_it_lies(tmp_path):
    wanted = TANH.run(SMOKE, LDI_CS, 0)
    folder = make(wanted, tmp_path / "deep" / "down")
    results = Results(tmp_path)
    assert results[wanted.digest].folder == folder
    assert [r.folder for r in results.of([wanted, TANH.run(SMOKE, LDI_CS, 1)])] == [folder]


@pytest.mark.parametrize(
    "other",
    [
        TANH.run(SMOKE, LDI_CS, 1),
        TANH.run(SMOKE, LDI_CS_AI, 0),
        TANH.run(SHORT, LDI_CS, 0),
        Experiment(mlp("linear")).run(SMOKE, LDI_CS, 0),
        replace(TANH, sparsity=0.5).run(SMOKE, LDI_CS, 0),
        replace(TANH, targets="uniform").run(SMOKE, LDI_CS, 0),
        replace(TANH, trained=False).run(SMOKE, LDI_CS, 0),
        replace(TANH, scoring_data="FashionMNIST").run(SMOKE, LDI_CS, 0),
    ],
    ids=lambda run: run.name,
)
def test_whatever_decides_a_result_is_in_its_digest(other):
    assert other.digest != TANH.run(SMOKE, LDI_CS, 0).digest


def test_where_data_lie_and_what_a_run_is_called_is_not_in_its_digest(tmp_path):
    run = replace(TANH, scoring_data="FashionMNIST").run(SMOKE, LDI_CS, 0)
    folder = make(run, tmp_path)
    config = yaml.safe_load((folder / RUN_FILE).read_text())
    assert config["data"]["init_args"]["root"] == "/anywhere"
    assert config["pruning"]["scoring_data"]["init_args"]["root"] == "/anywhere"
    assert digest_of(folder / RUN_FILE) == run.digest == Run("another name", run.config).digest


def test_a_pretrained_run_is_told_by_the_run_that_it_starts_from(tmp_path):
    run = TANH.run(SMOKE, LDI_MAG, 0)
    assert run.pretrained.digest == TANH.run(SMOKE, LDI_DENSE, 0).digest
    dense = make(run.pretrained, tmp_path)
    pruned = make(run, tmp_path, dense / "checkpoints" / "last.ckpt")
    assert Results(tmp_path)[run.digest].folder == pruned
    assert run.digest != Run(run.name, run.config, TANH.run(SMOKE, LDI_DENSE, 1)).digest != Run("", run.config).digest


def test_a_run_without_a_result_is_not_finished(tmp_path):
    run = TANH.run(SMOKE, LDI_CS, 0)
    folders = [make(run, tmp_path, finished=False) for _ in range(2)]
    (folders[0] / ".result.json.7").write_text('{"half":')
    results = Results(tmp_path)
    assert run.digest not in results
    assert sorted(results.unfinished[run.digest]) == folders
    assert plan_run(run, results, Path("data")).attempts == [str(folder) for folder in folders]


def test_a_run_that_cannot_be_told_is_left_out(tmp_path):
    run = TANH.run(SMOKE, LDI_MAG, 0)
    make(run, tmp_path, Path("gone/checkpoints/last.ckpt"))
    for text in ("", "- 1", "a: [", "name: x"):
        (make(TANH.run(SMOKE, LDI_CS, 0), tmp_path) / RUN_FILE).write_text(text)
    assert len(Results(tmp_path)) == len(Results(tmp_path).unfinished) == 0


def test_a_result_comes_back_as_it_was_written(tmp_path):
    test = {"final": {"accuracy": 0.975, "loss": 0.1}, "best": {"accuracy": 0.98, "loss": 0.09}}
    scalars = {
        "loss/train": [[49, 2.0], [99, 1.0]],
        "jacobian/dense/mean": [[0, 1.0]],
        "jacobian/pruned/mean": [[0, 0.25]],
        "sparsity/global": [[0, 0.9]],
        "sparsity/fc1": [[0, 0.95]],
        "sparsity/fc1.bias": [[0, 1.0]],
        "isometry/score/pruned": [[0, 7.0]],
    }
    Result(tmp_path, "d", test, scalars, {"device": "CPU"}).write()
    result = Result.read(tmp_path)
    assert result == Result(tmp_path, "d", test, scalars, {"device": "CPU"})
    steps, losses = result.series("loss/train")
    assert (steps.tolist(), losses.tolist()) == ([49, 99], [2, 1])
    assert result.series("loss/none")[0].shape == (0,)
    assert (result.error(), result.error("best")) == (pytest.approx(2.5), pytest.approx(2.0))
    assert (result.jsv("mean"), result.jsv("mean", "dense")) == (0.25, 1.0)
    assert result.layer_sparsity() == {"fc1": 0.95}
    assert result.orthogonality_score() == 7.0
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]  # nothing half-written is left


def test_runs_come_after_those_that_they_start_from():
    wanted = [TANH.run(SMOKE, LDI_MAG, 0), TANH.run(SMOKE, LDI_CS, 0), TANH.run(SMOKE, LDI_MAG, 0)]
    everything = with_ancestors(wanted)
    assert len(everything) == 3
    first, second = waves(everything.values())
    assert {run.name for run in second} == {wanted[0].name}
    assert {run.digest for run in first} == {wanted[0].pretrained.digest, wanted[1].digest}


def test_short_work_is_divided_among_the_processes():
    alike = [TANH.run(SHORT, method, seed) for seed in range(4) for method in (LDI_CS, LDI_RAND)]
    sizes = {n: [[len(runs) for _, runs in job] for job in batches(alike, n)] for n in (1, 2, 4)}
    assert sizes == {1: [[8]], 2: [[4], [4]], 4: [[4], [4]]}  # fewer than four networks train alone


@pytest.mark.parametrize(
    ("part", "option"),
    [("trainer", {"gradient_clip_val": 1.0}), ("trainer", {"precision": "bf16-mixed"}), ("model", {"compile": True})],
)
def test_runs_with_what_stacked_training_lacks_train_alone(part, option):
    runs = [TANH.run(SHORT, LDI_CS, seed) for seed in range(4)]
    asked = [Run(run.name, run.config | {part: run.config[part] | option}) for run in runs]
    assert [together for job in batches(runs) for together, _ in job] == [True]
    assert [together for job in batches(asked) for together, _ in job] == [False] * 4


def test_networks_of_one_kind_are_stacked_evenly_and_others_train_alone():
    alike = [TANH.run(SHORT, method, seed) for seed in range(9) for method in (LDI_CS, LDI_RAND)]
    few = [Experiment(mlp("relu")).run(SHORT, LDI_CS, seed) for seed in range(3)]  # too few for a population
    convolutional = Experiment({"class_path": "spl.networks.ResNet", "init_args": {"blocks_per_stage": 1}}, "CIFAR10")
    found = batches([*alike, *few, convolutional.run(SHORT, LDI_CS, 0)])
    assert found[0][0][1][0].name.startswith("CIFAR10")  # the longest run comes first
    assert [[(together, len(runs)) for together, runs in some] for some in found[1:3]] == [[(True, 9)]] * 2
    alone = [batch for some in (found[0], *found[3:]) for batch in some]
    assert [(together, len(runs)) for together, runs in alone] == [(False, 1)] * 4
    costs = [sum(seconds(run) for _, runs in some for run in runs) for some in found]
    assert costs == sorted(costs, reverse=True)


def test_short_runs_and_stacked_runs_share_a_process():
    untrained = [replace(TANH, trained=False).run(SHORT, LDI_CS, seed) for seed in range(60)]
    small = [Experiment(mlp(name)).run(SMOKE, LDI_CS, seed) for name in ("tanh", "relu") for seed in range(4)]
    found = batches([*untrained, *small])
    assert sorted(len(runs) for some in found for _, runs in some) == [1] * 60 + [4] * 2
    assert all(together == (len(runs) == 4) for some in found for together, runs in some)
    assert 1 < len(found) < 15
    assert all(sum(seconds(run) for _, runs in some for run in runs) > 60 for some in found[:-1])


def test_a_job_comes_back_from_its_file(tmp_path):
    runs = [PlannedRun(digest, {"name": digest}, ["a"]) for digest in "xyz"]
    job = Job("007", [Group(runs[:2], True), Group(runs[2:], False)])
    assert Job.read(job.write(tmp_path)) == job
    hurried = replace(job, deadline=Deadline(1.5, str(tmp_path)))
    assert Job.read(hurried.write(tmp_path)) == hurried


def test_controls_and_random_masks_draw_from_the_seed_of_the_run():
    for method in (LDI_RAND, LDI_SHUFFLED):
        assert TANH.run(SHORT, method, 5).config["pruning"]["criterion"]["init_args"]["seed"] == 5


def test_the_dense_linear_network_learns_slowly_enough_not_to_diverge():
    rates = {
        method: Experiment(mlp("linear")).run(PAPER, method, 0).config["model"]["optimizer"]["init_args"]["lr"]
        for method in (LDI_DENSE, LDI_MAG, LDI_CS)
    }
    assert rates == {LDI_DENSE: 0.01, LDI_MAG: 0.01, LDI_CS: 0.1}


def test_a_longer_run_costs_more():
    short, paper = (seconds(TANH.run(budget, LDI_CS, 0)) for budget in (SHORT, PAPER))
    untrained = seconds(replace(TANH, trained=False).run(SHORT, LDI_CS, 0))
    assert 0 < untrained < short / 3 < paper / 15


@pytest.fixture
def accelerator(monkeypatch):
    """One accelerator, of which products of large matrices have 50 TFLOP/s."""
    monkeypatch.setattr("spl.reproduction.cost.torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("spl.reproduction.cost._flops_per_second", lambda: 5e13)
    monkeypatch.setattr(executors.torch.cuda, "device_count", lambda: 1)


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize(
    ("network", "arguments", "step", "device"),
    [
        ("VGG16", {}, 7.6, 2.3),
        ("ResNet", {"blocks_per_stage": 3}, 9.8, 2.7),
        ("ResNet", {"blocks_per_stage": 5}, 12.6, 7.9),
    ],
    ids=["VGG16", "ResNet-20", "ResNet-32"],
)
def test_a_step_on_an_accelerator_takes_as_long_as_process_or_device(network, arguments, step, device):
    """Measured on an H200 at batch 128, in ms: a step of one process, and the part in which the device computes."""
    choice = {"class_path": f"spl.networks.{network}", "init_args": arguments}
    experiment = Experiment(choice, "CIFAR10")
    run, untrained = (one.run(SHORT, LDI_CS, 0) for one in (experiment, replace(experiment, trained=False)))

    def milliseconds(sharing):
        return 1000 * (seconds(run, sharing) - seconds(untrained, sharing)) / run.steps

    assert 0.8 < milliseconds(1) / step < 1.25
    assert 0.5 < milliseconds(20) / (20 * device) < 2  # where the device decides
    assert milliseconds(2) < 1.2 * milliseconds(1)  # the other way round


@pytest.mark.usefixtures("accelerator")
def test_processes_that_share_an_accelerator_are_not_as_many_times_as_fast():
    runs = [Experiment({"class_path": "spl.networks.VGG16", "init_args": {}}, "CIFAR10").run(SHORT, LDI_CS, 0)]
    times = {n: seconds(runs[0], LocalProcesses(n).sharing) / n for n in (1, 2, 4, 16)}
    assert 1.5 < times[1] / times[2] <= 2
    assert times[2] > times[4]
    assert times[4] / times[16] < 1.5  # the device is busy
    one, many = (forecast(runs, n, LocalProcesses(n).sharing) for n in (1, 16))
    assert "with 1 processes" in one
    assert one.splitlines()[2].split()[-2:] != many.splitlines()[2].split()[-2:]


def test_processes_without_an_accelerator_share_none():
    assert LocalProcesses(3).sharing == 1


def test_processes_of_this_machine_share_its_threads_and_accelerators(tmp_path, monkeypatch):
    script = (
        "import os, sys; from pathlib import Path; "
        "print(os.environ['OMP_NUM_THREADS'], os.environ['CUDA_VISIBLE_DEVICES'], sys.argv[1])"
    )
    monkeypatch.setattr(executors.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(executors.os, "cpu_count", lambda: 6)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(executors, "COMMAND", [sys.executable, "-c", script])
    files = [Job(str(k), []).write(tmp_path) for k in range(3)]
    ended = [file for some in LocalProcesses().run(files) for file in some]
    assert sorted(ended) == files
    said = [file.with_suffix(".log").read_text().split() for file in files]
    assert [words[0] for words in said] == ["3"] * 3
    assert {words[1] for words in said[:2]} == {"4", "7"}


def test_an_executor_that_is_closed_stops_its_processes_with_one_interrupt(tmp_path, monkeypatch):
    script = (
        "import time\n"
        "try:\n    print('started', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(0.2); print('saved', flush=True)"
    )
    monkeypatch.setattr(executors, "COMMAND", [sys.executable, "-c", script])
    files = [Job(str(k), []).write(tmp_path) for k in range(2)]
    jobs = LocalProcesses(1).run(files)
    log = tmp_path / "0.log"
    while not (log.exists() and log.read_text()):
        next(jobs)
    jobs.close()
    assert log.read_text().split() == ["started", "saved"]
    assert not (tmp_path / "1.log").exists()


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="budget must be one of smoke, short, paper, got 'huge'"):
        budget_named("huge")
    with pytest.raises(InputError, match="jobs must be at least 1, got 0"):
        LocalProcesses(0)


def test_a_smoke_of_convolutional_networks_is_narrow():
    wide = Experiment({"class_path": "spl.networks.ResNet", "init_args": {"width_multiplier": 8}}, "CIFAR10")
    assert wide.run(SMOKE, LDI_MAG, 0).network["init_args"] == {"width_multiplier": 2}
    assert wide.run(SMOKE, LDI_MAG, 0).pretrained.network["init_args"] == {"width_multiplier": 2}
    assert wide.run(SHORT, LDI_CS, 0).network["init_args"] == {"width_multiplier": 8}


def test_a_budget_says_what_it_spends():
    assert SHORT.describe("MNIST") == "budget short: 10,000 iterations × 100, 5 runs"
    assert SHORT.describe("CIFAR10") == "budget short: 5,632 iterations × 128, 3 runs, one cycle, bf16-mixed"
    assert SMOKE.describe("CIFAR10") == "budget smoke: 2 iterations × 32, 1 run, 0.25 times as wide as the paper's"
    assert PAPER.describe("FashionMNIST") == "budget paper: 80,000 iterations × 100, 10 runs"


def test_the_short_budget_of_cifar10_is_16_epochs_of_one_cycle():
    config = Experiment({"class_path": "spl.networks.VGG16", "init_args": {}}, "CIFAR10").run(SHORT, LDI_CS, 0).config
    root = Path(__file__).parent.parent / "configs"
    schedule = yaml.safe_load((root / "schedule/cifar10_16_epochs.yaml").read_text())
    assert config["model"]["lr_scheduler"] == schedule
    assert config["trainer"]["max_steps"] == schedule["init_args"]["total_steps"] == 16 * -(-45_000 // 128)
    assert config["trainer"]["val_check_interval"] == 352
    assert config["trainer"]["precision"] == "bf16-mixed"
    assert config["model"]["channels_last"]
    assert config["spectrum"] == {"examples": 1000, "every_n_epochs": 4, "chunk": 250}


def test_the_paper_and_mnist_train_in_single_precision_by_the_schedule_of_the_paper():
    resnet = Experiment({"class_path": "spl.networks.ResNet", "init_args": {}}, "CIFAR10")
    runs = [TANH.run(SHORT, LDI_CS, 0), resnet.run(PAPER, LDI_CS, 0)]
    for run, steps in zip(runs, (2_500, 25_000), strict=True):
        assert run.config["model"]["lr_scheduler"]["init_args"] == {"step_size": steps, "gamma": 0.1}
        assert run.config["trainer"]["val_check_interval"] == 1000
        assert "precision" not in run.config["trainer"]
        assert not {"channels_last", "compile"} & run.config["model"].keys()


def test_networks_train_compiled_on_cifar10_at_the_short_budget():
    resnet = Experiment({"class_path": "spl.networks.ResNet", "init_args": {}}, "CIFAR10")
    assert resnet.run(SHORT, LDI_CS, 0).config["model"]["compile"] == "reduce-overhead"
    assert "compile" not in replace(resnet, trained=False).run(SHORT, LDI_CS, 0).config["model"]
    assert "compile" not in resnet.run(PAPER, LDI_CS, 0).config["model"]


def test_planned_configs_are_plain_data():
    for method in (LDI_MAG, LDI_SHUFFLED):
        config = TANH.run(PAPER, method, 3).config
        assert json.loads(json.dumps(config)) == config


def test_jobs_of_a_cluster_run_by_submitit_and_know_nothing_of_its_scheduler(tmp_path, monkeypatch):
    """Lightning would turn the two tasks into ranks and requeue the job."""
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    for name, value in {"JOB_ID": "1234", "NTASKS": "2", "NTASKS_PER_NODE": "2", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    runs = [PlannedRun("digest", {"name": "broken"}, []), PlannedRun("another", TINY, [])]
    file = Job("0", [Group(runs, together=False)]).write(tmp_path)
    cluster = Cluster("local", tmp_path / "submitit", {"timeout_min": 5})
    assert [file for some in cluster.run([file]) for file in some] == [file]
    assert (tmp_path / "0.log").read_text().endswith("failed: broken\n")
    assert (tmp_path / "0.done").read_text() == "another\n"
    assert not [*tmp_path.rglob("slurm_*")]


@pytest.mark.parametrize("stopped", [SystemExit(1), SIGTERMException()], ids=["Ctrl-C", "SIGTERM"])
def test_a_job_that_is_asked_to_stop_begins_no_further_run(tmp_path, monkeypatch, stopped):
    begun = []

    def begin(*args, **_):
        begun.append(args)
        raise stopped

    monkeypatch.setattr("spl.reproduction.worker.run_command", begin)
    runs = [PlannedRun(name, {"name": name}, []) for name in "ab"]
    file = Job("0", [Group(runs, together=False)]).write(tmp_path)
    with pytest.raises(SystemExit):
        work(file)
    assert len(begun) == 1


def test_a_cluster_that_is_not_there_is_refused(tmp_path):
    pytest.importorskip("submitit")
    with pytest.raises(InputError, match=r"--cluster slurm cannot be used: .*srun"):
        Cluster("slurm", tmp_path, {})
    with pytest.raises(InputError, match=r"--cluster local cannot be used: .*no_such_thing"):
        Cluster("local", tmp_path, {"no_such_thing": 1})
