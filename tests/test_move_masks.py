"""MoveMasks: SET, RigL and GMP in fits of any LightningModule, on several processes, and on the command line."""

import json
from functools import partial

import pytest
import pytorch_lightning as L
import torch
import torch.nn.functional as F
import yaml
from commands import SMALL, command
from fits import PLAIN, ZerosStay, classifier, fit, pruning
from foreign import Plain, batches, images
from forking import python
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_ddp import HERE, report, run
from torch import nn

from spl import InputError, JacobianSpectrum, MaskedWeights, MoveMasks, PruneAtInit
from spl.callbacks import StageListener
from spl.criteria import Random
from spl.networks import MLP
from spl.pruning.patterns import NM
from spl.pruning.scopes import ERK
from spl.reproduction.job import _can_be_stacked
from spl.updates import GMP, SET, RigL

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=0.01)
DATA = batches(images(24, side=4), 4)


class Small(Plain):
    """A module as users write it, with any optimizer."""

    def __init__(self, optimizer=SGD):
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 4)))
        self.optimizer = optimizer

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


class Counts(L.Callback):
    """A callback that asserts after each batch that each layer keeps as many weights as before, all others being 0."""

    def on_train_batch_end(self, trainer, pl_module, *_):
        held = MaskedWeights.of(pl_module)
        assert held.masks.revived(held.parameters) == {}
        assert held.masks.layer_sparsity() == held.mover.first.layer_sparsity()


def random_pruning(**choices):
    return PruneAtInit(**({"sparsity": 0.8, "criterion": Random(), "scope": ERK(), "isometry": None} | choices))


def trained(module, update, epochs=4, resume=None, callbacks=(), data=DATA, **trainer):
    """Fit a module with masks that move."""
    settings = PLAIN | {"limit_train_batches": 1.0, "max_epochs": epochs} | trainer
    moving = MoveMasks(update)
    L.seed_everything(0, verbose=False)
    L.Trainer(**settings, callbacks=[random_pruning(), moving, *callbacks]).fit(module, data, ckpt_path=resume)
    return moving


# Any module, any precision


@pytest.mark.parametrize("update", [SET(every=3), RigL(every=3)], ids=["SET", "RigL"])
def test_counts_hold_and_zeros_hold_in_a_module_that_knows_nothing(update):
    moving = trained(Small(), update, callbacks=[Counts()]).moving
    assert (moving.step, moving.steps) == (24, 24)
    assert moving.updates == (7 if isinstance(update, SET) else 6)
    assert 0 < moving.overlap() < 1
    assert moving.held.mover is None  # after the fit


class AveragesStay(L.Callback):
    """A callback that asserts in validation, where averages stand for the weights, that pruned weights are 0."""

    def __init__(self):
        self.validated = 0

    def on_validation_batch_start(self, trainer, pl_module, *_):
        held = MaskedWeights.of(pl_module)
        assert held.masks.revived(dict(pl_module.named_parameters())) == {}
        self.validated += 1


@pytest.mark.parametrize("is_first", [True, False])
def test_averages_of_weights_lose_what_is_dropped(is_first, tmp_path):
    average, watch = L.callbacks.EMAWeightAveraging(decay=0.5), AveragesStay()
    others = [average, watch] if is_first else [watch, average]
    module, validated = Small(), {"limit_val_batches": 1.0}
    settings = PLAIN | {"limit_train_batches": 1.0, "max_epochs": 4} | validated
    callbacks = [random_pruning(), MoveMasks(RigL(every=3))]
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(**settings, callbacks=[*others, *callbacks] if is_first else [*callbacks, *others])
    trainer.fit(module, DATA, DATA)
    assert watch.validated > 0
    trainer.save_checkpoint(tmp_path / "averaged.ckpt")
    saved = torch.load(tmp_path / "averaged.ckpt", weights_only=True)
    assert all(not saved["state_dict"][name][~mask].any() for name, mask in saved["masks"].items())


def test_gmp_ends_at_its_sparsity():
    moving = trained(Small(), GMP(0.95, every=3)).moving
    assert (moving.held.masks.kept, moving.overlap()) == (round(0.05 * 832), 1.0)
    assert moving.first.kept == round(0.2 * 832)


