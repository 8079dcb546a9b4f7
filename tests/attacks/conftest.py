from pathlib import Path

import pytest
import torch
from commands import command

from attacks import CANARY, QUICK


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Return the folder of a finished run, with last.ckpt and sparse.pt."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert command("fit", *QUICK).code == 0
        (folder / "lightning_logs/quickstart/version_0/checkpoints/last.ckpt").rename(folder / "last.ckpt")
        assert command("export", "--ckpt_path", "last.ckpt", "--to", "sparse", "--output", "sparse.pt").code == 0
    return folder


@pytest.fixture
def good(finished):
    """Return the contents of a checkpoint."""
    return torch.load(finished / "last.ckpt", weights_only=True)


@pytest.fixture
def sparse(finished):
    """Return the contents of a sparse weights file."""
    return torch.load(finished / "sparse.pt", weights_only=True)


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    """Run each attack in a folder of its own, in which nothing may be executed."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path(CANARY).exists()
