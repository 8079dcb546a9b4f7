"""Parts of one's own: what they may leave out, what is refused and by which name, and where the command finds them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import SMALL, command
from forking import python
from torch import nn

from spl import InputError, Masks, prune, sparsify
from spl.cli import own_classes
from spl.cli.own_classes import find_in_current_folder
from spl.criteria import Criterion, Magnitude
from spl.data import ImageDataModule
from spl.isometry import Correction
from spl.pruning import select
from spl.pruning.patterns import Blocks, Groups

pytestmark = pytest.mark.filterwarnings("ignore:Layer collapse")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4))


# Criteria


def criterion(function):
    """Return a criterion that does nothing but score by a function of the weights, by name."""

    class Own(Criterion):
        def __call__(self, subject):
            return function(dict(subject.weights))

    return Own()


@pytest.mark.parametrize("score", [lambda w: (1e6 * w.abs()).long(), lambda w: w.abs() > 0.1, lambda w: 2 * w.abs()])
def test_scores_may_be_whole_numbers_truth_values_and_have_a_graph(score):
    weights = network()
    masks = prune(weights, criterion(lambda w: {n: score(v.clone().requires_grad_()) for n, v in w.items()}), 0.5)
    assert masks.kept == 72
    assert prune(weights, criterion(lambda w: {n: v.abs() for n, v in w.items()}), 0.5) == prune(
        weights, Magnitude(), 0.5
    )


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (lambda w: None, "Own returned NoneType for scores. Return a dictionary with one tensor for each name"),
        (lambda w: {}, r"do not fit: 0.weight \(missing\), 2.weight \(missing\)"),
        (lambda w: {n: v.sum(1) for n, v in w.items()}, r"0.weight \(torch.float32 \(12,\), weights \(12, 8\)\)"),
        (lambda w: w | {"0.bias": torch.ones(12)}, r"0.bias \(not asked for\)"),
        (lambda w: {n: v.tolist() for n, v in w.items()}, r"0.weight \(list, weights"),
        (lambda w: {n: v / 0 for n, v in w.items()}, "NaN or infinite|not finite"),
    ],
    ids=["None", "nothing", "shapes", "too many", "lists", "infinite"],
)
def test_scores_that_do_not_fit_are_refused_by_the_name_of_the_criterion(scores, message):
    model = network()
    with pytest.raises(InputError, match=message):
        prune(model, criterion(scores), 0.5)


def test_a_criterion_that_draws_without_a_seed_is_told_to_have_one():
    class Drawing(Criterion):
        def __call__(self, subject):
            torch.Generator().manual_seed(self.start)

    with pytest.raises(InputError, match=r"Drawing draws random numbers and has no seed: set self.seed = None"):
        prune(network(), Drawing(), 0.5)


# Corrections


class Doubled(Correction):
    def __init__(self, factor=2.0):  # without super().__init__()
        self.factor = factor

    def correct_(self, layers):
        for layer in layers:
            layer.weight.add_(self.factor)


def test_a_correction_of_one_method_leaves_pruned_weights_at_zero():
    model = network()
    sparse = sparsify(model, Magnitude(), 0.5, isometry=Doubled())
    assert sparse.masks.revived(dict(model.named_parameters())) == {}
    assert sparse.changes["0.weight"].gain == pytest.approx(1.0243, abs=1e-3)  # that of tanh
    assert (model[0].weight[sparse.masks["0.weight"]] > 0.5).all()


class Assigning(Correction):
    def correct_(self, layers):
        for layer in layers:
            layer.weight = 2 * layer.weight


class Dividing(Correction):
    def correct_(self, layers):
        for layer in layers:
            layer.weight.div_(0)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Assigning, r"Assigning.correct_ assigns to an attribute of a layer: change its tensors in place"),
        (Dividing, r"Dividing.correct_ made weights of 0.weight NaN or infinite"),
    ],
)
def test_what_a_correction_must_not_do_is_named(kind, message):
    with pytest.raises(InputError, match=message):
        sparsify(network(), Magnitude(), 0.5, isometry=kind())


# Patterns


class Tiles(Groups):
    def groups(self, shape):
        down, across = (torch.arange(side) // 4 for side in shape)
        return down[:, None] * (-(-shape[1] // 4)) + across


@pytest.mark.parametrize("shape", [(8, 12), (10, 7)])
def test_groups_are_the_same_as_blocks_of_the_same_weights(shape):
    scores = {"weight": torch.rand(shape, generator=torch.Generator().manual_seed(0))}
    assert select(scores, 0.6, pattern=Tiles()) == select(scores, 0.6, pattern=Blocks())
    assert Tiles().units(shape) == Blocks().units(shape)


def test_groups_under_a_schedule_and_a_minimum():
    from spl.criteria.schedules import Exponential

    masks = prune(network(), Magnitude(), 0.6, pattern=Tiles(), schedule=Exponential(3), minimum=4)
    blocks = prune(network(), Magnitude(), 0.6, pattern=Blocks(), schedule=Exponential(3), minimum=4)
    assert isinstance(masks, Masks)
    assert masks == blocks


@pytest.mark.parametrize(
    ("groups", "found"),
    [
        (lambda shape: None, "NoneType"),
        (lambda shape: torch.zeros(shape), "torch.float32"),
        (lambda shape: torch.arange(shape[0]), r"torch.int64 \(12,\)"),
        (lambda shape: torch.full(shape, 3), "without gaps"),
        (lambda shape: torch.full(shape, -1), "without gaps"),
    ],
)
def test_numbers_that_are_none_of_groups_are_refused(groups, found):
    class Own(Groups):
        def groups(self, shape):
            return groups(shape)

    with pytest.raises(InputError, match=f"Own.groups returned .*{found}"):
        prune(network(), Magnitude(), 0.5, pattern=Own())


# Data


def images(count=100, channels=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(200, (count, channels, 8, 8), dtype=torch.uint8, generator=generator), torch.arange(count) % 10


class Pairs(ImageDataModule):
    def load(self):
        return images(), images(20)


def test_a_data_module_of_one_method_normalizes_by_its_training_images():
    data = Pairs(batch_size=30)
    batch = next(iter(data.scoring_dataloader()))
    assert [len(split) for split in data.splits] == [90, 10, 20]
    normalized = data.normalize(data.train.images)
    torch.testing.assert_close(normalized.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalized.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    assert data.on_after_batch_transfer(batch, 0)[0].dtype == torch.float32


def test_images_that_are_all_alike_are_normalized_too():
    class Black(ImageDataModule):
        def load(self):
            return (torch.zeros(20, 1, 2, 2, dtype=torch.uint8), torch.arange(20)), images(5, 1)

    data = Black()
    data.setup()
    assert data.normalize(data.train.images).eq(0).all()


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (None, r"Own.load returned NoneType: return \(images, labels\) for training"),
        (images(), r"Own.load returned tuple"),
        (
            ((images()[0] / 255, images()[1]), images()),
            r"Images are torch.float32 \(100, 3, 8, 8\): give them as uint8",
        ),
        (((images()[0][0], images()[1]), images()), r"Images are torch.uint8 \(3, 8, 8\)"),
        ((images(), (images()[0], images()[1].float())), "labels .* of torch.float32"),
    ],
    ids=["nothing", "one pair", "floats", "one image", "labels"],
)
def test_what_is_no_data_is_refused(loaded, message):
    class Own(ImageDataModule):
        def load(self):
            return loaded

    with pytest.raises(InputError, match=message):
        Own().setup()
    with pytest.raises(InputError, match=r"ImageDataModule has no images: define load\(self\)"):
        ImageDataModule().setup()


# The current folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_classes, "_started_in", None)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part not in ("", str(tmp_path))])
    return tmp_path


NET = "from torch import nn\nclass Net(nn.Sequential):\n    def __init__(self, width: int = 9):\n"
NET += "        super().__init__(nn.Flatten(), nn.Linear(784, width), nn.Tanh(), nn.Linear(width, 10))\n"
QUICK = [*SMALL[:2], *SMALL[6:], "--trainer.max_epochs", 1, "--trainer.limit_train_batches", 3]
QUICK += ["--trainer.limit_val_batches", 1, "--trainer.limit_test_batches", 1]
RUN = Path("lightning_logs/quickstart/version_0")


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # a test has a folder of its own
def test_every_command_finds_a_class_in_the_current_folder(folder):
    (folder / "own.py").write_text(f"import beside\n{NET}")
    (folder / "beside.py").write_text("imported = True")
    ended = command("fit", *QUICK, "--model.network", "own.Net", "--model.network.width", 12)
    assert ended.code == 0, ended.errors
    assert sys.path[-1] == str(folder)
    last = RUN / "checkpoints/last.ckpt"
    for args in (
        ("test", "--config", RUN / "config.yaml", "--ckpt_path", last),
        ("summary", "--ckpt_path", last, "--trust", "own.Net", "--input_shape", "[1,28,28]"),
        ("export", "--ckpt_path", last, "--trust", "[own.Net]", "--to", "sparse", "--output", "kept.pt"),
        ("diagnose", "--config", RUN / "config.yaml"),
    ):
        sys.path.remove(str(folder))
        for name in ("own", "beside"):
            del sys.modules[name]
        ended = command(*args)
        assert ended.code == 0, (args, ended.errors)
        assert "own" in sys.modules


def test_a_class_is_found_by_processes_that_the_trainer_starts(folder):
    (folder / "own.py").write_text(NET)
    words = ["fit", *QUICK, "--model.network", "own.Net", "--trainer.strategy", "ddp", "--trainer.devices", 2]
    (folder / "start").mkdir()
    (folder / "start" / "run.py").write_text("import sys\nfrom spl.__main__ import main\nmain(sys.argv[1:])\n")
    done = subprocess.run([*python(), "start/run.py", *map(str, words)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (RUN / "checkpoints/last.ckpt").is_file()


def test_the_current_folder_shadows_nothing_and_is_searched_for_nothing_that_is_not_named(folder):
    (folder / "own.py").write_text(NET)
    assert command("fit", *QUICK, "--model.network", "own.Net").code == 0
    sys.path.remove(str(folder))
    for name in ("torch", "tabulate", "json", "omegaconf", "spl", "own"):  # omegaconf: asked for, and not installed
        (folder / f"{name}.py").write_text("from pathlib import Path\nPath('imported').touch()\n")
        sys.modules.pop("own", None)
    last = RUN / "checkpoints/last.ckpt"
    refused = command("summary", "--ckpt_path", last)
    assert refused.code == 2
    assert "own.Net" in refused.errors
    assert command("summary", "--ckpt_path", last, "--trust", "torch.nn.Tanh").code == 2
    assert command("fit", *QUICK, "--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", 0.1).code == 0
    assert str(folder) not in sys.path
    assert not (folder / "imported").exists()


@pytest.mark.parametrize("name", ["own.pt", "beside", "__main__.Net", "../own.Net", "os.path", ""])
def test_other_words_than_classes_of_the_current_folder_open_nothing(folder, name):
    (folder / "own.py").write_text("")
    (folder / "beside.py").write_text("")
    (folder / "own.pt").write_text("")  # a file
    for word in (name, f"nowhere.{name}", 300 * f"{name}."):
        find_in_current_folder(word)
        assert str(folder) not in sys.path


@pytest.mark.parametrize(
    ("flag", "base", "needs"),
    [
        ("--pruning.criterion", "spl.criteria import Criterion", r"__call__\(self, subject"),
        ("--pruning.isometry", "spl.isometry import Correction", r"correct_\(self, layers"),
        ("--pruning.pattern", "spl.pruning.patterns import Groups", r"groups\(self, shape"),
    ],
)
def test_a_class_that_lacks_its_method_is_told_which(folder, flag, base, needs):
    (folder / "own.py").write_text(f"from {base} as Base\nclass Own(Base):\n    pass\n")
    ended = command("fit", *SMALL[:2], *SMALL[8:], flag, "own.Own")
    assert ended.code == 2
    assert "own.Own lacks a method. Define " + needs.replace("\\", "") in ended.errors