def test_a_boring_model():
    model, data = BoringModel(), BoringModel().train_dataloader()
    moving = trained(model, RigL(every=4), epochs=1, data=data, callbacks=[Counts()]).moving
    assert moving.updates == 12
    assert int(model.layer.weight.count_nonzero()) == 13


CONDITIONS = {
    "bf16": ({}, {"precision": "bf16-mixed"}),
    "bf16 weights": ({}, {"precision": "bf16-true"}),
    "accumulation": ({}, {"accumulate_grad_batches": 2}),
    "clipping": ({}, {"gradient_clip_val": 0.1}),
    "compile": ({"compile": True}, {}),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_counts_and_zeros_hold_with(name, monkeypatch):
    from functools import partialmethod

    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    options, trainer = CONDITIONS[name]
    moving = MoveMasks(RigL(every=2, until=1.0))
    fit(classifier(**options), [pruning(), moving, ZerosStay(), Counts()], limit_train_batches=12, **trainer)
    assert moving.moving.step == moving.moving.steps == (6 if name == "accumulation" else 12)
    assert moving.moving.updates == (2 if name == "accumulation" else 5)
    assert moving.moving.active.kept > moving.moving.first.kept


class Sees(RigL):
    """An update that notes the gradients of pruned weights."""

    def masks(self, now):
        self.dense = sum(int((g[~now.masks[name]] != 0).sum()) for name, g in now.gradients.items())
        self.largest = max(float(g.abs().max()) for g in now.gradients.values())
        return super().masks(now)


class Manual(Small):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        for part in (slice(0, 2), slice(2, 4)):
            self.manual_backward(F.cross_entropy(self(batch[0][part]), batch[1][part]) / 2)
        optimizer.step()


def test_manual_optimization_moves_the_masks_that_automatic_optimization_does():
    updates = [Sees(every=3), Sees(every=3)]
    automatic, manual = (
        trained(make(), update, callbacks=[Counts()]).moving
        for make, update in zip((Small, Manual), updates, strict=True)
    )
    assert manual.updates == automatic.updates == 6
    assert updates[1].dense > 0
    assert manual.active.kept > manual.first.kept


def test_the_update_sees_gradients_before_they_are_clipped():
    update = Sees(every=3)
    trained(Small(), update, gradient_clip_val=1e-4)
    assert update.largest > 1e-3
    assert update.dense > 0


def test_an_update_waits_for_a_step_that_the_scaler_does_not_skip():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14, growth_interval=1)  # every second step
    update = Sees(every=2, until=1.0)
    moving = trained(Small(), update, callbacks=[Counts()], plugins=[MixedPrecision("16-mixed", "cpu", scaler)]).moving
    assert 8 < moving.step < 20
    assert moving.updates == (moving.step - 1) // 2
    assert update.largest < 1e3


class TwoOptimizers(Manual):
    def training_step(self, batch, batch_idx):
        F.cross_entropy(self(batch[0]), batch[1]).backward()
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self):
        return SGD(self.network[1].parameters()), ADAM(self.network[3].parameters())


def test_masks_that_two_optimizers_train_are_refused():
    with pytest.raises(InputError, match="SGD and another optimizer, Adam, both train weights with masks"):
        trained(TwoOptimizers(), SET(every=2))


def test_a_second_optimizer_of_dense_weights_is_no_obstacle():
    callbacks = [random_pruning(exclude=["network.3.*"]), MoveMasks(update := Sees(every=2)), Counts()]
    settings = PLAIN | {"limit_train_batches": 1.0, "max_epochs": 2}
    L.Trainer(**settings, callbacks=callbacks).fit(TwoOptimizers(), DATA)
    assert callbacks[1].moving.updates == 4
    assert update.dense > 0


