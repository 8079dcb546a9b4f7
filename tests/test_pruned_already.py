"""Fits of networks whose weights were pruned before: zeros are kept, and trained weights are not corrected again."""

from collections.abc import Callable

import pytest
import pytorch_lightning as L
import torch
from fits import PLAIN, classifier, fit, pruning
from foreign import Plain
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18, vit_b_16

from spl import InputError, PruneAtInit, SparseClassifier
from spl.callbacks.pruned_already import masks_of_zeros
from spl.criteria import Magnitude
from spl.initializers import DeltaOrthogonal, Orthogonal
from spl.isometry import ApproximateIsometry
from spl.networks import MLP
from spl.pruning import PruningChoices, prunable_parameters, prune
from spl.pruning.patterns import NM, Blocks, Channels
from spl.pruning.scopes import ERK


class Own(L.LightningModule):
    """A module of the user's own, which knows nothing of masks."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(nn.Linear(12, width), nn.ReLU(), nn.Linear(width, 4))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def data() -> DataLoader:
    x = torch.randn(32, 12, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, torch.arange(32) % 4), batch_size=8)


def trained(callback: L.Callback, module: L.LightningModule, **options) -> L.Trainer:
    trainer = L.Trainer(**(PLAIN | {"callbacks": [callback]} | options))
    trainer.fit(module, data())
    return trainer


class WeightsAtStart(L.Callback):
    """Keep the weights with which training begins."""

    def on_train_start(self, trainer, pl_module):
        self.weights = [p.detach().clone() for p in pl_module.parameters()]


@pytest.fixture
def first_stage(tmp_path):
    pruned = PruneAtInit(sparsity=0.9)
    module = Own()
    trained(pruned, module, max_epochs=3).save_checkpoint(tmp_path / "first.ckpt")
    return module, pruned.masks, tmp_path / "first.ckpt"


def by_class(module: Own, path) -> L.LightningModule:
    return Own.load_from_checkpoint(path)


def by_state(module: Own, path) -> L.LightningModule:
    fresh = Own()
    fresh.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    return fresh


def by_network(module: Own, path) -> L.LightningModule:
    fresh = Own()
    fresh.network = module.network
    return fresh


@pytest.mark.parametrize("loaded", [by_class, by_state, by_network])
def test_trained_weights_keep_their_zeros_and_are_not_corrected_again(first_stage, loaded: Callable, caplog):
    module, masks, path = first_stage
    again, start = loaded(module, path), WeightsAtStart()
    before = [p.detach().clone() for p in module.parameters()]
    second = PruneAtInit(sparsity=0.9)
    trainer = L.Trainer(**(PLAIN | {"callbacks": [second, start]}))
    trainer.fit(again, data())
    assert second.masks == masks
    assert all(torch.equal(a, b) for a, b in zip(start.weights, before, strict=True))
    assert masks.revived(dict(again.named_parameters())) == {}
    assert "pruned already: their zeros are kept" in caplog.text


def test_another_sparsity_is_refused_and_the_named_one_is_kept(first_stage):
    module, masks, path = first_stage
    again = by_class(module, path)
    before = [p.clone() for p in again.parameters()]
    with pytest.raises(InputError, match=r"461 of 512 are exactly 0 \(in .*, which is sparsity 0\.900390625, but 0\.8"):
        trained(PruneAtInit(sparsity=0.8), again)
    assert all(torch.equal(a, b) for a, b in zip(before, again.parameters(), strict=True))
    second = PruneAtInit(sparsity=0.900390625)
    trained(second, again)
    assert second.masks == masks


def test_the_network_of_a_classifiers_checkpoint_is_recognized(tmp_path):
    model = classifier()
    fit(model, [pruning(isometry=ApproximateIsometry())]).save_checkpoint(tmp_path / "x.ckpt")
    network = MLP(depth=3, width=20)
    loaded = SparseClassifier.load_from_checkpoint(tmp_path / "x.ckpt", network=network).network
    again = SparseClassifier(loaded)
    fit(again, [pruning(isometry=ApproximateIsometry())])
    assert again.masks == model.masks
    with pytest.raises(InputError, match="start from a dense network"):
        fit(classifier(pretrained=tmp_path / "x.ckpt"), [pruning(sparsity=0.95)])


def test_a_pruned_network_with_a_new_head_is_refused_until_the_head_is_excluded(first_stage):
    module, masks, path = first_stage
    module = by_class(module, path)
    module.network[2] = nn.Linear(32, 4)
    with pytest.raises(InputError, match="exclude them"):
        trained(PruneAtInit(sparsity=0.9), module)
    backbone = masks["network.0.weight"]
    second = PruneAtInit(sparsity=1 - int(backbone.sum()) / backbone.numel(), exclude=["network.2.*"])
    trained(second, module)
    assert torch.equal(second.masks["network.0.weight"], backbone)


@pytest.mark.parametrize("pattern", [NM(2, 4), Blocks(2, 4), Channels()], ids=lambda pattern: type(pattern).__name__)
def test_zeros_of_a_pattern_are_kept_only_for_that_pattern(pattern):
    module = Own()
    choices = PruningChoices(sparsity=0.5, pattern=pattern, criterion=Magnitude())
    parameters = prunable_parameters(module)
    masks = prune(module, Magnitude(), 0.5, pattern=pattern)
    masks.apply_(parameters)
    assert masks_of_zeros(parameters, choices) == masks
    other = NM(1, 2) if not isinstance(pattern, NM) else Blocks(4, 4)
    with pytest.raises(InputError, match=f"with the pattern {type(other).__name__} is asked for"):
        masks_of_zeros(parameters, PruningChoices(sparsity=0.5, pattern=other))


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.9])
def test_networks_with_layers_that_stayed_dense_are_recognized(sparsity):
    network = resnet18(num_classes=4)
    parameters = prunable_parameters(network)
    prune(network, Magnitude(), sparsity, scope=ERK()).apply_(parameters)
    assert masks_of_zeros(parameters, PruningChoices(sparsity=sparsity)) is not None
    with pytest.raises(InputError, match="pruned already"):
        masks_of_zeros(parameters, PruningChoices(sparsity=0.95))


def test_sparsity_0_is_the_dense_fit_whatever_the_zeros():
    weight = torch.randn(8, 8).bernoulli_(0.5)
    assert masks_of_zeros({"weight": weight}, PruningChoices(sparsity=0.0)) is None


def adapters() -> nn.Module:
    """Return layers with low-rank adapters beside them; half of all weights are 0 at the start."""
    layers = [nn.Linear(16, 16, bias=False) for _ in range(4)]
    for layer in layers[1::2]:
        nn.init.zeros_(layer.weight)
    return nn.Sequential(*layers)


def delta_orthogonal() -> nn.Module:
    network = nn.Sequential(*(nn.Conv2d(8, 8, 3) for _ in range(3)))
    DeltaOrthogonal()(network)
    return network


def dirac() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(4, 8, 1), nn.Linear(8, 8))
    for layer in network[:3]:
        nn.init.dirac_(layer.weight, getattr(layer, "groups", 1))
    nn.init.eye_(network[3].weight)
    return network


def padded() -> nn.Module:
    """Return an output layer that is tied to an embedding with a padding row."""
    network = nn.ModuleList([nn.Embedding(6, 8, padding_idx=0), nn.Linear(8, 6, bias=False)])
    network[1].weight = network[0].weight
    return network


def half() -> nn.Module:
    return nn.Sequential(*(nn.Linear(300, 300) for _ in range(4))).half()


DENSE = {
    "a transformer with a head of zeros": vit_b_16,
    "residual branches of zeros": lambda: _zero_residuals(resnet18()),
    "adapters": adapters,
    "delta-orthogonal": delta_orthogonal,
    "Dirac and identity": dirac,
    "padding": padded,
    "half precision": half,
    "orthogonal": lambda: _orthogonal(MLP()),
}


def _zero_residuals(network: nn.Module) -> nn.Module:
    for name, module in network.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
    return network


def _orthogonal(network: nn.Module) -> nn.Module:
    Orthogonal()(network)
    return network


@pytest.mark.parametrize("dense", DENSE.values(), ids=DENSE)
@pytest.mark.parametrize("include_bias", [False, True])
def test_zeros_of_an_initialization_do_not_make_a_network_a_pruned_one(dense, include_bias):
    parameters = prunable_parameters(dense(), include_bias)
    size = sum(p.numel() for p in parameters.values())
    zeros = size - sum(int(p.count_nonzero()) for p in parameters.values())
    assert masks_of_zeros(parameters, PruningChoices(sparsity=0.9)) is None
    if 0 < zeros < size:  # also where just as many are asked for
        assert zeros < 10 or masks_of_zeros(parameters, PruningChoices(sparsity=zeros / size)) is None


def test_a_few_hand_made_filters_do_not_make_a_network_a_pruned_one():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 32, 3), nn.Conv2d(32, 32, 3))
    sobel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
    with torch.no_grad():
        network[0].weight.copy_(torch.stack([sobel, sobel.mT])[:, None])
    assert masks_of_zeros(prunable_parameters(network), PruningChoices(sparsity=0.9)) is None


def test_a_module_with_residual_branches_of_zeros_is_pruned_as_before():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    nn.init.zeros_(network[2].bias)
    callback = PruneAtInit(sparsity=0.5, isometry=None)
    trained(callback, Plain(network))
    assert callback.record["kept"] == callback.masks.kept == 96
