"""SparseClassifier: pruned weights stay zero under every way of training, and checkpoints are self-contained."""

import copy
import pickle
from functools import partial

import pytest
import pytorch_lightning as L
import torch
from fits import PLAIN, Drifting, ZerosStay, classifier, fit, pruning
from foreign import Plain
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from spl import InputError, Masks, SparseClassifier
from spl.data import MNISTSample
from spl.isometry import ApproximateIsometry
from spl.networks import MLP

DEPRECATED = pytest.mark.filterwarnings(
    "ignore:.*(to_torchscript|torch.jit).*deprecated:DeprecationWarning",
    "ignore:.*(to_torchscript|torch.jit).*deprecated:FutureWarning",
    "ignore:.*Metric.updated_called:DeprecationWarning",
)
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1, weight_decay=5e-4),
    "momentum": partial(SGD, weight_decay=5e-4),
    "nesterov": partial(SGD, nesterov=True, weight_decay=5e-4),
    "fused": partial(SGD, fused=True),
    "adam": partial(torch.optim.Adam, lr=1e-3, weight_decay=1e-2),
    "adamw": partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-2),
    "rmsprop": partial(torch.optim.RMSprop, lr=1e-3, momentum=0.9),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_pruned_weights_and_their_moments_stay_exactly_zero(optimizer):
    check = ZerosStay()
    fit(classifier(optimizer=optimizer), [pruning(), check])
    assert check.steps == 6


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.1},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"precision": "bf16-mixed"},
        {"precision": "64-true"},
        {"precision": "bf16-true"},
    ],
    ids=str,
)
def test_pruned_weights_stay_zero_under_trainer_options(options):
    check = ZerosStay()
    fit(classifier(), [pruning(), check], **options)
    assert check.steps == 6


def test_an_optimizer_that_moves_weights_without_gradients_is_noticed_and_undone():
    check = ZerosStay(state_too=False)
    with pytest.warns(UserWarning, match=r"pruned ones are set back to 0\.0"):
        fit(classifier(optimizer=partial(Drifting, lr=0.1)), [pruning(), check])
    assert check.steps == 6


def test_clipping_sees_the_norm_of_live_gradients_only():
    norms = {}

    class Norms(L.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.before = [p.grad.clone() for p in pl_module.network.parameters()]

        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            if any(p.grad is not None for p in pl_module.network.parameters()) and pl_module.masks is not None:
                parameters = dict(pl_module.network.named_parameters())
                norms["clipped"] = torch.stack([p.grad.norm() for p in parameters.values()]).norm()
                norms["live"] = torch.stack(
                    [
                        (g[pl_module.masks[n]] if n in pl_module.masks else g).norm()
                        for n, g in zip(parameters, self.before, strict=True)
                    ]
                ).norm()

    fit(classifier(), [pruning(), Norms()], gradient_clip_val=1e-3, limit_train_batches=2)
    assert norms["live"] > 1e-3
    assert torch.isclose(norms["clipped"], torch.tensor(1e-3), rtol=1e-3)


@pytest.mark.slow
def test_a_compiled_network_keeps_names_and_zeros():
    network = MLP(depth=3, width=20)
    network.compile()
    model = classifier(network)
    check = ZerosStay()
    fit(model, [pruning(), check])
    assert check.steps == 6
    assert set(model.state_dict()) == set(classifier().state_dict())


def test_sparsity_zero_is_the_dense_run_bit_for_bit():
    dense, pruned = classifier(), classifier()
    fit(dense, [])
    fit(pruned, [pruning(sparsity=0.0)])
    pairs = zip(dense.parameters(), pruned.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_masked_training_is_the_training_of_the_smaller_network():
    """Units that the mask cuts off have no effect: the loss is that of the network without them."""
    network = MLP(depth=2, width=4, activation="tanh", in_features=784)
    keep = torch.tensor([True, True, False, False])
    masks = Masks({"fc1.weight": keep[:, None].expand(4, 784).clone(), "fc2.weight": keep.expand(10, 4).clone()})
    model = classifier(network, optimizer=SGD)
    small = MLP(depth=2, width=2, activation="tanh", in_features=784)
    small.fc1.weight.data.copy_(network.fc1.weight[:2])
    small.fc2.weight.data.copy_(network.fc2.weight[:, :2])
    small_model = classifier(small, optimizer=SGD, initializer=None)
    small.fc1.bias.data.zero_()
    small.fc2.bias.data.zero_()
    model.set_masks(masks)
    fit(model, [])
    fit(small_model, [])
    assert torch.allclose(network.fc1.weight[:2], small.fc1.weight, atol=1e-6)
    assert torch.allclose(network.fc2.weight[:, :2], small.fc2.weight, atol=1e-6)


def test_weight_decay_spares_batch_norm():
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.BatchNorm1d(10))
    optimizer = SparseClassifier(network).configure_optimizers()
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert [decays[id(p)] for p in network[1].parameters()] == [5e-4, 5e-4]
    assert [decays[id(p)] for p in network[2].parameters()] == [0.0, 0.0]
    assert len(decays) == 4


def test_a_schedule_counts_steps():
    model = classifier(lr_scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5))
    trainer = fit(model, [])
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**3)


