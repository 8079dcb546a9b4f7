"""Two processes: the masks of one, the same weights on both, every example once, and no rank left waiting."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent


def run(command, folder, timeout=180):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE), "MASTER_ADDR": "127.0.0.1"}
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_PORT", "PL_GLOBAL_SEED"):
        environment.pop(name, None)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)


def fit(folder, devices, seeds="alike", fail_on=-1):
    return run([sys.executable, str(HERE / "ddp_fit.py"), str(folder), str(devices), seeds, str(fail_on)], folder)


def report(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.slow
def test_two_processes_have_the_masks_and_start_of_one(tmp_path):
    for devices in (1, 2):
        done = fit(tmp_path, devices)
        assert done.returncode == 0, done.stderr[-3000:]
    one, first, second = (report(tmp_path, name) for name in ("1-0", "2-0", "2-1"))
    assert one["masks"] == first["masks"] == second["masks"]
    assert one["start"] == first["start"] == second["start"]
    assert first["end"] == second["end"] != first["start"]
    assert first["steps"] == second["steps"] == 21
    assert sorted(first["examples"] + second["examples"]) == pytest.approx(sorted(one["examples"]))


@pytest.mark.slow
def test_ranks_that_nobody_seeded_alike_still_agree(tmp_path):
    done = fit(tmp_path, 2, "apart")
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (report(tmp_path, name) for name in ("2-0", "2-1"))
    assert first["masks"] == second["masks"]
    assert first["start"] == second["start"]
    assert first["end"] == second["end"]
    assert len({*first["examples"]} & {*second["examples"]}) < 100


@pytest.mark.slow
def test_a_failure_on_one_rank_ends_both(tmp_path):
    done = fit(tmp_path, 2, "alike", fail_on=1)
    assert done.returncode != 0
    assert "this rank broke" in done.stderr + done.stdout


@pytest.mark.slow
def test_the_command_on_two_processes_records_the_masks_of_one(tmp_path):
    config = HERE.parent / "configs" / "quickstart.yaml"
    short = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    short += ["--spectrum.examples", "50", "--pruning.isometry.max_iterations", "20"]
    for devices in (1, 2):
        many = ["--trainer.devices", "2", "--trainer.strategy", "ddp"] if devices == 2 else []
        script = Path(sys.executable).with_name("spl")
        done = run([str(script), "fit", "--config", str(config), *short, *many], tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
    runs = tmp_path / "lightning_logs" / "quickstart"
    one, two = (yaml.safe_load((runs / f"version_{k}" / "pruning.yaml").read_text()) for k in (0, 1))
    assert one == two
    assert "accuracy/test" in done.stdout
