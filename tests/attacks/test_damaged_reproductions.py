"""Files of a reproduction that are damaged or endless: their runs count as unfinished, with one line each."""

import io
import json
import os
import pickle
import struct
import zlib
from pathlib import Path

import pytest
import torch
import yaml
from submitit.local.local import LocalJob
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from attacks import CANARY, Canary
from attacks.test_stray_files import CONFIGS
from spl.reproduction.budgets import budget_named
from spl.reproduction.job import plan_run
from spl.reproduction.methods import LDI_CS, LDI_DENSE, Experiment, mlp
from spl.reproduction.results import RESULT_FILE, Result, Results
from spl.reproduction.run import RUN_FILE
from spl.reproduction.worker import _can_go_on

SMOKE = budget_named("smoke")
RUN = Experiment(mlp("tanh")).run(SMOKE, LDI_CS, 0)
OTHER = Experiment(mlp("tanh")).run(SMOKE, LDI_DENSE, 0)
GOOD = {"digest": RUN.digest, "test": {}, "scalars": {}, "record": {}}


def finish(folder, run=RUN):
    folder.mkdir(parents=True)
    (folder / RUN_FILE).write_text(yaml.safe_dump(run.on_machine(Path("/data"), None)))
    Result(folder, run.digest, {}, {}, {}).write()
    return folder


def lines(capfd):
    return [line for line in capfd.readouterr().err.splitlines() if "counts as unfinished" in line]


RESULTS = {
    "empty": b"",
    "half": b'{"digest": "',
    "bytes": b"\xff\xfe",
    "a list": b"[]",
    "null": b"null",
    "digits": b'{"digest": ' + b"9" * 5000 + b"}",
    "depth": b"[" * 100_000,
    "a key less": json.dumps({key: value for key, value in GOOD.items() if key != "record"}).encode(),
    "a key more": json.dumps(GOOD | {"folder": "/"}).encode(),
    "a digest of a number": json.dumps(GOOD | {"digest": 3}).encode(),
    "tests of a list": json.dumps(GOOD | {"test": [1]}).encode(),
    "an accuracy of a word": json.dumps(GOOD | {"test": {"final": {"accuracy": "x", "loss": 1}}}).encode(),
    "no accuracy": json.dumps(GOOD | {"test": {"final": {"loss": 1}}}).encode(),
    "scalars of words": json.dumps(GOOD | {"scalars": {"loss/train": [["a", "b"]]}}).encode(),
    "scalars of three": json.dumps(GOOD | {"scalars": {"loss/train": [[1, 2, 3]]}}).encode(),
    "a scalar beyond all bounds": json.dumps(GOOD | {"scalars": {"loss/train": [[10**400, 1]]}}).encode(),
    "a record of a word": json.dumps(GOOD | {"record": "x"}).encode(),
    "seconds of a word": json.dumps(GOOD | {"record": {"seconds": "x"}}).encode(),
    "versions of a list": json.dumps(GOOD | {"record": {"versions": [1]}}).encode(),
    "a device of a list": json.dumps(GOOD | {"record": {"device": [1]}}).encode(),
    "a pickle": b"\x80\x04\x8c\x05posix\x8c\x05mkdir\x93\x8c\x06canary\x85R.",
}


@pytest.mark.parametrize("content", RESULTS.values(), ids=RESULTS)
def test_a_run_with_a_damaged_result_is_unfinished(tmp_path, capfd, content):
    (finish(tmp_path / "run") / RESULT_FILE).write_bytes(content)
    finish(tmp_path / "other", OTHER)
    results = Results(tmp_path)
    assert list(results) == [OTHER.digest]
    assert len(lines(capfd)) == 1
    assert plan_run(RUN, results, Path("data")).attempts == [str(tmp_path / "run")]
    Results(tmp_path)
    assert not lines(capfd)  # it is said once


def test_of_two_results_of_a_run_the_one_that_is_whole_counts(tmp_path):
    whole = finish(tmp_path / "whole")
    (finish(tmp_path / "damaged") / RESULT_FILE).write_text("{")
    assert Results(tmp_path)[RUN.digest].folder == whole


