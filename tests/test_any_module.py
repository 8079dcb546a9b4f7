"""PruneAtInit on LightningModules that know nothing about it: it scores by their own loss and leaves no trace."""

import pytest
import pytorch_lightning as L
import torch
import torch.nn.functional as F
from fits import PLAIN, classifier, fit
from foreign import Plain, Trained, batches, images, invariants
from pytorch_lightning.demos.boring_classes import BoringModel, RandomDataset
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from spl import InputError, JacobianSpectrum, PruneAtInit, prune
from spl.callbacks import Summary
from spl.criteria import (
    FORCE,
    NPB,
    NTKSAP,
    PX,
    SAO,
    ConnectionSensitivity,
    GraSP,
    IterativeSNIP,
    Magnitude,
    ProsPr,
    RedrawnWeights,
    SynFlow,
)
from spl.initializers import HeNormal
from spl.isometry import ApproximateIsometry
from spl.masks.masked_weights import MaskedWeights

DATA = batches(images(24, side=6), 8)


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, 4)
    )


def plain():
    return Plain(network())


def test_invariants_of_a_plain_module(tmp_path):
    def deep():
        return Plain(nn.Sequential(nn.Flatten(), nn.Linear(108, 64), nn.BatchNorm1d(64), nn.Tanh(), nn.Linear(64, 4)))

    invariants(deep, DATA, tmp_path)


def test_its_masks_are_those_of_its_network_by_cross_entropy():
    L.seed_everything(0, verbose=False)
    expected = prune(network(), ConnectionSensitivity(), 0.9, list(DATA))
    masks = Trained(plain, DATA).masks
    assert {name.removeprefix("network."): mask.tolist() for name, mask in masks.items()} == {
        name: mask.tolist() for name, mask in expected.items()
    }


def test_batches_count_by_their_examples():
    """Batches of 8, 8 and 8 and of 10, 10 and 4 hold the same examples."""
    masks = [Trained(plain, batches(images(24, side=6), size)).masks for size in (8, 10)]
    assert masks[0] == masks[1]


class Noting(Plain):
    """A module that leaves traces wherever a training step can."""

    def __init__(self):
        super().__init__(network())
        self.accuracy = MulticlassAccuracy(4)
        self.steps = 0
        self.total = torch.zeros(())
        self.scale = torch.ones(())
        self.outputs = []
        self.seen = {}

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y) * self.scale
        self.steps += 1
        self.total += loss.detach()
        self.outputs.append(loss.detach())
        self.seen[self.steps] = batch_idx
        self.late = True
        self.accuracy(self(x), y)
        self.log_dict({"loss": loss, "accuracy": self.accuracy})
        if self.logger:
            self.logger.log_metrics({"own": 1.0})
        return {"loss": loss}


def test_scoring_leaves_no_trace(snapshot):
    module = Noting()
    seen = {}

    class Watch(L.Callback):
        def on_fit_start(self, trainer, pl_module):
            state = vars(module) | {"accuracy": module.accuracy.tp.tolist(), "total": float(module.total)}
            state |= {"outputs": list(module.outputs), "seen": dict(module.seen), "logged": trainer.callback_metrics}
            state |= {"updates": module.accuracy._update_count, "stage": trainer.state.stage}
            seen[self] = ({k: v for k, v in state.items() if k != "_masked_weights"}, snapshot(module))

    before, after = Watch(), Watch()
    callbacks = [before, PruneAtInit(sparsity=0.0, isometry=None), after]
    L.Trainer(**(PLAIN | {"callbacks": callbacks})).fit(module, DATA)
    for state, network_state in (seen[before], seen[after]):
        assert "log" not in state
        assert "late" not in state
        assert (state["steps"], state["total"], state["outputs"], state["seen"]) == (0, 0.0, [], {})
        assert network_state == seen[before][1]
    assert seen[before][0]["accuracy"] == seen[after][0]["accuracy"]
    assert seen[after][0]["updates"] == 0
    assert module.steps == 3


def test_sparsity_zero_is_the_dense_run_bit_for_bit():
    pruned = Trained(Noting, DATA, epochs=2, sparsity=0.0).module
    L.seed_everything(0, verbose=False)
    dense = Noting()
    L.Trainer(**(PLAIN | {"max_epochs": 2, "limit_train_batches": 1.0})).fit(dense, DATA)
    assert all(torch.equal(a, b) for a, b in zip(pruned.parameters(), dense.parameters(), strict=True))


def test_a_given_loss_is_taken_instead():
    def loss(module, batch):
        return module(batch[0]).square().mean()

    trained = Trained(plain, DATA, loss=loss)
    assert trained.masks != Trained(plain, DATA).masks
    assert trained.pruning.record["loss"] == "GivenLoss"
    assert trained.pruning.record["loss_args"]["function"].endswith("loss")


@pytest.mark.parametrize(
    "criterion",
    [
        IterativeSNIP(),
        FORCE(),
        GraSP(temperature=1),
        SynFlow(),
        NPB(),
        NTKSAP(draws=1),
        ProsPr(),
        SAO(),
        Magnitude(),
        RedrawnWeights(ConnectionSensitivity(), HeNormal()),
    ],
    ids=lambda criterion: type(criterion).__name__,
)
def test_every_criterion_scores_it(criterion):
    trained = Trained(plain, DATA, criterion=criterion, minimum=1)
    assert trained.masks.kept == round(0.1 * trained.masks.size)


