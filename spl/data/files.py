"""Data files on disk: there, whole, or one clear error."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from spl.errors import InputError


def download_missing(name: str, root: Path, md5: Mapping[str, str], download: Callable[[], object]) -> None:
    """Run `download` where a file of `md5` is not under `root`; if it fails, say what is wanted where."""
    if all((root / file).exists() for file in md5):
        return
    try:
        download()
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{name} is not in {root.resolve()} and could not be downloaded ({error}). Put the files "
            f"{', '.join(md5)} there, or point --data.root at a folder that has them, or use "
            "--data MNISTSample, which needs no download."
        ) from error


def check_files(name: str, root: Path, md5: Mapping[str, str]) -> None:
    """Raise an `InputError` that names the files, of those in `md5`, that are missing or damaged under `root`."""
    missing = [file for file in md5 if not (root / file).is_file()]
    if missing:
        raise InputError(
            f"{name} is not in {root.resolve()}: {', '.join(missing)} missing. Allow the download with "
            "--data.download true, or point --data.root at a folder that has the files, or use --data MNISTSample, "
            "which needs no download."
        )
    for file, expected in md5.items():
        with (root / file).open("rb") as stream:
            got = hashlib.file_digest(stream, "md5").hexdigest()
        if got != expected:
            raise InputError(
                f"{root.resolve() / file} is truncated or damaged: {(root / file).stat().st_size} bytes with MD5 "
                f"{got}, expected {expected}. Delete it, and it is downloaded again with --data.download true."
            )
