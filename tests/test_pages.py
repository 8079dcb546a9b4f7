"""The Python blocks of the pages in docs run, one after another, from an empty folder."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ["anywhere.md"]


def blocks(page):
    """Return the Python of a page, each block in the lines that it has in the file, for tracebacks."""
    text = (DOCS / page).read_text()
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield "\n" * text[: block.start(1)].count("\n") + block[1]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.filterwarnings("ignore:Layer collapse")
def test_python_of_a_page_runs(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page}
    assert list(blocks(page))
    for block in blocks(page):
        exec(compile(block, str(DOCS / page), "exec"), namespace)
