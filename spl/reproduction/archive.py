"""Archives of finished runs, without checkpoints: one small file that carries results to another machine."""

import io
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import yaml

from spl.files import read_yaml, write_whole
from spl.reproduction.artefacts import Artefact
from spl.reproduction.budgets import Budget
from spl.reproduction.results import RESULT_FILE, Results
from spl.reproduction.run import CHECKPOINT, RUN_FILE, RUNS, Run, with_ancestors

PRUNING_FILE = "pruning.yaml"
EVENTS = "events.out.tfevents."


def export_runs(file: Path, artefacts: Iterable[Artefact], budget: Budget, results: Results) -> int:
    """Write the finished runs of figures and tables to an archive, and return how many there are.

    The archive is a tar file compressed by xz. It has the folder of each run, with what the pages read: result.json,
    run.yaml, pruning.yaml, and events where a figure reads them. The same runs make the same bytes. Nothing is written
    if no run is finished.

    Args:
        file: the archive to write; it replaces a file at this path.
        artefacts: the figures and tables.
        budget: the budget of the runs.
        results: the finished runs.
    """
    chosen = list(artefacts)
    runs = with_ancestors(run for artefact in chosen for run in artefact.runs(budget))
    with_events = {run.digest for artefact in chosen if artefact.reads_events for run in artefact.runs(budget)}
    finished = {digest: run for digest, run in runs.items() if _is_complete(run, results)}
    if not finished:
        return 0
    members: dict[str, bytes] = {}
    for digest, name in (names := _archived_names(finished)).items():
        for path, content in _files(finished[digest], results, names, digest in with_events):
            members[str(name / path)] = content
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        for path in sorted(members):
            member = tarfile.TarInfo(path)  # of no user, and of the time 0
            member.size, member.mode = len(members[path]), 0o644
            archive.addfile(member, io.BytesIO(members[path]))
    write_whole(file, buffer.getvalue())
    return len(finished)


def _is_complete(run: Run, results: Results) -> bool:
    """Return whether a run is finished, and so are the runs that it starts from."""
    return run.digest in results and all(_is_complete(before, results) for before in run.before)


def _archived_names(runs: Mapping[str, Run]) -> dict[str, PurePosixPath]:
    """Return the folder of each run in the archive, by digest."""
    versions: Counter[str] = Counter()
    names = {}
    for digest, run in sorted(runs.items(), key=lambda item: (item[1].name, item[0])):
        names[digest] = PurePosixPath(RUNS.as_posix(), run.name, f"version_{versions[run.name]}")
        versions[run.name] += 1
    return names


def _files(run: Run, results: Results, names: Mapping[str, PurePosixPath], events: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of the files of a run."""
    folder = results.folders[run.digest]
    before = None if run.pretrained is None else names[run.pretrained.digest]
    yield RESULT_FILE, (folder / RESULT_FILE).read_bytes()
    yield RUN_FILE, start_from(folder / RUN_FILE, before)
    if (folder / PRUNING_FILE).is_file():
        yield PRUNING_FILE, (folder / PRUNING_FILE).read_bytes()
    if events:
        for attempt in (*results.unfinished.get(run.digest, ()), folder):
            for file in sorted(attempt.glob(f"{EVENTS}*")):
                if file.is_file():
                    yield file.name, file.read_bytes()


def start_from(run_yaml: Path, folder: PurePosixPath | Path | None) -> bytes:
    """Return a run.yaml that starts from the weights in `folder`, which the run's digest does not depend on.

    Args:
        run_yaml: the file to read.
        folder: the folder of the run that it starts from; None if it starts from none.
    """
    weights = None if folder is None else (folder / CHECKPOINT).as_posix()
    config = read_yaml(run_yaml)
    if config["model"].get("pretrained") == weights:
        return run_yaml.read_bytes()
    config["model"]["pretrained"] = weights
    return f"# spl fit --config {RUN_FILE}\n{yaml.safe_dump(config, sort_keys=False)}".encode()
