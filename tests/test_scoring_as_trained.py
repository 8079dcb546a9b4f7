"""Modules are scored as they train, with any batches, and an error in their own code says what scoring was doing."""

import copy
from collections import UserDict, namedtuple
from dataclasses import dataclass

import pytest
import pytorch_lightning as L
import torch
import torch.nn.functional as F
from fits import PLAIN
from foreign import Plain, Trained, batches, images
from pytorch_lightning.utilities.data import extract_batch_size
from torch import nn
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchvision.models import googlenet
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.ops import StochasticDepth

from spl import InputError, PruneAtInit, prune
from spl.criteria import ConnectionSensitivity, GraSP, IterativeSNIP
from spl.criteria.objective import MeanLoss, examples
from spl.criteria.schedules import Exponential
from spl.functional.undisturbed import undisturbed
from spl.functional.without_dropout import WithoutDropout
from spl.sparsify import sparsify

DATA = batches(images(24, side=6), 8)


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 16), nn.Tanh(), nn.Linear(16, 4, bias=False))


class Moving(Plain):
    """A module with a teacher, a normalized layer and centers, which its step moves under `no_grad` and by `.data`."""

    def __init__(self):
        super().__init__(network())
        self.teacher = copy.deepcopy(self.network).requires_grad_(False)
        self.centers = nn.Parameter(torch.zeros(4, 4))
        self.average = [torch.zeros(4)]

    def training_step(self, batch, batch_idx):
        x, y = batch
        with torch.no_grad():
            for slow, fast in zip(self.teacher.parameters(), self.network.parameters(), strict=True):
                slow.mul_(0.5).add_(fast, alpha=0.5).add_(0.01)
            self.network[3].weight.copy_(F.normalize(self.network[3].weight))
        self.centers.data.mul_(0.9).add_(0.1)
        output = self(x)
        self.average[0] += output.detach().mean(0)
        return F.cross_entropy(output + self.centers[y], y) + F.mse_loss(output, self.teacher(x))


@pytest.mark.parametrize(
    "criterion", [ConnectionSensitivity(), GraSP(temperature=1), IterativeSNIP()], ids=lambda c: type(c).__name__
)
def test_a_step_that_moves_teachers_and_weights_moves_nothing_in_scoring(criterion):
    seen = {}

    class Watch(L.Callback):
        def on_fit_start(self, trainer, pl_module):
            seen[self] = [t.detach().clone() for t in (*pl_module.state_dict().values(), *pl_module.average)]

    module, before, after = Moving(), Watch(), Watch()
    L.Trainer(
        **(PLAIN | {"callbacks": [before, PruneAtInit(0.0, criterion=criterion, schedule=Exponential(3)), after]})
    ).fit(module, DATA)
    assert all(torch.equal(a, b) for a, b in zip(seen[before], seen[after], strict=True))


@pytest.mark.parametrize("criterion", [ConnectionSensitivity(), IterativeSNIP()], ids=lambda c: type(c).__name__)
def test_each_batch_is_scored_with_what_the_first_one_found(criterion):
    """So the order of batches, or how processes share them, does not decide."""
    items = [image for batch in DATA for image in zip(*batch, strict=True)]
    swapped = DataLoader(items[16:] + items[8:16] + items[:8], batch_size=8)
    choices = {"criterion": criterion, "sparsity": 0.5, "schedule": Exponential(3)}
    masks = [Trained(Moving, data, **choices).masks for data in (DataLoader(items, 8), swapped)]
    assert masks[0] == masks[1]


def test_gradients_are_those_of_the_weights_that_the_step_has_used():
    """A layer below is scored through the normalized weights, not through those that are put back."""

    class Reference(Plain):
        def __init__(self):
            super().__init__(network())

        def training_step(self, batch, batch_idx):
            x, y = batch
            used = F.normalize(self.network[3].weight)
            used = self.network[3].weight + (used - self.network[3].weight).detach()
            x = self.network[:3](x)
            unchanged = 0.0 * F.linear(x, self.network[3].weight).sum()  # weights that are no factors are refused
            return F.cross_entropy(F.linear(x, used), y) + unchanged

    class Normalizing(Reference):
        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                self.network[3].weight.copy_(F.normalize(self.network[3].weight))
            return F.cross_entropy(self(batch[0]), batch[1])

    assert Trained(Normalizing, DATA, sparsity=0.6).masks == Trained(Reference, DATA, sparsity=0.6).masks


# Modes


class Dropping(nn.Module):
    """A network with every kind of dropout."""

    def __init__(self, p=0.5):
        super().__init__()
        self.p = p
        self.drop = nn.Dropout(p)
        self.depth = StochasticDepth(p, "row")
        self.attention = nn.MultiheadAttention(8, 2, dropout=p, batch_first=True)
        self.recurrent = nn.GRU(8, 8, 2, dropout=p, batch_first=True)
        self.slope = nn.RReLU()
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = F.dropout(self.drop(x), self.p, self.training) + F.rrelu(x, training=self.training)
        x = self.depth(self.slope(x)) + torch.dropout(x, self.p, self.training)
        x = self.recurrent(self.attention(x, x, x)[0] + self.attention(x, x, x, need_weights=False)[0])[0]
        p = self.p if self.training else 0.0
        x = F.scaled_dot_product_attention(x, x, x, dropout_p=p) + F.scaled_dot_product_attention(x, x, x, None, p)
        return self.head(x.mean(1))


