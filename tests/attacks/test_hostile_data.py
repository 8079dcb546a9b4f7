"""Files and links in the folder of a data set: what is not the original is refused, and nothing else is read."""

import gzip
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch

from attacks import Canary
from spl import InputError
from spl.cli.advice import advice
from spl.data import CIFAR10, MNIST, FashionMNIST, ImageDataModule
from spl.data.tensors import ImageTensors

FOLDERS = {MNIST: "MNIST/raw", FashionMNIST: "FashionMNIST/raw", CIFAR10: "cifar-10-batches-py"}
IMAGES = struct.pack(">IIII", 2051, 2**31 - 1, 28, 28)  # 1.7 TB of images, says the head of the file
FILES = {
    "nothing": b"",
    "a pickle": pickle.dumps(Canary()),
    "the head of endless images": IMAGES,
    "a gzip of zeros": gzip.compress(bytes(10**6)),
    "text": b"\xff" * 100,
}


@pytest.fixture(params=FOLDERS, ids=lambda data: data.__name__)
def data(request):
    """Return a data set without a download, and its folder with wrong files of the right names."""
    module = request.param(root=Path("data"), download=False)
    folder = Path("data", FOLDERS[request.param])
    folder.mkdir(parents=True)
    for name in module.md5:
        (folder / name).write_bytes(b"wrong")
    return module, folder


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_files_that_are_not_the_original_are_refused(data, content):
    module, folder = data
    for name in module.md5:
        (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=r"is truncated or damaged: \d+ bytes with MD5"):
        module.setup()


@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "loop", "nowhere"])
def test_files_without_an_end_are_missing(data, kind):
    module, folder = data
    file = folder / next(iter(module.md5))
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to({"device": "/dev/zero", "loop": file.name, "nowhere": "gone"}[kind])
    with pytest.raises(InputError, match="missing"):
        module.setup()


def test_a_link_to_a_wrong_file_is_refused_like_the_file(data):
    module, folder = data
    Path("elsewhere").write_bytes(b"wrong")
    for name in module.md5:
        (folder / name).unlink()
        (folder / name).symlink_to(Path("elsewhere").absolute())
    with pytest.raises(InputError, match="is truncated or damaged"):
        module.setup()


@pytest.mark.parametrize("hostile", [Canary(), (torch.zeros(3, 28, 28), torch.zeros(3))], ids=["code", "images"])
def test_torchvisions_own_copies_are_not_read(hostile, monkeypatch):
    module = MNIST(root=Path("data"), download=False)
    module.raw.mkdir(parents=True)
    for name in module.md5:
        size = (7,) if "labels" in name else (7, 28, 28)
        head = struct.pack(f">{len(size) + 1}I", 2049 if "labels" in name else 2051, *size)
        (module.raw / name).write_bytes(head + bytes(7 if "labels" in name else 7 * 784))
    Path("data/MNIST/processed").mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save(hostile, f"data/MNIST/processed/{name}")
    monkeypatch.setattr("spl.data.mnist.check_files", lambda *args: None)
    train, test = module.load()
    assert (len(train), len(test)) == (7, 7)


LABELS = {
    "negative": torch.tensor([0, -1, 2]),
    "too few": torch.tensor([0, 1]),
    "none": torch.tensor([], dtype=torch.long),
    "fractions": torch.tensor([0.0, 1.0, 2.0]),
    "of two axes": torch.zeros(3, 1, dtype=torch.long),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_that_cannot_be_are_refused(labels):
    class Mine(ImageDataModule):
        mean, std = (0.5,), (0.5,)

        def load(self):
            split = ImageTensors(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), labels)
            return split, split

    with pytest.raises(InputError, match=r"3 images have labels .*: give each image one label, an int64 from 0"):
        Mine().setup()


@pytest.mark.parametrize("label", [3, 10**9, -1])
def test_a_label_beyond_the_outputs_is_one_line(label):
    with pytest.raises(IndexError) as caught:
        torch.nn.functional.cross_entropy(torch.zeros(1, 3), torch.tensor([label]))
    assert f"A label is not among the outputs of the network (Target {label} is out of bounds.)" in advice(caught.value)
