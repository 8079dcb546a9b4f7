import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from subjects import subject
from torch import nn

from spl.criteria import NPB, Magnitude, Random, SynFlow
from spl.criteria.npb import LayerOrder
from spl.criteria.path_counts import Paths
from spl.criteria.schedules import Exponential
from spl.diagnosis import find_paths
from spl.errors import InputError
from spl.networks import MLP, VGG16, ResNet
from spl.pruning import prune
from spl.pruning.scopes import ERK, Uniform

# Per input, the numbers of weights in the code of the authors (commit 090830c, with the solver HiGHS): outputs, inputs,
# taps, kept weights, α, β, paths to the inputs, weights of the inputs. No other numbers reach the same optimum.
PUBLISHED = [
    (4, 6, 1, 8, 0.5, 0.001, [12, 39, 43, 24, 16, 17], [1, 1, 3, 1, 1, 1]),
    (4, 6, 1, 8, 0.01, 1.0, [42, 46, 5, 34, 17, 43], [0, 4, 0, 0, 0, 4]),
    (6, 5, 9, 27, 0.5, 0.001, [45, 12, 24, 21, 3], [23, 1, 1, 1, 1]),
    (6, 5, 9, 81, 0.01, 1.0, [47, 3, 40, 19, 30], [54, 6, 9, 6, 6]),
    (6, 5, 9, 81, 0.5, 0.001, [25, 30, 12, 23, 29], [1, 54, 1, 1, 24]),
    (6, 5, 9, 81, 0.01, 0.0, [5, 13, 18, 26, 25], [0, 0, 0, 54, 27]),
    (10, 8, 1, 16, 0.99, 0.001, [12, 38, 38, 32, 3, 49, 17, 44], [1, 1, 1, 1, 1, 9, 1, 1]),
    (10, 8, 9, 288, 0.3, 0.3, [8, 15, 29, 39, 47, 8, 6, 16], [1, 10, 85, 90, 90, 1, 1, 10]),
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def counts(outputs, inputs, taps, keep, alpha, beta, paths, seed=0):
    """Return how many taps of each kernel are kept, [in, out]."""
    order = LayerOrder((outputs, inputs, taps), torch.tensor(paths).double(), keep, alpha, beta)
    return (order.ranks(generator(seed)) < keep).sum(2).T


def data(*shape: int) -> list:
    return [(torch.zeros(2, *shape), torch.zeros(2, dtype=torch.long))]


def measured(network: nn.Module, masks, *shape: int) -> tuple[int, float]:
    """Return the numbers of effective nodes (inputs of layers that lie on a path) and of paths."""
    through = Paths(network, list(masks), torch.zeros(1, *shape)).through(masks)
    useful = {name: mask & (through[name] > 0) for name, mask in masks.items()}
    last = list(masks)[-1]
    nodes = sum(int(mask.transpose(0, 1).flatten(1).any(1).sum()) for mask in useful.values())
    return nodes, float((through[last] * masks[last]).sum())


def test_two_weights_of_a_layer_by_hand():
    paths_only = counts(2, 2, 1, 2, 0.0, 0.0, [3.0, 1.0])
    assert paths_only.tolist() == [[1, 1], [0, 0]]  # both weights of the input with more paths
    nodes_only = counts(2, 2, 1, 2, 1.0, 0.0, [3.0, 1.0])
    assert nodes_only.sum(0).tolist() == nodes_only.sum(1).tolist() == [1, 1]
    # one kernel of three taps, or three kernels
    assert counts(3, 1, 3, 3, 0.0, 0.1, [1.0]).tolist() == [[1, 1, 1]]
    # a second input has half the paths, which costs (1 − α) / 3 · ½, and a node gains α / 5
    assert counts(3, 2, 1, 3, 0.45, 0.0, [2.0, 1.0]).sum(1).tolist() == [3, 0]  # 0.0917 > 0.09
    assert counts(3, 2, 1, 3, 0.46, 0.0, [2.0, 1.0]).sum(1).tolist() == [2, 1]  # 0.09 < 0.092


@pytest.mark.parametrize("case", PUBLISHED, ids=range(len(PUBLISHED)))
def test_each_input_keeps_as_many_weights_as_in_the_published_code(case):
    *arguments, kept = case
    assert counts(*arguments).sum(1).tolist() == kept


def optimum(outputs, inputs, taps, keep, alpha, beta, paths) -> float:
    """Return the objective of the paper at its maximum, by an integer program."""
    kernels = inputs * outputs
    best = np.sort(np.repeat(paths, outputs * taps))[::-1][:keep].sum()
    # taps of each kernel, whether a kernel is open, and whether inputs and outputs are nodes
    gain = np.concatenate([
        np.repeat(paths, outputs) * (1 - alpha) / best, np.full(kernels, beta / keep),
        np.full(inputs + outputs, alpha / (inputs + outputs)),
    ])  # fmt: skip
    size, one = len(gain), np.eye(len(gain))
    limits = [np.concatenate([np.ones(kernels), np.zeros(size - kernels)])]
    limits += [one[kernels + k] - one[k] for k in range(kernels)]
    opened = np.arange(kernels).reshape(inputs, outputs)
    for node, group in enumerate([*opened, *opened.T]):
        limits.append(one[2 * kernels + node] - one[group].sum(0))
    upper = np.array([keep] + [0] * (len(limits) - 1))
    bounds = Bounds(0, np.concatenate([np.full(kernels, taps), np.ones(size - kernels)]))
    found = milp(-gain, constraints=LinearConstraint(np.array(limits), -np.inf, upper), bounds=bounds, integrality=1)
    return -found.fun


@pytest.mark.parametrize("seed", range(12))
def test_the_order_of_gains_is_an_optimum_of_the_integer_program(seed):
    outputs, inputs, taps = (int(n) for n in torch.randint(1, 5, (3,), generator=generator(seed)))
    keep = int(torch.randint(1, outputs * inputs * taps + 1, (1,), generator=generator(seed + 50)))
    paths = torch.randint(1, 9, (inputs,), generator=generator(seed)).double()
    alpha, beta = torch.rand(2, generator=generator(seed), dtype=torch.float64).tolist()
    found = counts(outputs, inputs, taps, keep, alpha, beta, paths.tolist(), seed)
    most = paths.repeat_interleave(outputs * taps).sort(descending=True).values[:keep].sum()
    nodes = (found.any(0).sum() + found.any(1).sum()) / (inputs + outputs)
    value = alpha * nodes + (1 - alpha) * (paths @ found.double()).sum() / most + beta * (found > 0).sum() / keep
    assert int(found.sum()) == keep
    assert float(value) == pytest.approx(optimum(outputs, inputs, taps, keep, alpha, beta, paths.numpy()), abs=1e-6)


class Published(nn.Module):
    """The network in which the layers of the published code were counted."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.fc = nn.Linear(48, 10)

    def forward(self, x):
        x = nn.functional.avg_pool2d(torch.relu(self.bn1(self.conv1(x))), 2)
        x = nn.functional.avg_pool2d(torch.relu(self.bn2(self.conv2(x))), 2)
        return self.fc(x.flatten(1))


@pytest.mark.parametrize(
    ("sparsity", "kept"), [(0.9, [1] * 10 + [20, 23]), (0.7, [1, *[12] * 7, 14, 20, 20, 20])], ids=["0.9", "0.7"]
)
def test_the_second_layer_after_the_first_is_that_of_the_published_code(sparsity, kept):
    masks = prune(Published(), NPB(alpha=0.5, beta=0.001), sparsity, data(1, 8, 8))
    assert sorted(masks["conv2.weight"].sum((0, 2, 3)).tolist()) == kept
    assert measured(Published(), masks, 1, 8, 8)[0] == 61  # all nodes, as there


CASES = {
    "mlp": (lambda: MLP(4, 30, in_features=48), (48,), 0.9),
    "vgg16": (lambda: VGG16(0.125), (3, 32, 32), 0.98),
    "resnet": (lambda: ResNet(1), (3, 16, 16), 0.9),
}


@pytest.mark.parametrize("case", CASES)
def test_there_are_more_nodes_than_with_synflow_and_more_paths_than_at_random(case):
    make, shape, sparsity = CASES[case]
    torch.manual_seed(0)
    network = make()
    balanced = measured(network, prune(network, NPB(), sparsity, data(*shape)), *shape)
    flow = prune(network, SynFlow(), sparsity, data(*shape), schedule=Exponential(20))
    assert balanced[0] > measured(network, flow, *shape)[0]
    assert balanced[1] > measured(network, prune(network, Random(), sparsity, scope=ERK()), *shape)[1]


@pytest.mark.parametrize(("case", "sparsity"), [("vgg16", 0.9), ("resnet", 0.9), ("resnet", 0.98), ("mlp", 0.9)])
def test_layers_keep_as_many_weights_as_erk_and_every_one_lies_on_a_path(case, sparsity):
    make, shape, _ = CASES[case]
    network = make()
    masks = prune(network, NPB(alpha=0.5, seed=0), sparsity, data(*shape))
    assert masks.layer_sparsity() == prune(network, Magnitude(), sparsity, scope=ERK()).layer_sparsity()
    useful = find_paths(network, masks, torch.zeros(1, *shape)).weights
    assert all(torch.equal(useful[name], mask) for name, mask in masks.items())


def test_no_layer_collapses_at_one_weight_each():
    network = MLP(6, 10, in_features=10)
    size = sum(p.numel() for n, p in network.named_parameters() if n.endswith("weight"))
    masks = prune(network, NPB(), 1 - 6 / size, data(10), scope=Uniform())
    assert masks.kept == 6
    nodes, paths = measured(network, masks, 10)
    assert (nodes, paths) == (6, 1)


def test_a_weight_that_an_earlier_round_pruned_does_not_come_back():
    network = ResNet(1)
    masks = prune(network, NPB(), 0.9, data(3, 16, 16), schedule=Exponential(3))
    assert masks.kept == round(0.1 * masks.size)
    assert measured(network, masks, 3, 16, 16)[1] > 0


def test_masks_depend_neither_on_weights_nor_on_batch_norm():
    first, second = (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3)) for _ in range(2)
    )
    nn.init.uniform_(second[1].weight)
    second[1].running_var.fill_(3.0)
    assert prune(first, NPB(seed=1), 0.8, data(2, 8, 8)) == prune(second, NPB(seed=1), 0.8, data(2, 8, 8))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv1d(4, 4, 1, groups=2), r"1\.weight belongs to Conv1d with groups=2, and NPB counts .* exclude"),
        (nn.ConvTranspose1d(4, 4, 1), r"1\.weight belongs to ConvTranspose1d, .* take SynFlow"),
        (nn.GRU(4, 4), r"1\.weight_ih_l0 belongs to GRU, "),
    ],
)
def test_layers_whose_weights_are_no_edges_are_errors(layer, message):
    with pytest.raises(InputError, match=message):
        NPB()(subject(nn.Sequential(nn.Conv1d(4, 4, 1), layer), data(4, 1)))


def test_a_layer_that_the_network_does_not_call_is_an_error():
    network = nn.Sequential(nn.Linear(4, 4))
    network.forward = lambda x: x @ network[0].weight
    with pytest.raises(InputError, match=r"NPB counts no paths through 0\.weight: the network does not call it"):
        prune(network, NPB(), 0.5, data(4))


def test_too_many_paths_for_a_number_are_an_error():
    network = nn.Sequential(*(nn.Linear(40, 40) for _ in range(200)))
    with pytest.raises(InputError, match="the number of paths overflows"):
        prune(network, NPB(), 0.0, data(40))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"alpha": 1.5}, r"alpha must lie in \[0, 1\], got 1\.5"), ({"beta": -1.0}, r"beta must be 0 or .*, got -1\.0")],
)
def test_arguments_out_of_range_are_errors(wrong, message):
    with pytest.raises(InputError, match=message):
        NPB(**wrong)


def test_a_max_pooling_with_a_forward_of_its_own_is_left_as_it_is():
    from timm.layers import create_pool2d

    torch.manual_seed(0)
    same = create_pool2d("max", 3, 2, padding="same")  # an nn.MaxPool2d that pads
    network = nn.Sequential(nn.Conv2d(1, 4, 3), same, nn.Flatten(), nn.Linear(36, 3))
    masks = prune(network, NPB(), 0.5, [(torch.zeros(2, 1, 8, 8), torch.zeros(2).long())])
    assert masks.kept == 72


class Unpooled(nn.Module):
    """A network whose max pooling returns indices too."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.unpool = nn.MaxPool1d(2, return_indices=True), nn.MaxUnpool1d(2)
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        pooled, indices = self.pool(self.first(x)[:, None])
        return self.last(self.unpool(pooled, indices)[:, 0])


def test_paths_through_a_max_pooling_that_returns_indices_are_found():
    network = Unpooled()
    found = find_paths(network, prune(network, Magnitude(), 0.0), torch.ones(2, 4))
    assert found.weights["last.weight"].any()
