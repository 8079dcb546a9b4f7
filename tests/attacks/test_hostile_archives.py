"""Archives of runs that were made to harm: each is refused in one line, and nothing of it is left."""

import io
import json
import lzma
import os
import tarfile
from pathlib import Path

import pytest
import yaml

from attacks import refused
from attacks.test_stray_files import CONFIGS
from spl.reproduction import unpacking
from spl.reproduction.budgets import budget_named
from spl.reproduction.methods import LDI_CS, LDI_MAG, Experiment, mlp
from spl.reproduction.run import RUNS

SMOKE = budget_named("smoke")
RUN, HEIR = (Experiment(mlp("tanh")).run(SMOKE, method, 0) for method in (LDI_CS, LDI_MAG))
FOLDER = f"{RUNS.as_posix()}/{RUN.name}/version_0"
RESULT = {"digest": RUN.digest, "test": {}, "scalars": {}, "record": {}}
CONFIG = RUN.on_machine(Path("/data"), None)
GOOD = {f"{FOLDER}/run.yaml": yaml.safe_dump(CONFIG).encode(), f"{FOLDER}/result.json": json.dumps(RESULT).encode()}


def member(name, kind=tarfile.REGTYPE, target="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


def write(files, *others, form=tarfile.PAX_FORMAT):
    """Write an archive of files and of other members."""
    with tarfile.open("runs.tar.xz", "w:xz", format=form) as archive:
        for name, content in files.items():
            archive.addfile(member(name, size=len(content)), io.BytesIO(content))
        for other in others:
            archive.addfile(other, io.BytesIO(b"x" * min(other.size, 2 * 10**6)))


def left():
    """Return what an attack has left: all files and folders but for the archive and the lock."""
    return sorted(str(path) for path in Path().rglob("*") if path.name not in ("runs.tar.xz", ".lock"))


def refuses(match, before=("lightning_logs", str(RUNS))):
    refused(match, "reproduce", "fig1", "--budget", "smoke", "--import", "runs.tar.xz", "--dry-run")
    assert left() == sorted(before)


def accepts():
    from commands import command

    ended = command("reproduce", "fig1", "--budget", "smoke", "--import", "runs.tar.xz", "--dry-run")
    assert ended.code == 0, ended.errors
    assert "1 runs imported" in ended.output
    assert sorted(path.name for path in Path(FOLDER).iterdir()) == ["result.json", "run.yaml"]


def test_a_good_archive_is_accepted_without_what_is_no_file_of_a_run():
    others = [member(f"{RUNS.as_posix()}/jobs/device/000.log", size=5), member(f"{FOLDER}/checkpoints/last.ckpt")]
    others += [member(f"{FOLDER}/extra.py"), member("setup.py"), member(FOLDER, tarfile.DIRTYPE)]
    others += [member(f"{RUNS.as_posix()}/.lock/version_0/run.yaml"), member(f"{FOLDER}/deep/run.yaml")]
    write(GOOD, *others)
    accepts()
    assert not Path("setup.py").exists()


MEMBERS = {
    "absolute": (member("/tmp/canary"), "'/tmp/canary' has an absolute path"),
    "absolute run": (member(f"/{FOLDER}/run.yaml"), "has an absolute path"),
    "parent": (member(f"{RUNS.as_posix()}/../../canary"), "leads out of the folder"),
    "parent of a run": (member(f"{RUNS.as_posix()}/../version_0/run.yaml"), "leads out of the folder"),
    "backslash": (member("C:\\canary"), "backslash"),
    "symbolic link": (member(f"{FOLDER}/pruning.yaml", tarfile.SYMTYPE, "/etc/passwd"), "pruning.yaml' is a link"),
    "link of a folder": (member(f"{RUNS.as_posix()}/x", tarfile.SYMTYPE, "/tmp"), "is a link"),
    "hard link": (member(f"{FOLDER}/pruning.yaml", tarfile.LNKTYPE, "../../../../canary"), "is a link"),
    "device": (member(f"{FOLDER}/events.out.tfevents.1", tarfile.CHRTYPE), "a device"),
    "pipe": (member(f"{FOLDER}/events.out.tfevents.1", tarfile.FIFOTYPE), "a device"),
    "control characters": (member("x\x1b[2J"), r"'x\\x1b\[2J' has a name that no run has"),
    "long name": (member(f"{RUNS.as_posix()}/{'x' * 300}/version_0/run.yaml"), "has a name that no run has"),
    "twice": (member(f"{FOLDER}/run.yaml"), "run.yaml' is there twice"),
    "no result": (member(f"{RUNS.as_posix()}/other/version_0/run.yaml"), "other/version_0' is not whole"),
    "unknown": (member(f"{RUNS.as_posix()}/other/version_0/pruning.yaml"), "other/version_0' is not whole"),
}


@pytest.mark.parametrize(("bad", "reason"), MEMBERS.values(), ids=MEMBERS)
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_a_bad_member_refuses_the_archive_by_its_name(bad, reason, form):
    write(GOOD, bad, form=form)
    refuses(reason)


def test_a_sparse_file_is_refused():
    write(GOOD, member(f"{FOLDER}/pruning.yaml", tarfile.GNUTYPE_SPARSE))
    refuses("sparse file|cannot be read as an archive")


FILES = {
    "digest of another": ("result.json", json.dumps(RESULT | {"digest": "0" * 64}), "not that of run.yaml"),
    "forged result": ("result.json", json.dumps(RESULT | {"test": [1]}), "is no result"),
    "half a result": ("result.json", '{"digest": "', "cannot be read as JSON"),
    "other configuration": ("run.yaml", yaml.safe_dump(CONFIG | {"seed_everything": 7}), "not that of run.yaml"),
    "tags": ("run.yaml", "!!python/object/apply:os.mkdir [canary]", "not whole"),
    "a start that it lacks": (
        "run.yaml",
        yaml.safe_dump(HEIR.on_machine(None, Path("/etc/passwd"))),
        "starts from '/etc/passwd', which it does not have",
    ),
    "a start of a number": ("run.yaml", yaml.safe_dump(CONFIG | {"model": {"pretrained": 3}}), "not whole"),
    "itself": ("run.yaml", yaml.safe_dump(HEIR.on_machine(None, Path(FOLDER, "checkpoints/x"))), "starts from itself"),
    "pruning of tags": ("pruning.yaml", "!!python/object/apply:os.mkdir [canary]", "cannot be read as YAML"),
}


@pytest.mark.parametrize(("name", "content", "reason"), FILES.values(), ids=FILES)
def test_a_run_that_is_not_what_it_says_refuses_the_archive(name, content, reason):
    write(GOOD | {f"{FOLDER}/{name}": content.encode()})
    refuses(reason)


@pytest.mark.parametrize("config", [text for text in CONFIGS.values() if text is not None], ids=list(CONFIGS)[1:])
def test_a_damaged_configuration_refuses_the_archive(config):
    write(GOOD | {f"{FOLDER}/run.yaml": config})
    refuses("version_0' is not whole")


def test_a_good_run_is_not_taken_from_an_archive_that_has_a_bad_one():
    write(GOOD | {f"{RUNS.as_posix()}/a/version_0/{name}": b"{}" for name in ("run.yaml", "result.json")})
    refuses("a/version_0' is not whole")


def test_an_archive_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(unpacking, "_MOST_BYTES_OF_A_FILE", 10**6)
    write(GOOD, member(f"{FOLDER}/pruning.yaml", size=10**6 + 1))
    refuses("pruning.yaml' has more than 1,000,000 bytes")
    monkeypatch.setattr(unpacking, "_MOST_MEMBERS", 2)
    write(GOOD, member("x"))
    refuses("more than 2 members")
    monkeypatch.setattr(unpacking, "_MOST_BYTES", 10**5)
    write({}, member("log", size=10**6))
    refuses("more than 100,000 bytes")


def test_a_header_that_is_larger_than_all_is_refused(monkeypatch):
    """Extended headers are read into memory before there is a member."""
    monkeypatch.setattr(unpacking, "_MOST_BYTES", 10**5)
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 10**9
    Path("runs.tar.xz").write_bytes(lzma.compress(header.tobuf() + bytes(10**7)))
    refuses("more than 100,000 bytes")


DATA = {
    "empty": b"",
    "no xz": b"x" * 1000,
    "no tar": lzma.compress(b"x" * 1000),
    "nothing": lzma.compress(bytes(10240)),
    "xz of the old format": lzma.compress(bytes(10240), lzma.FORMAT_ALONE),
}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_what_is_no_archive_is_refused(data):
    Path("runs.tar.xz").write_bytes(data)
    refuses("cannot be read as an archive|has no runs")


def test_half_an_archive_and_one_of_wrong_bits_are_refused():
    write(GOOD)
    data = Path("runs.tar.xz").read_bytes()
    for damaged in (data[: len(data) // 2], data[:-20], data[:100] + bytes([data[100] ^ 1]) + data[101:]):
        Path("runs.tar.xz").write_bytes(damaged)
        refuses("cannot be read as an archive")


def test_a_pipe_and_what_is_not_there_are_not_waited_for():
    refuses("There is no archive runs.tar.xz")
    os.mkfifo("runs.tar.xz")
    refuses("There is no archive runs.tar.xz")


def test_a_name_that_is_taken_by_a_file_is_one_line():
    Path(FOLDER).parent.parent.mkdir(parents=True)
    Path(FOLDER).parent.write_text("")
    write(GOOD)
    refuses("version_0 cannot be made", [*("lightning_logs", str(RUNS)), str(Path(FOLDER).parent)])
