import gzip
import hashlib
import pickle
import struct
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from urllib.error import URLError

import pytest
import pytorch_lightning as L
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spl import SparseClassifier
from spl.data import CIFAR10, MNIST, FashionMNIST, ImageDataModule, MNISTSample
from spl.data.augment import cutout
from spl.data.files import check_files, download_missing
from spl.data.tensors import ImageTensors, TrainLoader, whole_batches
from spl.errors import InputError
from spl.networks import MLP


@pytest.fixture(scope="session")
def sample() -> MNISTSample:
    data = MNISTSample()
    data.setup()
    return data


def numbered(n: int) -> ImageTensors:
    """Return n examples whose labels are their indices."""
    return ImageTensors(torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, 2, 2), torch.arange(n))


def drawn(loader: Iterable) -> list[int]:
    """Return the indices that a loader of `numbered` draws, in order."""
    return [int(label) for _, labels in loader for label in labels]


def whole(loader: Iterable) -> tuple[Tensor, Tensor]:
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def trainer(**options) -> L.Trainer:
    return L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, **options)


# Whole batches


def test_a_whole_batch_is_its_examples_one_by_one(sample):
    indices = [4, 0, 17, 4]
    images, labels = sample.train.__getitems__(indices)
    one_by_one = [sample.train[i] for i in indices]
    assert torch.equal(images, torch.stack([image for image, _ in one_by_one]))
    assert torch.equal(labels, torch.stack([label for _, label in one_by_one]))
    assert images.dtype == torch.uint8


