"""Damaged, changed or hostile files are refused with the reason, by every command that reads them."""

import io
import os
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch
from attacks import ABSENT, put
from commands import SMALL, command
from torch import nn

from spl import InputError, SparseClassifier
from spl.callbacks.safety.checkpoint_io import WholeCheckpoints
from spl.data import CIFAR10, MNIST
from spl.export import load_sparse
from spl.files import read_checkpoint
from spl.networks import ResNet
from spl.networks.loading.network_entry import build_network

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed")  # a resumed run has a new folder

QUICK = [*SMALL, "--trainer.max_epochs", 2, "--trainer.limit_train_batches", 3, "--test_after_fit", "false"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a folder with a finished run and its sparse file, in which every test of this file works."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert command("fit", *QUICK).code == 0
        (folder / "lightning_logs/quickstart/version_0/checkpoints/last.ckpt").rename(folder / "last.ckpt")
        assert command("export", "--ckpt_path", "last.ckpt", "--to", "sparse", "--output", "sparse.pt").code == 0
        yield folder


class Canary:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def in_a_weight(data):
    """Return a position inside the largest tensor of the file."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    return largest.header_offset + 200 + largest.file_size // 2


DAMAGE = {
    "empty": (lambda data: b"", "it is empty"),
    "a tenth": (lambda data: data[: len(data) // 10], "it is truncated"),
    "half": (lambda data: data[: len(data) // 2], "it is truncated"),
    "all but a byte": (lambda data: data[:-1], "it is truncated"),
    "its head missing": (lambda data: data[512:], "it is damaged"),
    "a changed weight": (lambda data: flipped(data, in_a_weight(data)), r"the checksum of \S*data/\d+ is wrong"),
    "a changed structure": (lambda data: flipped(data, data.index(b"state_dict") if b"state_dict" in data else 90),
                            "it is (truncated, )?damaged"),
    "an image": (lambda data: b"\x89PNG\r\n\x1a\n" + bytes(100), "something else"),
    "a YAML": (lambda data: b"trainer:\n  max_epochs: 1\n", "something else"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["last.ckpt", "sparse.pt"])
def test_a_damaged_file_is_refused_with_the_reason(run, damage, name):
    change, reason = DAMAGE[damage]
    (run / "damaged").write_bytes(change((run / name).read_bytes()))
    readers = [read_checkpoint, SparseClassifier.load_from_checkpoint] if name == "last.ckpt" else [load_sparse]
    for read in readers:
        with pytest.raises(
            InputError, match=rf"damaged cannot be read as a .*{reason}.*: give one that `spl .*` wrote"
        ):
            read("damaged")


def commands(path):
    """Yield all commands that take a checkpoint."""
    yield from ([name, *QUICK, "--ckpt_path", path] for name in ("fit", "validate", "test", "predict", "diagnose"))
    yield ["fit", *QUICK, "--model.pretrained", path]
    yield ["summary", "--ckpt_path", path]
    yield ["export", "--ckpt_path", path, "--to", "sparse", "--output", "x.pt"]


def refused(match, *args):
    """Check that the command exits with 2 and one message."""
    ended = command(*args)
    assert ended.code == 2, args
    assert re.search(match, ended.errors), (args, ended.errors)
    assert ended.errors.count("error:") == 1
    assert "Traceback" not in ended.errors


def test_every_command_refuses_a_checkpoint_that_is_not_whole(run):
    (run / "half.ckpt").write_bytes((run / "last.ckpt").read_bytes()[:-100])
    before = sorted(run.rglob("*"))
    for args in commands("half.ckpt"):
        refused("half.ckpt cannot be read as a checkpoint, it is truncated", *args)
    new = {path.name for path in run.rglob("*")} - {path.name for path in before}
    assert "checkpoints" not in new
    assert "x.pt" not in new


def test_every_command_refuses_a_folder(run):
    (run / "folder.ckpt").mkdir()
    for args in commands("folder.ckpt"):
        refused("There is no checkpoint folder.ckpt", *args)


def test_a_folder_of_shards_is_refused_with_a_way_to_make_a_file_of_it(tmp_path):
    (tmp_path / "meta.pt").touch()
    with pytest.raises(InputError, match=rf"folder of shards, .* a pickle .*\.consolidate_checkpoint {tmp_path}"):
        read_checkpoint(tmp_path)


def hostile_zip(canary):
    stream = io.BytesIO()
    torch.save({"state_dict": {}, "payload": Canary(canary)}, stream)
    return stream.getvalue()


def hostile_pickle(canary):
    return pickle.dumps({"state_dict": {}, "payload": Canary(canary)})


@pytest.mark.parametrize("hostile", [hostile_zip, hostile_pickle])
def test_nothing_in_a_file_is_executed(run, hostile):
    canary = run / "canary"
    (run / "hostile.ckpt").write_bytes(hostile(canary))
    for args in commands("hostile.ckpt"):
        refused(r"hostile\.ckpt cannot be read as a checkpoint", *args)
        assert not canary.exists()
    refused(r"hostile\.ckpt", "test", *QUICK, "--ckpt_path", "hostile.ckpt", "--weights_only", "false")
    for read in (
        read_checkpoint,
        load_sparse,
        SparseClassifier.load_from_checkpoint,
        WholeCheckpoints().load_checkpoint,
    ):
        with pytest.raises(InputError, match=r"hostile\.ckpt cannot be read"):
            read("hostile.ckpt")
    assert not canary.exists()
    if hostile is hostile_zip:
        with pytest.raises(InputError, match=r"more than tensors and plain values \(posix\.mkdir\)"):
            read_checkpoint("hostile.ckpt")
    pickle.loads(hostile_pickle(canary))  # the test would notice if it were executed
    canary.rmdir()


@pytest.mark.parametrize(
    ("data", "folder", "files"),
    [
        (CIFAR10, "cifar-10-batches-py", [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]),
        (MNIST, "MNIST/raw", list(MNIST.md5)),
    ],
)
def test_nothing_in_a_data_set_is_executed(tmp_path, data, folder, files):
    """CIFAR-10 comes as pickles: a file is read only if its MD5 is that of the original."""
    canary = tmp_path / "canary"
    (tmp_path / folder).mkdir(parents=True)
    for file in files:
        (tmp_path / folder / file).write_bytes(hostile_pickle(canary))
    with pytest.raises(InputError, match=r"is truncated or damaged: \d+ bytes with MD5"):
        data(root=tmp_path, download=False).setup()
    assert not canary.exists()


def test_hyperparameters_of_a_checkpoint_do_not_reach_the_configuration(run):
    """Lightning's command would let them override the configuration."""
    checkpoint = torch.load("last.ckpt", weights_only=True)
    network = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1, "out_features": 1}}
    torch.save(checkpoint | {"hyper_parameters": {"network": network}}, "hyper.ckpt")
    assert command("test", *QUICK, "--ckpt_path", "hyper.ckpt").code == 0


