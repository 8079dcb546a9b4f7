"""JacobianSpectrum: it measures every stage, logs it, draws it, and changes nothing."""

import pytest
import pytorch_lightning as L
import torch
from fits import PLAIN, classifier, fit, pruning
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from torch.utils.data import DataLoader, TensorDataset

from spl import InputError, JacobianSpectrum
from spl.callbacks import Summary
from spl.data import MNISTSample
from spl.isometry import ApproximateIsometry
from spl.jacobian import Spectrum, singular_values

STATISTICS = {"mean", "std", "max", "min", "condition"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a pruned, corrected and trained run with everything that it logged."""
    folder = tmp_path_factory.mktemp("run")
    model = classifier()
    spectrum = JacobianSpectrum(examples=150, every_n_epochs=2, chunk=64)
    callbacks = [spectrum, pruning(isometry=ApproximateIsometry()), Summary()]
    fit(model, callbacks, logger=TensorBoardLogger(folder, name="x"), max_epochs=4, log_every_n_steps=2)
    events = EventAccumulator(str(folder / "x" / "version_0"), size_guidance={"images": 0, "histograms": 0})
    events.Reload()
    return folder / "x" / "version_0", events, model, spectrum


def test_every_stage_has_its_statistics(run):
    _, events, _, spectrum = run
    for stage in ("dense", "pruned", "corrected", "train"):
        tags = {tag.rpartition("/")[2] for tag in events.Tags()["scalars"] if tag.startswith(f"jacobian/{stage}/")}
        assert tags == STATISTICS
        logged = events.Scalars(f"jacobian/{stage}/mean")[-1].value
        assert logged == pytest.approx(spectrum.spectra[stage].mean, rel=1e-6)
        assert f"jacobian/{stage}" in events.Tags()["histograms"]


def test_training_is_measured_every_n_epochs(run):
    _, events, _, _ = run
    assert [event.step for event in events.Scalars("jacobian/train/mean")] == [12, 24]


def test_the_last_measurement_is_that_of_the_network(run):
    _, _, model, spectrum = run
    data = MNISTSample()
    data.setup()
    inputs = torch.cat([data.normalize(x) for x, _ in data.scoring_dataloader(0)])[:150]
    assert Spectrum.of(singular_values(model.network, inputs)).mean == pytest.approx(
        spectrum.spectra["train"].mean, rel=1e-5
    )


def test_correction_brings_the_spectrum_back(run):
    _, _, _, spectrum = run
    stages = spectrum.spectra
    assert stages["pruned"].mean < 0.5 * stages["dense"].mean
    assert stages["corrected"].mean == pytest.approx(stages["dense"].mean, rel=0.3)


def test_tensorboard_has_masks_saliency_sparsity_and_the_picture(run):
    folder, events, model, _ = run
    assert set(events.Tags()["images"]) == {"masks/fc1", "masks/fc2", "masks/fc3", "jacobian/spectra"}
    image = events.Images("masks/fc1")[0]
    assert (image.width, image.height) == (784, 20)
    assert {f"saliency_log10/fc{i}" for i in (1, 2, 3)} <= set(events.Tags()["histograms"])
    assert events.Scalars("sparsity/global")[0].value == pytest.approx(model.masks.sparsity)
    assert events.Scalars("sparsity/fc1")[0].value == pytest.approx(model.masks.layer_sparsity()["fc1.weight"])
    assert {"loss/train", "accuracy/train"} <= set(events.Tags()["scalars"])
    assert (folder / "spectra.png").stat().st_size > 5000


def test_the_hparams_tab_is_filled(run):
    _, events, _, _ = run
    content = str(events.summary_metadata["_hparams_/session_start_info"])
    for word in ("network", "MLP", "data", "MNISTSample", "ConnectionSensitivity", "Unstructured", "Global"):
        assert word in content
    for word in ("sparsity", "isometry", "learning rate", "seed"):
        assert word in content
    assert "ConnectionSensitivity+ApproximateIsometry, 0.9, seed 0 (x/version_0)" in content
    metrics = str(events.summary_metadata["_hparams_/experiment"])
    assert "accuracy/test" in metrics
    assert "jacobian/start/mean" in metrics


def test_the_start_of_training_has_the_mean_of_the_last_stage(run):
    _, events, _, spectrum = run
    (event,) = events.Scalars("jacobian/start/mean")
    assert event.value == pytest.approx(spectrum.spectra["corrected"].mean)


def test_custom_scalars_show_training_and_validation_together_and_singular_values_as_a_band(run):
    _, events, _, _ = run
    (event,) = events.Tensors("custom_scalars__config__")
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    charts = {chart.title: chart for category in layout.category for chart in category.chart}
    assert list(charts["loss"].multiline.tag) == ["loss/train", "loss/val"]
    band = charts["Jacobian singular values: mean, and the band from min to max"].margin.series[0]
    assert (band.value, band.lower, band.upper) == tuple(f"jacobian/train/{name}" for name in ("mean", "min", "max"))
    assert {band.value, band.lower, band.upper} <= set(events.Tags()["scalars"])


def test_an_image_of_a_mask_has_a_key(run):
    _, events, _, _ = run
    key = events.SummaryMetadata("masks/fc1").summary_description
    assert key.startswith("White: kept. Black: pruned. Rows: 20 outputs. Columns: 784 inputs.")


def test_the_table_at_the_end_of_fit_has_layers_and_spectra(tmp_path, capsys):
    callbacks = [JacobianSpectrum(examples=20, every_n_epochs=None), pruning(isometry=ApproximateIsometry()), Summary()]
    fit(classifier(), callbacks, logger=TensorBoardLogger(tmp_path, name="x"))
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if line.strip()}
    assert rows["fc1.weight"][1] == "15680"
    assert rows["total"][1:4] == ["16280", "1628", "0.9000"]
    assert float(rows["fc2.weight"][6]) < float(rows["fc2.weight"][5])
    assert {"dense", "pruned", "corrected"} <= set(rows)
    assert "train" not in rows
    assert f"tensorboard --logdir {tmp_path / 'x' / 'version_0'}" in printed


def test_measuring_changes_nothing():
    measured, plain = classifier(), classifier()
    fit(measured, [pruning(), JacobianSpectrum(examples=20)])
    fit(plain, [pruning()])
    assert all(torch.equal(a, b) for a, b in zip(measured.parameters(), plain.parameters(), strict=True))


def test_a_run_that_nothing_prunes_is_measured_dense():
    spectrum = JacobianSpectrum(examples=20, every_n_epochs=None)
    fit(classifier(), [spectrum])
    assert set(spectrum.spectra) == {"dense"}


def test_all_examples_are_all():
    spectrum = JacobianSpectrum(examples=None, every_n_epochs=None, chunk=1000)
    fit(classifier(), [spectrum])
    assert len(spectrum._inputs) == 4050


@pytest.mark.parametrize("name", ["examples", "every_n_epochs", "chunk"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(InputError, match=f"{name} must be at least 1, got 0"):
        JacobianSpectrum(**{name: 0})


def measured(model, inputs):
    loader = DataLoader(TensorDataset(inputs, torch.arange(len(inputs)) % 10), batch_size=10)
    spectrum = JacobianSpectrum(every_n_epochs=None)
    L.Trainer(**(PLAIN | {"callbacks": [spectrum]})).fit(model, loader)
    return spectrum.spectra["dense"]


def test_without_a_data_module_the_training_dataloader_gives_the_examples():
    model, inputs = classifier(), torch.randn(20, 784)
    assert measured(model, inputs) == Spectrum.of(singular_values(classifier().network, inputs))


class Foreign(L.LightningModule):
    """A module y = f(3 x), whose Jacobian is 3 I if f is the identity."""

    def __init__(self, output=lambda y: y):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(3.0))
        self.output = output

    def forward(self, x):
        return self.output(self.scale * x)

    def training_step(self, batch):
        return self.scale.square()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_forward_of_any_lightning_module_is_measured():
    spectrum = measured(Foreign(), torch.randn(20, 4))
    assert (spectrum.min, spectrum.max) == pytest.approx((3.0, 3.0))


def test_a_module_without_a_forward_is_refused():
    with pytest.raises(InputError, match="measures what forward computes, and LightningModule has none"):
        JacobianSpectrum().setup(L.Trainer(**PLAIN), L.LightningModule(), "fit")


@pytest.mark.parametrize(
    ("output", "inputs", "match"),
    [
        (lambda y: {"logits": y}, torch.randn(20, 4), r"needs logits of shape \[N, classes\], got dict"),
        (lambda y: y.sum(1), torch.randn(20, 4), r"got \(20,\) from inputs"),
        (lambda y: y, torch.arange(20)[:, None], r"needs floating-point inputs to differentiate by, got torch\.int64"),
    ],
    ids=["dict", "no classes", "tokens"],
)
def test_a_forward_without_logits_is_refused_when_fit_starts(output, inputs, match):
    with pytest.raises(InputError, match=match):
        measured(Foreign(output), inputs)
