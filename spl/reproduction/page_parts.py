"""The parts of pages: pictures, numbers as CSV, lists that open, and where the runs were made."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from spl.reproduction.markdown import table
from spl.reproduction.results import Result

_DPI = 200


def pictures(figure: Figure, stamp: str) -> dict[str, bytes]:
    """Return a PNG and an SVG, with `stamp` below everything that is drawn, by file extension."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # which would place everything again for each file
    text = figure.text(1, 0, stamp, ha="right", va="top", fontsize=6, color="#555555")
    contents = {}
    # letters as outlines look the same where fonts are missing; the salt gives the same names every time
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "spl"}):
        for extension, metadata in (("png", {}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=extension, dpi=_DPI, bbox_inches="tight", metadata=metadata)
            contents[extension] = buffer.getvalue()
    text.remove()
    return contents


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as CSV, with floats to six digits."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    return text.getvalue()


def collapsible(summary: str, items: Iterable[str]) -> str:
    """Return a list that opens when its summary is clicked."""
    listed = "\n".join(f"- {item}" for item in items)
    return f"<details><summary>{summary}</summary>\n\n{listed}\n\n</details>"


def provenance(finished: Sequence[Result]) -> str:
    """Return a table of where and how the runs were made."""
    usual: dict[str, Any] = {"device": "unknown", "threads": "unknown", "seconds": 0, "population": 1, "versions": {}}
    records = [usual | result.record for result in finished]
    together = [record["population"] for record in records if record["population"] > 1]
    versions = Counter(f"{name} {version}" for record in records for name, version in record["versions"].items())
    rows = [
        ["device", _with_shares(record["device"] for record in records)],
        ["threads", _with_shares(record["threads"] for record in records)],
        [
            "computing time of all runs",
            f"{timedelta(seconds=round(sum(record['seconds'] for record in records)))} h",
        ],
        ["trained stacked with others", f"{len(together)} of {len(records)}"],
        ["versions", ", ".join(sorted(versions))],
    ]
    return table(["of the finished runs", ""], rows)


def _with_shares(values: Iterable[object]) -> str:
    """Return each value, with its share of the runs if there are several values."""
    counts = Counter(map(str, values))
    shares = (f"{value} ({n} of {counts.total()} runs)" for value, n in counts.items())
    return ", ".join(counts if len(counts) == 1 else shares)
