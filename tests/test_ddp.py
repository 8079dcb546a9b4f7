"""Several processes: the masks of a single process, equal weights, every example once, and no rank left waiting."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from forking import python

HERE = Path(__file__).parent / "support"


def run(command, folder, timeout=180):
    return finished(start(command, folder), timeout)


def start(command, folder):
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "MASTER_ADDR": "127.0.0.1"}
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_PORT", "PL_GLOBAL_SEED"):
        environment.pop(name, None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **pipes)


def finished(process, timeout=180):
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # also kills its child processes
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def fit(folder, devices, seeds="alike", fail_on=-1):
    return run([*python(), str(HERE / "ddp_fit.py"), str(folder), str(devices), seeds, str(fail_on)], folder)


def report(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Return the results of the fits in ranks.py, by number of processes, rank and name."""
    folder = tmp_path_factory.mktemp("ranks")
    done = run([*python(), str(HERE / "ranks.py"), str(folder), "cpu", "1", "2", "4"], folder, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return {(size, rank): report(folder, f"{size}-{rank}") for size in (1, 2, 4) for rank in range(size)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        *("all the data", "GraSP", "rounds, fewer batches than processes", "one batch", "statistics of batches"),
        *("the shape alone", "inputs of its own", "the inputs alone", "no data", "draws"),
        *("random data, random loss", "the same by workers", "endless", "training steps, random loss"),
    ],
)
def test_several_processes_have_the_masks_the_start_and_the_record_of_one(reports, case):
    one = reports[1, 0][case]
    for size in (2, 4):
        all_of = [reports[size, rank][case] for rank in range(size)]
        for what in ("masks", "record", "start"):
            assert all(each[what] == one[what] for each in all_of), (size, what)
        assert len({each["end"] for each in all_of}) == 1
        assert all_of[0]["end"] != one["start"]


@pytest.mark.slow
def test_each_process_fetches_its_own_batches_alone(reports):
    assert len(reports[1, 0]["random data, random loss"]["fetched"]) == 50
    # 7 batches of 8; the last has 2
    for size, shares in ((2, [26, 24]), (4, [16, 16, 10, 8])):
        fetched = [reports[size, rank]["random data, random loss"]["fetched"] for rank in range(size)]
        assert [len(share) for share in fetched] == shares
        assert sorted(index for share in fetched for index in share) == list(range(50))


@pytest.mark.slow
def test_a_loader_that_its_owner_has_cut_is_not_cut_again(reports):
    cut = [reports[2, rank]["cut"] for rank in range(2)]
    assert [len(share["fetched"]) for share in cut] == [24, 24]
    assert not {*cut[0]["fetched"]} & {*cut[1]["fetched"]}
    assert (cut[0]["record"]["batches"], cut[0]["record"]["examples"]) == (6, 48)
    assert cut[0]["masks"] == cut[1]["masks"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "own", "others"),
    [
        (
            "loss",
            "InputError: training_step of BrokenLoss raised ZeroDivisionError",
            "InputError: Process {} failed: training_step of BrokenLoss raised ZeroDivisionError",
        ),
        ("data", "InputError: this data broke", "InputError: Process {} failed: this data broke"),
        ("correction", "RuntimeError: this correction broke", "RuntimeError: Process {} failed: this correction broke"),
    ],
)
def test_a_failure_on_one_process_is_told_to_all(reports, what, own, others):
    for size in (2, 4):
        told = [reports[size, rank][f"the {what} of the last fails"]["failed"] for rank in range(size)]
        expected = [others.format(size - 1)] * (size - 1) + [own]
        assert all(one.startswith(words) for one, words in zip(told, expected, strict=True))


@pytest.mark.slow
def test_a_score_that_is_not_a_number_on_one_process_ends_all(reports):
    for size in (1, 2, 4):
        for rank in range(size):
            failed = reports[size, rank]["the loss of the last is not a number"]["failed"]
            assert failed.startswith("InputError: network.1.weight: 1440 of 1440 saliency scores are NaN or infinite.")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sharded", "flattened"], ids=["FSDP2", "FSDP"])
@pytest.mark.parametrize("module", ["", " classifier"])
def test_sharded_weights_have_the_masks_of_one_process_and_resume_to_the_same_weights(reports, kind, module):
    one, name = reports[1, 0]["sharded" + module], kind + module
    for size in (2, 4):
        all_of = [reports[size, rank][name] for rank in range(size)]
        for each in all_of:
            assert (each["masks"], each["record"], each["start"]) == (one["masks"], one["record"], one["start"])
            assert each["resumed"] == {what: each[what] for what in each["resumed"]}
            assert each["end"] == all_of[0]["end"] != each["start"]


