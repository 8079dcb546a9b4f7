"""PruneAtInit: it prunes once, before training, exactly, and records what it did."""

import os
import pickle
from dataclasses import replace
from multiprocessing.context import set_spawning_popen
from multiprocessing.popen_spawn_posix import _DupFd
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as L
import torch
import yaml
from fits import PLAIN, ZerosStay, classifier, fit, pruning
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import FSDPStrategy, SingleDeviceStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from spl import InputError, JacobianSpectrum, PruneAtInit, prune
from spl.callbacks import Diagnose, StageListener
from spl.callbacks.reporting.record import described
from spl.callbacks.scoring.batches import EvaluationBatches
from spl.callbacks.scoring.sharded_weights import before_sharding
from spl.criteria import ConnectionSensitivity, Criterion, Magnitude, Random
from spl.criteria.schedules import Exponential, Linear
from spl.data import MNISTSample
from spl.initializers import Gaussian
from spl.isometry import EOI, ApproximateIsometry
from spl.networks import MLP
from spl.pruning import prunable_parameters
from spl.pruning.patterns import NM, Blocks, Channels, Unstructured
from spl.pruning.scopes import GivenDensities, SmartRatio


class Stages(StageListener):
    """A callback that keeps a copy of the weights at every stage."""

    def __init__(self):
        self.weights = {}

    def on_stage(self, trainer, pl_module, stage):
        assert trainer.global_step == 0
        self.weights[stage] = {n: p.detach().clone() for n, p in pl_module.network.named_parameters()}


def test_masks_are_those_of_the_pure_function_on_the_whole_training_split():
    model = classifier()
    data = MNISTSample()
    data.setup()
    batches = [(data.normalize(x), y) for x, y in data.scoring_dataloader(0)]
    expected = prune(model.network, ConnectionSensitivity(), 0.9, batches)
    callback = pruning(batches=None)
    fit(model, [callback])
    assert model.masks.digest() == expected.digest()
    assert (callback.record["batches"], callback.record["examples"]) == (41, 4050)


def test_sparsity_is_exact_and_stages_come_in_order():
    model, stages = classifier(), Stages()
    fit(model, [stages, pruning(isometry=ApproximateIsometry())])
    assert list(stages.weights) == ["dense", "pruned", "corrected"]
    m = sum(p.numel() for p in prunable_parameters(model.network).values())
    assert model.masks.kept == round(m * 0.1)
    for name, mask in model.masks.items():
        dense, pruned, corrected = (stages.weights[s][name] for s in ("dense", "pruned", "corrected"))
        assert torch.equal(pruned, dense * mask)
        assert bool((corrected[~mask] == 0).all())
        assert not torch.equal(corrected, pruned)
        assert torch.equal(stages.weights["corrected"][name.replace("weight", "bias")], torch.zeros(len(mask)))


def test_the_order_of_callbacks_does_not_matter():
    first, last = Stages(), Stages()
    a, b = classifier(), classifier()
    fit(a, [first, pruning()])
    fit(b, [pruning(), last])
    assert a.masks.digest() == b.masks.digest()
    assert list(first.weights) == list(last.weights) == ["dense", "pruned"]


def test_scoring_leaves_the_training_stream_alone():
    """The dropout of the first steps is the same as without scoring."""

    def network():
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 50), nn.Dropout(0.5), nn.Linear(50, 10))

    trained = []
    for batches in (1, 40):
        model = classifier(network(), initializer=None)
        torch.manual_seed(11)
        fit(model, [pruning(sparsity=0.0, batches=batches)])
        trained.append(model.network[1].weight)
    assert torch.equal(*trained)


def test_an_augmenting_data_module_is_scored_as_in_validation():
    seen = []

    class Asks(MNISTSample):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            seen.append(self.trainer.training)
            return super().on_after_batch_transfer(batch, dataloader_idx)

    trainer = L.Trainer(**(PLAIN | {"callbacks": [pruning(batches=3)], "limit_train_batches": 2}))
    trainer.fit(classifier(), datamodule=Asks())
    assert seen == [False] * 4 + [True, True]  # one batch shows what the loss depends on, and three are scored


