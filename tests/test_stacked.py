"""Stacked training trains every network as its own `spl fit` does."""

import signal
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
import pytorch_lightning as L
import torch
import torch.nn.functional as F
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.func import vmap
from torch.utils._python_dispatch import TorchDispatchMode

from spl import InputError, SparseClassifier
from spl.__main__ import main
from spl.data import MNISTSample
from spl.reproduction.stacked import prepare, train
from spl.reproduction.stacked.data import StackedData
from spl.reproduction.stacked.linear import RoundAsSingle
from spl.reproduction.stacked.stacked_classifier import StackedClassifier

QUICK = ["--config", str(Path(__file__).parent.parent / "configs" / "quickstart.yaml")]
QUICK += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--spectrum.examples", "5"]
QUICK += ["--pruning.batches", "4", "--pruning.isometry.max_iterations", "3", "--trainer.limit_val_batches", "2"]
PLAINLY = ["--pruning.isometry", "null", "--spectrum.examples", "1", "--trainer.limit_val_batches", "1"]
STEPS = ["--trainer.max_epochs", "-1", "--trainer.max_steps"]
SMALL = [
    *QUICK,
    "--model.network.depth",
    "3",
    "--model.network.width",
    "20",
    *STEPS,
    "60",
    "--spectrum.every_n_epochs",
    "1",
]
RUNS = {
    "sensitivity, corrected": ["--spectrum.every_n_epochs", "2"],
    "dense": ["--pruning.sparsity", "0", "--seed_everything", "3"],
    "magnitude": [
        "--pruning.criterion",
        "Magnitude",
        "--pruning.isometry",
        "null",
        "--pruning.include_bias",
        "true",
        "--test_after_fit",
        "false",
    ],
    "random": ["--pruning.criterion", "Random", "--pruning.sparsity", "0.5", "--seed_everything", "1"],
}


def scalars(folder):
    """Return every scalar of a run as (step, value) by tag."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def weights(folder, which="last"):
    return torch.load(folder / "checkpoints" / f"{which}.ckpt", weights_only=True)["state_dict"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Return an empty folder for the runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return a small prepared run that is not trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("base"))
        return prepare(SMALL)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Return the folders of four runs, trained stacked and each by itself."""
    folder = tmp_path_factory.mktemp("stacked")
    announced = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        common = [*QUICK, "--model.network.depth", "4", "--model.network.width", "50", *STEPS, "100"]
        runs = [prepare([*common, *args], announced.append) for args in RUNS.values()]
        train(runs, folder / "stack.ckpt")
        for args in RUNS.values():
            main(["fit", *common, *args, "--name", "single"])
    assert announced == [run.folder for run in runs]
    assert not (folder / "stack.ckpt").exists()
    singles = [folder / "lightning_logs" / "single" / f"version_{i}" for i in range(len(runs))]
    return dict(zip(RUNS, zip([folder / m.folder for m in runs], singles, strict=True), strict=True))


class Operators(TorchDispatchMode):
    """A mode that records how many operators have been called when each training step begins."""

    def __init__(self, monkeypatch, kind):
        super().__init__()
        self.called, self.begun = 0, []
        step = kind.training_step

        def noting(model, batch, batch_idx):
            self.begun.append(self.called)
            return step(model, batch, batch_idx)

        monkeypatch.setattr(kind, "training_step", noting)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.called += 1
        return function(*args, **(kwargs or {}))

    @property
    def a_step(self):
        return median(after - before for before, after in pairwise(self.begun))


