"""Markdown tables."""

from collections.abc import Iterable, Sequence


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a markdown table with one line per row.

    It has no padding, because sentences stand beside numbers and a change should change its own line only.
    """
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in (headers, *rows)]
    cells.insert(1, ["---"] * len(headers))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
