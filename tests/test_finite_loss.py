"""A fit whose loss is NaN or infinite ends with one sentence and keeps good checkpoints."""

import json
from pathlib import Path

import pytest
import pytorch_lightning as L
import torch
from commands import SMALL, command
from fits import PLAIN, classifier, fit
from forking import python
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins import MixedPrecision
from test_ddp import run
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from spl.callbacks import FiniteLoss, LastCheckpoint
from spl.errors import DivergedError
from spl.networks import MLP
from spl.reproduction.job import Group, Job, PlannedRun
from spl.reproduction.worker import work

HERE = Path(__file__).parent / "support"
# after eight steps, in the second epoch of five steps, the learning rate becomes 1e30
EXPLODING = ["--model.network.activation", "relu", "--model.lr_scheduler", "StepLR"]
EXPLODING += ["--model.lr_scheduler.step_size", 8, "--model.lr_scheduler.gamma", 1e31]
BRIEF = ["--trainer.limit_train_batches", 5, "--trainer.max_epochs", 3, "--trainer.log_every_n_steps", 50]


def weights_in(checkpoint: Path) -> list[torch.Tensor]:
    return list(torch.load(checkpoint, weights_only=True)["state_dict"].values())


def test_the_command_ends_with_one_sentence_and_the_checkpoints_before_are_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command("fit", *SMALL, *BRIEF, *EXPLODING)
    assert done.code == 2
    (message,) = [line for line in done.errors.splitlines() if line.startswith("spl: error:")]
    assert message.startswith("spl: error: The training loss is NaN or infinite at step ")
    assert 8 < int(message.split("at step ")[1].split()[0]) < 10
    assert "(epoch 1)" in message
    assert "Traceback" not in done.errors
    assert "accuracy/test" not in done.output
    checkpoints = tmp_path / "lightning_logs" / "quickstart" / "version_0" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]
    for path in checkpoints.iterdir():
        assert all(tensor.isfinite().all() for tensor in weights_in(path)), path


def test_a_diagnosis_whose_trial_diverges_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    deep = ["--model.network.depth", 15, "--model.network.width", 100, "--model.network.activation", "linear"]
    done = command("diagnose", *SMALL, *deep, "--pruning.sparsity", 0, "--spectrum.examples", 100)
    assert done.code == 0, done.errors
    assert "a trial of 100 steps: inf" in done.output


@pytest.mark.filterwarnings("ignore:Encountered `nan` values in tensor")  # torchmetrics, about the losses
@pytest.mark.parametrize("together", [False, True])
def test_spl_reproduce_records_what_diverges(together, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = []
    for seed in (0, 1):
        config = {
            "name": f"reproduction/{seed}",
            "seed_everything": seed,
            "trainer": {"max_steps": 6, "max_epochs": -1, "accelerator": "cpu", "devices": 1, "log_every_n_steps": 2}
            | {"val_check_interval": 3, "check_val_every_n_epoch": None, "enable_model_summary": False}
            | {"enable_progress_bar": False},
            "data": {"class_path": "spl.data.MNISTSample"},
            "model": {
                "network": {"class_path": "spl.networks.MLP", "init_args": {"depth": 3, "activation": "relu"}},
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e30}},
            },
            "pruning": {"sparsity": 0.0, "isometry": None, "batches": 2},
            "spectrum": {"examples": 5},
        }
        runs.append(PlannedRun(f"{seed}" * 64, config, []))
    (tmp_path / "jobs").mkdir()
    assert work(Job("job", [Group(runs, together)]).write(tmp_path / "jobs")) == []
    results = sorted(tmp_path.glob("lightning_logs/reproduction/*/version_0/result.json"))
    assert len(results) == 2
    assert all("NaN" in path.read_text() for path in results)
    assert all(json.loads(path.read_text())["test"]["final"]["accuracy"] < 0.2 for path in results)


# With any module


class Returning(L.LightningModule):
    """A regression whose step returns the loss in one of several forms, and NaN at some batches."""

    def __init__(self, kind: str = "tensor", faulty: tuple[int, ...] = (), fault: float = float("nan")) -> None:
        super().__init__()
        self.net = nn.Linear(4, 1)
        self.kind, self.faulty, self.fault = kind, faulty, fault
        self.automatic_optimization = kind not in ("manual", "manual, logits", "manual, nothing")
        self.steps = 0

    def training_step(self, batch, batch_idx):
        self.steps += 1
        loss = self.net(batch[0]).square().mean()
        shown = loss * 0 + self.fault if batch_idx in self.faulty else loss
        if not self.automatic_optimization:
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            self.optimizers().step()
        return {
            "tensor": shown,
            "dict": {"loss": shown, "other": float("nan")},
            "sometimes": None if batch_idx % 2 else shown,
            "manual": {"loss": shown.detach()},
            "manual, logits": self.net(batch[0]) * shown,
            "manual, nothing": {"other": shown},
        }[self.kind]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def train(module: Returning, *callbacks: L.Callback, **options) -> Returning:
    data = DataLoader(TensorDataset(torch.randn(40, 4)), batch_size=2)
    plain = PLAIN | {"limit_train_batches": 20, "callbacks": [FiniteLoss(), *callbacks]}
    L.Trainer(**(plain | options)).fit(module, data)
    return module