# Checkpoints


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["SGD", "Adam"])
@pytest.mark.parametrize("update", [SET(every=3), RigL(every=2), GMP(0.95, every=3)], ids=["SET", "RigL", "GMP"])
def test_a_fit_that_is_resumed_is_the_one_that_was_not_interrupted(update, optimizer, tmp_path):
    class Save(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")

    one_batch = batches(images(4, side=4), 4)  # so that each step ends an epoch
    torch.manual_seed(1)
    whole = Small(optimizer)
    moving = trained(whole, update, epochs=12, data=one_batch, callbacks=[Save()]).moving
    checkpoint = torch.load(tmp_path / "7.ckpt", weights_only=True)
    assert checkpoint["callbacks"]["MoveMasks"]["step"] == 7
    torch.manual_seed(2)
    resumed = Small(optimizer)
    again = trained(resumed, update, 12, tmp_path / "7.ckpt", data=one_batch).moving
    assert again.held.masks == moving.held.masks
    assert again.active == moving.active
    assert again.first == moving.first
    assert again.seed == moving.seed
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.")
def test_masks_that_have_moved_are_accepted_and_another_sparsity_is_refused(tmp_path):
    def run(sparsity, epochs, callbacks, resume=None):
        settings = PLAIN | {"limit_train_batches": 1.0, "max_epochs": epochs}
        trainer = L.Trainer(**settings, callbacks=[random_pruning(sparsity=sparsity), *callbacks])
        trainer.fit(Small(), DATA, ckpt_path=resume)
        return trainer

    path = tmp_path / "moved.ckpt"
    run(0.8, 2, [MoveMasks(GMP(0.95, every=3))]).save_checkpoint(path)
    run(0.8, 3, [MoveMasks(GMP(0.95, every=3))], path)
    with pytest.raises(InputError, match=r"pruned already, to sparsity 0.8\d*, but 0.7 is asked for"):
        run(0.7, 3, [MoveMasks(GMP(0.95, every=3))], path)
    with pytest.raises(InputError, match=r"pruned already, to sparsity 0.9495\d*, but 0.8 is asked for"):
        run(0.8, 3, [], path)


# What is refused


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy, "deepspeed"])
def test_strategies_that_shard_are_refused_by_name(strategy, monkeypatch):
    trainer = L.Trainer(**PLAIN)
    kind = DeepSpeedStrategy if strategy == "deepspeed" else strategy
    trainer.strategy.__class__ = type(
        kind.__name__, (type(trainer.strategy),), {"restore_checkpoint_after_setup": True}
    )
    with pytest.raises(InputError, match=f"MoveMasks does not support {kind.__name__}, which shards the weights"):
        MoveMasks(SET()).setup(trainer, Small(), "fit")


def test_other_patterns_are_refused_by_name():
    module = Small()
    callbacks = [random_pruning(sparsity=0.5, scope=ERK(), pattern=NM(2, 4)), MoveMasks(RigL())]
    with pytest.raises(InputError, match=r"RigL moves single weights.* the pattern NM: use pattern Unstructured"):
        L.Trainer(**PLAIN, callbacks=callbacks).fit(module, DATA)


def test_what_else_is_refused():
    def fitted(*callbacks, **trainer):
        L.Trainer(**(PLAIN | trainer), callbacks=list(callbacks)).fit(Small(), DATA)

    with pytest.raises(InputError, match="found no masks to move: add the callback PruneAtInit"):
        fitted(MoveMasks(SET()))
    with pytest.raises(InputError, match=r"must know how many steps the fit takes.* max_steps"):
        fitted(random_pruning(), MoveMasks(SET()), max_epochs=-1)
    with pytest.raises(InputError, match=r"have sparsity 0.8\d* already, and GMP prunes to 0.5"):
        fitted(random_pruning(), MoveMasks(GMP(0.5)))
    with pytest.warns(UserWarning, match="will not move: the fit takes 6 steps, and SET moves them every 100 steps"):
        fitted(random_pruning(), MoveMasks(SET()))


def test_a_callback_without_an_update_does_nothing():
    moving = trained(Small(), None)
    assert (moving.moving, moving.first, moving.state_dict()) == (None, None, {})


# Logs


