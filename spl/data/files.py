"""Checks that data files are on disk and whole, or else one clear error."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from spl.errors import InputError


def download_missing(name: str, root: Path, md5: Mapping[str, str], download: Callable[[], object]) -> None:
    """Run `download` if a file is missing.

    Args:
        name: name of the data set, for messages.
        root: folder of the files.
        md5: the MD5 of each file, by its name.
        download: downloads the files.

    Raises:
        InputError: the download fails; the message says which files are needed, and where.

    Example:
        >>> from pathlib import Path
        >>> from spl.data.files import download_missing
        >>> download_missing("Digits", Path("no_such_folder"), {"digits.bin": "..."}, lambda: print("downloading"))
        downloading
    """
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
    """Check that all files are there and whole.

    Args:
        name: name of the data set, for messages.
        root: folder of the files.
        md5: the MD5 of each file, by its name.

    Raises:
        InputError: files are missing or damaged; the message names them.

    Example:
        >>> from pathlib import Path
        >>> from spl.data.files import check_files
        >>> check_files("Digits", Path("no_such_folder"), {"digits.bin": "..."})
        Traceback (most recent call last):
        spl.errors.InputError: Digits is not in ...no_such_folder: digits.bin missing. Allow the download ...
    """
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