def test_metrics_are_means_over_all_examples(tmp_path):
    model = classifier()
    trainer = fit(model, [], limit_val_batches=1.0, max_epochs=2, limit_train_batches=41)
    data = MNISTSample()
    with torch.no_grad():
        logits = [(model(data.normalize(x)), y) for x, y in data.val_dataloader()]
    right = sum(int((z.argmax(-1) == y).sum()) for z, y in logits)
    assert trainer.callback_metrics["accuracy/val"] == pytest.approx(right / 450)
    assert trainer.callback_metrics["accuracy/val"] > 0.5
    total = sum(float(nn.functional.cross_entropy(z, y, reduction="sum")) for z, y in logits)
    assert trainer.callback_metrics["loss/val"] == pytest.approx(total / 450, rel=1e-5)


def test_prediction_gives_probabilities():
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    out = trainer.predict(classifier(), datamodule=MNISTSample())
    assert torch.cat(out).shape == (500, 10)
    assert torch.allclose(torch.cat(out).sum(1), torch.ones(500))


def saved(tmp_path, **kwargs):
    model = classifier(**kwargs)
    trainer = fit(model, [pruning()], enable_checkpointing=True, default_root_dir=tmp_path)
    path = tmp_path / "run.ckpt"
    trainer.save_checkpoint(path)
    return model, path


def test_a_checkpoint_is_plain_data_with_exact_zeros(tmp_path):
    _, path = saved(tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    assert set(checkpoint["masks"]) == {"fc1.weight", "fc2.weight", "fc3.weight"}
    for name, mask in checkpoint["masks"].items():
        assert mask.dtype == torch.bool
        assert bool((checkpoint["state_dict"][f"network.{name}"][~mask] == 0).all())


def test_a_checkpoint_has_exact_zeros_whatever_was_written_to_the_weights_before(tmp_path):
    model = classifier()
    trainer = fit(model, [pruning()])
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    weights = torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weights[f"network.{name}"] != 0, mask) for name, mask in model.masks.items())


def test_a_checkpoint_brings_masks_and_weights_back(tmp_path):
    model, path = saved(tmp_path)
    again = SparseClassifier.load_from_checkpoint(path, network=MLP(depth=3, width=20))
    assert again.masks.digest() == model.masks.digest()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    check = ZerosStay()
    fit(again, [check])
    assert check.steps == 6


def test_a_checkpoint_may_say_how_its_network_is_built(tmp_path):
    model = classifier()
    model.network_config = {"class_path": "spl.networks.MLP", "init_args": {"depth": 3, "width": 20}}
    trainer = fit(model, [pruning()])
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    again = SparseClassifier.load_from_checkpoint(tmp_path / "x.ckpt")
    assert again.masks.digest() == model.masks.digest()


def test_without_a_network_loading_says_what_to_pass(tmp_path):
    _, path = saved(tmp_path)
    with pytest.raises(InputError, match=r"pass the network: load_from_checkpoint\(path, network="):
        SparseClassifier.load_from_checkpoint(path)