def test_whole_batches_go_through_the_data_in_its_order_to_the_last_example():
    batches = list(whole_batches(numbered(10), 4))
    assert [labels.tolist() for _, labels in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [images.shape for images, _ in batches] == [(4, 1, 2, 2), (4, 1, 2, 2), (2, 1, 2, 2)]
    assert all(torch.equal(images[:, 0, 0, 0].long(), labels) for images, labels in batches)


# The training order


def epoch_of(epoch: int, n: int = 50, batch_size: int = 8, seed: int = 0, rank: int = 0, world_size: int = 1):
    loader = TrainLoader(numbered(n), batch_size, seed, rank, world_size)
    loader.order.set_epoch(epoch)
    return loader


def test_an_epoch_draws_every_example_once():
    loader = epoch_of(0)
    assert len(loader) == 7
    assert [len(labels) for _, labels in loader] == [8] * 6 + [2]
    assert sorted(drawn(loader)) == list(range(50))
    assert drawn(loader) != list(range(50))


def test_seed_and_epoch_decide_the_order_and_the_global_stream_does_not():
    first = drawn(epoch_of(3, seed=7))
    torch.manual_seed(99)
    assert drawn(epoch_of(3, seed=7)) == first
    assert drawn(epoch_of(4, seed=7)) != first
    assert drawn(epoch_of(3, seed=8)) != first


@given(st.integers(1, 40), st.integers(1, 9), st.data())
def test_a_resumed_epoch_goes_on_where_it_was_and_the_next_one_is_whole(n, batch_size, data):
    uninterrupted = epoch_of(2, n, batch_size)
    batches = [labels.tolist() for _, labels in uninterrupted]
    uninterrupted.order.set_epoch(3)
    after = drawn(uninterrupted)

    interrupted = epoch_of(2, n, batch_size)
    done = data.draw(st.integers(0, len(batches)))
    iterator = iter(interrupted)
    for _ in range(done):
        next(iterator)
    state = interrupted.state_dict()
    if done:
        assert state == {"epoch": 2, "batches": done}

    resumed = epoch_of(2, n, batch_size)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert [labels.tolist() for _, labels in resumed] == batches[done:]
    assert resumed.state_dict() == {"epoch": 2, "batches": len(batches)}
    resumed.order.set_epoch(3)
    assert drawn(resumed) == after


def test_a_loader_that_was_resumed_twice_is_where_it_should_be():
    batches = [labels.tolist() for _, labels in epoch_of(0)]
    loader = epoch_of(0)
    loader.load_state_dict({"epoch": 0, "batches": 2})
    next(iter(loader))
    assert loader.state_dict() == {"epoch": 0, "batches": 3}
    again = epoch_of(0)
    again.load_state_dict(loader.state_dict())
    assert [labels.tolist() for _, labels in again] == batches[3:]


def test_a_position_in_another_epoch_is_not_taken_up():
    loader = epoch_of(5)
    loader.load_state_dict({"epoch": 4, "batches": 3})
    assert drawn(loader) == drawn(epoch_of(5))


def test_a_second_pass_over_an_epoch_is_whole():
    loader = epoch_of(1)
    loader.load_state_dict({"epoch": 1, "batches": 3})
    assert len(drawn(loader)) == 50 - 24
    assert drawn(loader) == drawn(epoch_of(1))


@pytest.mark.parametrize("world_size", [2, 5])
def test_ranks_share_an_epoch_without_overlap(world_size):
    shares = [drawn(epoch_of(1, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert {len(share) for share in shares} == {50 // world_size}
    assert sorted(i for share in shares for i in share) == list(range(50))
    assert [i for together in zip(*shares, strict=True) for i in together] == drawn(epoch_of(1))


def test_each_rank_resumes_its_own_share():
    share = [labels.tolist() for _, labels in epoch_of(1, rank=1, world_size=2)]
    loader = epoch_of(1, rank=1, world_size=2)
    loader.load_state_dict({"epoch": 1, "batches": 2})
    assert [labels.tolist() for _, labels in loader] == share[2:]


# MNISTSample


def test_mnist_sample_has_five_hundred_digits_of_each_class(sample):
    assert [len(split) for split in (sample.train, sample.val, sample.test)] == [4050, 450, 500]
    assert sample.test.labels.bincount().tolist() == [50] * 10
    assert (sample.train.labels.bincount() + sample.val.labels.bincount()).tolist() == [450] * 10
    assert sample.val.labels.bincount().min() > 20
    for split in (sample.train, sample.val, sample.test):
        assert split.images.shape == (len(split), 1, 28, 28)
        assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)


def test_splits_are_disjoint(sample):
    digests = [image.numpy().tobytes() for split in (sample.train, sample.val, sample.test) for image in split.images]
    assert len(set(digests)) == len(digests) == 5000


def test_digits_are_upright_and_light_on_black(sample):
    images = sample.train.images[:, 0].float()
    assert images.max() == 255
    assert images[:, 0].mean() < 1
    ones, zeros = (images[sample.train.labels == digit].mean(0) for digit in (1, 0))
    assert ones[14, 14] > 150 > 50 > zeros[14, 14]
    sevens = images[sample.train.labels == 7].mean(0)
    assert sevens[5:14, 6:22].mean() > 1.3 * sevens[14:23, 6:22].mean()


def test_normalized_images_have_mean_zero_and_variance_one(sample):
    pixels = sample.normalize(sample.train.images)
    assert pixels.dtype == torch.float32
    assert float(pixels.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(pixels.std()) == pytest.approx(1.0, abs=0.02)


def test_normalize_by_hand():
    images = torch.tensor([[0, 255], [51, 102]], dtype=torch.uint8).view(1, 1, 2, 2)
    expected = torch.tensor([[-0.1307, 0.8693], [0.0693, 0.2693]]).view(1, 1, 2, 2) / 0.3081
    torch.testing.assert_close(MNISTSample().normalize(images), expected)


def test_the_split_is_the_same_whatever_the_seed(sample):
    torch.manual_seed(12345)
    other = MNISTSample()
    other.setup()
    assert other.seed != sample.seed
    for name in ("train", "val", "test"):
        assert torch.equal(getattr(other, name).images, getattr(sample, name).images)
        assert torch.equal(getattr(other, name).labels, getattr(sample, name).labels)


def test_the_split_is_the_same_in_every_release(sample):
    digests = [
        hashlib.sha256(split.images.numpy().tobytes() + split.labels.numpy().tobytes()).hexdigest()[:16]
        for split in (sample.train, sample.val, sample.test)
    ]
    assert digests == ["52b0222dea1ad24d", "37d81b5e7b21a783", "8e1cda3a831dd8fa"]


def test_the_seed_decides_the_training_order_and_a_checkpoint_keeps_it():
    def order(seed: int, state: dict[str, int] | None = None) -> tuple[Tensor, dict[str, int]]:
        torch.manual_seed(seed)
        data = MNISTSample()
        data.setup()
        if state is not None:
            data.load_state_dict(state)
        return whole(data.train_dataloader())[1], data.state_dict()

    first, state = order(1)
    assert state == {"seed": 1}
    assert torch.equal(order(1)[0], first)
    assert not torch.equal(order(2)[0], first)
    assert torch.equal(order(2, state)[0], first)


def test_loaders_give_their_splits(sample):
    images, labels = whole(sample.val_dataloader())
    assert torch.equal(images, sample.val.images)
    assert torch.equal(labels, sample.val.labels)
    for loader in (sample.test_dataloader(), sample.predict_dataloader()):
        assert torch.equal(whole(loader)[0], sample.test.images)
    batches = list(sample.train_dataloader())
    assert [len(labels) for _, labels in batches] == [100] * 40 + [50]
    assert torch.equal(whole(batches)[1].bincount(), sample.train.labels.bincount())


def test_scoring_batches_hold_the_training_split_in_an_order_of_their_own(sample):
    state = torch.get_rng_state()
    images, labels = whole(sample.scoring_dataloader(seed=3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(77)
    assert torch.equal(whole(sample.scoring_dataloader(seed=3))[0], images)
    assert not torch.equal(whole(sample.scoring_dataloader(seed=4))[1], labels)
    assert images.double().sum() == sample.train.images.double().sum()
    assert torch.equal(labels.bincount(), sample.train.labels.bincount())
    assert len(next(iter(sample.scoring_dataloader()))[1]) == sample.batch_size


def test_loaders_read_the_data_by_themselves():
    assert len(MNISTSample(batch_size=450).val_dataloader()) == 3  # each has at most 200 images


def test_images_live_on_the_device_of_the_trainer(monkeypatch):
    data = MNISTSample()
    data.trainer = trainer()
    monkeypatch.setattr(type(data.trainer.strategy), "root_device", torch.device("meta"))
    data.setup("fit")
    splits = [data.train, data.val, data.test]
    assert {split.images.device.type for split in splits} == {split.labels.device.type for split in splits} == {"meta"}
    assert [len(split) for split in splits] == [4050, 450, 500]
    for images, labels in (next(iter(data.val_dataloader())), data.train.__getitems__([3, 1])):
        assert (images.device.type, images.dtype, labels.device.type) == ("meta", torch.uint8, "meta")


def test_batches_are_normalized_on_their_way_to_the_device(sample):
    images, labels = sample.train.__getitems__([0, 1])
    prepared, same = sample.on_after_batch_transfer((images, labels), 0)
    assert torch.equal(prepared, sample.normalize(images))
    assert torch.equal(same, labels)


@pytest.mark.parametrize("batch_size", [0, -1])
@pytest.mark.parametrize("data", [MNISTSample, MNIST, FashionMNIST, CIFAR10])
def test_a_batch_without_examples_is_an_error(data, batch_size):
    with pytest.raises(InputError, match=f"batch_size must be at least 1, got {batch_size}"):
        data(batch_size=batch_size)


# Augmentation


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """Shift the image pixel by pixel, filling with black."""
    result = torch.zeros_like(image)
    _, height, width = image.shape
    for i, j in product(range(height), range(width)):
        if 0 <= i - down < height and 0 <= j - right < width:
            result[:, i, j] = image[:, i - down, j - right]
    return result


def test_augmented_images_are_themselves_mirrored_and_shifted_every_way_equally_often():
    n = 4000
    image = torch.randint(1, 256, (3, 9, 11), dtype=torch.uint8)
    candidates = {
        shifted(mirrored, down, right).numpy().tobytes(): (flip, down, right)
        for flip, mirrored in enumerate((image, image.flip(-1)))
        for down, right in product(range(-4, 5), repeat=2)
    }
    assert len(candidates) == 2 * 81
    augmented = CIFAR10().augment(image.expand(n, 3, 9, 11), torch.Generator().manual_seed(0))
    assert augmented.shape == (n, 3, 9, 11)
    assert augmented.dtype == torch.uint8
    found = [candidates[one.numpy().tobytes()] for one in augmented]
    assert len(set(found)) == 162
    flips, downs, rights = torch.tensor(found).T
    assert float(flips.float().mean()) == pytest.approx(0.5, abs=0.03)
    for shifts in (downs, rights):
        shares = (shifts + 4).bincount(minlength=9) / n
        torch.testing.assert_close(shares, torch.full((9,), 1 / 9), atol=0.02, rtol=0)
    assert abs(float(torch.corrcoef(torch.stack([flips, downs, rights]).float()).triu(1).abs().max())) < 0.06


def test_a_reflected_border_continues_the_image_by_its_mirror_image():
    image = torch.randint(1, 256, (2, 6, 7), dtype=torch.uint8)
    continued = F.pad(image.float(), [4] * 4, mode="reflect").byte()
    candidates = {
        mirrored[:, down : down + 6, right : right + 7].numpy().tobytes()
        for mirrored in (continued, continued.flip(-1))
        for down, right in product(range(9), repeat=2)
    }
    augmented = CIFAR10(border="reflect").augment(image.expand(2000, 2, 6, 7), torch.Generator().manual_seed(0))
    assert {one.numpy().tobytes() for one in augmented} == candidates


def test_cutout_blanks_one_square_of_the_mean_colour_anywhere():
    data = CIFAR10(cutout=5)
    white = torch.full((3000, 3, 32, 32), 255, dtype=torch.uint8)
    blanked = cutout(white, 5, torch.tensor([1, 2, 3], dtype=torch.uint8), torch.Generator().manual_seed(0))
    assert blanked[:, :, :, :].amin((0, 2, 3)).tolist() == [1, 2, 3]
    blank = blanked[:, 0] == 1
    assert torch.equal(blank, blanked[:, 1] == 2)
    rows, columns = blank.any(2).sum(1), blank.any(1).sum(1)
    assert torch.equal(blank.sum((1, 2)), rows * columns)  # a rectangle
    assert sorted(set(rows.tolist())) == sorted(set(columns.tolist())) == [3, 4, 5]  # the border cuts it off
    assert float((rows == 5).float().mean()) == pytest.approx(28 / 32, abs=0.03)
    assert blank.float().mean(0)[4:-4, 4:-4].std() < 0.01  # all positions are equally frequent
    augmented = data.augment(white, torch.Generator().manual_seed(0))
    assert (augmented.permute(0, 2, 3, 1) == torch.tensor([125, 123, 114])).all(-1).any((1, 2)).all()
    assert float(data.normalize(torch.tensor([125, 123, 114]).view(1, 3, 1, 1)).abs().max()) < 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"border": "wrap"}, "border must be one of zero, reflect, got 'wrap'"),
        ({"cutout": -1}, r"cutout must lie in \[0, 32\], the side of a square in pixels, got -1"),
        ({"cutout": 33}, r"cutout must lie in \[0, 32\]"),
    ],
)
def test_an_augmentation_that_cannot_be_is_an_error(options, message):
    with pytest.raises(InputError, match=message):
        CIFAR10(**options)


def test_each_image_is_augmented_from_itself():
    images = torch.randint(1, 256, (12, 3, 8, 8), dtype=torch.uint8)
    augmented = CIFAR10().augment(images, torch.Generator().manual_seed(1))
    for before, after in zip(images, augmented, strict=True):
        assert any(
            torch.equal(after, shifted(mirrored, down, right))
            for mirrored in (before, before.flip(-1))
            for down, right in product(range(-4, 5), repeat=2)
        )


def test_augmentation_is_decided_by_its_generator():
    images = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8)
    data, state = CIFAR10(), torch.get_rng_state()
    first, again, other = (data.augment(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_only_training_batches_are_augmented_and_the_same_step_in_the_same_way():
    data = CIFAR10()
    data.trainer = trainer()
    images, labels = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8), torch.arange(20)
    data.trainer.validating = True
    assert torch.equal(data.on_after_batch_transfer((images, labels), 0)[0], data.normalize(images))
    data.trainer.training = True
    augmented, same = data.on_after_batch_transfer((images, labels), 0)
    assert torch.equal(same, labels)
    assert not torch.equal(augmented, data.normalize(images))
    assert torch.equal(data.on_after_batch_transfer((images, labels), 0)[0], augmented)
    data.trainer.fit_loop.epoch_loop.batch_progress.total.ready += 1
    assert not torch.equal(data.on_after_batch_transfer((images, labels), 0)[0], augmented)
    data.load_state_dict({"seed": 5})
    assert not torch.equal(data.on_after_batch_transfer((images, labels), 0)[0], augmented)


def test_each_rank_and_step_has_an_augmentation_of_its_own(monkeypatch):
    images, labels = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8), torch.arange(20)
    monkeypatch.setattr(L.Trainer, "world_size", 2)
    found = []
    for rank, step in product(range(2), range(3)):
        data = CIFAR10()
        data.trainer = trainer()
        data.trainer.training = True
        monkeypatch.setattr(L.Trainer, "global_rank", rank)
        data.trainer.fit_loop.epoch_loop.batch_progress.total.ready = step
        found.append(data.on_after_batch_transfer((images, labels), 0)[0].numpy().tobytes())
    assert len(set(found)) == 6


def test_mnist_is_not_augmented(sample):
    images = sample.train.images[:5]
    assert torch.equal(MNISTSample().augment(images, torch.Generator()), images)


# Files


def idx(values: Tensor) -> bytes:
    """Return the contents of an MNIST file: the magic number for uint8 and the dimensions, the sizes, the bytes."""
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.numpy().tobytes()


def tiny(folder: Path) -> type[MNIST]:
    """Return a data set of 20 + 10 images in files of MNIST's format."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = torch.arange(30, dtype=torch.uint8).view(30, 1, 1).expand(30, 28, 28).contiguous()
    labels = torch.arange(30, dtype=torch.uint8) % 10
    contents = {
        "train-images-idx3-ubyte": idx(images[:20]),
        "train-labels-idx1-ubyte": idx(labels[:20]),
        "t10k-images-idx3-ubyte": idx(images[20:]),
        "t10k-labels-idx1-ubyte": idx(labels[20:]),
    }
    assert contents.keys() == MNIST.md5.keys()
    for file, content in contents.items():
        (raw / file).write_bytes(content)

    class Tiny(MNIST):
        md5 = {file: hashlib.md5(content).hexdigest() for file, content in contents.items()}  # noqa: RUF012

    return Tiny


def test_mnist_files_are_read(tmp_path):
    data = tiny(tmp_path)(root=tmp_path)
    data.prepare_data()
    train, test = data.load()
    assert train.images.shape == (20, 1, 28, 28)
    assert train.images[:, 0, 3, 5].tolist() == list(range(20))
    assert test.images[:, 0, 27, 27].tolist() == list(range(20, 30))
    assert train.labels.tolist() == list(range(10)) * 2
    data.setup()
    assert [len(split) for split in (data.train, data.val, data.test)] == [18, 2, 10]


@pytest.mark.parametrize("damage", ["a byte", "the end"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, damage):
    data = tiny(tmp_path)(root=tmp_path)
    path = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    if damage == "a byte":
        content[100] ^= 1
    else:
        del content[-1]
    path.write_bytes(content)
    with pytest.raises(
        InputError,
        match=rf"{path} is truncated or damaged: {len(content)} bytes with MD5 \w{{32}}, "
        rf"expected {data.md5[path.name]}\. Delete it",
    ):
        data.load()


@pytest.mark.parametrize(
    ("data", "folder"), [(MNIST, "MNIST/raw"), (FashionMNIST, "FashionMNIST/raw"), (CIFAR10, "cifar-10-batches-py")]
)
def test_missing_files_are_an_error_that_says_where_they_are_wanted(tmp_path, data, folder):
    module = data(root=tmp_path, download=False)
    module.prepare_data()
    with pytest.raises(InputError, match=rf"{data.__name__} is not in {tmp_path / folder}: .*, .* missing"):
        module.setup()
    first = next(iter(module.md5))
    (tmp_path / folder).mkdir(parents=True)
    for file in module.md5:
        if file != first:
            (tmp_path / folder / file).touch()
    with pytest.raises(InputError, match=rf"{folder}: {first} missing.*--data\.download true, or .*--data MNISTSample"):
        module.setup()


def test_no_pickle_is_read_before_its_bytes_are_checked(tmp_path):
    data = CIFAR10(root=tmp_path, download=False)
    trace = tmp_path / "executed"

    class Payload:
        def __reduce__(self):
            return (Path.touch, (trace,))

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for file in data.md5:
        (folder / file).write_bytes(pickle.dumps(Payload()))
    assert len(data.md5) == 7
    with pytest.raises(InputError, match="truncated or damaged"):
        data.load()
    assert not trace.exists()


def test_files_that_are_whole_pass(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    check_files("Data", tmp_path, {"file": hashlib.md5(b"abc").hexdigest()})


@pytest.mark.parametrize("present", [[], ["a"], ["a", "b"]])
def test_a_download_runs_where_a_file_is_missing(tmp_path, present):
    downloads = []
    for file in present:
        (tmp_path / file).touch()
    download_missing("Data", tmp_path, {"a": "", "b": ""}, lambda: downloads.append(1))
    assert len(downloads) == (0 if present == ["a", "b"] else 1)


@pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("no route"), gzip.BadGzipFile("no route")])
def test_a_download_that_fails_is_an_error_that_says_what_to_do(tmp_path, error):
    def download():
        raise error

    with pytest.raises(
        InputError,
        match=rf"Data is not in {tmp_path} and could not be downloaded \(.*no route.*\)\. Put the files a, b there, or "
        r"point --data\.root at .* or use --data MNISTSample",
    ):
        download_missing("Data", tmp_path, {"a": "", "b": ""}, download)


@pytest.mark.parametrize("data", [MNIST, FashionMNIST, CIFAR10])
def test_a_data_set_that_cannot_be_downloaded_says_so(tmp_path, monkeypatch, data):
    asked = []

    def refuse(request, **_):
        asked.append(request.full_url)
        raise URLError("no route")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    module = data(root=tmp_path)
    with pytest.raises(InputError, match=f"{data.__name__} is not in .*could not be downloaded"):
        module.prepare_data()
    assert asked


# The full data sets


@pytest.fixture(scope="module", params=[MNIST, FashionMNIST, CIFAR10], ids=lambda data: data.__name__)
def full(request, spl_data) -> ImageDataModule:
    data = request.param(root=spl_data, download=False)
    data.prepare_data()
    data.setup()
    return data


def test_full_data_sets_are_split_as_in_the_paper(full):
    colour = isinstance(full, CIFAR10)
    sizes = [45_000, 5_000, 10_000] if colour else [54_000, 6_000, 10_000]
    splits = (full.train, full.val, full.test)
    assert [len(split) for split in splits] == sizes
    for split in splits:
        assert split.images.shape[1:] == ((3, 32, 32) if colour else (1, 28, 28))
        assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
        assert (int(split.labels.min()), int(split.labels.max())) == (0, 9)
    tests = full.test.labels.bincount().tolist()
    assert tests == ([980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009] if type(full) is MNIST else [1000] * 10)


def test_full_data_sets_are_normalized_per_channel(full):
    images = torch.cat([full.train.images[::4], full.val.images[::4]])
    pixels = full.normalize(images)
    channels = pixels.transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.zeros(len(channels)), atol=0.02, rtol=0)
    torch.testing.assert_close(channels.std(1), torch.ones(len(channels)), atol=0.02, rtol=0)


def test_a_flipped_bit_in_a_real_file_is_found(spl_data, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in MNIST.md5:
        (raw / file).symlink_to(spl_data / "MNIST" / "raw" / file)
    damaged = raw / "t10k-labels-idx1-ubyte"
    content = bytearray(damaged.read_bytes())
    content[5000] ^= 1
    damaged.unlink()
    damaged.write_bytes(content)
    with pytest.raises(InputError, match="t10k-labels-idx1-ubyte is truncated or damaged"):
        MNIST(root=tmp_path).load()


def test_overfit_batches_trains_on_the_same_first_batches_in_every_epoch():
    seen = []

    class Recorded(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(batch[1])

    data = MNISTSample(batch_size=20)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = L.Trainer(overfit_batches=2, max_epochs=2, callbacks=[Recorded()], enable_model_summary=False, **quiet)
    trainer.fit(SparseClassifier(MLP(depth=2, width=5)), datamodule=data)
    assert torch.equal(torch.cat(seen[:2]), data.train.labels[:40])
    assert torch.equal(torch.cat(seen[2:]), data.train.labels[:40])
