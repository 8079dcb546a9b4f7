"""A fit that is stopped and resumed equals the uninterrupted fit bit for bit."""

import math
import os
import shutil
import signal

import pytest
import pytorch_lightning as L
import torch
from fits import PLAIN, ZerosStay, classifier, fit, pruning
from pytorch_lightning.loggers import TensorBoardLogger

from spl import InputError
from spl.callbacks import LastCheckpoint, SafeInterrupt, Summary
from spl.data import MNISTSample
from spl.isometry import ApproximateIsometry

EPOCHS = {"max_epochs": 4, "limit_train_batches": 41}


def schedule(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.5)


def half(folder):
    """Train the first two of four epochs."""
    trainer = fit(classifier(lr_scheduler=schedule), [pruning()], **(EPOCHS | {"max_epochs": 2}))
    trainer.save_checkpoint(folder / "last.ckpt")


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.fixture(scope="module")
def uninterrupted():
    model = classifier(lr_scheduler=schedule)
    trainer = fit(model, [pruning()], **EPOCHS)
    return model, trainer


def test_two_epochs_and_two_are_four(uninterrupted, tmp_path):
    half(tmp_path)
    second = classifier(lr_scheduler=schedule)
    check = ZerosStay()
    fit(second, [pruning(), check], ckpt_path=tmp_path / "last.ckpt", **EPOCHS)
    assert check.steps == 2 * 41
    assert same(second, uninterrupted[0])
    assert second.masks.digest() == uninterrupted[0].masks.digest()