@pytest.mark.slow
@pytest.mark.parametrize("module", ["", " classifier"])
def test_each_process_holds_its_shard(reports, module):
    fsdp2 = [reports[4, rank]["sharded" + module]["shards"] for rank in range(4)]
    assert [shapes[0] for shapes in fsdp2] == [[8, 48], [8, 48], [8, 48], [6, 48]]
    assert [shapes[2] for shapes in fsdp2] == [[1, 30], [1, 30], [0, 30], [0, 30]]
    # FSDP splits the 1470 numbers of the first layer into pieces of 368
    fsdp = [reports[4, rank]["flattened" + module]["shards"] for rank in range(4)]
    assert [shapes[:2] for shapes in fsdp] == [[[368], [0]], [[368], [0]], [[368], [0]], [[336], [30]]]


@pytest.mark.slow
def test_a_checkpoint_of_sharded_weights_stands_alone(reports):
    for name in ("sharded", "flattened"):
        for size in (2, 4):
            report = reports[size, size - 1][name]
            assert report["saved masks"] == report["masks"]
            assert report["saved revived"] == 0


@pytest.mark.slow
def test_masks_come_back_to_a_model_that_fsdp_shards_to_validate_it(reports):
    for size in (2, 4):
        for rank in range(size):
            found = reports[size, rank]["flattened and validated"]
            assert found == {"masks": reports[1, 0]["sharded classifier"]["masks"], "alive": 150}  # of 1500


@pytest.mark.slow
def test_a_checkpoint_without_masks_is_refused_where_weights_are_sharded(reports):
    for rank in range(2):
        assert "dense.ckpt holds no masks, so its weights were trained dense" in reports[2, rank]["sharded dense"]


@pytest.mark.slow
def test_weights_that_are_cut_otherwise_are_refused(reports):
    assert (
        "cannot follow a weight of placements (Partial(sum),): shard it by fully_shard alone"
        in (reports[2, 0]["sharded otherwise"])
    )


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_have_the_masks_of_one(tmp_path):
    done = run([*python(), str(HERE / "ranks.py"), str(tmp_path), "gpu", "1", "2"], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    one, first, second = (report(tmp_path, name) for name in ("1-0", "2-0", "2-1"))
    for case, expected in one.items():
        if case != "cut" and "failed" not in expected:
            assert first[case]["masks"] == second[case]["masks"] == expected["masks"], case


@pytest.mark.slow
def test_ranks_that_nobody_seeded_alike_share_one_start_and_one_pass_over_the_data(tmp_path):
    for devices in (1, 2):
        done = fit(tmp_path, devices, "apart")
        assert done.returncode == 0, done.stderr[-3000:]
    one, first, second = (report(tmp_path, name) for name in ("1-0", "2-0", "2-1"))
    assert one["masks"] == first["masks"] == second["masks"]
    assert one["start"] == first["start"] == second["start"]
    assert first["end"] == second["end"] != first["start"]
    assert first["steps"] == second["steps"] == 21
    assert sorted(first["examples"] + second["examples"]) == pytest.approx(sorted(one["examples"]))


@pytest.mark.slow
def test_a_failure_on_one_rank_ends_both(tmp_path):
    done = fit(tmp_path, 2, "alike", fail_on=1)
    assert done.returncode != 0
    assert "this rank broke" in done.stderr + done.stdout


@pytest.mark.slow
def test_the_command_on_two_processes_and_on_two_nodes_records_the_masks_of_one(tmp_path):
    config = HERE.parent.parent / "configs" / "quickstart.yaml"
    short = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    short += ["--trainer.limit_train_batches", "5", "--trainer.limit_val_batches", "2", "--spectrum.examples", "20"]
    short += ["--model.network.depth", "3", "--pruning.isometry.max_iterations", "20"]
    command = [*python(), str(Path(sys.executable).with_name("spl")), "fit", "--config", str(config), *short]
    two = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
    for many in ([], two):
        done = run([*command, *many], tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "accuracy/test" in done.stdout
    nodes = ["--trainer.strategy", "ddp", "--trainer.devices", "1", "--trainer.num_nodes", "2"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        master = ["--master-addr", "127.0.0.1", "--master-port", str(probe.getsockname()[1])]
    torchrun = [*python(), "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *master]
    started = [start([*torchrun, "--node-rank", str(k), "--no-python", *command, *nodes], tmp_path) for k in (0, 1)]
    for done in map(finished, started):
        assert done.returncode == 0, done.stderr[-3000:]
    runs = tmp_path / "lightning_logs" / "quickstart"
    one, *others = (yaml.safe_load((runs / f"version_{k}" / "pruning.yaml").read_text()) for k in range(3))
    assert others == [one, one]