def test_any_data_module_with_a_train_dataloader_will_do():
    class Plain(L.LightningDataModule):
        def train_dataloader(self):
            x = torch.randn(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
            return DataLoader(TensorDataset(x, torch.arange(64) % 10), batch_size=16, shuffle=True)

    digests = []
    for _ in range(2):
        model = classifier()
        L.Trainer(**(PLAIN | {"callbacks": [pruning(batches=2)]})).fit(model, datamodule=Plain())
        digests.append(model.masks.digest())
    assert digests[0] == digests[1]


def test_batches_that_are_no_pairs_are_refused():
    class Odd(L.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(torch.randn(8, 784), batch_size=4)

    with pytest.raises(InputError, match=r"batches of \(inputs, labels\), got Tensor from Odd"):
        L.Trainer(**(PLAIN | {"callbacks": [pruning()]})).fit(classifier(), datamodule=Odd())


def test_scoring_on_another_data_set_transfers_its_sparsity():
    class Inverted(MNISTSample):
        def normalize(self, images):
            return super().normalize(255 - images)

    own, other, direct = classifier(), classifier(), classifier()
    fit(own, [pruning()])
    callback = pruning(scoring_data=Inverted())
    fit(other, [callback])
    L.Trainer(**(PLAIN | {"callbacks": [pruning()]})).fit(direct, datamodule=Inverted())
    assert other.masks.digest() == direct.masks.digest() != own.masks.digest()
    assert callback.record["data"] == "Inverted"


def test_the_seed_decides_which_batches_are_drawn():
    digests = {}
    for seed in (0, 0, 1):
        model = classifier()
        fit(model, [pruning(batches=1, seed=seed)])
        digests.setdefault(seed, set()).add(model.masks.digest())
    assert len(digests[0]) == len(digests[1]) == 1
    assert digests[0] != digests[1]


def test_evaluation_batches_count_what_they_gave():
    trainer = L.Trainer(**PLAIN)
    data = MNISTSample()
    data.setup()
    batches = EvaluationBatches(trainer, data, limit=3, seed=0)
    assert len(batches) == 3
    assert [len(x) for x, _ in batches] == [100] * 3
    assert (batches.batches, batches.examples) == (3, 300)


def test_what_decided_the_masks_is_written_beside_the_run(tmp_path):
    model = classifier()
    logger = TensorBoardLogger(tmp_path, name="run")
    trainer = fit(model, [pruning(exclude=["fc3.*"])], logger=logger)
    record = yaml.safe_load((tmp_path / "run" / "version_0" / "pruning.yaml").read_text())
    assert record["masks_sha256"] == model.masks.digest()
    expected = {"criterion": "ConnectionSensitivity", "sparsity": 0.9, "batches": 4, "examples": 400, "seed": 0}
    expected |= {"batch_norm": "eval", "targets": "labels", "exclude": ["fc3.*"]}
    expected |= {"criterion_args": {}, "scope": "Global", "scope_args": {}, "pattern": "Unstructured", "minimum": 0}
    expected |= {"pattern_args": {}, "schedule": "OneShot", "schedule_args": {"rounds": 1}}
    assert expected.items() <= record.items()
    assert set(record["collapse_sparsity"]) == {"fc1.weight", "fc2.weight"}
    assert all(0.9 < sparsity <= 1 for sparsity in record["collapse_sparsity"].values())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    states = torch.load(tmp_path / "x.ckpt", weights_only=True)["callbacks"]
    assert states["PruneAtInit"]["record"] == record


class Control(Criterion):
    """A criterion that wraps another, in three rounds that each read the data twice."""

    needs_data = True
    passes = 2
    schedule = Exponential(3)

    def __init__(self, inner, note=(1, "two")):
        self.inner = inner
        self.note = note
        self._reads = 0

    def __call__(self, subject):
        assert [len(x) for _ in range(2) for x, _ in subject.batches] == [100] * 8
        self._reads += 2
        return self.inner(subject)


def test_a_choice_without_attributes_is_recorded_as_text():
    control = Control(Magnitude(), note=[Path("a") / "b", torch.float32])
    assert described("criterion", control)["criterion_args"]["note"] == ["a/b", "torch.float32"]


def test_every_choice_is_recorded_and_rounds_read_the_same_batches_again(tmp_path):
    model, control = classifier(), Control(Magnitude())
    callback = pruning(criterion=control, scope=SmartRatio(), pattern=Blocks(2, 4), minimum=3)
    trainer = fit(model, [callback], logger=TensorBoardLogger(tmp_path, name="run"))
    record = yaml.safe_load((tmp_path / "run" / "version_0" / "pruning.yaml").read_text())
    expected = {"criterion": "Control", "scope": "SmartRatio", "scope_args": {"last": 0.3}, "pattern": "Blocks"}
    expected |= {"pattern_args": {"rows": 2, "columns": 4}, "schedule": "Exponential", "schedule_args": {"rounds": 3}}
    expected |= {"criterion_args": {"inner": {"class": "Magnitude", "class_args": {}}, "note": [1, "two"]}}
    expected |= {"minimum": 3, "batches": 4, "examples": 400, "collapse_sparsity": dict.fromkeys(model.masks, 1.0)}
    assert expected.items() <= record.items()
    assert control._reads == 6
    assert record["kept"] == model.masks.kept <= 1628
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    resumed = pruning(pattern=Blocks(2, 4))
    fit(classifier(), [resumed], ckpt_path=tmp_path / "x.ckpt", max_epochs=2)
    assert resumed.record == record


def test_a_schedule_is_taken_instead_of_the_criterions_own():
    rounds, model = [], classifier()

    class Watched(Magnitude):
        def __call__(self, subject):
            rounds.append(subject.keep)
            return super().__call__(subject)

    fit(model, [pruning(criterion=Watched(), schedule=Linear(2))])
    assert rounds == [round(16280 * 0.55), 1628]


@pytest.mark.parametrize("criterion", [Magnitude(), Random()], ids=["magnitude", "random"])
def test_criteria_without_data_need_none(criterion):
    model = classifier()
    x = TensorDataset(torch.randn(20, 784), torch.arange(20) % 10)
    trainer = L.Trainer(**(PLAIN | {"callbacks": [pruning(criterion=criterion)]}))
    trainer.fit(model, train_dataloaders=DataLoader(x, batch_size=10))
    assert model.masks.kept == 1628


@pytest.mark.parametrize("of_module", [False, True])
def test_without_a_data_module_the_training_dataloader_is_scored(of_module):
    """The loader of fit or of the module is not scored in training order, and its generator is unchanged."""
    examples = TensorDataset(torch.randn(40, 784), torch.arange(40) % 10)
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(examples, batch_size=10, shuffle=True, generator=generator)
    model, callback, seen = classifier(), pruning(batches=None), []
    model.train_dataloader = lambda: loader

    class Seen(StageListener):
        def on_stage(self, trainer, pl_module, stage):
            seen.append(generator.get_state())

    trainer = L.Trainer(**(PLAIN | {"callbacks": [callback, Seen()]}))
    expected = prune(model.network, ConnectionSensitivity(), 0.9, [examples[:40]])
    trainer.fit(model, None if of_module else loader)
    assert torch.equal(seen[0], seen[1])
    assert model.masks == callback.masks == expected
    assert (callback.record["data"], callback.record["examples"]) == ("training dataloader", 40)


# Refusals, all before training


def test_the_record_certifies_the_correction_of_every_layer(tmp_path):
    callback = pruning(isometry=ApproximateIsometry(tolerance=0.0))
    fit(classifier(), [callback], logger=TensorBoardLogger(tmp_path))
    record = yaml.safe_load((tmp_path / "lightning_logs/version_0/pruning.yaml").read_text())
    assert record["isometry"] == "ApproximateIsometry"
    assert record["isometry_args"]["gain"] == "mean_field"
    assert list(record["certificate"]) == ["fc1.weight", "fc2.weight", "fc3.weight"]
    for layer in record["certificate"].values():
        assert layer["floor"] <= layer["residual"] <= layer["floor"] + 1e-3 < layer["before"]
        assert 0 < layer["rank"] <= 20


def test_a_correction_may_draw_other_masks_of_the_same_size(tmp_path):
    model, check = classifier(), ZerosStay()
    fit(model, [pruning(isometry=EOI()), check]).save_checkpoint(tmp_path / "x.ckpt")
    assert check.steps == 6
    scored = prune(classifier().network, Magnitude(), 0.9)
    drawn = classifier()
    fit(drawn, [pruning(criterion=Magnitude(), isometry=EOI())], max_steps=1)
    assert drawn.masks != scored
    assert drawn.masks.layer_sparsity() == scored.layer_sparsity()
    resumed = classifier()
    fit(resumed, [pruning(isometry=EOI())], ckpt_path=tmp_path / "x.ckpt", max_epochs=2)
    assert resumed.masks == model.masks
    expected = classifier()
    fit(expected, [pruning(isometry=EOI())], max_epochs=2)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), expected.parameters(), strict=True))