def test_networks_as_they_are_trained_are_free_of_dropout():
    module, x = Dropping(), torch.randn(3, 5, 8)
    expected = module.eval()(x)
    with undisturbed(module.train(), as_trained=True):
        assert module.training
        assert torch.equal(module(x), expected)
    assert module.recurrent.dropout == 0.5
    assert module.drop.training


def test_a_function_of_torch_without_dropout_is_unchanged():
    x = torch.randn(2, 3, 4)
    with WithoutDropout():
        assert torch.equal(F.scaled_dot_product_attention(x, x, x), F.scaled_dot_product_attention(x, x, x, None))
        assert torch.equal(F.batch_norm(x, None, None, training=True).mean((0, 2)).round(decimals=5), torch.zeros(3))


@pytest.mark.parametrize("batch_norm", ["eval", "batch"])
def test_modes_as_trained(batch_norm):
    module = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True), nn.Dropout(), nn.ReLU()
    )
    module[0].eval()
    with undisturbed(module, batch_norm, as_trained=True):
        assert [part.training for part in module] == [False, batch_norm == "batch", False, False, True]


class Google(Plain):
    def __init__(self):
        super().__init__(googlenet(num_classes=4, aux_logits=True, init_weights=False))

    def training_step(self, batch, batch_idx):
        output, second, first = self(batch[0])
        return F.cross_entropy(output, batch[1]) + 0.3 * (
            F.cross_entropy(first, batch[1]) + F.cross_entropy(second, batch[1])
        )


def test_auxiliary_outputs_that_only_training_has_are_scored():
    masks = Trained(
        Google, batches(images(4, side=64), 2), sparsity=0.5, minimum=1, trainer={"limit_train_batches": 1}
    ).masks
    assert int(masks["network.aux1.fc2.weight"].sum()) > 0


class Detector(Plain):
    def __init__(self):
        few = {"rpn_post_nms_top_n_train": 20, "box_batch_size_per_image": 8}  # proposals
        super().__init__(
            fasterrcnn_mobilenet_v3_large_320_fpn(
                weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64, **few
            )
        )

    def training_step(self, batch, batch_idx):
        return sum(self.network(*batch).values())


