"""What pip installs: the wheel that is built from the source distribution runs README's commands in any folder."""

import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
IGNORED = {".git", ".venv", "build", "data", "lightning_logs", "reproduction"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the wheel that is built from the source distribution of a copy of the repository."""
    folder = tmp_path_factory.mktemp("distribution")
    source = folder / "source"
    source.mkdir()
    for path in ROOT.iterdir():
        if path.name not in IGNORED and path.suffix != ".egg-info":
            subprocess.run(["cp", "-r", path, source], check=True)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source]
    ended = subprocess.run(build, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    (sdist,) = folder.glob("*.tar.gz")
    assert sdist.name.startswith("spl_lightning-")
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_the_wheel_has_a_name_of_its_own_and_everything_that_runs(wheel):
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        described = Parser().parsestr(content.read(metadata).decode())
    assert described["Name"] == "spl-lightning"
    assert described["License-Expression"] == "MIT"
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "spl").rglob("*.py")}
    assert modules <= set(names)
    assert "spl/py.typed" in names
    configurations = {str(Path("spl", path.relative_to(ROOT))) for path in (ROOT / "configs").rglob("*.yaml")}
    assert configurations <= set(names)
    assert not any(name.startswith(("tests", "docs", "benchmarks")) for name in names)


@pytest.mark.slow
def test_the_wheel_runs_the_first_command_of_the_readme_in_an_empty_folder(wheel, tmp_path):
    site, folder = tmp_path / "site", tmp_path / "empty"
    folder.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(install, check=True)
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    short = ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    short += ["--trainer.limit_train_batches", "2", "--pruning.batches", "2", "--spectrum.examples", "5"]
    short += ["--pruning.isometry.max_iterations", "20"]
    command = [sys.executable, "-m", "spl", "fit", "--config", "quickstart", *short]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert (folder / "lightning_logs/quickstart/version_0/checkpoints/last.ckpt").is_file()
    where = [sys.executable, "-c", "import spl; print(spl.__file__)"]
    assert str(site) in subprocess.run(where, env=environment, capture_output=True, text=True, cwd=folder).stdout
