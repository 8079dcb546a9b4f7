"""Folders that cannot be written and files that cannot be read: one line, and what was there stays."""

import errno
import os
from pathlib import Path

import pytest
from commands import command

from attacks import QUICK, refused, save
from spl import InputError
from spl.cli.advice import advice
from spl.files import read_checkpoint, read_text, write_whole

ROOT = "--trainer.default_root_dir"


def pipe(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


def loop(path):
    path.symlink_to(path.name)


def memory(path):
    """Make a link to a regular file whose first page cannot be read."""
    path.symlink_to("/proc/self/mem")


def huge(path):
    """Make a file of a terabyte, of which nothing is on the disk."""
    with path.open("wb") as stream:
        stream.truncate(2**40)


def folder(path):
    path.mkdir()


@pytest.mark.parametrize("kind", [pipe, endless, loop, memory, huge, folder])
def test_a_checkpoint_that_cannot_be_read_is_refused_at_once(kind):
    kind(Path("x.ckpt"))
    refused(r"There is no checkpoint x\.ckpt|x\.ckpt cannot be read", "summary", "--ckpt_path", "x.ckpt")
    with pytest.raises(InputError, match=r"x\.ckpt"):
        read_checkpoint("x.ckpt")


@pytest.mark.parametrize("kind", [pipe, endless, loop, memory, huge, folder])
def test_a_text_that_cannot_be_read_is_refused_at_once(kind):
    kind(Path("x.yaml"))
    with pytest.raises(InputError, match=r"x\.yaml"):
        read_text("x.yaml")


IN_THE_WAY = {
    "the log folder": "lightning_logs",
    "the run's name": "lightning_logs/quickstart",
    "the run's folder": "lightning_logs/quickstart/version_0",
}


@pytest.mark.parametrize("file", IN_THE_WAY.values(), ids=IN_THE_WAY)
def test_a_file_in_the_place_of_a_folder_is_named_and_kept(file):
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text("mine")
    ended = command("fit", *QUICK)
    if ended.code:
        assert ended.errors.startswith("spl: error: ")
        assert f"{file}" in ended.errors
        assert ended.errors.count("\n") == 1
    assert Path(file).read_text() == "mine"


def test_a_link_to_nowhere_is_no_folder_for_a_run():
    link = Path("lightning_logs/quickstart/version_0")
    link.parent.mkdir(parents=True)
    link.symlink_to("nowhere")
    assert command("fit", *QUICK).code == 0
    assert link.is_symlink()
    assert not Path("nowhere").exists()
    assert link.with_name("version_1").is_dir()


@pytest.mark.parametrize("root", ["/sys/x", "/proc/x", "/dev/null/x"])
def test_a_folder_that_cannot_be_written_is_named(root):
    refused(rf"(not permitted|denied|Not a directory|No such file|Read-only).*: {root}", "fit", *QUICK, ROOT, root)


def test_a_path_whose_bytes_are_no_text_is_refused_in_one_line():
    refused("is no text in UTF-8", "fit", *QUICK, ROOT, "a\udcff")


@pytest.mark.parametrize("name", ["-fööß/a b"])
def test_unusual_names_are_names(name):
    assert command("fit", *QUICK, f"--name={name}").code == 0
    assert Path("lightning_logs", name, "version_0/checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EISDIR])
def test_errors_of_the_file_system_name_the_path(number):
    error = OSError(number, os.strerror(number), "folder/file")
    assert advice(error).startswith(f"{os.strerror(number)}: folder/file: it cannot be used.")


@pytest.mark.parametrize(
    "error", [OSError("x"), OSError(errno.EBADF, "x", "y"), UnicodeDecodeError("utf8", b"", 0, 1, "")]
)
def test_other_errors_keep_their_traceback(error):
    assert advice(error) is None


@pytest.mark.parametrize("name", ["x" * 256, "x" * 5000, "no/such/folder", "/dev/null/x", "a\0b"])
def test_a_file_that_cannot_be_written_is_refused(name):
    with pytest.raises(InputError, match="cannot be written"):
        write_whole(name, b"data")


def test_the_longest_name_can_be_written():
    write_whole("x" * 255, b"data")
    assert [path.name for path in Path().iterdir()] == ["x" * 255]


@pytest.mark.parametrize("version", ["0.1", "x" * 5000, [1]])
def test_a_version_of_lightning_that_never_was_is_refused_or_ignored(good, version):
    save(good | {"pytorch-lightning_version": version})
    ended = command("validate", *QUICK, "--ckpt_path", "hostile.ckpt")
    assert ended.code == 0 or (ended.code == 2 and ended.errors.count("error:") == 1)