@pytest.mark.filterwarnings("ignore:.*training_step.*returned.*None")
@pytest.mark.parametrize("fault", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", ["tensor", "dict", "sometimes", "manual"])
@pytest.mark.parametrize(("every", "seen"), [(1, 7), (4, 8), (20, 20), (0, 20), (1000, 20)])
def test_the_first_step_is_told_at_the_end_of_its_window(kind, every, seen, fault):
    module = Returning(kind, faulty=(6, 10), fault=fault)
    with pytest.raises(DivergedError, match=r"NaN or infinite at step 6 \(epoch 0\)"):
        train(module, log_every_n_steps=every)
    assert module.steps == seen


@pytest.mark.filterwarnings("ignore:.*training_step.*returned.*None")
@pytest.mark.parametrize(
    ("kind", "faulty"),
    [("tensor", ()), ("dict", ()), ("sometimes", (7,)), ("manual, logits", (3,)), ("manual, nothing", (3,))],
)
def test_finite_losses_and_what_is_no_loss_pass(kind, faulty):
    assert train(Returning(kind, faulty), log_every_n_steps=3).steps == 20


def test_no_loss_is_looked_at_before_its_window_ends(monkeypatch):
    looks = []
    isfinite = torch.Tensor.isfinite
    monkeypatch.setattr(torch.Tensor, "isfinite", lambda self: looks.append(module.steps) or isfinite(self))
    train(module := Returning(), log_every_n_steps=10)
    assert looks == [10] * 10 + [20] * 10


class Overwriting(Returning):
    """Returns every loss in the same memory, as compiled steps do that CUDA graphs replay."""

    def __init__(self, **options) -> None:
        super().__init__("manual", **options)
        self.shown = torch.zeros(())

    def training_step(self, batch, batch_idx):
        self.shown.copy_(super().training_step(batch, batch_idx)["loss"])
        return {"loss": self.shown}


def test_a_loss_that_the_next_step_overwrites_is_looked_at_as_it_was():
    with pytest.raises(DivergedError, match=r"at step 6 \(epoch 0\)"):
        train(Overwriting(faulty=(6,)), log_every_n_steps=10)


def test_the_end_of_an_epoch_is_a_window_s_end():
    module = Returning(faulty=(3,))
    with pytest.raises(DivergedError, match=r"at step 3 \(epoch 0\)"):
        train(module, log_every_n_steps=50, limit_train_batches=5, max_epochs=2)
    assert module.steps == 5


def test_accumulated_gradients_count_as_one_step():
    with pytest.raises(DivergedError, match=r"at step 2 \(epoch 0\)"):
        train(Returning(faulty=(9,)), accumulate_grad_batches=4, log_every_n_steps=1)


def test_a_later_fit_of_the_same_trainer_begins_anew():
    callback = FiniteLoss()
    module = Returning(faulty=(3,))

    class Stopping(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 4 and pl_module.faulty:
                raise ZeroDivisionError

    options = PLAIN | {"limit_train_batches": 20, "callbacks": [callback, Stopping()]}
    data = DataLoader(TensorDataset(torch.randn(40, 4)), batch_size=2)
    with pytest.raises(ZeroDivisionError):
        L.Trainer(**options).fit(module, data)
    module.faulty = ()
    L.Trainer(**options).fit(module, data)


@pytest.mark.parametrize("weights_only", [False, True])
def test_no_checkpoint_of_a_network_that_diverged_is_written(tmp_path, weights_only):
    often = {"every_n_train_steps": 5} if not weights_only else {"every_n_epochs": 1, "save_on_train_epoch_end": True}
    saving = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, save_weights_only=weights_only, **often)
    module, options = Returning(faulty=(12,)), {"enable_checkpointing": True, "log_every_n_steps": 50}
    with pytest.raises(DivergedError, match="at step 12"):
        train(module, saving, LastCheckpoint(), default_root_dir=tmp_path, **options)
    written = sorted(path.name for path in tmp_path.glob("*.ckpt"))
    assert written == ([] if weights_only else ["step=10.ckpt", "step=5.ckpt"])


def test_validation_does_not_begin_with_a_network_that_diverged():
    model = classifier(MLP(3, 20, "relu"), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e30))
    validated = []

    class Noting(L.Callback):
        def on_validation_epoch_start(self, trainer, pl_module):
            validated.append(trainer.global_step)

    with pytest.raises(DivergedError):
        fit(model, [FiniteLoss(), Noting()], limit_val_batches=1, limit_train_batches=20, val_check_interval=10)
    assert validated == []


def test_a_step_that_the_scaler_skips_is_no_error():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, growth_interval=100)
    module = train(Returning(), plugins=[MixedPrecision("16-mixed", "cpu", scaler)], log_every_n_steps=1)
    assert module.steps == 20
    assert scaler.get_scale() < 2.0**120


@pytest.mark.slow
def test_processes_stop_together_where_one_of_them_diverges(tmp_path):
    done = run([*python(), str(HERE / "ddp_diverging.py"), str(tmp_path)], tmp_path, timeout=150)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in (0, 1))
    assert first == second
    assert first.startswith("4 The training loss is NaN or infinite at step 3 (epoch 0)")
