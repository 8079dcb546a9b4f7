"""The page of a comparison: tables, figures, and the numbers of every run."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spl.compare.comparison import Comparison, Measured, accuracy, final_loss, is_diverged, jsv
from spl.compare.figures import figures
from spl.files import write_whole
from spl.reproduction.execution import Failure
from spl.reproduction.length import batch_size, training_examples
from spl.reproduction.markdown import table
from spl.reproduction.page_parts import collapsible, csv_text, pictures, provenance
from spl.reproduction.results import Result
from spl.reproduction.run import with_ancestors

_TABLES: dict[str, tuple[str, Callable[[Result], float], str]] = {
    "accuracy": ("Test accuracy in %, final weights", accuracy, ".2f"),
    "jsv": ("Mean Jacobian singular value at the start of training", jsv, ".3g"),
    "loss": ("Training loss, the mean over the last tenth of the iterations", final_loss, ".3g"),
}
"""The title, the number of a run and its format, by the name of the figure."""


def write_report(measured: Measured, output: Path, words: Sequence[str], failures: Sequence[Failure] = ()) -> None:
    """Write README.md, runs.csv and the figures (PNG and SVG) into a folder, each file whole.

    Args:
        measured: the finished runs.
        output: the folder.
        words: the command line, which the page repeats.
        failures: the runs that have just failed.
    """
    output.mkdir(parents=True, exist_ok=True)
    for name, figure in figures(measured).items():
        for extension, content in pictures(figure, _stamp(measured)).items():
            write_whole(output / f"{name}.{extension}", content)
    write_whole(output / "runs.csv", csv_text(rows(measured)).encode())
    write_whole(output / "README.md", markdown(measured, words, failures).encode())


def rows(measured: Measured) -> list[dict[str, Any]]:
    """Return the numbers of every finished run."""
    return [
        {
            "method": method.label,
            "sparsity": sparsity,
            "seed": seed,
            "accuracy": accuracy(result),
            "loss": result.test.get("final", {}).get("loss", float("nan")),
            "accuracy_best": 100 - result.error("best"),
            "train_loss": final_loss(result),
            "jsv_mean": jsv(result),
            "jsv_mean_dense": result.jsv("mean", "dense"),
            "diverged": "yes" if is_diverged(result) else "no",
            "seconds": float(result.record.get("seconds", float("nan"))),
            "folder": str(result.folder),
        }
        for method, sparsity in measured.comparison.cells
        for seed, result in measured.of(method, sparsity).items()
    ]


def markdown(measured: Measured, words: Sequence[str], failures: Sequence[Failure]) -> str:
    """Return the text of the page."""
    comparison = measured.comparison
    finished = measured.results.of(comparison.all_runs)
    sections = [
        f"# {comparison.name}: a comparison of {len(comparison.methods)} methods",
        f"{_progress(measured)}: {_setting(measured)}. This command makes what is missing, and writes this page:",
        f"    {shlex.join(['spl', 'compare', *words])}",
        "Each cell has the mean ± the standard deviation (with n − 1) over n runs of different seeds. A run whose loss "
        "became NaN or infinite has diverged; it counts with the accuracy that its weights have. "
        "The numbers of every run: [runs.csv](runs.csv).",
        *_trainings(comparison),
    ]
    for name, (title, number, spec) in _TABLES.items():
        picture = f"![{title}]({name}.png)\n\n[as vectors]({name}.svg)"
        sections += [f"## {title}", _table(measured, number, spec), picture]
    sections += ["## Runs", *([provenance(finished)] if finished else []), *_unfinished(measured, failures)]
    return "\n\n".join(sections) + "\n"


def _trainings(comparison: Comparison) -> list[str]:
    """Return a sentence on the methods whose runs need other runs before them, such as lottery tickets."""
    counts = {
        method.label: [len(with_ancestors([comparison.runs(method, x)[0]])) for x in comparison.sparsities_of(method)]
        for method in comparison.methods
        if method.rewinding is not None
    }
    if not counts:
        return []
    at = ", ".join(f"{100 * x:.6g} %" for x in comparison.sparsities)
    each = "; ".join(f"{label} {', '.join(map(str, numbers))}" for label, numbers in counts.items())
    return [f"Trainings for one run at {at}, counting those of the rounds before it: {each}. Other methods train once."]


def _table(measured: Measured, number: Callable[[Result], float], spec: str) -> str:
    """Return a table with a row for each method and a column for each sparsity."""
    comparison = measured.comparison
    columns = list(comparison.sparsities)
    if any(method.is_dense for method in comparison.methods):
        columns = sorted({0.0, *columns})
    lines = [
        [method.label, *(_cell(measured, method, x, number, spec) for x in columns)] for method in comparison.methods
    ]
    return table(["sparsity", *(f"{100 * x:.6g} %" for x in columns)], lines)


def _cell(measured: Measured, method: Any, sparsity: float, number: Callable[[Result], float], spec: str) -> str:
    if sparsity not in measured.comparison.sparsities_of(method):
        return ""
    results = measured.of(method, sparsity).values()
    sample = measured.sample(method, sparsity, number)
    diverged = sum(map(is_diverged, results))
    return f"{sample:{spec}} (n = {sample.n}" + (f", {diverged} diverged)" if diverged else ")")


def _progress(measured: Measured) -> str:
    runs = measured.comparison.all_runs
    return f"{len(measured.results.of(runs))} of {len(runs)} runs finished"


def _setting(measured: Measured) -> str:
    """Return in words what all runs have in common."""
    comparison = measured.comparison
    run = comparison.all_runs[0]
    network, data = (choice["class_path"].rpartition(".")[2] for choice in (run.network, run.config["data"]))
    seeds = f"{len(comparison.seeds)} seeds" if len(comparison.seeds) > 1 else "1 seed"
    about = "" if training_examples(run.config)[1] else "about "  # where the number of examples is not known
    return f"{network} on {data}, {about}{run.steps:,} iterations × {batch_size(run.config)}, {seeds}"


def _stamp(measured: Measured) -> str:
    """Return the line below the figures."""
    text, runs = _setting(measured), measured.comparison.all_runs
    results = measured.results.of(runs)
    if len(results) < len(runs):
        text += f"; {_progress(measured)}"
    if diverged := sum(map(is_diverged, results)):
        text += f"; {diverged} of {len(results)} runs diverged"
    return text


def _unfinished(measured: Measured, failures: Sequence[Failure]) -> list[str]:
    """Return lists of the runs that failed, and of those that are missing for another reason."""
    logs = {failure.run.digest: failure.log for failure in failures}
    missing = [run for run in measured.comparison.all_runs if run.digest not in measured.results]
    failed = [f"{run.name}: {logs[run.digest]}" for run in missing if run.digest in logs]
    others = [run.name for run in missing if run.digest not in logs]
    lists = [collapsible(f"{len(failed)} runs failed; their logs say why", failed)] if failed else []
    return lists + ([collapsible(f"{len(others)} runs are missing", others)] if others else [])
