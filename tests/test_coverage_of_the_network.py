"""What the masks cover of a network is said and recorded, and weights that no gradient reaches are left out."""

import logging

import pytest
import torch
import torch.nn.functional as F
from foreign import Plain, Trained, batches
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import TensorDataset

from spl import InputError, prune
from spl.callbacks.reporting.record import coverage_text
from spl.criteria import (
    FORCE,
    NPB,
    NTKSAP,
    PHEW,
    PX,
    SAO,
    SNIP,
    ConnectionSensitivity,
    GraSP,
    IterativeSNIP,
    Magnitude,
    ProsPr,
    Random,
    RedrawnWeights,
    ShuffledInLayers,
    SynFlow,
)
from spl.criteria.objective import MeanLoss
from spl.criteria.schedules import Exponential
from spl.initializers import HeNormal
from spl.pruning import PruningChoices
from spl.pruning.coverage import Coverage, shortened
from spl.pruning.observation import observe


def mlp():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def data(n=24):
    inputs = torch.randn(n, 6, generator=torch.Generator().manual_seed(0))
    return batches(TensorDataset(inputs, torch.arange(n) % 3), 8)


class Averaging(Plain):
    """A module that keeps an average of its network as a submodule, as for evaluation or as a teacher."""

    def __init__(self, frozen=False):
        super().__init__(mlp())
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.average.requires_grad_(not frozen)

    def configure_optimizers(self):
        return torch.optim.SGD(self.network.parameters(), lr=0.1)

    def on_train_batch_end(self, *_):
        self.average.update_parameters(self.network)


NO_GRADIENT = r"^average\.module\.0\.weight, average\.module\.2\.weight: no gradient of the loss arrives there"


@pytest.mark.parametrize("criterion", [ConnectionSensitivity(), GraSP(temperature=1.0), IterativeSNIP()])
def test_a_copy_without_gradients_is_left_out_and_the_masks_are_those_of_the_network_alone(criterion):
    with pytest.warns(UserWarning, match=NO_GRADIENT):
        trained = Trained(Averaging, data(), epochs=2, criterion=criterion, schedule=Exponential(2))
    alone = Trained(lambda: Plain(mlp()), data(), epochs=1, criterion=criterion, schedule=Exponential(2))
    assert trained.masks == alone.masks
    assert trained.masks.kept == round(0.1 * trained.masks.size)
    coverage = trained.pruning.record["coverage"]
    assert (coverage["covered"], coverage["sparsity"]) == (0.5, trained.masks.sparsity / 2)
    assert coverage["dense"] == dict.fromkeys(["average.module.0.weight", "average.module.2.weight"], "no gradient")
    assert trained.pruning.record["exclude"] == []
    assert trained.pruning.record["batches"] == 3
    averaged = trained.module.average.module.state_dict()
    for name, mask in trained.masks.items():
        assert bool((averaged[name.removeprefix("network.")][~mask] == 0).all())


def test_a_frozen_copy_is_named_as_frozen_without_a_warning():
    trained = Trained(lambda: Averaging(frozen=True), data())
    assert set(trained.pruning.record["coverage"]["dense"].values()) == {"frozen"}


class Routed(Plain):
    """A module of which each batch uses one half."""

    def __init__(self):
        super().__init__(mlp())
        self.other = mlp()

    def forward(self, x):
        return torch.where(x.sum() > 0, 1.0, 0.0) * self.network(x) if x.sum() > 0 else self.other(x)


def test_weights_that_only_a_later_batch_uses_are_scored():
    x = torch.cat([torch.ones(8, 6), -torch.ones(8, 6)]) * torch.rand(16, 6)
    trained = Trained(Routed, batches(TensorDataset(x, torch.arange(16) % 3), 8))
    assert len(trained.masks) == 4
    assert trained.pruning.record["coverage"] == {"covered": 1.0, "sparsity": trained.masks.sparsity, "dense": {}}


@pytest.mark.parametrize("layers", [mlp, lambda: nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 3))])
def test_one_batch_is_enough_where_all_weights_are_used(layers):
    read = []

    def loss(network, batch):
        read.append(batch)
        return F.cross_entropy(network(batch[0]), batch[1])

    network = layers()
    nn.init.zeros_(network[-1].weight)  # a gradient of zeros arrives below it
    parameters = PruningChoices().parameters(network)
    assert observe(network, parameters, data(), MeanLoss(loss)).unreached == []
    assert len(read) == 1


def test_what_reads_is_known_of_every_criterion():
    reads = {
        "loss": [SNIP(), GraSP(), ProsPr(), FORCE(), IterativeSNIP(), ShuffledInLayers(GraSP())],
        "inputs": [PX()],
        "shape": [SynFlow(), NTKSAP(), NPB(), RedrawnWeights(SynFlow(), HeNormal())],
    }
    assert {key: {criterion.reads for criterion in some} for key, some in reads.items()} == {
        "loss": {"loss"}, "inputs": {"inputs"}, "shape": {"shape"}
    }  # fmt: skip
    assert not any(criterion.needs_data for criterion in (Magnitude(), Random(), PHEW(), SAO()))