def test_masks_that_do_not_fit_are_refused_by_layer(tmp_path):
    _, path = saved(tmp_path)
    with pytest.raises(InputError, match=r"fc1.weight \(mask \(20, 784\), weights \(30, 784\)\)"):
        SparseClassifier.load_from_checkpoint(path, network=MLP(depth=3, width=30))


def test_a_dense_checkpoint_that_does_not_fit_is_refused_by_layer(tmp_path):
    model = classifier()
    fit(model, []).save_checkpoint(tmp_path / "dense.ckpt")
    with pytest.raises(InputError, match=r"network.fc2.weight \(\(20, 20\), wanted \(30, 30\)\)"):
        SparseClassifier.load_from_checkpoint(tmp_path / "dense.ckpt", network=MLP(depth=3, width=30))


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        SparseClassifier.load_from_checkpoint(tmp_path / "x.ckpt")
    torch.save({"weights": 1}, tmp_path / "y.ckpt")
    with pytest.raises(InputError, match="no state_dict"):
        SparseClassifier.load_from_checkpoint(tmp_path / "y.ckpt")
    with pytest.raises(InputError, match="There is no checkpoint"):
        SparseClassifier.load_from_checkpoint(tmp_path / "z.ckpt")


def test_pretrained_weights_are_where_fit_starts(tmp_path):
    model, path = saved(tmp_path)
    start = {}

    class Start(L.Callback):
        def on_train_start(self, trainer, pl_module):
            start.update({n: p.detach().clone() for n, p in pl_module.network.named_parameters()})

    fit(classifier(pretrained=path), [Start()])
    assert all(torch.equal(start[n], p) for n, p in model.network.named_parameters())


def test_a_missing_pretrained_checkpoint_is_named(tmp_path):
    with pytest.raises(InputError, match=r"There is no checkpoint .*gone\.ckpt"):
        fit(classifier(pretrained=tmp_path / "gone.ckpt"), [])


def test_a_pruned_module_can_be_copied_and_pickled():
    model = classifier()
    fit(model, [pruning()])
    for twin in (copy.deepcopy(model.network), pickle.loads(pickle.dumps(model.network))):
        assert list(dict(twin.named_parameters())) == list(dict(model.network.named_parameters()))
        assert model.masks.revived(dict(twin.named_parameters())) == {}


def test_setting_masks_that_do_not_fit_is_refused():
    with pytest.raises(InputError, match=r"fc9.weight \(no such parameter\)"):
        classifier().set_masks(Masks({"fc9.weight": torch.ones(2, dtype=torch.bool)}))


@DEPRECATED
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("method", ["script", "trace"])
def test_a_pruned_classifier_becomes_torchscript(method, channels_last):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
    model = classifier(network, channels_last=channels_last)
    images = torch.randn(8, 1, 6, 6)
    data = DataLoader(TensorDataset(images, torch.arange(8)), batch_size=4)
    L.Trainer(**(PLAIN | {"callbacks": [pruning()]})).fit(model, data)
    scripted = model.to_torchscript(method=method, example_inputs=images)
    assert torch.equal(scripted(images), model.eval()(images))
    assert int((scripted.state_dict()["network.0.weight"] == 0).sum()) == int((~model.masks["0.weight"]).sum())


@DEPRECATED
@pytest.mark.parametrize("method", ["script", "trace"])
def test_another_module_with_masks_becomes_torchscript(method):
    module = Plain(nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4)))
    inputs = torch.randn(8, 12)
    callback = pruning(isometry=ApproximateIsometry())
    data = DataLoader(TensorDataset(inputs, torch.arange(8) % 4), batch_size=4)
    L.Trainer(**(PLAIN | {"callbacks": [callback]})).fit(module, data)
    scripted = module.to_torchscript(method=method, example_inputs=inputs)
    assert torch.equal(scripted(inputs), module.eval()(inputs))
    assert callback.masks.revived(dict(scripted.named_parameters())) == {}