def test_a_checkpoint_in_the_middle_of_an_epoch_goes_on_there(uninterrupted, tmp_path):
    class Save(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 57:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    fit(classifier(lr_scheduler=schedule), [pruning(), Save()], **(EPOCHS | {"max_epochs": 2}))
    resumed = classifier(lr_scheduler=schedule)
    trainer = fit(resumed, [pruning()], ckpt_path=tmp_path / "middle.ckpt", **EPOCHS)
    assert trainer.global_step == uninterrupted[1].global_step
    assert same(resumed, uninterrupted[0])


@pytest.mark.parametrize("ends", [{"max_epochs": 4}, {"max_epochs": -1, "max_steps": 164}], ids=["epochs", "steps"])
@pytest.mark.parametrize("accumulated", [1, 3])
def test_a_fit_that_is_killed_goes_on_from_its_last_checkpoint(tmp_path, ends, accumulated):
    """The checkpoint is the one that existed at the 30th batch of the third epoch."""

    class Copy(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.current_epoch == 2 and batch_idx == 29:
                shutil.copy(tmp_path / "checkpoints" / "last.ckpt", tmp_path / "copy.ckpt")

    settings = {"limit_train_batches": 41, "enable_checkpointing": True, "default_root_dir": tmp_path, **ends}
    settings["accumulate_grad_batches"] = accumulated
    if "max_steps" in ends:
        settings["max_steps"] = 4 * math.ceil(41 / accumulated)
    whole, resumed = classifier(lr_scheduler=schedule), classifier(lr_scheduler=schedule)
    fit(whole, [pruning(), LastCheckpoint(), Copy()], **settings)
    assert torch.load(tmp_path / "copy.ckpt", weights_only=True)["global_step"] == 2 * math.ceil(41 / accumulated) + 1
    settings["default_root_dir"] = tmp_path / "resumed"
    fit(resumed, [pruning()], ckpt_path=tmp_path / "copy.ckpt", **settings)
    assert same(resumed, whole)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if "last" in path.name] == ["last.ckpt"]


def test_the_last_checkpoint_is_written_after_the_first_step_of_every_epoch_but_the_first(tmp_path):
    written = []

    class Watch(L.Callback):
        def on_train_epoch_end(self, trainer, *_):
            file = tmp_path / "checkpoints" / "last.ckpt"
            written.append(torch.load(file, weights_only=True)["global_step"] if file.exists() else None)

    callbacks = [pruning(), LastCheckpoint(), Watch()]
    fit(
        classifier(),
        callbacks,
        enable_checkpointing=True,
        default_root_dir=tmp_path,
        max_epochs=3,
        limit_train_batches=2,
    )
    assert written == [None, 3, 5]


def test_the_seed_of_the_first_run_decides_the_order_of_the_resumed_one(uninterrupted, tmp_path):
    half(tmp_path)
    resumed = classifier(lr_scheduler=schedule)
    L.seed_everything(99, verbose=False)
    fit(resumed, [pruning()], ckpt_path=tmp_path / "last.ckpt", **EPOCHS)
    assert same(resumed, uninterrupted[0])


def test_the_correction_runs_once(tmp_path):
    class Counted(ApproximateIsometry):
        calls = 0

        def __call__(self, network, masks):
            Counted.calls += 1
            return super().__call__(network, masks)

    callback = pruning(isometry=Counted(max_iterations=5))
    fit(classifier(), [callback]).save_checkpoint(tmp_path / "x.ckpt")
    again = pruning(isometry=Counted(max_iterations=5))
    fit(classifier(), [again], ckpt_path=tmp_path / "x.ckpt", max_epochs=2)
    assert Counted.calls == 1
    assert again.changes == callback.changes != {}
    assert again.record == callback.record


def test_a_checkpoint_without_masks_is_refused(tmp_path):
    fit(classifier(), []).save_checkpoint(tmp_path / "dense.ckpt")
    with pytest.raises(InputError, match=r"dense\.ckpt holds no masks.*--model\.pretrained"):
        fit(classifier(), [pruning()], ckpt_path=tmp_path / "dense.ckpt", max_epochs=2)


def test_a_checkpoint_of_another_sparsity_is_refused(tmp_path):
    fit(classifier(), [pruning()]).save_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(InputError, match=r"pruned already, to sparsity 0\.9, but 0\.8 is asked for"):
        fit(classifier(), [pruning(sparsity=0.8)], ckpt_path=tmp_path / "x.ckpt", max_epochs=2)


class PressAt(L.Callback):
    """A callback that sends a signal in the first backward pass of a step."""

    def __init__(self, step, number):
        self.step = step
        self.number = number

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)
            self.step = None


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["Ctrl-C", "SIGTERM", "closed terminal"]
)
def test_an_interrupted_fit_leaves_a_checkpoint_that_resumes(tmp_path, capsys, number, accumulated):
    settings = EPOCHS | {"accumulate_grad_batches": accumulated}
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    callbacks = [pruning(), SafeInterrupt(), PressAt(50, number)]
    try:
        with pytest.raises(BaseException) as stopped:  # noqa: PT011 (SystemExit or Lightning's SIGTERMException)
            fit(classifier(lr_scheduler=schedule), callbacks, logger=TensorBoardLogger(tmp_path, "", "run"), **settings)
    finally:
        for n, handler in handlers.items():
            signal.signal(n, handler)
    assert type(stopped.value).__name__ in ("SystemExit", "SIGTERMException")
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert f"--ckpt_path {path}" in capsys.readouterr().out
    assert torch.load(path, weights_only=True)["global_step"] == 51
    resumed, whole = classifier(lr_scheduler=schedule), classifier(lr_scheduler=schedule)
    fit(resumed, [pruning()], ckpt_path=path, **settings)
    fit(whole, [pruning()], **settings)
    assert same(resumed, whole)


def test_an_augmented_run_resumes_bit_for_bit(tmp_path):
    class Noisy(MNISTSample):
        def augment(self, images, generator):
            flips = torch.rand(len(images), generator=generator, device=images.device) < 0.5
            return torch.where(flips[:, None, None, None], images.flip(-1), images)

    def run(epochs, ckpt_path=None):
        model = classifier()
        trainer = L.Trainer(**(PLAIN | {"callbacks": [pruning()], "max_epochs": epochs}))
        trainer.fit(model, datamodule=Noisy(), ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return model

    whole = run(3)
    run(2)
    assert same(run(3, tmp_path / "2.ckpt"), whole)


def test_the_table_of_a_resumed_run_still_knows_the_correction(tmp_path, capsys):
    fit(classifier(), [pruning(isometry=ApproximateIsometry())]).save_checkpoint(tmp_path / "x.ckpt")
    fit(classifier(), [pruning(isometry=ApproximateIsometry()), Summary()], ckpt_path=tmp_path / "x.ckpt", max_epochs=2)
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("fc1.weight"))
    assert len(row) == 11


def test_an_error_in_a_fit_gives_the_signal_handlers_back():
    class Failing(L.Callback):
        def on_train_batch_start(self, *_):
            raise RuntimeError("broken")

    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(RuntimeError, match="broken"):
        fit(classifier(), [SafeInterrupt(), Failing()])
    assert {n: signal.getsignal(n) for n in handlers} == handlers