def test_a_correction_that_draws_its_own_masks_is_refused_beside_a_pattern():
    refused(
        "EOI draws masks of its own, which do not have the pattern NM: use pattern: Unstructured",
        [pruning(sparsity=0.5, pattern=NM(), isometry=EOI())],
    )


def refused(match, callbacks=None, model=None, **options):
    with pytest.raises(InputError, match=match):
        fit(model or classifier(), callbacks or [pruning()], **options)


@pytest.mark.parametrize("sparsity", [1.0, -0.1, 90, float("nan")])
def test_a_sparsity_out_of_range_is_refused_at_once(sparsity):
    with pytest.raises(InputError, match=r"sparsity must lie in \[0, 1\)"):
        PruneAtInit(sparsity)


def test_a_number_of_batches_below_one_is_refused_at_once():
    with pytest.raises(InputError, match="null for the whole training split"):
        PruneAtInit(batches=0)


def test_a_network_without_prunable_weights_is_refused():
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784))
    refused("needs trainable Linear or convolutional layers", model=classifier(network))


def test_a_pattern_that_matches_nothing_is_refused():
    refused(r"'fc9\.\*' matches none of the parameters fc1\.weight", [pruning(exclude=["fc9.*"])])


def test_scores_that_are_not_finite_name_the_layer():
    refused(
        r"fc\d\.weight: \d+ of \d+ saliency scores are NaN or infinite",
        model=classifier(MLP(depth=3, width=20, activation="linear"), initializer=Gaussian(1e30)),
    )