def test_a_pickle_that_is_none_is_refused(run):
    with zipfile.ZipFile("last.ckpt") as old, zipfile.ZipFile("pickle.ckpt", "w") as new:
        for entry in old.infolist():
            new.writestr(entry, b"no pickle" if entry.filename.endswith("data.pkl") else old.read(entry))
    with pytest.raises(InputError, match=r"pickle\.ckpt cannot be read as a checkpoint, it is damaged"):
        read_checkpoint("pickle.ckpt")


# Changed, but undamaged


def changed(checkpoint, *path, to=None):
    """Return the checkpoint with another value at a path of keys, or without the entry if no value is given."""
    return put(checkpoint, path, ABSENT if to is None else to)


WEIGHT = ("state_dict", "network.fc2.weight")
MASK = ("masks", "fc2.weight")
CHANGES = [
    (WEIGHT, lambda t: t + 1, r"masks of the checkpoint prune weights that are not 0 in it: fc2\.weight \(\d+\)"),
    (WEIGHT, lambda t: t[:-1], r"network\.fc2\.weight \(\(19, 20\), wanted \(20, 20\)\)"),
    (WEIGHT, None, r"network\.fc2\.weight \(absent, wanted"),
    (WEIGHT, "weights", r"network\.fc2\.weight \(str, wanted"),
    (("state_dict",), lambda s: s | {"network.fc9.weight": torch.ones(1)}, r"network\.fc9\.weight \(not wanted\)"),
    (MASK, lambda m: ~m, r"prune weights that are not 0 in it: fc2\.weight"),
    (MASK, lambda m: m[:-1], r"fc2\.weight \(mask \(19, 20\), weights \(20, 20\)\)"),
    (MASK, lambda m: m.float(), r"mask of fc2\.weight must be a bool tensor, got torch\.float32"),
    (("masks", "fc9.weight"), torch.ones(1).bool(), r"fc9\.weight \(no such parameter\)"),
    (("masks",), None, r"holds no masks"),
    (("masks",), [1], r"changed after it was written: masks is list, not dict"),
    (("state_dict",), None, r"is no checkpoint: it has no state_dict"),
    (("state_dict",), "weights", r"changed after it was written: state_dict is str, not dict"),
    (("global_step",), None, r"cannot be restored \(KeyError: 'global_step'\)"),
    (("optimizer_states", 0, "state"), None, r"cannot be restored \(KeyError: 'state'\)"),
    (("loops", "fit_loop"), None, r"cannot be restored \(KeyError: 'fit_loop'\)"),
    (("callbacks", "PruneAtInit", "record"), 1, r"cannot be restored \(TypeError"),
    (("pytorch-lightning_version",), "x", r"cannot be restored \(InvalidVersion"),
    (("MNISTSample", "seed"), "x", r"cannot be restored \(ValueError"),
]


