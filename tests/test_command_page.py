"""Every shell line of docs/command.md runs, in the order of the page, and prints what the page shows."""

import re
import shlex
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import own_modules
import pytest
from commands import command

PAGE = (Path(__file__).parents[1] / "docs" / "command.md").read_text()
BLOCKS = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
QUICK = "--trainer.accelerator cpu --trainer.limit_train_batches 3 --trainer.limit_val_batches 1 --pruning.batches 2"
QUICK += " --trainer.limit_test_batches 1 --spectrum.examples 5 --pruning.isometry null"


def lines():
    """Return the commands of the page, each with the output that it shows."""
    for block in BLOCKS:
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, shown = part.partition("\n")
            yield line, shown


def run(line):
    """Run a line of the page, and return its output; fits are shortened."""
    words, _, file = line.partition(" > ")
    trains = words.startswith("spl fit --config") and "--print_config" not in words
    ended = command(*shlex.split(words)[1:], *(QUICK.split() if trains else []))
    if file:
        Path(file).expanduser().write_text(ended.output)
    return ended


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You passed in a .val_dataloader. but have no")
def test_each_line_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copy(own_modules.__file__, "own.py")
    for line, shown in lines():
        if not line.startswith("spl "):
            subprocess.run(["bash", "-c", line], check=True)
        elif "--print_completion" not in line or find_spec("shtab"):
            ended = run(line)
            assert ended.code == (2 if shown else 0), (line, ended)
            assert ended.errors == shown if shown else "error: " not in ended.errors, line
    assert "source ~/.spl-completion.bash" in Path(".bashrc").read_text()
    assert re.findall(r"^Epoch 1: 3 of 3 batches, step 6, 0:00:0\d", Path("fit.log").read_text(), re.MULTILINE)
    assert "95" in Path("sparser.yaml").read_text()
    assert {path.name for path in Path("lightning_logs").iterdir()} == {"quickstart", "sparser"}


def test_the_page_names_every_command_and_no_other():
    listed = re.findall(r"^  (\w+) ", command("--help").output, re.MULTILINE)
    named = re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| `.*?\|", PAGE.partition("## Config")[0], re.MULTILINE)))
    assert set(named) == set(listed)


def test_lines_fit_the_page():
    assert max(len(line) for line in PAGE.splitlines() if line[:1] != "|") <= 121
    assert len(list(lines())) >= 15