def test_a_step_of_many_calls_at_most_twice_the_operators_of_one(here, monkeypatch):
    steps = [*QUICK, *STEPS, "8", "--trainer.val_check_interval", "4", *PLAINLY]  # counting takes time
    with Operators(monkeypatch, SparseClassifier) as single:
        main(["fit", *steps, "--test_after_fit", "false"])
    runs = [prepare([*steps, "--seed_everything", str(i % 3)]) for i in range(6)]
    calls = []
    for size in (3, 6):
        with Operators(monkeypatch, StackedClassifier) as together:
            train(runs[:size], here / "stack.ckpt")
        calls.append(together.a_step)
    assert len(single.begun) == len(together.begun) == 8
    assert calls[0] == calls[1] <= 2 * single.a_step


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_weights_after_100_steps_are_those_of_the_single_run(both, name):
    stacked, single = both[name]
    for which in ("last", "best"):
        own, wanted = weights(stacked, which), weights(single, which)
        assert own.keys() == wanted.keys()
        assert all((own[key] - wanted[key]).abs().max() <= 1e-5 for key in own), which
        steps = [torch.load(run / "checkpoints" / f"{which}.ckpt")["global_step"] for run in (stacked, single)]
        assert steps[0] == steps[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_what_is_logged_is_what_the_single_run_logs(both, name):
    own, wanted = (scalars(folder) for folder in both[name])
    assert own.keys() == wanted.keys()
    assert ("accuracy/test" in own) == (name != "magnitude")
    assert [step for step, _ in own["loss/train"]] == list(range(9, 100, 10))
    for tag in wanted:
        assert [step for step, _ in own[tag]] == [step for step, _ in wanted[tag]], tag
        assert [v for _, v in own[tag]] == pytest.approx([v for _, v in wanted[tag]], rel=1e-5, abs=1e-6), tag


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_masks_are_those_of_the_single_run_and_pruned_weights_exactly_zero(both, name):
    stacked, single = (SparseClassifier.load_from_checkpoint(f / "checkpoints" / "last.ckpt") for f in both[name])
    best = SparseClassifier.load_from_checkpoint(both[name][0] / "checkpoints" / "best.ckpt")
    assert stacked.masks == single.masks == best.masks
    for model in (stacked, best):
        assert model.masks.revived(dict(model.network.named_parameters())) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_the_folder_has_the_files_of_the_single_run(both, name):
    def files(folder):
        return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and "tfevents" not in p.name}

    stacked, single = both[name]
    assert files(stacked) == files(single)
    config, wanted = (yaml.safe_load((folder / "config.yaml").read_text()) for folder in (stacked, single))
    assert config | {"name": "single"} == wanted
    assert (stacked / "pruning.yaml").read_text() == (single / "pruning.yaml").read_text()


def test_a_single_run_trains_too_and_its_checkpoint_starts_another_run(here):
    run = prepare(SMALL)
    before = {name: weight.clone() for name, weight in run.model.state_dict().items()}
    train([run], here / "x.ckpt")
    assert not same(before, weights(run.folder))
    again = prepare(
        [*SMALL, "--model.pretrained", str(run.folder / "checkpoints" / "best.ckpt"), "--pruning.sparsity", "0"]
    )
    assert same(dict(again.model.state_dict()), weights(run.folder, "best"))


def test_prepare_makes_no_step_and_keeps_the_settings(base):
    assert base.trainer.global_step == 0
    assert (base.trainer.max_steps, base.trainer.limit_train_batches) == (60, 1.0)
    assert base.model.masks.sparsity == pytest.approx(0.9, abs=1e-3)


def test_prepared_runs_of_one_data_set_hold_its_images_once(here, base):
    other = prepare([*SMALL, "--seed_everything", "5"])
    assert other.data.train is base.data.train
    assert other.data.test is base.data.test


