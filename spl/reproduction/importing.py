"""The import of runs from an archive, so that they count as finished."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from spl.errors import InputError
from spl.files import read_yaml
from spl.reproduction.archive import PRUNING_FILE, start_from
from spl.reproduction.results import RESULT_FILE, Results
from spl.reproduction.run import RUN_FILE, RUNS, digest_of
from spl.reproduction.saved_results import read_result
from spl.reproduction.unpacking import unpack

_PARTS_OF_CHECKPOINT = 2  # checkpoints/last.ckpt, behind the folder of a run


@dataclass(frozen=True)
class _Archived:
    """A run of an archive.

    Attributes:
        folder: the temporary folder of its files.
        digest: its digest.
        before: the archived name of the run that it starts from; None if it starts from none.
    """

    folder: Path
    digest: str
    before: PurePosixPath | None


def import_runs(file: Path, root: Path) -> tuple[int, int]:
    """Take the runs of an archive into the folder of all runs, and return how many are new, and how many were there.

    Nothing is overwritten: a run that is finished already is left as it is, and a folder whose name is taken gets the
    next version number. Either all runs of the archive are good, or none is taken.

    Args:
        file: the archive that `export_runs` has written.
        root: the folder of all runs.

    Raises:
        InputError: the archive or one of its runs cannot be accepted.
    """
    with TemporaryDirectory(dir=root.parent, prefix=".import-") as temporary:
        archived = _checked(file, unpack(file, Path(temporary)))
        present = dict(Results(root).folders)
        new = 0
        for name in sorted(archived, key=lambda name: (_depth(archived, name), name)):
            run = archived[name]
            if run.digest in present:
                continue
            before = None if run.before is None else present[archived[run.before].digest]
            (run.folder / RUN_FILE).write_bytes(start_from(run.folder / RUN_FILE, before))
            present[run.digest] = _place(run.folder, root / name.parent.name, name.name)
            new += 1
        return new, len({run.digest for run in archived.values()}) - new


def check_export(file: Path, runs: Collection[str]) -> None:
    """Refuse, before anything runs, to write an archive where it cannot be or would replace what a user has made.

    Args:
        file: the archive that is to be written.
        runs: the digests of the finished runs that it would have.

    Raises:
        InputError: its folder does not exist, or there is a file that is no archive or has other runs.
    """
    if not file.absolute().parent.is_dir():
        raise InputError(f"There is no folder {file.parent}: make it, or give another --export.")
    if not file.exists():
        return
    try:
        with TemporaryDirectory() as temporary:
            others = [run.folder for run in _checked(file, unpack(file, Path(temporary))).values()
                      if run.digest not in runs]  # fmt: skip
    except InputError as error:
        raise InputError(
            f"{file} exists and is no archive of runs, so it is not replaced: give another --export."
        ) from error
    if others:
        raise InputError(
            f"{file} exists and has {len(others)} runs that the new archive would not have: --import it too, or give "
            "another --export."
        )


def _checked(file: Path, folders: Mapping[PurePosixPath, Path]) -> dict[PurePosixPath, _Archived]:
    """Return the runs of an archive, each of which is whole and what it says that it is."""

    def folder_of(checkpoint: str) -> Path:
        name = _name_of(checkpoint)
        if name not in folders:
            raise InputError(f"{file} is refused: a run starts from {ascii(checkpoint)[:200]}, which it does not have.")
        return folders[name]

    runs = {}
    for name, folder in folders.items():
        try:
            digest = digest_of(folder / RUN_FILE, folder_of)
            if read_result(folder / RESULT_FILE)["digest"] != digest:
                raise InputError("the digest in result.json is not that of run.yaml")
            if (folder / PRUNING_FILE).exists():
                read_yaml(folder / PRUNING_FILE)
        except InputError as error:
            reason = " ".join(str(error).replace(str(folder), ".").split())[:300]
            raise InputError(f"{file} is refused: its run {str(name)!a} is not whole ({reason}).") from error
        weights = read_yaml(folder / RUN_FILE)["model"].get("pretrained")
        runs[name] = _Archived(folder, digest, _name_of(weights) if weights else None)
    return runs


def _name_of(checkpoint: str) -> PurePosixPath:
    """Return the archived name of the run with this checkpoint, wherever the run was made."""
    parts = PurePosixPath(checkpoint).parts[:-_PARTS_OF_CHECKPOINT]
    return PurePosixPath(*parts[-len(RUNS.parts) - 2 :])


def _depth(runs: Mapping[PurePosixPath, _Archived], name: PurePosixPath) -> int:
    before = runs[name].before
    return 0 if before is None else 1 + _depth(runs, before)


def _place(folder: Path, parent: Path, version: str) -> Path:
    """Move the folder of a run to PARENT/VERSION or, if that exists, to the next version, and return where it is."""
    target = parent / version
    try:
        parent.mkdir(parents=True, exist_ok=True)
        if target.exists() or target.is_symlink():
            numbers = [path.name.removeprefix("version_") for path in parent.glob("version_*")]
            target = parent / f"version_{1 + max(int(number) for number in numbers if number.isdecimal())}"
        folder.rename(target)
    except OSError as error:
        raise InputError(f"{target} cannot be made ({error}): give it room, and import the archive again.") from error
    return target