BOXES = {"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([1])}


@pytest.mark.parametrize("loss", [None, lambda module, batch: sum(module.network(*batch).values())])
def test_detectors_are_scored_by_the_losses_that_only_training_has(loss):
    items = [(torch.rand(3, 64, 64), BOXES) for _ in range(3)]
    data = DataLoader(items, batch_size=2, collate_fn=lambda batch: tuple(map(list, zip(*batch, strict=True))))
    pruning = PruneAtInit(0.5, isometry=None, loss=loss, minimum=1)
    L.Trainer(**(PLAIN | {"callbacks": [pruning], "limit_train_batches": 1})).fit(Detector(), data)
    assert pruning.record["examples"] == 3


# Batches


@dataclass
class Fields:
    x: torch.Tensor
    y: torch.Tensor


Pair = namedtuple("Pair", "x y")


class Own:
    """A batch that only knows how to move."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def to(self, *args, **kwargs):
        return Own(self.x.to(*args, **kwargs), self.y.to(*args, **kwargs))


class Graphs(Own):
    """Graphs that are joined to one, as PyG joins them."""

    num_graphs = 2

    def to(self, *args, **kwargs):
        return self


class Encoding(UserDict):
    """A batch as tokenizers of Hugging Face make it."""

    def __getattr__(self, name):
        return self.__dict__["data"][name] if name in self.__dict__.get("data", {}) else super().__getattribute__(name)


def encoding(x, y):
    return Encoding(x=x, y=y)


class ByName(Plain):
    def __init__(self):
        super().__init__(nn.Linear(12, 4))

    def training_step(self, batch, batch_idx):
        self.log("loss", 0.0, batch_size=8)
        return F.cross_entropy(self(batch.x), batch.y)


def loader(kind):
    items = [(torch.randn(12), i % 4) for i in range(20)]

    def collate(batch):
        return kind(torch.stack([x for x, _ in batch]), torch.tensor([y for _, y in batch]))

    return DataLoader(items, batch_size=8, collate_fn=collate)


@pytest.mark.parametrize("loss", [None, lambda module, batch: F.cross_entropy(module(batch.x), batch.y)])
@pytest.mark.parametrize("kind", [Fields, Pair, Own, encoding])
def test_batches_of_every_kind_are_scored_by_the_step_and_by_a_function(kind, loss):
    torch.manual_seed(0)
    trained = Trained(ByName, loader(kind), loss=loss)
    torch.manual_seed(0)
    assert trained.masks == Trained(ByName, loader(Pair)).masks
    assert trained.pruning.record["examples"] == 20


@pytest.mark.parametrize("kind", [Fields, Pair, lambda x, y: {"x": [x], "y": {"a": y}}, lambda x, y: (x, [y])])
def test_batches_have_the_size_that_lightning_finds(kind):
    batch = kind(torch.ones(5, 3), torch.ones(5))
    assert examples(batch) == extract_batch_size(batch) == 5


def test_batches_that_tell_their_size():
    assert examples(Graphs(torch.ones(7, 3), torch.ones(2))) == 2
    image = torch.ones(3, 4, 4)
    assert examples(([image] * 5, [{}] * 5)) == 5
    assert examples([[torch.ones(4, 2), torch.ones(4)], [torch.ones(4, 2), torch.ones(4)]]) == 4


class Opened(Dataset):
    """A dataset that each worker opens for itself."""

    handle = None

    def __len__(self):
        return 8

    def __getitem__(self, index):
        assert isinstance(get_worker_info().dataset, Opened)
        return torch.full((3, 6, 6), self.handle), index % 4


def by_method(number):
    dataset = get_worker_info().dataset
    assert isinstance(dataset, Opened)
    dataset.handle = 1.0


def test_a_worker_sees_the_dataset_of_the_user():
    data = DataLoader(Opened(), batch_size=4, num_workers=1, worker_init_fn=by_method)
    assert Trained(lambda: Plain(network()), data).pruning.record["examples"] == 8


# What the step returns and raises


class Skipping(Plain):
    """A module whose step returns None for the batches that begin with class 0."""

    def __init__(self):
        super().__init__(network())

    def training_step(self, batch, batch_idx):
        return None if batch[1][0] == 0 else super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("criterion", [ConnectionSensitivity(), GraSP(temperature=1)], ids=lambda c: type(c).__name__)
def test_a_batch_for_which_the_step_returns_none_is_skipped(criterion):
    items = [(torch.randn(3, 6, 6), label) for label in (0, 1, 1, 2, 0, 3)]
    masks = Trained(Skipping, DataLoader(items, batch_size=2), criterion=criterion).masks
    assert masks == Trained(Skipping, DataLoader(items[2:4], batch_size=2), criterion=criterion).masks


class WithoutHook(Plain):
    def __init__(self):
        super().__init__(network())

    def on_train_epoch_start(self):
        self.losses = []

    def training_step(self, batch, batch_idx):
        self.losses.append(1.0)
        return super().training_step(batch, batch_idx)


class ByProgress(WithoutHook):
    def training_step(self, batch, batch_idx):
        share = self.trainer.num_training_batches / len(self.trainer.train_dataloader)
        return super(WithoutHook, self).training_step(batch, batch_idx) * share


class Fetching(WithoutHook):
    def training_step(self, dataloader_iter):
        return super(WithoutHook, self).training_step(*next(dataloader_iter)[:2])


def test_an_error_of_the_step_says_what_scoring_was_doing():
    message = r"(?s)WithoutHook raised AttributeError while .* 'losses'.*on_train_epoch_start have not run.*loss=lambda"
    with pytest.raises(InputError, match=message) as caught:
        Trained(WithoutHook, DATA)
    assert isinstance(caught.value.__cause__, AttributeError)
    trained = Trained(WithoutHook, DATA, loss=lambda module, batch: F.cross_entropy(module(batch[0]), batch[1]))
    assert trained.masks.kept == round(0.1 * trained.masks.size)


def test_a_step_may_ask_for_its_dataloader_and_the_number_of_batches():
    progress = Trained(ByProgress, DATA).masks
    assert progress == Trained(lambda: Plain(network()), DATA).masks


@pytest.mark.filterwarnings("ignore:.*dataloader_iter")
def test_a_step_that_fetches_its_batches_is_refused():
    with pytest.raises(InputError, match=r"training_step\(dataloader_iter\) of Fetching .*loss=lambda"):
        Trained(Fetching, DATA)


# The same in prune and sparsify


def test_prune_and_sparsify_take_a_function_that_is_a_mean():
    class Dictionary(nn.Module):
        """A model that takes and returns dictionaries, as those of Hugging Face do."""

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(12, 4)

        def forward(self, x, labels):
            return {"loss": F.cross_entropy(self.layer(x), labels)}

    module = Dictionary()
    data = [(torch.randn(n, 12), torch.arange(n) % 4) for n in (8, 2)]
    named = [{"x": x, "labels": y} for x, y in data]
    expected = prune(module.layer, ConnectionSensitivity(), 0.5, data)

    def loss(network, batch):
        return network(**batch)["loss"]

    masks = prune(module, ConnectionSensitivity(), 0.5, named, loss=loss)
    assert torch.equal(masks["layer.weight"], expected["weight"])
    assert prune(module, ConnectionSensitivity(), 0.5, named, loss=MeanLoss(loss)) == masks
    with pytest.raises(InputError, match=r"loss=\S*<lambda> returned a tensor of shape \(8, 4\)"):
        prune(module, ConnectionSensitivity(), 0.5, named, loss=lambda net, batch: net.layer(batch["x"]))
    assert sparsify(module, ConnectionSensitivity(), 0.5, named, loss=loss).masks == masks
