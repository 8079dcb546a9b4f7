"""The Python blocks of the pages in docs run, and so do the commands that follow a block, from an empty folder."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from commands import command
from synthetic_results import finish

from spl.reproduction.artefacts import ARTEFACTS
from spl.reproduction.budgets import BUDGETS
from spl.reproduction.run import RUNS

ROOT = Path(__file__).parent.parent
PAGES = ["anywhere.md", "choosing.md", "differences.md", "lightning_module.md", "moving_masks.md", "smaller.md"]
PAGES += ["start.md"]
PARTS = ["your_own.md"]  # each of their blocks is the file own.py of the commands that follow it
SHORT = "--trainer.accelerator cpu --trainer.max_epochs 1 --trainer.enable_progress_bar false --spectrum.examples 5"
SHORT += " --trainer.limit_train_batches 5 --trainer.limit_val_batches 2 --trainer.limit_test_batches 2"
SHORT += " --pruning.batches 5"


def blocks(page):
    """Yield the Python blocks of a page, each with the line in which it begins and the commands that follow it."""
    text = (ROOT / "docs" / page).read_text()
    for block in re.finditer(r"^```python\n(.*?)^```$(.*?)(?=^```|\Z)", text, re.DOTALL | re.MULTILINE):
        commands = [line.strip() for line in block[2].splitlines() if line.startswith("    spl ")]
        yield text[: block.start(1)].count("\n"), block[1], commands


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.filterwarnings("ignore:Layer collapse")
@pytest.mark.usefixtures("fresh_accelerate")
def test_python_of_a_page_runs(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page}
    assert list(blocks(page))
    for line, block, _ in blocks(page):
        exec(compile("\n" * line + block, page, "exec"), namespace)


@pytest.mark.parametrize(("page", "line"), [(page, line) for page in PARTS for line, *_ in blocks(page)])
def test_a_part_of_ones_own_is_used_by_the_commands_behind_it(page, line, monkeypatch, tmp_path):
    block, commands = next(rest for at, *rest in blocks(page) if at == line)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part != ""])
    (tmp_path / "own.py").write_text(block)
    assert commands
    for words in commands:
        args = shlex.split(words.replace("configs/", f"{ROOT}/configs/") + f" {SHORT}")
        ended = command(*args[1:])
        assert ended.code == 0, ended.errors
    own = re.search(r"own\.\w+", commands[0])[0]
    config = yaml.safe_load((tmp_path / "lightning_logs/quickstart/version_0/config.yaml").read_text())
    assert own in str(config)


def test_the_commands_of_the_other_pages_run(monkeypatch, tmp_path):
    """Comparisons and reproductions are left to their own tests; what they would make is listed."""
    monkeypatch.chdir(tmp_path)
    ((_, criterion, _),) = blocks("compare.md")
    network = "\nfrom torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self, width=8):\n"
    network += "        super().__init__(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10))\n"
    (tmp_path / "own.py").write_text(criterion + network)
    (dense, *_) = ARTEFACTS["fig8"].runs(BUDGETS["short"])
    finish(RUNS, dense)  # to be exported and imported
    pages = ["start.md", "diagnosis.md", "smaller.md", "compare.md", "reproduce.md", "moving_masks.md"]
    text = "\n".join((ROOT / "docs" / page).read_text() for page in pages)
    lines = re.findall(r"^    spl (.*)$", text, re.MULTILINE)
    lines.append("compare --config quickstart --methods own.ScaledMagnitude own.ScaledMagnitude+AI SNIP dense")
    assert len(lines) > 12
    for line in lines:
        words = shlex.split(line.replace("RUN", "lightning_logs/quickstart/version_0"))
        more = {"fit": shlex.split(SHORT), "diagnose": [], "export": []}.get(words[0], ["--dry-run"])
        often = ["--moving.update.every", "2"] if "--moving.update" in words else []
        ended = command(*words, *more, *often)
        assert ended.code == 0, (line, ended.errors)