@pytest.mark.parametrize("shape", [(4,), (4, 3)], ids=["rows", "rows of rows"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shared", [True, False], ids=["one input", "an input each"])
def test_fused_products_are_those_of_each_network(shape, bias, shared):
    weights, biases = torch.randn(3, 2, 5, requires_grad=True), torch.randn(3, 2, requires_grad=True)
    inputs = torch.randn(*(() if shared else (3,)), *shape, 5, requires_grad=True)
    own = [(inputs if shared else inputs[i], weights[i], biases[i] if bias else None) for i in range(3)]
    alone = torch.stack([F.linear(*arguments) for arguments in own])
    with RoundAsSingle():
        together = vmap(F.linear, (None if shared else 0, 0, 0 if bias else None))(
            inputs, weights, biases if bias else None
        )
    torch.testing.assert_close(together, alone)
    leaves = [inputs, weights, biases] if bias else [inputs, weights]
    wanted = torch.autograd.grad(alone.square().sum(), leaves)
    torch.testing.assert_close(torch.autograd.grad(together.square().sum(), leaves), wanted)


class Noisy(MNISTSample):
    """MNISTSample with augmented images."""

    def augment(self, images, generator):
        return images ^ torch.randint(256, images.shape, generator=generator, dtype=torch.uint8)


class Look(L.Callback):
    """A callback that keeps the batches."""

    def __init__(self):
        self.batches = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append(batch)


def looked_at(model, data):
    """Return the batches of two epochs."""
    look = Look()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
    trainer = L.Trainer(max_epochs=2, accelerator="cpu", callbacks=[look], enable_model_summary=False, **quiet)
    trainer.fit(model, datamodule=data)
    return look.batches


def test_each_network_is_given_the_batches_of_its_own_run_augmented_alike(here):
    seeds = (0, 7, 0)
    noisy = ["--data", f"{__name__}.Noisy"]
    runs = [prepare([*SMALL, *noisy, "--seed_everything", str(seed)]) for seed in seeds]
    together = looked_at(StackedClassifier(runs), StackedData(runs))
    assert len(together) == 2 * 41
    assert together[40][0].shape == (3, 50, 1, 28, 28)  # 4,050 digits in batches of 100: the last one of an epoch
    for seed in set(seeds):
        L.seed_everything(seed, verbose=False)
        alone = looked_at(SparseClassifier(nn.Sequential(nn.Flatten(), nn.Linear(784, 10))), Noisy())
        for i in (i for i, own in enumerate(seeds) if own == seed):
            for (inputs, labels), (images, wanted) in zip(together, alone, strict=True):
                assert torch.equal(inputs[i], images)
                assert torch.equal(labels[i], wanted)


def interrupt_at(monkeypatch, step):
    """Press Ctrl-C in the middle of a step."""
    stock = StackedClassifier.training_step

    def pressed(self, batch, batch_idx):
        if self.global_step == step:
            signal.raise_signal(signal.SIGINT)
        return stock(self, batch, batch_idx)

    monkeypatch.setattr(StackedClassifier, "training_step", pressed)


def two(*args):
    return [prepare([*SMALL, *args]), prepare([*SMALL, "--seed_everything", "1", "--pruning.sparsity", "0.8", *args])]


def test_interrupted_runs_are_resumed_bit_for_bit(here, monkeypatch):
    whole = two()
    train(whole, here / "whole.ckpt")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 50)
        with pytest.raises(KeyboardInterrupt):
            train(two(), here / "x.ckpt")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert torch.load(here / "x.ckpt", weights_only=True)["global_step"] == 42
    resumed = two()
    with monkeypatch.context() as patch:
        interrupt_at(patch, 41)  # a step that was done and is not repeated
        train(resumed, here / "x.ckpt")
    assert not (here / "x.ckpt").exists()
    for a, b in zip(whole, resumed, strict=True):
        for which in ("last", "best"):
            assert same(weights(a.folder, which), weights(b.folder, which))
        assert scalars(a.folder) == scalars(b.folder)


def test_the_checkpoint_of_other_runs_is_not_resumed(here, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 43)
        with pytest.raises(KeyboardInterrupt):
            train([prepare(SMALL)], here / "x.ckpt")
    other = prepare([*SMALL, "--pruning.criterion", "Random"])
    steps = []
    stock = StackedClassifier.training_step
    monkeypatch.setattr(
        StackedClassifier, "training_step", lambda self, *batch: steps.append(self.global_step) or stock(self, *batch)
    )
    train([other], here / "x.ckpt")
    assert steps == list(range(60))


@pytest.mark.filterwarnings("ignore:The optimizer moves weights")  # a NaN looks like that
def test_a_network_that_diverges_leaves_the_others_alone(here):
    healthy, sick = two(), two()
    sick[0].model.network.fc1.weight.data.mul_(torch.nan)
    train(healthy, here / "a.ckpt")
    train(sick, here / "b.ckpt")
    assert weights(sick[0].folder)["network.fc1.weight"].isnan().any()
    model = SparseClassifier.load_from_checkpoint(sick[0].folder / "checkpoints" / "last.ckpt")
    assert model.masks.revived(dict(model.network.named_parameters())) == {}
    for which in ("last", "best"):
        assert same(weights(healthy[1].folder, which), weights(sick[1].folder, which))
    assert scalars(healthy[1].folder) == scalars(sick[1].folder)


# Refusals


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.network.width", "30"], r"differ in the network \(MLP"),
        (["--model.network.activation", "relu"], r"differ in the network \(MLP"),
        (
            ["--trainer.max_steps", "50"],
            r"differ in trainer\.max_steps \(50 and 60\): stack only runs that agree in this",
        ),
        (
            ["--data.batch_size", "50"],
            r"the data \(MNISTSample {'batch_size': 50} and MNISTSample {'batch_size': 100}\)",
        ),
        (["--model.lr_scheduler.init_args.gamma", "0.5"], r"differ in the schedule \(MultiStepLR"),
        (["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.2"], r"differ in the optimizer \(SGD"),
    ],
)
def test_runs_that_differ_are_refused(here, base, args, message):
    with pytest.raises(InputError, match=message):
        train([base, prepare([*SMALL, *args])], here / "x.ckpt")