def make_unreadable(file, kind):
    """Put something at a path that is no file that can be read to its end."""
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "folder":
        file.mkdir()
    elif kind == "loop":
        file.symlink_to(file.name)
    elif kind == "huge":
        with file.open("wb") as stream:
            stream.truncate(2**40)
    else:
        file.write_bytes(b"\xff" * 1000)


@pytest.mark.parametrize("name", [RUN_FILE, RESULT_FILE])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "huge"])
def test_a_file_without_an_end_is_not_read(tmp_path, name, kind):
    file = finish(tmp_path / "run") / name
    file.unlink()
    make_unreadable(file, kind)
    assert len(Results(tmp_path)) == 0


@pytest.mark.parametrize("config", [text for text in CONFIGS.values() if text is not None], ids=list(CONFIGS)[1:])
def test_a_run_of_a_damaged_run_yaml_is_left_out(tmp_path, capfd, config):
    (finish(tmp_path / "run") / RUN_FILE).write_bytes(config)
    results = Results(tmp_path)
    assert len(results) == len(results.unfinished) == 0
    assert len(lines(capfd)) == 1


def test_a_run_that_starts_from_itself_is_left_out(tmp_path, capfd):
    folder = finish(tmp_path / "run")
    text = (folder / RUN_FILE).read_text().replace("model:", f"model:\n  pretrained: {folder}/checkpoints/last.ckpt")
    (folder / RUN_FILE).write_text(text)
    assert len(Results(tmp_path)) == 0
    (line,) = lines(capfd)
    assert "starts from itself" in line


def png(width, height):
    """Return a small file of an image of any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def logged(folder, image):
    """Write an image of masks into the events in a folder."""
    with SummaryWriter(str(folder)) as writer:
        summary = Summary.Image(encoded_image_string=image, height=1, width=1, colorspace=1)
        value = Summary.Value(tag="masks/fc1", image=summary)
        writer._get_file_writer().add_summary(Summary(value=[value]), 0)


@pytest.mark.parametrize("image", [b"", b"x" * 100, png(60_000, 60_000), png(4, 4)[:40], png(0, 0)])
def test_masks_that_cannot_be_drawn_are_left_out(tmp_path, capfd, image):
    folder = finish(tmp_path / "run")
    logged(folder, image)
    assert Results(tmp_path)[RUN.digest].masks() == {}
    assert f"the events in {folder} are left out" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["pipe", "device", "nonsense", "folder"])
def test_events_without_an_end_are_left_out(tmp_path, kind):
    folder = finish(tmp_path / "run")
    make_unreadable(folder / "events.out.tfevents.1.x", kind)
    result = Results(tmp_path)[RUN.digest]
    assert result.masks() == result.saliency() == {}


@pytest.mark.parametrize("kind", ["missing", "half", "code", "forged"])
def test_no_run_goes_on_from_a_damaged_checkpoint(finished, tmp_path, kind):
    file = tmp_path / "run/checkpoints/last.ckpt"
    file.parent.mkdir(parents=True)
    data = (finished / "last.ckpt").read_bytes()
    file.write_bytes(data)
    assert _can_go_on(tmp_path / "run")
    if kind == "missing":
        file.unlink()
    elif kind == "half":
        file.write_bytes(data[: len(data) // 2])
    else:
        contents = torch.load(io.BytesIO(data), weights_only=True)
        torch.save(contents | ({"x": Canary()} if kind == "code" else {"epoch": -1}), file)
    assert not _can_go_on(tmp_path / "run")
    assert not Path(CANARY).exists()


def test_the_pickles_of_submitit_are_not_opened_to_see_whether_a_job_has_ended(tmp_path):
    job = LocalJob(tmp_path, "7")
    job.paths.result_pickle.write_bytes(pickle.dumps(Canary()))
    assert job.done()
    assert not Path(CANARY).exists()
