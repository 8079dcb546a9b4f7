"""The page of a figure or table: markdown, pictures and numbers."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from spl.files import write_whole
from spl.reproduction.artefacts.artefact import Artefact, ArtefactReport, Finding
from spl.reproduction.budgets import Budget
from spl.reproduction.markdown import table
from spl.reproduction.results import Result, Results
from spl.reproduction.run import with_ancestors

_VERDICTS = {True: "yes", False: "**no**", None: "cannot tell"}
_HEADERS = ["the paper's finding", "holds here?", "measured"]
_DPI = 200


@dataclass(frozen=True)
class Page:
    """An artefact at a budget, with the results that are available.

    Attributes:
        artefact: the figure or table.
        budget: the budget.
        report: what the finished runs show.
        finished: the results of the runs that it needs, including the runs that others start from.
        missing: the names of the runs without a result, and whether they have begun.
    """

    artefact: Artefact
    budget: Budget
    report: ArtefactReport
    finished: Sequence[Result]
    missing: Sequence[str]

    @classmethod
    def of(cls, artefact: Artefact, budget: Budget, results: Results) -> "Page":
        """Make the page from `results`."""
        planned = with_ancestors(artefact.runs(budget))
        missing = [
            run.name + (" (begun, not finished)" if digest in results.unfinished else "")
            for digest, run in planned.items()
            if digest not in results
        ]
        finished = results.of(planned.values())
        return cls(artefact, budget, artefact.report(budget, results), finished, missing)

    @property
    def heading(self) -> str:
        """The heading, such as Figure 3 for fig3 or Table 1 for table1."""
        name = self.artefact.name
        return f"Figure {name[3:]}" if name.startswith("fig") else f"Table {name[5:]}"

    @property
    def link(self) -> str:
        """A link to the page from the same folder."""
        return f"[{self.heading}]({self.artefact.name}.md)"

    @property
    def budget_description(self) -> str:
        """The description of the budget on pictures and in the summary."""
        return self.artefact.describe_budget(self.budget)

    @property
    def progress(self) -> str:
        """How many of the planned runs are finished."""
        return f"{len(self.finished)} of {len(self.finished) + len(self.missing)} runs finished"

    def write(self, output: Path) -> None:
        """Write NAME.md, NAME.csv and, for each picture, NAME[suffix].png and .svg below `output`, each file whole."""
        output.mkdir(parents=True, exist_ok=True)
        name = self.artefact.name
        stamp = self.budget_description + (f"; {self.progress}" if self.missing else "")
        for suffix, figure in self.report.figures.items():
            for extension, content in _pictures(figure, stamp).items():
                write_whole(output / f"{name}{suffix}.{extension}", content)
        write_whole(output / f"{name}.csv", _csv(self.report).encode())
        write_whole(output / f"{name}.md", self.markdown().encode())

    def markdown(self) -> str:
        """Return the text of the page."""
        name = self.artefact.name
        pictures = [
            f"![{self.heading}: {self.artefact.title}{suffix.replace('_', ', ')}]({name}{suffix}.png)\n\n"
            f"[as vectors]({name}{suffix}.svg)"
            for suffix in self.report.figures
        ]
        sections = [
            f"# {self.heading}: {self.artefact.title}",
            f"{self.progress}, at {self.budget_description}. This command runs what is missing and writes this page:",
            f"    spl reproduce {name} --budget {self.budget.name}",
            f"The numbers: [{name}.csv]({name}.csv).",
            table(_HEADERS, map(_finding_cells, self.report.findings)),
            *pictures,
            *self.report.tables,
            "## Runs",
            *([_provenance(self.finished)] if self.finished else []),
            *([_collapsible(f"{len(self.missing)} runs are missing", self.missing)] if self.missing else []),
        ]
        return "\n\n".join(sections) + "\n"


def write_summary(pages: Sequence[Page], output: Path) -> None:
    """Write README.md below `output`, with the `summary_table` and every finding."""
    findings = [[page.link, *_finding_cells(finding)] for page in pages for finding in page.report.findings]
    sections = [
        "# The paper, reproduced",
        "What our runs say about each finding of the paper; `spl reproduce` writes these pages. The verdict is "
        "*cannot tell* where the budget is too small, where runs are missing, or where a difference is within two "
        "standard errors (s.e.).",
        summary_table(pages),
        "## Findings",
        table(["", *_HEADERS], findings),
    ]
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / "README.md", ("\n\n".join(sections) + "\n").encode())


def summary_table(pages: Iterable[Page]) -> str:
    """Return a markdown table with a row per artefact: how many findings hold, and where our runs disagree."""
    rows = []
    for page in pages:
        holds = Counter(finding.holds for finding in page.report.findings)
        disagrees = [f"{f.statement.rstrip('.')}: {f.measured}" for f in page.report.findings if f.holds is False]
        counts = [f"{holds[True]} of {holds.total()}", str(holds[None])]
        rows.append([page.link, *counts, "<br>".join(disagrees), f"{page.budget_description}; {page.progress}"])
    return table(["", "findings that hold", "cannot tell", "where our runs disagree", "budget"], rows)


def _pictures(figure: Figure, stamp: str) -> dict[str, bytes]:
    """Return a PNG and an SVG, with `stamp` below everything that is drawn, by file extension."""
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


def _csv(report: ArtefactReport) -> str:
    """Return the rows as CSV, with floats to six digits."""
    text = io.StringIO()
    if report.rows:
        writer = csv.DictWriter(text, list(report.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in report.rows)
    return text.getvalue()


def _finding_cells(finding: Finding) -> list[str]:
    return [finding.statement, _VERDICTS[finding.holds], finding.measured]


def _collapsible(summary: str, items: Iterable[str]) -> str:
    """Return a list that opens when its summary is clicked."""
    listed = "\n".join(f"- {item}" for item in items)
    return f"<details><summary>{summary}</summary>\n\n{listed}\n\n</details>"


def _provenance(finished: Sequence[Result]) -> str:
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