class Structured(Plain):
    """A module whose batches are mappings of lists."""

    def __init__(self):
        super().__init__(nn.Linear(32, 3))

    def training_step(self, batch):
        return self(batch["a"] + batch["b"]["c"][0]).square().mean()


def collate(items):
    x = torch.stack(items)
    return {"name": "no tensor", "a": x, "b": {"c": [x, x]}}


def test_batches_of_any_structure():
    trained = Trained(Structured, DataLoader(RandomDataset(32, 16), batch_size=8, collate_fn=collate))
    assert trained.pruning.record["examples"] == 16
    assert trained.masks.kept == round(0.1 * 96)


def test_several_dataloaders_are_read_as_fit_reads_them():
    loader = DataLoader(RandomDataset(32, 16), batch_size=8)

    class Two(Structured):
        def training_step(self, batch):
            return self(batch["x"] + batch["y"]).square().mean()

    assert Trained(Two, {"x": loader, "y": loader}).pruning.record["batches"] == 2


def test_layers_that_are_made_in_setup_are_pruned():
    class Late(BoringModel):
        def __init__(self):
            super().__init__()
            del self.layer

        def configure_model(self):
            self.layer = nn.Linear(32, 2)

    assert Trained(Late, DataLoader(RandomDataset(32, 16), batch_size=8)).masks.kept == 6


def test_the_demo_module(tmp_path):
    whole = invariants(BoringModel, DataLoader(RandomDataset(32, 16), batch_size=8), tmp_path)
    again = BoringModel.load_from_checkpoint(whole.saved(tmp_path / "x.ckpt"))
    assert whole.masks.revived(dict(again.named_parameters())) == {}


def test_correction_record_and_table_are_those_of_any_network(capsys):
    trained = Trained(plain, DATA, isometry=ApproximateIsometry(), callbacks=[Summary()])
    assert set(trained.pruning.record["certificate"]) == {"network.0.weight", "network.5.weight"}
    assert trained.pruning.record["loss"] == "TrainingStepLoss"
    assert trained.pruning.record["data"] == "training dataloader"
    assert "network.5.weight" in capsys.readouterr().out


def test_a_module_that_is_pruned_keeps_its_masks_in_another_fit():
    module = plain()
    first, second = PruneAtInit(isometry=None), PruneAtInit(isometry=None, criterion=Magnitude())
    for pruning in (first, second):
        L.Trainer(**(PLAIN | {"callbacks": [pruning]})).fit(module, DATA)
    assert first.masks == second.masks == MaskedWeights.of(module).masks


# Refusals


def refused(match, make, data=DATA, **pruning):
    with pytest.raises(InputError, match=match):
        Trained(make, data, **pruning)


class Manual(BoringModel):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Lossless(BoringModel):
    def training_step(self, batch, batch_idx):
        return None


def vector(module, batch):
    return module(batch)


VECTORS = DataLoader(RandomDataset(32, 16), batch_size=8)


@pytest.mark.parametrize(
    ("match", "make", "pruning"),
    [
        ("Manual optimizes manually.*loss=lambda module, batch", Manual, {}),
        ("training_step of Lossless returned NoneType, where one number that depends on", Lossless, {}),
        (r"loss=\S*vector returned a tensor of shape \(8, 2\), where one", BoringModel, {"loss": vector}),
        (r"this loss does not show them: use GraSP\(temperature=1\)", BoringModel, {"criterion": GraSP()}),
        ("BoringModel is scored by its own loss", BoringModel, {"targets": "uniform"}),
    ],
)
def test_a_loss_that_cannot_be_had_is_refused(match, make, pruning):
    refused(match, make, VECTORS, **pruning)


def test_a_classifier_is_not_scored_by_a_function():
    with pytest.raises(InputError, match=r"SparseClassifier is scored by .* choose targets instead of a loss"):
        fit(classifier(), [PruneAtInit(loss=vector)])


class Tokens(Plain):
    def __init__(self):
        super().__init__(nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 4)))


TOKENS = DataLoader([(torch.tensor([i, 1, 2]), i % 4) for i in range(8)], batch_size=4)


@pytest.mark.parametrize("criterion", [SynFlow(), NTKSAP(), PX(), NPB()])
def test_criteria_that_make_inputs_refuse_tokens(criterion):
    refused(
        "needs floating-point inputs, and the first tensor of a batch is torch.int64",
        Tokens,
        TOKENS,
        criterion=criterion,
    )


def test_batches_without_a_tensor_are_refused():
    refused("A batch of type dict holds no tensor", Structured, DataLoader([{"a": "text"}]))


def test_data_without_a_length_needs_a_number_of_batches():
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            while True:
                yield torch.ones(32)

    data = DataLoader(Endless(), batch_size=4)
    refused(r"no length.*PruneAtInit\(batches=\)", BoringModel, data)
    spectrum = JacobianSpectrum(examples=6, every_n_epochs=None)
    trained = Trained(BoringModel, data, batches=3, callbacks=[spectrum], trainer={"limit_train_batches": 2})
    assert trained.pruning.record["examples"] == 12
    assert list(spectrum.spectra) == ["dense", "pruned"]


def test_a_trainer_logs_to_its_loggers_again_after_scoring(tmp_path):
    logger = CSVLogger(tmp_path)
    run = Trained(plain, DATA, trainer={"logger": logger, "log_every_n_steps": 1})
    assert run.trainer.loggers == [logger]
    assert "train_loss" in logger.experiment.metrics_keys