class DeepSpeedStrategy(SingleDeviceStrategy):
    """A stand-in for Lightning's strategy, which needs deepspeed."""

    restore_checkpoint_after_setup = True


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (
            DeepSpeedStrategy(),
            r"does not support DeepSpeedStrategy, .* auto, ddp or .* ModelParallelStrategy \(FSDP2\) or fsdp",
        ),
        (FSDPStrategy(use_orig_params=False), r"FSDP hides with use_orig_params=False: leave it out"),
    ],
    ids=["DeepSpeed", "FSDP"],
)
def test_a_strategy_whose_weights_masks_cannot_follow_is_refused(strategy, message):
    trainer = L.Trainer(**PLAIN)
    trainer._accelerator_connector.strategy = strategy  # the Trainer makes it only on accelerators
    with pytest.raises(InputError, match=message):
        pruning().setup(trainer, classifier(), "fit")


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_a_strategy_that_trains_copies_is_refused(strategy, monkeypatch):
    """The masks of the copies would be missing in checkpoints, and the next fit would prune trained weights.

    What ddp_spawn pickles for a new process is unpickled in a forked one, which need not import everything again.
    """
    if strategy == "ddp_spawn":
        start = torch.multiprocessing.start_processes

        def start_forked(function, args, start_method, **options):
            assert start_method == "spawn"
            # queues and shared tensors are pickled only for a process that is about to start
            set_spawning_popen(SimpleNamespace(DupFd=_DupFd, duplicate_for_child=os.dup))
            try:
                pickled = ForkingPickler.dumps((function, args))
            finally:
                set_spawning_popen(None)
            function, args = pickle.loads(pickled)
            return start(function, args, start_method="fork", **options)

        monkeypatch.setattr(torch.multiprocessing, "start_processes", start_forked)
    model, callback = classifier(), pruning(criterion=Magnitude())
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(
        InputError, match=r"^The strategy trains copies of the module .* use trainer\.strategy ddp"
    ) as caught:
        fit(model, [callback], strategy=strategy, devices=1)
    assert caught.value.__cause__ is None
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_strategy_that_trains_copies_may_evaluate_a_pruned_network():
    model = classifier()
    fit(model, [pruning()])
    trainer = L.Trainer(**(PLAIN | {"callbacks": [pruning()], "strategy": "ddp_fork", "devices": 1}))
    trainer.predict(model, DataLoader(TensorDataset(torch.randn(8, 784)), batch_size=8))
    assert trainer.state.finished


