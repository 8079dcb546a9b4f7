"""`spl diagnose` and its callback: the network of fit is measured and not trained."""

import re
import sys
from pathlib import Path

import pytest
import pytorch_lightning as L
import torch
import yaml
from fits import PLAIN, classifier, fit, pruning
from pytorch_lightning.demos.boring_classes import BoringModel
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, TensorDataset

from spl import InputError, SparseClassifier
from spl.__main__ import main
from spl.callbacks import Diagnose
from spl.diagnosis import Diagnosis

QUICK = ["--config", str(Path(__file__).parent.parent / "configs" / "quickstart.yaml")]
SHORT = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
SHORT += ["--spectrum.examples", "50", "--pruning.batches", "4", "--model.network.depth", "3"]
SHORT += ["--trainer.limit_train_batches", "2", "--test_after_fit", "false", "--model.network.width", "30"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return the folder of three runs.

    version_0: fit; version_1: diagnose with the same flags; version_2: diagnose the checkpoint of version_0.
    """
    folder = tmp_path_factory.mktemp("runs")
    states, printed = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(
            SparseClassifier,
            "on_train_start",
            lambda self: states.append({name: tensor.clone() for name, tensor in self.network.state_dict().items()}),
            raising=False,
        )
        versions = folder / "lightning_logs" / "quickstart"
        run(patch, "fit", *QUICK, *SHORT)
        patch.setattr(SparseClassifier, "training_step", lambda *_: pytest.fail("a training step was taken"))
        original = Diagnose.on_fit_start

        def spied(self, trainer, pl_module):
            states.append({name: tensor.clone() for name, tensor in pl_module.network.state_dict().items()})
            original(self, trainer, pl_module)
            printed.append(self.diagnosis)

        patch.setattr(Diagnose, "on_fit_start", spied)
        run(patch, "diagnose", *QUICK, *SHORT)
        last = versions / "version_0" / "checkpoints" / "last.ckpt"
        run(patch, "diagnose", "--config", versions / "version_0" / "config.yaml", "--ckpt_path", last)
    return versions, states, printed


def run(patch: pytest.MonkeyPatch, *args: object) -> None:
    patch.setattr(sys, "argv", ["spl", *map(str, args)])
    main()


def test_the_network_is_the_one_that_fit_would_train(runs):
    versions, (fitted, diagnosed, _), _ = runs
    assert all(torch.equal(fitted[name], diagnosed[name]) for name in fitted)
    first, second = (yaml.safe_load((versions / f"version_{i}" / "pruning.yaml").read_text()) for i in (0, 1))
    assert first == second


def test_a_diagnosis_leaves_config_json_and_logs_and_no_checkpoint(runs):
    versions, _, (diagnosis, _) = runs
    files = {str(path.relative_to(versions / "version_1")) for path in (versions / "version_1").rglob("*")}
    events = {name for name in files if name.startswith("events")}
    assert len(events) == 1
    assert files - events == {"config.yaml", "pruning.yaml", "diagnosis.json", "hparams.yaml"}
    assert Diagnosis.from_json((versions / "version_1" / "diagnosis.json").read_text()) == diagnosis


def test_tensorboard_shows_the_page_and_its_numbers(runs):
    versions, _, (diagnosis, _) = runs
    events = EventAccumulator(str(versions / "version_1"))
    events.Reload()
    (text,) = events.Tensors("diagnosis/text_summary")
    assert str(diagnosis).splitlines()[0] in text.tensor_proto.string_val[0].decode()
    assert events.Scalars("diagnosis/jacobian/mean")[0].value == pytest.approx(diagnosis.jacobian.mean)
    layer = diagnosis.layers["fc2.weight"]
    assert events.Scalars("diagnosis/residual/fc2")[0].value == pytest.approx(layer.residual)
    assert events.Scalars("diagnosis/effective_sparsity/fc2")[0].value == pytest.approx(layer.effective_sparsity)


def test_a_checkpoint_is_diagnosed_as_it_is(runs):
    versions, (_, _, state), (_, diagnosis) = runs
    checkpoint = torch.load(versions / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(torch.equal(checkpoint["state_dict"][f"network.{name}"], tensor) for name, tensor in state.items())
    assert diagnosis.layers["fc1.weight"].kept == int(checkpoint["masks"]["fc1.weight"].sum())
    assert not (versions / "version_2" / "pruning.yaml").exists()
    assert not (versions / "version_2" / "checkpoints").exists()


def test_mistakes_end_in_a_line(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    for match, *args in (
        (r"There is no checkpoint gone\.ckpt", *QUICK, "--ckpt_path", "gone.ckpt"),
        ("sparsty", *QUICK, "--pruning.sparsty", "0.5"),
        (r"nowhere\.yaml", "--config", "nowhere.yaml"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run(monkeypatch, "diagnose", *args)
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert re.search(match, error), error
        assert "Traceback" not in error
    assert not Path("lightning_logs").exists()


# The callback


def test_the_callback_prints_the_page_and_lets_training_go_on(capsys):
    callback = Diagnose(examples=30)
    trainer = fit(classifier(), [pruning(), callback], limit_train_batches=2)
    assert trainer.global_step == 2
    assert str(callback.diagnosis) in capsys.readouterr().out
    assert callback.diagnosis.sparsity == pytest.approx(0.9, abs=1e-4)


def test_a_callback_before_pruning_is_refused():
    with pytest.raises(InputError, match="Diagnose comes before PruneAtInit"):
        fit(classifier(), [Diagnose(), pruning()])


def test_a_module_of_another_class_is_refused():
    with pytest.raises(InputError, match="Diagnose measures a SparseClassifier, got BoringModel"):
        fit(BoringModel(), [Diagnose()])


def test_fit_without_a_datamodule_is_refused():
    loader = DataLoader(TensorDataset(torch.randn(4, 784), torch.zeros(4, dtype=torch.long)))
    with pytest.raises(InputError, match="pass a DataModule"):
        L.Trainer(**PLAIN, callbacks=[Diagnose()]).fit(classifier(), loader)


def test_no_examples_are_refused():
    with pytest.raises(InputError, match="Diagnose: examples must be at least 1, got 0"):
        Diagnose(examples=0)