def test_dense_weights_are_named_by_their_kind_the_largest_first():
    network = nn.ModuleDict(
        {
            "frozen": nn.Linear(2, 3).requires_grad_(False),
            "lookup": nn.Embedding(10, 4),
            "head": nn.Linear(4, 5),
            "body": nn.Linear(3, 8),
            "own": nn.Bilinear(2, 2, 2),
            "norm": nn.LayerNorm(8),
        }
    )
    masks = prune(network, Magnitude(), 0.5, exclude=["head.*"])
    coverage = Coverage.of(network, masks, ["head.*"])
    assert list(coverage.dense.items()) == [
        ("lookup.weight", "embedding"), ("head.weight", "excluded"), ("own.weight", "Bilinear"),
        ("frozen.weight", "frozen"),
    ]  # fmt: skip
    assert coverage.covered == pytest.approx(24 / (24 + 40 + 20 + 8 + 6))


def test_tied_weights_and_weights_without_a_shape_count_once_and_not_at_all():
    network = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False), nn.LazyLinear(2))
    network[1].weight = network[0].weight
    masks = prune(network, Magnitude(), 0.5, exclude=["2.*"])
    assert Coverage.of(network, masks) == (1.0, 0.5, {})


class Apart(nn.Module):
    """A network with an embedding that it does not use."""

    def __init__(self):
        super().__init__()
        self.layers = mlp()
        self.lookup = nn.Embedding(9, 8).requires_grad_(False)

    def forward(self, x):
        return self.layers(x)


def test_the_line_that_says_what_was_pruned_names_what_is_dense(caplog, tmp_path):
    said = "so it is 0.6019 sparse; dense: network.lookup.weight (frozen)"
    with caplog.at_level(logging.INFO, logger="pytorch_lightning.utilities.rank_zero"):
        half = Trained(lambda: Plain(Apart()), data()).saved(tmp_path / "half.ckpt")
        Trained(lambda: Plain(Apart()), data(), epochs=2, resume=half)
    lines = [record.message for record in caplog.records if record.message.endswith(said)]
    assert [line.split(": Masks(")[0] for line in lines] == [
        "Pruned at initialization by ConnectionSensitivity",
        "Masks kept as they are",
    ]


def test_names_are_shortened_and_nothing_is_said_of_a_network_that_is_covered():
    names = ["a", "b", "c", "d", "e", "f", "g"]
    assert (shortened(names[:5]), shortened(names)) == ("a, b, c, d, e", "a, b, c, d, e and 2 more")
    assert coverage_text({"coverage": {"covered": 1.0, "sparsity": 0.9, "dense": {}}}) == coverage_text({}) == ""


class ZeroHead(Plain):
    def __init__(self):
        super().__init__(mlp())
        nn.init.zeros_(self.network[2].weight)


def test_the_warning_of_collapse_says_that_all_scores_are_0():
    said = r"network\.2\.weight has no weight left, .* All its scores are 0: its weights or its gradients are 0"
    with pytest.warns(UserWarning, match=said):
        Trained(ZeroHead, data(), sparsity=0.5)


@pytest.mark.parametrize(
    "criterion", [Magnitude(), Random(), SAO(), SynFlow(), NTKSAP(), NPB(), PX()], ids=lambda c: type(c).__name__
)
def test_criteria_without_a_loss_leave_copies_out_too(criterion):
    with pytest.warns(UserWarning, match=NO_GRADIENT):
        trained = Trained(Averaging, data(), epochs=1, criterion=criterion, sparsity=0.5, schedule=Exponential(2))
    assert set(trained.masks) == {"network.0.weight", "network.2.weight"}


def test_without_batches_a_copy_is_named_by_its_equal_weights():
    with pytest.warns(UserWarning, match=r"^average\.module\.0\.weight \(network\.0\.weight\), .* equals another one"):
        assert len(prune(Averaging(), Magnitude(), 0.5)) == 4


def test_an_iterator_that_does_not_show_what_is_reached_is_refused():
    x, y = torch.randn(8, 6), torch.arange(8) % 3
    with pytest.raises(InputError, match=r"does not depend on average\.module\.0.* pass a list or a DataLoader"):
        prune(Averaging(), ConnectionSensitivity(), 0.5, iter([(x, y)] * 2))
    network = mlp()
    assert prune(network, ConnectionSensitivity(), 0.5, iter([(x, y)] * 2)) == prune(
        network, ConnectionSensitivity(), 0.5, [(x, y)] * 2
    )


def test_a_loss_that_fails_is_no_obstacle_for_a_criterion_that_needs_none():
    with pytest.raises(ValueError, match="Expected input batch_size"):
        prune(mlp(), ConnectionSensitivity(), 0.5, [(torch.randn(8, 6), torch.zeros(3).long())])
    assert len(prune(mlp(), Magnitude(), 0.5, [(torch.randn(8, 6), torch.zeros(3).long())])) == 2
    assert len(prune(mlp(), SynFlow(), 0.5, [(torch.randn(8, 6), torch.zeros(3))])) == 2


class Skipping(Plain):
    def __init__(self):
        super().__init__(mlp())

    def training_step(self, batch, batch_idx):
        return None if batch[1][0] == 0 else super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("criterion", [ConnectionSensitivity(), GraSP(temperature=1.0)], ids=lambda c: type(c).__name__)
def test_batches_without_a_loss_show_nothing(criterion):
    x, y = torch.randn(24, 6), torch.arange(3).repeat_interleave(8)
    trained = Trained(Skipping, batches(TensorDataset(x, y), 8), criterion=criterion)
    assert trained.pruning.record["coverage"]["covered"] == 1.0
