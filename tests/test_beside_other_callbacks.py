"""PruneAtInit together with other common callbacks."""

from functools import partial

import pytest
import pytorch_lightning as L
import torch
from fits import classifier, fit
from fits import pruning as few
from foreign import Plain, Trained, batches, images
from pytorch_lightning.callbacks import (
    DeviceStatsMonitor,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)
from pytorch_lightning.loggers import CSVLogger
from torch import nn

from spl import InputError, PruneAtInit, SparseClassifier
from spl.isometry import ApproximateIsometry

DATA = batches(images(24, side=6), 8)


class Small(Plain):
    def __init__(self):
        super().__init__(
            nn.Sequential(nn.Flatten(), nn.Linear(108, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 4))
        )

    def val_dataloader(self):
        return DATA


def revived(trained):
    return trained.masks.revived(dict(trained.module.named_parameters()))


def test_model_checkpoint_and_early_stopping(tmp_path):
    keep = ModelCheckpoint(tmp_path, monitor="val_loss", save_top_k=2, save_last=True)
    stop = EarlyStopping("val_loss", stopping_threshold=0.0, patience=1, min_delta=10.0)
    validated = {"limit_val_batches": 1.0, "enable_checkpointing": True, "num_sanity_val_steps": 2}
    trained = Trained(Small, DATA, epochs=5, callbacks=[keep, stop], trainer=validated)
    assert trained.trainer.current_epoch == 2
    files = sorted(tmp_path.glob("*.ckpt"))
    assert len(files) == 3
    for file in files:
        checkpoint = torch.load(file, weights_only=True)
        assert checkpoint["masks"].keys() == trained.masks.keys()
        assert trained.masks.revived(checkpoint["state_dict"]) == {}


class Swapped(L.Callback):
    """A callback that records the averaged weights that validation and checkpoints see."""

    def __init__(self, folder):
        self.folder = folder
        self.validated = 0
        self.pruning = None

    def on_validation_batch_end(self, trainer, pl_module, *_):
        if trainer.state.fn == "fit":
            (pruning,) = (c for c in trainer.callbacks if isinstance(c, PruneAtInit))
            assert pruning.masks.revived(dict(pl_module.named_parameters())) == {}
            self.validated += 1

    def on_train_batch_end(self, trainer, *_):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


@pytest.mark.parametrize("late", [None, 4], ids=["at once", "later"])
def test_averaged_weights_keep_exact_zeros(tmp_path, late):
    """Check sanity checks, validation and checkpoints, also before the first average is taken."""
    average = EMAWeightAveraging(decay=0.5, update_starting_at_step=late)
    watch = Swapped(tmp_path)
    validated = {"limit_val_batches": 1.0, "num_sanity_val_steps": 2}
    make = partial(Trained, Small, DATA, callbacks=[average, watch], trainer=validated)
    trained = make(epochs=2)
    assert watch.validated == 8
    assert revived(trained) == {}
    for step in range(1, 7):
        checkpoint = torch.load(tmp_path / f"{step}.ckpt", weights_only=True)
        for state in (checkpoint["state_dict"], checkpoint["current_model_state"]):
            assert trained.masks.revived(state) == {}
            assert all(bool(state[name][mask].any()) for name, mask in trained.masks.items())


def test_weights_that_are_averaged_late_are_validated_as_pruned_and_corrected(tmp_path):
    average = EMAWeightAveraging(update_starting_at_step=100)
    watch = Swapped(tmp_path)
    trained = Trained(Small, DATA, callbacks=[average, watch], isometry=ApproximateIsometry())
    first = torch.load(tmp_path / "1.ckpt", weights_only=True)["state_dict"]
    change = trained.pruning.changes["network.1.weight"]
    weight = first["network.1.weight"].double()
    gram = weight @ weight.T - change.gain**2 * torch.eye(16)
    assert float(gram.norm()) == pytest.approx(change.after.matrix, abs=1e-5)


def test_a_fit_with_averages_resumes_bit_for_bit(tmp_path):
    def run(epochs, resume=None):
        return Trained(Small, DATA, epochs, resume=resume, callbacks=[EMAWeightAveraging(decay=0.5)])

    class Save(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    whole = Trained(Small, DATA, 4, callbacks=[EMAWeightAveraging(decay=0.5), Save()])
    resumed = run(4, tmp_path / "half.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole.module.parameters(), resumed.module.parameters(), strict=True))
    assert revived(resumed) == {}


def test_a_checkpoint_of_weights_alone_has_zeros_and_no_masks(tmp_path):
    trained = Trained(Small, DATA)
    trained.trainer.save_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert trained.masks.revived(checkpoint["state_dict"]) == {}
    assert "masks" not in checkpoint


def test_stochastic_weight_averaging(tmp_path):
    average = StochasticWeightAveraging(0.01, swa_epoch_start=2, annealing_epochs=1)
    trained = Trained(Small, DATA, epochs=4, callbacks=[average])
    path = trained.saved(tmp_path / "x.ckpt")
    assert revived(trained) == {}
    assert int(average.n_averaged) == 3
    assert trained.masks.revived(torch.load(path, weights_only=True)["state_dict"]) == {}


def test_averages_of_a_sparse_classifier():
    average = EMAWeightAveraging(decay=0.5, update_starting_at_step=3)
    model = classifier()
    fit(model, [few(), average])
    assert isinstance(model, SparseClassifier)
    assert model.masks.revived(dict(model.network.named_parameters())) == {}


def test_the_search_for_a_learning_rate_changes_neither_masks_nor_weights(tmp_path):
    """Lightning runs the search first, on the dense network."""

    class Start(L.Callback):
        def on_train_start(self, trainer, pl_module):
            self.weights = {name: p.detach().clone() for name, p in pl_module.named_parameters()}

    finder, started, expected = LearningRateFinder(num_training_steps=30), Start(), Start()
    data = batches(images(96, side=6), 3)
    settings = {"default_root_dir": tmp_path}
    searched = Trained(Small, data, callbacks=[finder, started], trainer=settings)
    plain = Trained(Small, data, callbacks=[expected])
    assert searched.masks == plain.masks
    assert all(torch.equal(started.weights[name], weight) for name, weight in expected.weights.items())
    assert searched.module.lr == finder.optimal_lr.suggestion() != plain.module.lr
    assert revived(searched) == {}


def test_a_schedule_of_accumulation_and_device_statistics(tmp_path):
    callbacks = [GradientAccumulationScheduler({0: 1, 1: 3}), DeviceStatsMonitor(cpu_stats=False)]
    settings = {"logger": CSVLogger(tmp_path), "log_every_n_steps": 1}
    trained = Trained(Small, DATA, epochs=2, callbacks=callbacks, trainer=settings)
    assert trained.trainer.global_step == 4
    assert revived(trained) == {}
    assert (tmp_path / "lightning_logs" / "version_0" / "pruning.yaml").is_file()


def test_a_second_one_is_refused():
    class Another(PruneAtInit):
        state_key = "another"

    with pytest.raises(InputError, match="more than one PruneAtInit"):
        Trained(Small, DATA, callbacks=[Another()])


@pytest.mark.parametrize("order", [1, -1])
def test_the_pruning_of_lightning_is_refused_before_anything_is_pruned(order):
    module = Plain(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)))
    callbacks = [few(), ModelPruning("l1_unstructured", amount=0.5)][::order]
    with pytest.raises(InputError, match=r"both PruneAtInit and Lightning's ModelPruning, .* keep one of the two"):
        fit(module, callbacks)
    assert module.network[1].weight.all()
