"""What must hold on a CUDA device. Elsewhere these tests are skipped."""

from pathlib import Path

import pytest
import torch
from fits import ZerosStay, classifier, fit, pruning

from spl import JacobianSpectrum
from spl.criteria import Random
from spl.files import read_checkpoint
from spl.initializers import Orthogonal
from spl.isometry import ApproximateIsometry
from spl.networks import MLP, VGG16, ResNet
from spl.pruning import prune
from spl.reproduction.stacked import prepare, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

ON_GPU = {"accelerator": "gpu", "devices": 1}
MODES = [False, True, "reduce-overhead"]


@pytest.fixture(autouse=True)
def _exact():
    """Multiply in full precision, as a CPU does, and leave nothing compiled behind."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    torch.compiler.reset()


def resnet(**options):
    torch.manual_seed(0)
    return classifier(ResNet(blocks_per_stage=1, width_multiplier=0.5, in_channels=1), **options)


def test_masks_and_spectra_are_those_of_a_cpu():
    found = []
    for accelerator in ("cpu", "gpu"):
        model, spectrum = resnet(), JacobianSpectrum(examples=20, every_n_epochs=None)
        fit(model, [pruning(), spectrum], limit_train_batches=1, accelerator=accelerator, devices=1)
        found.append((model.masks, spectrum.spectra["pruned"].as_dict()))
    (slow, expected), (fast, measured) = found
    assert measured == pytest.approx(expected, rel=1e-2)
    assert fast.kept == slow.kept
    assert sum(int((fast[name] != mask).sum()) for name, mask in slow.items()) <= 0.002 * slow.size


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("mode", MODES[1:])
def test_compiled_training_is_eager_training(mode, accumulated):
    """The first epoch ends with a smaller batch, and is validated."""
    ends = []
    for compile in (False, mode):
        model, check = classifier(compile=compile), ZerosStay()
        options = ON_GPU | {"max_epochs": 2, "limit_train_batches": 41, "limit_val_batches": 2}
        fit(model, [pruning(), check], accumulate_grad_batches=accumulated, **options)
        assert check.steps == 82
        ends.append(torch.cat([parameter.detach().flatten() for parameter in model.network.parameters()]))
    eager, compiled = ends
    assert float((eager - compiled).norm() / eager.norm()) < 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_run_is_the_uninterrupted_one(mode, tmp_path: Path):
    def run(epochs: int, **resume: Path):
        model, check = classifier(compile=mode), ZerosStay()
        settings = ON_GPU | {"max_epochs": epochs, "limit_train_batches": 5, "deterministic": True}
        return model, fit(model, [pruning(), check], **settings, **resume)

    whole, _ = run(2)
    _, half = run(1)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = run(2, ckpt_path=tmp_path / "half.ckpt")
    for a, b in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_mixed_precision_in_channels_last_trains_a_convolutional_network():
    model, check = resnet(channels_last=True, compile="reduce-overhead"), ZerosStay()
    fit(model, [pruning(), check], **ON_GPU, precision="bf16-mixed", limit_train_batches=41, limit_val_batches=1)
    assert check.steps == 41


def test_stacked_networks_end_where_each_ends_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def runs():
        fixed = "--data MNISTSample --model.network spl.networks.MLP --model.network.depth 3 --pruning.criterion Random"
        quiet = (
            "--trainer.enable_progress_bar false --trainer.enable_model_summary false --trainer.accelerator gpu "
            "--trainer.devices 1 --trainer.max_epochs 1 --spectrum.examples 10 --test_after_fit false"
        )
        return [
            prepare([*fixed.split(), *quiet.split(), "--pruning.criterion.seed", str(seed), "--seed_everything", "0"])
            for seed in range(3)
        ]

    together, alone = runs(), runs()
    train(together, tmp_path / "together.ckpt")
    for run in alone:
        train([run], tmp_path / "alone.ckpt")
    for a, b in zip(together, alone, strict=True):
        one, other = (read_checkpoint(run.folder / "checkpoints" / "last.ckpt")["state_dict"] for run in (a, b))
        for name, weight in one.items():
            assert torch.allclose(weight, other[name], atol=1e-3), name


@pytest.mark.parametrize("make", [MLP, lambda: VGG16(width_multiplier=0.25)], ids=["MLP", "VGG16"])
def test_isometry_is_that_of_a_cpu(make):
    residuals = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        made = make()
        Orthogonal()(made)
        made.to(device)
        changes = ApproximateIsometry(gain=1.0)(made, prune(made, Random(seed=0), sparsity=0.9)).changes
        residuals.append([change.after.matrix for change in changes.values()])
        assert all(parameter.device.type == device for parameter in made.parameters())
    assert residuals[0] == pytest.approx(residuals[1], rel=0.05, abs=0.05)
