"""The default gain: it keeps signals if the activation has a critical point, and never makes them explode."""

import math
from itertools import pairwise

import pytest
import pytorch_lightning as L
import torch
from fits import fit
from torch import nn

from spl import JacobianSpectrum, PruneAtInit, SparseClassifier
from spl.callbacks.jacobian_spectrum import _warn_of_change
from spl.functional.layers import ACTIVATIONS
from spl.initializers import Initializer, Orthogonal
from spl.isometry.mean_field import bounded_gain, critical_gain, has_critical_gain


def made(kind: type[nn.Module]) -> nn.Module:
    return nn.Threshold(0.1, 0.0) if kind is nn.Threshold else kind()


@pytest.mark.parametrize(
    "activation", [nn.Identity(), nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.3), nn.PReLU(), nn.Tanh(), nn.ELU(), nn.SELU()]
)
def test_activations_with_a_critical_point_have_its_gain_bit_for_bit(activation):
    assert bounded_gain(activation.double()) == critical_gain(activation.double()) <= math.sqrt(2)


@pytest.mark.parametrize(
    ("activation", "gain"),
    [
        *((kind(), 2**0.5) for kind in (nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Hardswish, nn.LogSigmoid)),
        *((kind(), 2**0.5) for kind in (nn.Sigmoid, nn.Hardsigmoid)),
        *((kind(), 1.0) for kind in (nn.Hardshrink, nn.Softshrink, nn.Tanhshrink)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_others_have_that_at_which_large_signals_do_not_grow(activation, gain):
    assert bounded_gain(activation) == pytest.approx(gain, abs=1e-4)
    assert critical_gain(activation) > gain + 0.2


def test_which_activations_have_a_critical_gain():
    those = {kind.__name__ for kind in ACTIVATIONS if has_critical_gain(made(kind).eval())}
    assert those == {"ReLU", "LeakyReLU", "PReLU", "RReLU", "Tanh", "Hardtanh", "ELU", "CELU", "SELU"}


@pytest.mark.parametrize("kind", [kind for kind in ACTIVATIONS if kind is not nn.RReLU], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("size", [0.1, 100])
def test_signals_of_no_size_explode_in_thirty_layers(kind, size):
    activation = made(kind).double()
    x = size * torch.randn(20, 200, dtype=torch.float64)
    for _ in range(30):
        x = activation(bounded_gain(activation) * x @ nn.init.orthogonal_(torch.empty(200, 200, dtype=torch.float64)))
    # constants that each layer adds, such as log 2 of Softplus, are propagated too
    assert x.square().mean().sqrt() < 5 * max(size, 1)


def network(activation: type[nn.Module]) -> nn.Sequential:
    """Return an MLP-7 of width 40."""
    widths = [784, *[40] * 6, 10]
    layers = [module for a, b in pairwise(widths) for module in (nn.Linear(a, b), activation())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def fitted(
    activation: type[nn.Module], initializer: Initializer | None, **settings: int
) -> tuple[JacobianSpectrum, list[float], float]:
    """Return the spectra of a pruned and corrected network, its losses in one epoch, and its accuracy after it."""
    L.seed_everything(0, verbose=False)
    model = SparseClassifier(network(activation), initializer=initializer)
    spectrum, losses = JacobianSpectrum(examples=50, every_n_epochs=None), []

    class Noting(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            losses.append(float(outputs["loss"]))

    settings = {"limit_train_batches": 1.0, "limit_val_batches": 1.0} | settings
    trainer = fit(model, [PruneAtInit(0.9), spectrum, Noting()], **settings)
    return spectrum, losses, float(trainer.callback_metrics["accuracy/val"])


@pytest.mark.parametrize("kind", [nn.GELU, nn.Hardswish], ids=lambda kind: kind.__name__)
def test_a_pruned_and_corrected_network_trains(kind):
    spectrum, losses, accuracy = fitted(kind, Orthogonal())
    assert spectrum.spectra["corrected"].mean / spectrum.spectra["dense"].mean == pytest.approx(1.5, rel=0.67)
    assert all(math.isfinite(loss) and loss < 5 for loss in losses)
    assert accuracy > 0.25


def test_masks_that_let_no_signal_through_are_warned_about():
    # the criterion keeps almost no weights in the first layer, so no gain helps
    with pytest.warns(UserWarning, match=r"Signals vanish .* corrected network: .* of the dense network was 0\.\d+"):
        _, losses, _ = fitted(nn.Softplus, Orthogonal())
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.filterwarnings("always:Signals change")
def test_a_change_by_more_than_a_factor_of_three_is_warned_about_once_where_no_gain_is_critical(recwarn):
    spectrum, _, accuracy = fitted(nn.GELU, None)
    dense, corrected = (spectrum.spectra[stage].mean for stage in ("dense", "corrected"))
    (message,) = [str(warning.message) for warning in recwarn if "Signals" in str(warning.message)]
    assert f"is {corrected:.3g}, and that of the dense network was {dense:.3g}" in message
    assert dense < corrected / 3 < 1
    assert accuracy > 0.25


@pytest.mark.parametrize("kind", [nn.Tanh, nn.ReLU], ids=lambda kind: kind.__name__)
def test_signals_that_come_nearer_to_1_are_no_reason_to_warn_where_a_gain_is_critical(kind):
    spectrum, _, _ = fitted(kind, None, limit_train_batches=1)
    assert spectrum.spectra["corrected"].mean > 3 * spectrum.spectra["dense"].mean


@pytest.mark.parametrize(
    ("dense", "corrected", "word"),
    [
        (0.1, 0.31, "change"),
        (0.3, 0.101, None),
        (1.0, 0.34, None),
        (0.2, 0.21, None),
        (4.0, 1.3, "change"),
        (0.0, 0.5, "change"),
        (0.0, 0.0, None),
        (0.1, 4.0, "explode"),
        (0.1, 0.03, "vanish"),
    ],
)
def test_without_a_critical_gain_each_change_by_more_than_three_is_warned_about(dense, corrected, word, recwarn):
    _warn_of_change(dense, corrected, no_critical_gain=True)
    assert [f"Signals {word} in" in str(warning.message) for warning in recwarn] == [True] * bool(word)


@pytest.mark.parametrize(
    ("dense", "corrected", "word"),
    [
        (0.03, 1.1, None),
        (1e-4, 0.5, None),
        (0.4, 0.2, None),
        (5.0, 0.9, None),
        (5.0, 12.0, None),
        (0.03, 3.1, "explode"),
        (5.0, 16.0, "explode"),
        (0.5, math.nan, "explode"),
        (0.03, 0.009, "vanish"),
        (50.0, 0.3, "vanish"),
        (0.5, 0.0, "vanish"),
    ],
)
def test_signals_that_explode_or_vanish_are_warned_about_with_both_numbers(dense, corrected, word, recwarn):
    _warn_of_change(dense, corrected, no_critical_gain=False)
    assert [word is not None and f"Signals {word}" in str(warning.message) for warning in recwarn] == [True] * bool(
        word
    )
