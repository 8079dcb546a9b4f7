"""Files that lie where a run looks: only a job's own files decide from where it goes on."""

import os
from pathlib import Path

import pytest
import torch
from commands import command
from pytorch_lightning import Trainer
from pytorch_lightning.trainer.states import TrainerFn

from attacks import QUICK, Canary, refused
from spl.callbacks.lightning_private import ignore_stray_checkpoints
from spl.callbacks.safety.requeue import requeued_checkpoint


@pytest.fixture
def slurm(monkeypatch):
    """Make this process a job of SLURM, as Lightning recognizes one."""
    for name, value in {"JOB_ID": "7", "JOB_NAME": "train", "NTASKS": "1", "RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name in ("PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "1")


def test_a_stray_checkpoint_of_the_cluster_is_ignored(finished, slurm):
    os.link(finished / "last.ckpt", "hpc_ckpt_1.ckpt")
    torch.save({"state_dict": {}, "x": Canary()}, "hpc_ckpt_2.ckpt")
    ended = command("fit", *QUICK)
    assert ended.code == 0, ended.errors
    steps = torch.load("lightning_logs/quickstart/version_0/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert steps == 6


def test_a_checkpoint_of_the_cluster_is_read_where_it_is_asked_for(slurm):
    torch.save({"state_dict": {}, "x": Canary()}, "hpc_ckpt_1.ckpt")
    refused(r"hpc_ckpt_1\.ckpt cannot be read as a checkpoint", "fit", *QUICK, "--ckpt_path", "hpc")


def test_a_checkpoint_of_the_cluster_that_is_not_there_is_named(slurm):
    refused("no HPC checkpoint was found", "fit", *QUICK, "--ckpt_path", "hpc")


def test_a_trainer_of_a_worker_ignores_it_too(slurm):
    Path("hpc_ckpt_1.ckpt").touch()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    ignore_stray_checkpoints(trainer)
    assert trainer._checkpoint_connector._select_ckpt_path(TrainerFn.TESTING, None, True, True) is None


LAUGHS = b"".join(b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 30))
CONFIGS = {
    "none": None,
    "nothing": b"",
    "half": b"trainer:\n  max_ep",
    "no YAML": b"a: [",
    "a number": b"3",
    "a tag": b"!!python/object/apply:os.mkdir [canary]",
    "bytes": b"\xff\xfe\x00",
    "digits": b"a: " + b"9" * 5000,
    "laughs": b"a0: &a0 [x]\n" + LAUGHS,
    "depth": b"[" * 100_000,
    "itself": b"&a [*a]",
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_damaged_config_beside_a_checkpoint_is_that_of_another_run(slurm, config):
    for number, text in enumerate([b"name: mine", config]):
        folder = Path(f"version_{number}")
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints/last.ckpt").touch()
        if text is not None:
            (folder / "config.yaml").write_bytes(text)
    Path("lightning_logs").mkdir()
    Path("lightning_logs/slurm_7.txt").write_text("version_0\nversion_1\n/nowhere\n\n")
    assert requeued_checkpoint(None, {"name": "mine"}) == Path("version_0/checkpoints/last.ckpt")
    Path("lightning_logs/slurm_7.txt").write_bytes(b"version_0\n\xff\n")
    assert requeued_checkpoint(None, {"name": "mine"}) is None


def test_a_config_that_never_ends_is_that_of_another_run(slurm):
    Path("lightning_logs").mkdir()
    Path("lightning_logs/slurm_7.txt").write_text("pipe\nzeros\n")
    for name in ("pipe", "zeros"):
        Path(name, "checkpoints").mkdir(parents=True)
        Path(name, "checkpoints/last.ckpt").touch()
    os.mkfifo("pipe/config.yaml")
    Path("zeros/config.yaml").symlink_to("/dev/zero")
    assert requeued_checkpoint(None, {"name": "mine"}) is None
