"""The reading of archives of runs, which anybody may have made."""

import lzma
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from spl.errors import InputError, first_line
from spl.reproduction.archive import EVENTS, PRUNING_FILE
from spl.reproduction.results import RESULT_FILE
from spl.reproduction.run import RUN_FILE, RUNS

_MOST_BYTES = 2**30  # of all members together, as they are on disk
_MOST_BYTES_OF_A_FILE = 64 * 2**20
_MOST_MEMBERS = 50_000
_MOST_MEMORY = 256 * 2**20  # bytes for the decompression
_VERSION = re.compile(r"version_[0-9]{1,6}")
_FILES = re.compile(rf"{re.escape(RESULT_FILE)}|{re.escape(RUN_FILE)}|{re.escape(PRUNING_FILE)}|{EVENTS}[\w.-]+")
_LONGEST_PART = 200  # bytes; file systems take 255


def unpack(file: Path, folder: Path) -> dict[PurePosixPath, Path]:
    """Write the files of runs in an archive below `folder`, and return the folders of the runs by their archived names.

    Members that are no files of runs, such as logs, are ignored.

    Raises:
        InputError: the archive cannot be read, has no runs, has a member that cannot be accepted, or is too large. What
            was written until then is to be removed.
    """
    if not file.is_file():  # a pipe or a device may have no end
        raise InputError(f"There is no archive {file}: give the path of one that `spl reproduce --export` wrote.")
    try:
        with file.open("rb") as stream:
            return _unpack(file, stream, folder)
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError, ValueError, LookupError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{file} cannot be read as an archive ({first_line(error)}): give one that `spl reproduce --export` wrote."
        ) from error


def _unpack(file: Path, stream: BinaryIO, folder: Path) -> dict[PurePosixPath, Path]:
    decompressed = _Decompressed(file, stream)
    folders: dict[PurePosixPath, Path] = {}
    with tarfile.open(fileobj=cast(BinaryIO, decompressed), mode="r|") as archive:
        for number, member in enumerate(archive):
            path = _checked_path(file, member)
            if number >= _MOST_MEMBERS:
                raise InputError(f"{file} is refused: it has more than {_MOST_MEMBERS:,} members.")
            if not member.isreg() or not _is_of_a_run(path):
                continue
            target = folder.joinpath(*path.parts)
            if target.exists():
                raise _refusal(file, member, "is there twice")
            target.parent.mkdir(parents=True, exist_ok=True)
            content = archive.extractfile(member)
            assert content is not None
            with target.open("xb") as copy:
                shutil.copyfileobj(content, copy)
            folders[path.parent] = target.parent
    for _ in decompressed.rest():  # the checksum is at the end
        pass
    if not folders:
        raise InputError(f"{file} has no runs: give an archive that `spl reproduce --export` wrote.")
    return folders


def _checked_path(file: Path, member: tarfile.TarInfo) -> PurePosixPath:
    """Return the path of a member, or refuse the archive because of it."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or "\\" in member.name:
        raise _refusal(file, member, "has an absolute path or a backslash")
    if ".." in path.parts:
        raise _refusal(file, member, "leads out of the folder")
    if not member.name.isprintable() or any(len(part.encode()) > _LONGEST_PART for part in path.parts):
        raise _refusal(file, member, "has a name that no run has")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise _refusal(file, member, "is a link, a device or a sparse file")
    if member.size > _MOST_BYTES_OF_A_FILE:
        raise _refusal(file, member, f"has more than {_MOST_BYTES_OF_A_FILE:,} bytes")
    return path


def _is_of_a_run(path: PurePosixPath) -> bool:
    """Return whether a path is lightning_logs/reproduction/NAME/version_N/FILE, and FILE is one that an archive has."""
    if path.parts[: len(RUNS.parts)] != RUNS.parts or len(path.parts) != len(RUNS.parts) + 3:
        return False
    run, version, name = path.parts[-3:]
    return not run.startswith(".") and bool(_VERSION.fullmatch(version) and _FILES.fullmatch(name))


def _refusal(file: Path, member: tarfile.TarInfo, fault: str) -> InputError:
    return InputError(f"{file} is refused: its member {member.name[:200]!a} {fault}.")


class _Decompressed:
    """What a compressed stream contains, up to a limit.

    Args:
        file: the file of the stream, for messages.
        stream: the compressed stream.
    """

    def __init__(self, file: Path, stream: BinaryIO) -> None:
        self._file = file
        self._stream = stream
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_MEMORY)
        self._left = _MOST_BYTES

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, or fewer at the end."""
        parts: list[bytes] = []
        missing = size
        while missing and not self._decompressor.eof:
            compressed = self._stream.read(2**16) if self._decompressor.needs_input else b""
            if self._decompressor.needs_input and not compressed:
                raise EOFError("it ends in the middle")
            parts.append(self._decompressor.decompress(compressed, missing))
            missing -= len(parts[-1])
        self._left -= size - missing
        if self._left < 0:
            raise InputError(f"{self._file} is refused: it has more than {_MOST_BYTES:,} bytes.")
        return b"".join(parts)

    def rest(self) -> Iterator[bytes]:
        """Yield what was not read."""
        while block := self.read(2**16):
            yield block