def test_runs_of_other_data_are_refused(here, base):
    runs = [base, prepare(SMALL)]
    images = base.data.train
    runs[1].data.train = type(images)(images.images + 1, images.labels)
    with pytest.raises(InputError, match="they differ in the images they train on: stack only"):
        train(runs, here / "x.ckpt")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--trainer.gradient_clip_val", "1"], r"version_0 cannot be stacked: it clips gradients\. Train"),
        (["--trainer.precision", "bf16-mixed"], r"its precision is bf16-mixed, not 32-true"),
        (["--trainer.accumulate_grad_batches", "2"], r"it accumulates gradients"),
        (["--model.compile", "true"], r"its network is compiled"),
        (["--trainer.callbacks", "[LearningRateMonitor]"], "it has the callback LearningRateMonitor"),
        (["--checkpoint.monitor", "loss/val"], "it has the callback ModelCheckpoint"),
        (
            ["--model.optimizer", "torch.optim.Adafactor"],
            r"Adafactor is not known to update each weight from",
        ),
    ],
)
def test_a_run_that_would_not_train_alike_is_refused(here, args, message):
    with pytest.raises(InputError, match=message):
        train([prepare([*SMALL, *args])], here / "x.ckpt")


@pytest.mark.parametrize("module", [nn.BatchNorm1d(10), nn.Dropout(0.1)], ids=["BatchNorm", "Dropout"])
def test_networks_with_state_or_chance_are_refused(here, module):
    run = prepare(SMALL)
    run.model.network.append(module)
    with pytest.raises(InputError, match=rf"has buffers or randomness in 5 \({type(module).__name__}\)\. Train it by"):
        train([run], here / "x.ckpt")


def test_no_runs_are_refused(tmp_path):
    with pytest.raises(InputError, match="Stacked training needs at least one run, got none"):
        train([], tmp_path / "x.ckpt")


def test_a_run_without_a_folder_is_refused(here):
    with pytest.raises(InputError, match=r"needs a folder of its own: leave trainer\.logger out"):
        prepare([*SMALL, "--trainer.logger", "false"])