@pytest.mark.parametrize(("path", "to", "match"), CHANGES)
def test_a_checkpoint_that_was_changed_is_refused_with_the_reason(run, path, to, match):
    checkpoint = torch.load("last.ckpt", weights_only=True)
    if path == ("masks", "fc9.weight"):
        checkpoint["masks"]["fc9.weight"] = None
    torch.save(changed(checkpoint, *path, to=to), "changed.ckpt")
    refused(match, "fit", *QUICK, "--ckpt_path", "changed.ckpt", "--trainer.max_epochs", 3)


@pytest.mark.parametrize(
    ("path", "to", "match"),
    [
        (("network", "class_path"), "os.system", r"changed\.ckpt asks for 'os\.system', and a .*: --trust mynet\.Net"),
        (("network", "init_args", "depth"), "deep", r"The network of changed\.ckpt cannot be built \(.*str"),
        (
            ("network", "init_args", "width"),
            10**9,
            r"changed\.ckpt has [\d,]+ bytes, and the network .* [\d,]{20,} param",
        ),
    ],
)
def test_a_checkpoint_whose_network_cannot_be_built_says_so(run, path, to, match):
    checkpoint = torch.load("last.ckpt", weights_only=True)
    torch.save(changed(checkpoint, *path, to=to), "changed.ckpt")
    for args in (["summary"], ["export", "--to", "sparse", "--output", "x.pt"]):
        refused(match, *args, "--ckpt_path", "changed.ckpt")


def test_a_network_that_is_larger_than_its_file_only_with_its_statistics_is_refused_too(tmp_path):
    network = ResNet(1)
    sizes = [sum(t.numel() for t in tensors) for tensors in (network.parameters(), network.buffers())]
    file = tmp_path / "x.ckpt"
    checkpoint = {"network": {"class_path": "spl.networks.ResNet", "init_args": {"blocks_per_stage": 1}}}
    file.write_bytes(bytes(sum(sizes)))
    assert isinstance(build_network(checkpoint, file), ResNet)
    file.write_bytes(bytes(sum(sizes) - 1))
    with pytest.raises(InputError, match=f"has {sum(sizes) - 1:,} bytes, and the network .* has {sum(sizes):,} param"):
        build_network(checkpoint, file)


def test_a_sparse_file_that_was_changed_is_refused(run):
    contents = torch.load("sparse.pt", weights_only=True)
    packed = ("sparse", "fc2.weight")
    changes = [(("names",), None), (("dense",), 3), (("tied",), {"fc2.weight": "x"})]
    changes += [((*packed, "shape"), None), ((*packed, "places"), torch.ones(1))]
    for path, to in changes:
        torch.save(changed(contents, *path, to=to), "changed.pt")
        with pytest.raises(InputError, match=r"sparse weights file was changed after it was written"):
            load_sparse("changed.pt")


def test_a_checkpoint_elsewhere_is_left_to_lightning():
    files = WholeCheckpoints()
    files.save_checkpoint({"state_dict": {"w": torch.ones(2)}}, "memory://folder/x.ckpt")
    assert files.load_checkpoint("memory://folder/x.ckpt")["state_dict"]["w"].tolist() == [1.0, 1.0]
    assert not Path("memory:").exists()
    files.save_checkpoint({"state_dict": {}, "payload": nn.ReLU}, "memory://folder/y.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        files.load_checkpoint("memory://folder/y.ckpt", weights_only=False)
