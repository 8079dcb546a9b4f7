"""The command `spl reproduce`, which makes figures and tables of the paper."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from spl.cli.configuration import bound_yaml, translate_class_paths
from spl.cli.jsonargparse_private import spl_parsing_rules
from spl.cli.parsers import OneLineErrors
from spl.cli.printable import printable_errors
from spl.cli.suggestions import close_matches
from spl.errors import InputError
from spl.reproduction.archive import export_runs
from spl.reproduction.artefacts import ARTEFACTS, Artefact
from spl.reproduction.budgets import Budget, budget_named
from spl.reproduction.deadline import deadline_in
from spl.reproduction.execution import execute, missing
from spl.reproduction.executors import LocalProcesses
from spl.reproduction.importing import check_export, import_runs
from spl.reproduction.methods import Choice
from spl.reproduction.own_network import add_network_argument, figures_of, network_choice, own_network, write_page
from spl.reproduction.page import Page, write_summary
from spl.reproduction.results import Results
from spl.reproduction.run import RUNS, with_ancestors
from spl.reproduction.session import alone, chosen_executor, failure_report, forecast, stoppable


def reproduce(
    artefacts: list[str],
    budget: Literal["smoke", "short", "paper"] = "short",
    jobs: int | None = None,
    data_root: Path = Path("data"),
    output: Path = Path("reproduction"),
    cluster: Literal["slurm", "local"] | None = None,
    cluster_parameters: dict[str, Any] | None = None,
    dry_run: bool = False,
    network: Choice | None = None,
    minutes: float | None = None,
    export_to: Path | None = None,
    import_from: Path | None = None,
) -> None:
    """Reproduce figures and tables of the paper: make the runs that are missing, then draw, count and compare.

    Finished runs are never made again; after an interruption the same command continues. Each run is an ordinary
    `spl fit` in lightning_logs/reproduction, and its run.yaml repeats it.

    Args:
        artefacts: fig1 … fig8, table1 … table4, or all.
        budget: how much is spent: smoke (minutes; shows only that everything runs), short (an eighth of the paper's
            iterations on MNIST with five seeds, 16 epochs of one cycle on CIFAR-10 with three) or paper.
        jobs: number of processes at a time; null for one per accelerator or, without accelerators, one per core.
        data_root: folder of the data sets; missing ones are downloaded.
        output: pages, pictures and numbers go to OUTPUT/BUDGET, those of another network to OUTPUT/BUDGET/FIGURE-NAME.
        cluster: submit the jobs by submitit: to slurm, or to this machine without a scheduler (local).
        cluster_parameters: options that submitit passes to the scheduler: timeout_min, slurm_partition,
            gpus_per_node, …
        minutes: begin no run that would not end within this many minutes, judged by the pace of the runs before it;
            null for no limit.
        dry_run: list the missing runs and the time that they would take.
        export_to: archive of the finished runs of these figures and tables, to be written at the end.
        import_from: archive of runs to take over at the beginning.
        network: class_path and init_args of a network for fig2, fig4 or fig6, in place of the paper's.
    """
    until = None if minutes is None else deadline_in(minutes)
    own = None if network is None else own_network(network)
    chosen: Sequence[Artefact] = _artefacts_named(artefacts) if own is None else figures_of(own, artefacts)
    chosen_budget = budget_named(budget)
    if import_from is not None:
        with alone(RUNS, "spl reproduce"):
            new, known = import_runs(import_from, RUNS)
        print(f"{new} runs imported from {import_from}; {known} of its runs were here already.")
    runs = [run for artefact in chosen for run in artefact.runs(chosen_budget)]
    if export_to is not None:
        check_export(export_to, with_ancestors(runs).keys() & Results(RUNS).keys())
    if dry_run:
        processes = LocalProcesses(jobs)
        print(forecast(missing(runs, Results(RUNS)), processes.count, processes.sharing))
        _export(export_to, chosen, chosen_budget)
        return
    executor, folder = chosen_executor(RUNS, jobs, cluster, cluster_parameters or {}), output / chosen_budget.name
    with alone(RUNS, "spl reproduce"):
        failures = execute(runs, RUNS, data_root, executor, until)
        if own is None:
            _write_pages(chosen, chosen_budget, folder)
            pages = [folder / "README.md"]
        else:
            pages = [write_page(figure, own, chosen_budget, folder) for figure in chosen]
    print(f"Pages, pictures and numbers: {', '.join(map(str, pages))}")
    _export(export_to, chosen, chosen_budget)
    if until is not None and (left := len(missing(runs, Results(RUNS))) - len(failures)):
        print(f"{left} runs remain, which would not have ended in time. The same command goes on with them.")
    if failures:
        print(failure_report(failures), file=sys.stderr)
        sys.exit(1)


def _export(file: Path | None, chosen: Sequence[Artefact], budget: Budget) -> None:
    """Write the archive of finished runs, if one is wanted."""
    if file is not None:
        count = export_runs(file, chosen, budget, Results(RUNS))
        print(f"{count} finished runs: {file}" if count else f"No run is finished: {file} is not written.")


def _write_pages(chosen: Sequence[Artefact], budget: Budget, folder: Path) -> None:
    """Write the pages of `chosen`, again the pages that `folder` has, which share runs with them, and the summary."""
    wanted = [a for a in ARTEFACTS.values() if a in chosen or (folder / f"{a.name}.md").is_file()]
    results = Results(RUNS)
    pages = [Page.of(artefact, budget, results) for artefact in wanted]
    for page in pages:
        page.write(folder)
    write_summary(pages, folder)


def _artefacts_named(names: Sequence[str]) -> list[Artefact]:
    for name in names:
        if name != "all" and name not in ARTEFACTS:
            near = close_matches(name, [*ARTEFACTS, "all"])
            hint = f"did you mean {near[0]}?" if len(near) == 1 else f"ask for {', '.join(ARTEFACTS)}, or all."
            raise InputError(f"There is no {name!r} in the paper: {hint}")
    return [artefact for name, artefact in ARTEFACTS.items() if name in names or "all" in names]


def reproduce_parser() -> OneLineErrors:
    """Return the parser of `spl reproduce`.

    Example:
        >>> from spl.reproduction.command import reproduce_parser
        >>> reproduce_parser().parse_args(["fig1", "--budget", "smoke"]).budget
        'smoke'
    """
    parser = OneLineErrors(prog="spl reproduce", description=__doc__)
    parser.add_argument("artefacts", nargs="+", help="fig1 … fig8, table1 … table4, or all")
    skipped: set[str | int] = {"artefacts", "data_root", "dry_run", "network", "export_to", "import_from"}
    parser.add_function_arguments(reproduce, skip=skipped, as_group=False)
    parser.add_argument("--data.root", type=Path, default=Path("data"), help="folder of the data sets, as of spl fit")
    parser.add_argument(
        "--dry_run", "--dry-run", action="store_true", help="list the missing runs and the time they would take"
    )
    parser.add_argument(
        "--export", type=Path, metavar="FILE.tar.xz", help="write the finished runs to an archive, without checkpoints"
    )
    parser.add_argument(
        "--import", type=Path, metavar="FILE.tar.xz", help="take over the runs of such an archive before all else"
    )
    add_network_argument(parser)
    return parser


def reproduce_command(args: Sequence[str]) -> None:
    """Run the command line `args` of `spl reproduce`."""
    parser = reproduce_parser()
    with stoppable():
        bound_yaml()
        with printable_errors(), spl_parsing_rules():
            chosen = parser.parse_args(translate_class_paths(list(args)))
        network = network_choice(parser, chosen)
        archives = {"export_to": chosen.pop("export"), "import_from": chosen.pop("import")}
        reproduce(data_root=chosen.pop("data").root, network=network, **archives, **chosen)
