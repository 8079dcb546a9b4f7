"""The page of a figure or table: markdown, pictures and numbers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spl.files import write_whole
from spl.reproduction.artefacts.artefact import Artefact, ArtefactReport, Finding
from spl.reproduction.budgets import Budget
from spl.reproduction.markdown import table
from spl.reproduction.page_parts import collapsible, csv_text, pictures, provenance
from spl.reproduction.results import Result, Results
from spl.reproduction.run import with_ancestors

_VERDICTS = {True: "yes", False: "**no**", None: "cannot tell"}
_NO_FINDINGS = "The paper has no findings about this network: what it says of its own networks is not judged here."
_HEADERS = ["the paper's finding", "holds here?", "measured"]


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
            for extension, content in pictures(figure, stamp).items():
                write_whole(output / f"{name}{suffix}.{extension}", content)
        write_whole(output / f"{name}.csv", csv_text(self.report.rows).encode())
        write_whole(output / f"{name}.md", self.markdown().encode())

    def markdown(self) -> str:
        """Return the text of the page."""
        name, findings = self.artefact.name, self.report.findings
        command = " ".join(filter(None, ["spl reproduce", name, f"--budget {self.budget.name}", self.artefact.flags]))
        pictures = [
            f"![{self.heading}: {self.artefact.title}{suffix.replace('_', ', ')}]({name}{suffix}.png)\n\n"
            f"[as vectors]({name}{suffix}.svg)"
            for suffix in self.report.figures
        ]
        sections = [
            f"# {self.heading}: {self.artefact.title}",
            f"{self.progress}, at {self.budget_description}. This command runs what is missing and writes this page:",
            f"    {command}",
            f"The numbers: [{name}.csv]({name}.csv).",
            table(_HEADERS, map(_finding_cells, findings)) if findings else _NO_FINDINGS,
            *pictures,
            *self.report.tables,
            "## Runs",
            *([provenance(self.finished)] if self.finished else []),
            *([collapsible(f"{len(self.missing)} runs are missing", self.missing)] if self.missing else []),
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


def _finding_cells(finding: Finding) -> list[str]:
    return [finding.statement, _VERDICTS[finding.holds], finding.measured]
