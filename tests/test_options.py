"""Options for faster or reproducible training: masks hold under each of them."""

from functools import partialmethod

import pytest
import torch
from fits import ZerosStay, classifier, fit, pruning
from torch import nn

from spl import JacobianSpectrum, SparseClassifier
from spl.errors import InputError
from spl.isometry import ApproximateIsometry
from spl.networks import ResNet

OPTIONS = {
    "channels_last": ({"channels_last": True}, {}),
    "bf16-mixed": ({}, {"precision": "bf16-mixed"}),
    "deterministic": ({}, {"deterministic": True}),
    "all but compile": ({"channels_last": True}, {"precision": "bf16-mixed", "deterministic": True}),
    "compile": ({"compile": True}, {}),
    "compile and all": (
        {"compile": True, "channels_last": True},
        {"precision": "bf16-mixed", "deterministic": True},
    ),
}
CASES = [
    pytest.param(*options, id=name, marks=pytest.mark.slow if "compile" in options[0] else ())
    for name, options in OPTIONS.items()
]


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """Restore global settings, and compile without inductor, whose kernels test_module covers."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module", autouse=True)
def _compiled_once():
    """Forget what was compiled after all tests; each of them compiles the same network again."""
    yield
    torch.compiler.reset()


def resnet(**options) -> SparseClassifier:
    torch.manual_seed(0)
    return classifier(ResNet(blocks_per_stage=1, width_multiplier=0.25, in_channels=1), **options)


@pytest.fixture(scope="module")
def plain() -> tuple[SparseClassifier, dict[str, float]]:
    """Return a network that was pruned without any option, and the spectrum of its Jacobian."""
    return measured(resnet())


def measured(model: SparseClassifier, **options) -> tuple[SparseClassifier, dict[str, float]]:
    """Return the model, pruned and trained for a step, and the spectrum of its Jacobian before that."""
    spectrum = JacobianSpectrum(examples=20, every_n_epochs=None)
    fit(model, [pruning(), spectrum], limit_train_batches=1, **options)
    return model, spectrum.spectra["pruned"].as_dict()


def weights(model: SparseClassifier) -> dict[str, bytes]:
    return {name: tensor.detach().numpy().tobytes() for name, tensor in model.state_dict().items()}


GRAPHS = pytest.param(
    {"compile": "reduce-overhead"}, {"accumulate_grad_batches": 2}, id="reduce-overhead", marks=pytest.mark.slow
)


@pytest.mark.parametrize(("model_options", "trainer_options"), [*CASES, GRAPHS])
def test_pruned_weights_stay_zero_and_a_resumed_run_is_the_uninterrupted_one(model_options, trainer_options, tmp_path):
    check = ZerosStay()
    whole = resnet(**model_options)
    callbacks = [pruning(isometry=ApproximateIsometry(max_iterations=3)), check]
    fit(whole, callbacks, max_epochs=2, limit_train_batches=2, **trainer_options)
    assert check.steps == 4
    assert whole.masks.kept == round(0.1 * whole.masks.size)

    half = resnet(**model_options)
    callbacks = [pruning(isometry=ApproximateIsometry(max_iterations=3))]
    fit(half, callbacks, limit_train_batches=2, **trainer_options).save_checkpoint(tmp_path / "half.ckpt")
    assert weights(half) != weights(whole)
    resumed = resnet(**model_options)
    check = ZerosStay()
    fit(
        resumed,
        [pruning(isometry=ApproximateIsometry(max_iterations=3)), check],
        ckpt_path=tmp_path / "half.ckpt",
        max_epochs=2,
        limit_train_batches=2,
        **trainer_options,
    )
    assert check.steps == 2
    assert resumed.masks == whole.masks
    assert weights(resumed) == weights(whole)


@pytest.mark.parametrize(("model_options", "trainer_options"), CASES)
def test_masks_and_spectra_do_not_depend_on_how_the_network_is_trained(model_options, trainer_options, plain):
    (slow, expected), (fast, spectrum) = plain, measured(resnet(**model_options), **trainer_options)
    assert spectrum == pytest.approx(expected, rel=1e-3)
    differing = sum(int((fast.masks[name] != mask).sum()) for name, mask in slow.masks.items())
    assert differing <= 0.001 * slow.masks.size  # close scores are rounded


@pytest.mark.parametrize(("model_options", "trainer_options"), CASES)
def test_sparsity_zero_is_the_dense_run_bit_for_bit(model_options, trainer_options):
    dense, pruned = resnet(**model_options), resnet(**model_options)
    fit(dense, [], limit_train_batches=3, **trainer_options)
    fit(pruned, [pruning(sparsity=0.0)], limit_train_batches=3, **trainer_options)
    assert weights(dense) == weights(pruned)


def test_a_mode_that_torch_does_not_have_is_refused():
    with pytest.raises(InputError, match="compile must be true, false, default or reduce-overhead or max-autotune"):
        classifier(compile="fast")


def test_graphs_are_of_the_first_batch_and_all_else_runs_eagerly():
    """What is compiled calls no backend for evaluation or for a smaller last batch."""
    compiled = []

    def backend(module, inputs):
        compiled.append([tuple(tensor.shape) for tensor in inputs])
        return module.forward

    model = classifier(compile="reduce-overhead")
    model.network.compile(backend=backend)
    fit(model, [], limit_train_batches=41, limit_val_batches=2, num_sanity_val_steps=1)  # 40 of 100 images, 1 of 50
    assert len(compiled) == 1
    assert (100, 1, 28, 28) in compiled[0]


def test_channels_last_reaches_kernels_images_and_masks(tmp_path):
    seen = []
    model = resnet(channels_last=True)
    model.network.conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    fit(model, [pruning()], limit_train_batches=1).save_checkpoint(tmp_path / "x.ckpt")
    kernel = model.network.stage1.block1.body.conv1.weight
    assert seen[-1].is_contiguous(memory_format=torch.channels_last)
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert not kernel.is_contiguous()
    bound = model._masked_weights._binding.masks
    assert all(f.stride() == p.stride() for f, p in zip(bound.factors, bound.parameters, strict=True))
    plain = SparseClassifier.load_from_checkpoint(tmp_path / "x.ckpt", network=resnet().network)
    assert torch.equal(plain.network.stage1.block1.body.conv1.weight, kernel)
    assert plain.masks == model.masks


@pytest.mark.slow
def test_a_compiled_network_is_compiled_and_loads_into_a_plain_one(tmp_path):
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    model = resnet(compile=True)
    fit(model, [pruning()], limit_train_batches=2).save_checkpoint(tmp_path / "x.ckpt")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    plain = SparseClassifier.load_from_checkpoint(tmp_path / "x.ckpt", network=resnet().network)
    assert weights(plain).keys() == weights(model).keys()
    assert plain.masks == model.masks
