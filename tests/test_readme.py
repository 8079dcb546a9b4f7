"""The examples in the README run."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from spl import criteria
from spl.__main__ import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.strip() for line in README.splitlines() if line.startswith("    spl ")]
SHORT = "--trainer.accelerator cpu --trainer.max_epochs 1 --trainer.enable_progress_bar false --spectrum.examples 5"
SHORT += " --trainer.limit_train_batches 5 --trainer.limit_val_batches 2"


def run(monkeypatch, command):
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    main()


def test_readme_is_short_and_names_what_is_there():
    assert len(README.splitlines()) <= 120
    assert len(README.split()) <= 900
    for path in re.findall(r"(?:configs|docs|benchmarks|lightning_logs)/[\w/.]*\w", README):
        if not re.search("NAME|METHOD", path):  # a placeholder
            assert (ROOT / path).exists(), path


def test_readme_lists_the_criteria():
    ((number, listed),) = re.findall(r"compare (\w+) criteria \((.*?)\)", README, re.DOTALL)
    names = {"".join(name.split()).lower() for name in listed.split(",")}
    classes = [value for value in vars(criteria).values() if isinstance(value, type)]
    others = {"criterion", "snip", "shuffledinlayers", "redrawnweights", "trainedmagnitude"}  # SNIP is of the first
    assert names == {c.__name__.lower() for c in classes if issubclass(c, criteria.Criterion)} - others
    assert (number, len(names)) == ("thirteen", 13)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not")
def test_python_in_readme_runs(block, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # a resumed run has its own folder
def test_commands_in_readme_run(monkeypatch, tmp_path):
    """Runs with two processes are left to test_ddp, and reproductions to test_reproduce_command."""
    monkeypatch.chdir(tmp_path)
    assert len(COMMANDS) >= 7
    for command in COMMANDS:
        if "reproduce" in command or "compare" in command:
            run(monkeypatch, f"{command} --dry-run")
        elif "export" in command or "summary" in command:
            run(monkeypatch, command.replace("RUN", "lightning_logs/quickstart/version_0"))
        elif "ddp" not in command:
            config = command.replace("configs/", f"{ROOT}/configs/")
            run(monkeypatch, f"{config} {SHORT}".replace("RUN", "lightning_logs/quickstart/version_0"))
    assert len(list(tmp_path.glob("lightning_logs/quickstart/version_*/pruning.yaml"))) == 3  # the resumed run has none
