"""Tables of text that fit the terminal in which they are printed."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tabulate import tabulate

_UNLIMITED = 10**6


@dataclass(frozen=True)
class Column:
    """A column of a table, and how it is written where there is little room.

    Args:
        title: its title.
        cells: what is in its rows.
        short_title: a shorter title; empty for the same.
        short_cells: the rows with fewer characters; empty for the same.

    Example:
        >>> from spl.functional.text_table import Column
        >>> Column("sparsity", ["0.9000"], short_title="sparse", short_cells=["0.90"]).short
        Column(title='sparse', cells=['0.90'], short_title='', short_cells=())
    """

    title: str
    cells: Sequence[str]
    short_title: str = ""
    short_cells: Sequence[str] = ()

    @property
    def short(self) -> "Column":
        """The column as it is written where there is little room."""
        return Column(self.short_title or self.title, self.short_cells or self.cells)


def terminal_width() -> int:
    """Return the number of columns of the terminal, or a very large number if the output is no terminal.

    Example:
        >>> from spl.functional.text_table import terminal_width
        >>> terminal_width() > 0
        True
    """
    return shutil.get_terminal_size((_UNLIMITED, 24)).columns


def text_table(columns: Sequence[Column], width: int | None = None) -> str:
    """Return a table that fits `width` characters.

    If the table is too wide, titles and numbers become shorter. If that is not enough, its columns are divided among
    several tables, each of which begins with the first column.

    Args:
        columns: the columns; the first one has names, and is aligned to the left.
        width: the number of characters; by default that of the terminal.

    Example:
        >>> from spl.functional.text_table import Column, text_table
        >>> columns = [Column("layer", ["fc1"]), Column("weights", ["30000"]), Column("kept", ["3000"])]
        >>> print(text_table(columns))
        layer      weights    kept
        -------  ---------  ------
        fc1          30000    3000
        >>> print(text_table(columns, width=20))
        layer weights kept
        ----- ------- ----
        fc1     30000 3000
    """
    most = terminal_width() if width is None else width
    short = [column.short for column in columns]
    candidates = (_printed(columns), _printed(short), _tight(short))
    return next((text for text in candidates if _width(text) <= most), None) or _divided(short, most)


def _divided(columns: Sequence[Column], most: int) -> str:
    """Return several tables under each other, each with as many columns as fit."""
    names, others = columns[0], columns[1:]
    starts = [0]
    for end in range(1, len(others) + 1):
        if end - starts[-1] > 1 and _width(_tight([names, *others[starts[-1] : end]])) > most:
            starts.append(end - 1)
    parts = [_filled([names, *others[start:end]]) for start, end in pairwise([*starts, len(others)])]
    texts = [_printed(part) for part in parts]
    return "\n\n".join(text if _width(text) <= most else _tight(part) for text, part in zip(texts, parts, strict=True))


def _filled(columns: Sequence[Column]) -> list[Column]:
    """Return the columns without the rows that have nothing but a name."""
    rows = [i for i in range(len(columns[0].cells)) if any(column.cells[i] for column in columns[1:])]
    return [Column(column.title, [column.cells[i] for i in rows]) for column in columns]


def _printed(columns: Sequence[Column]) -> str:
    rows = zip(*(column.cells for column in columns), strict=True)
    alignment = ("left", *["right"] * (len(columns) - 1))
    return tabulate(rows, [c.title for c in columns], disable_numparse=True, colalign=alignment)


def _tight(columns: Sequence[Column]) -> str:
    """Return a table with one space between columns, and no other."""
    padded = []
    for i, column in enumerate(columns):
        size = max(len(column.title), *map(len, column.cells))
        cells = [column.title, "-" * size, *column.cells]
        padded.append([cell.rjust(size) if i else cell.ljust(size) for cell in cells])
    return "\n".join(" ".join(row) for row in zip(*padded, strict=True))


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))