@pytest.mark.parametrize("measuring", [JacobianSpectrum(), Diagnose()])
def test_measuring_on_one_process_is_refused_where_weights_are_sharded(measuring):
    trainer = L.Trainer(**PLAIN)
    trainer._accelerator_connector.strategy = DeepSpeedStrategy()
    with pytest.raises(InputError, match="measures on one process, which has only a shard of the weights"):
        measuring.setup(trainer, classifier(), "fit")


def test_weights_that_are_made_when_they_are_sharded_are_refused():
    class OnMeta(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2, device="meta")

        def configure_model(self):
            raise AssertionError

    module = OnMeta()
    before_sharding(L.Trainer(**PLAIN), module, module.configure_model)
    with pytest.raises(InputError, match=r"layer\.weight has no whole weights .* make the layers in __init__"):
        module.configure_model()


def test_two_of_them_are_refused():
    refused("a network is pruned once", [_Named("a"), _Named("b")])


class _Named(PruneAtInit):
    """PruneAtInit with its own state key, without which Lightning would refuse the second one first."""

    def __init__(self, key):
        super().__init__()
        self.key = key

    @property
    def state_key(self):
        return self.key


def test_layer_collapse_is_warned_about_by_name():
    model = classifier(MLP(depth=3, width=20), initializer=Gaussian(1.0))
    with torch.no_grad():
        model.network.fc2.weight.mul_(1e-6)
    with pytest.warns(UserWarning, match=r"fc2\.weight has no weight left, from sparsity 0\.\d+ on\. Lower"):
        fit(model, [pruning(criterion=Magnitude())])


def test_what_a_pattern_or_a_scope_cannot_have_is_refused_before_scoring():
    refused(r"2:4 keeps 2 of every 4 weights, .* set sparsity to 0\.5", [pruning(pattern=NM())])
    refused(r"densities: 'fc9' matches none", [pruning(scope=GivenDensities({"fc9": 0.1}))])
    refused(r"keep at least 2600: ask for a sparsity of at most 0\.84", [pruning(minimum=2000)])


@pytest.mark.parametrize("known", [True, False])
def test_masks_that_keep_fewer_than_asked_are_known_by_record_or_size(known):
    model, callback = classifier(), pruning(criterion=Magnitude(), pattern=Channels(), sparsity=0.5)
    fit(model, [callback])
    assert 8140 - 784 < model.masks.kept < 8140
    again = pruning(pattern=Channels(), sparsity=0.5)
    if known:
        again.load_state_dict(callback.state_dict())
        again.choices = replace(again.choices, pattern=Unstructured())  # which would not have made them
    fit(model, [again])
    again.choices = replace(again.choices, sparsity=0.6)
    refused("is pruned already, to sparsity 0.5", [again], model=model)


def test_an_already_pruned_network_keeps_its_masks():
    model = classifier()
    fit(model, [pruning()])
    digest = model.masks.digest()
    fit(model, [pruning(criterion=Random())])
    assert model.masks.digest() == digest
    refused("is pruned already, to sparsity 0.9, but 0.5 is asked", [pruning(sparsity=0.5)], model=model)


def test_the_state_of_an_earlier_revision_says_nothing_of_corrections():
    callback = pruning()
    callback.load_state_dict({"record": {"sparsity": 0.9}})
    assert (callback.record, callback.changes) == ({"sparsity": 0.9}, {})