def test_what_is_logged(tmp_path):
    class Listens(StageListener):
        steps: list[int] = []  # noqa: RUF012

        def on_masks_moved(self, trainer, pl_module):
            self.steps.append(trainer.global_step)

    moving = MoveMasks(SET(every=2))
    spectrum, logger = JacobianSpectrum(examples=5, every_n_epochs=None), TensorBoardLogger(tmp_path, name=None)
    callbacks = [pruning(), moving, spectrum, Listens()]
    fit(classifier(MLP(depth=3, width=20)), callbacks, logger=logger, limit_train_batches=8, log_every_n_steps=1)
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    steps = [3, 5, 7]
    assert Listens.steps == steps
    values = {}
    for name in ("sparsity", "effective_sparsity", "ever_active", "overlap", "moved"):
        logged = events.Scalars(f"masks/{name}")
        assert [event.step for event in logged] == steps, name
        values[name] = [event.value for event in logged]
    assert values["sparsity"] == pytest.approx([0.9] * 3, abs=1e-3)
    assert min(values["effective_sparsity"]) >= 0.899
    assert values["ever_active"] == sorted(values["ever_active"])
    assert values["ever_active"][-1] == pytest.approx(moving.moving.active.kept / moving.moving.active.size)
    assert values["overlap"][-1] == pytest.approx(moving.moving.overlap())
    assert values["moved"][-1] == moving.moving.moved > 100
    assert [event.step for event in events.Scalars("jacobian/train/mean")] == steps
    assert [event.step for event in events.Images("masks/fc1")] == [0, 3, 5]  # of the first and the second update


def test_an_effective_sparsity_that_cannot_be_found_is_left_out(tmp_path):
    class Pair(Small):
        def forward(self, x, y=None):
            return super().forward(x) if y is None else 0 / 0

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1])

        example_input_array = None

    class Odd(Pair):
        def forward(self, x):
            if len(x) != 4:
                raise ValueError("it takes four")
            return self.network(x)

    logger = TensorBoardLogger(tmp_path, name=None)
    trained(Odd(), SET(every=2), epochs=1, logger=logger)
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert "masks/overlap" in events.Tags()["scalars"]
    assert "masks/effective_sparsity" not in events.Tags()["scalars"]


# Processes


@pytest.mark.slow
def test_two_processes_move_the_masks_of_one(tmp_path):
    done = run([*python(), str(HERE / "ddp_moving.py"), str(tmp_path)], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    one, first, second = (report(tmp_path, name) for name in ("1-0", "2-0", "2-1"))
    assert one == first == second
    assert [found["updates"] for found in one.values()] == [3, 3, 3]


# The command


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # a test has its own folder
def test_the_command_moves_masks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["--trainer.limit_train_batches", 8, "--trainer.max_epochs", 1, "--trainer.limit_val_batches", 1]
    move = ["--moving.update", "RigL", "--moving.update.every", 2]
    ended = command("fit", *SMALL, *few, *move, "--test_after_fit", "false")
    assert (ended.code, ended.errors) == (0, "")
    folder = tmp_path / "lightning_logs" / "quickstart" / "version_0"
    config = yaml.safe_load((folder / "config.yaml").read_text())["moving"]
    assert config["update"]["class_path"] == "spl.updates.RigL"
    assert config["update"]["init_args"]["every"] == 2
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["callbacks"]["MoveMasks"]["updates"] == 3
    more = ["--ckpt_path", folder / "checkpoints" / "last.ckpt", "--trainer.limit_test_batches", 1]
    assert command("test", "--config", folder / "config.yaml", *more).code == 0


def test_without_an_update_the_command_has_no_such_callback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["--trainer.limit_train_batches", 1, "--trainer.max_epochs", 1, "--trainer.limit_val_batches", 1]
    assert command("fit", *SMALL, *few, "--test_after_fit", "false").code == 0
    path = tmp_path / "lightning_logs" / "quickstart" / "version_0" / "checkpoints" / "last.ckpt"
    assert "MoveMasks" not in torch.load(path, weights_only=True)["callbacks"]


def test_runs_with_masks_that_move_are_not_stacked():
    from spl.reproduction.artefacts import ARTEFACTS
    from spl.reproduction.budgets import BUDGETS

    run = next(run for name in ARTEFACTS for run in ARTEFACTS[name].runs(BUDGETS["short"]) if _can_be_stacked(run))
    config = json.loads(json.dumps(run.config))
    changed = type(run)(**(vars(run) | {"config": config | {"moving": {"update": {"class_path": "spl.updates.SET"}}}}))
    assert not _can_be_stacked(changed)
