"""A run of a network leaves nothing behind, whatever the network does to itself."""

import copy
import pickle
import random
from collections import OrderedDict, deque

import numpy as np
import pytest
import torch
from memory import PeakMemory
from torch import nn

from spl.criteria import ConnectionSensitivity, IterativeSNIP
from spl.functional.module_state import ModuleState
from spl.functional.torch_private import data_address, is_lazy
from spl.functional.undisturbed import undisturbed
from spl.jacobian import singular_values
from spl.pruning import prune


class Plainly:
    """A helper that is no module, such as an average of weights."""

    def __init__(self, network):
        self.shadow = [p.detach().clone() for p in network.parameters()]
        self.decay = {"now": 0.5, "all": [0.5]}


class Restless(nn.Module):
    """A network that can change everything about itself."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.b = nn.Linear(4, 2, bias=False)
        self.teacher = copy.deepcopy(self.b).requires_grad_(False)
        self.center = nn.Parameter(torch.zeros(2))
        self.register_buffer("queue", torch.zeros(2, 2))
        self.register_buffer("hidden", torch.full((3,), float("nan")), persistent=False)
        self.kept = torch.ones(2)
        self.unregistered = [nn.Linear(2, 2)]
        self.helper = Plainly(self.a)
        self.counts = OrderedDict(steps=0)
        self.recent = deque([1, 2], maxlen=2)
        self.names = {"a"}
        self.array = np.zeros(2)
        self.generator = torch.Generator().manual_seed(3)
        self.draws = np.random.default_rng(0)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


@torch.no_grad()
def normalize(m):
    m.b.weight.copy_(nn.functional.normalize(m.b.weight))


def write_data(m):
    m.teacher.weight.data.add_(1.0)
    m.center.data[0] = 5.0


def replace_parameter(m):
    m.b.weight = nn.Parameter(torch.ones(2, 4))
    m.a.bias = None


def assign_data(m):
    m.a.weight.data = torch.zeros(4, 3)
    m.center.data = torch.zeros(7)


def change_buffers(m):
    m.register_buffer("new", torch.ones(1))
    m.queue = torch.ones(5, 5)
    m.hidden.fill_(1.0)
    del m.kept


def resize_buffer(m):
    m.queue.resize_(3, 3).fill_(2.0)


def write_with_graph(m):
    m.queue.add_(m.b.weight.sum())
    m.kept.mul_(m.a.weight.sum())


def freeze_and_thaw(m):
    m.a.requires_grad_(False)
    m.teacher.requires_grad_(True)


def backward(m):
    m(torch.ones(2, 3)).sum().backward()
    m.center.grad = torch.ones(2)


def write_gradient(m):
    m.b.weight.grad.zero_()


def change_modes_and_hooks(m):
    m.a.train(not m.a.training)
    m.b.register_forward_hook(lambda *_: None)
    m.register_forward_pre_hook(lambda *_: None)
    m.b.register_full_backward_hook(lambda *_: None)
    m.head = nn.Linear(2, 2)


def change_attributes(m):
    m.helper.shadow[0].zero_()
    m.helper.decay["all"].append(0.1)
    m.helper.decay["now"] = 0.1
    m.unregistered[0].weight.data.zero_()
    m.counts["steps"] += 1
    m.recent.append(3)
    m.names.add("b")
    m.array += 1
    m.late = True


def draw(m):
    torch.rand(1, generator=m.generator)
    m.draws.random()
    torch.rand(1)
    random.random()
    np.random.rand()  # noqa: NPY002


CHANGES = [
    normalize,
    write_data,
    replace_parameter,
    assign_data,
    change_buffers,
    resize_buffer,
    write_with_graph,
    freeze_and_thaw,
    backward,
    write_gradient,
    change_modes_and_hooks,
    change_attributes,
    draw,
]


def described(item):
    """Return the bits, modes and identities of all that a module holds, as something that can be compared."""
    if isinstance(item, torch.Tensor):
        gradient = None if not item.is_leaf or item.grad is None else item.grad.tolist()
        content = item.detach().clone().numpy().tobytes()  # numpy() would fix the size of the memory
        return id(item), item.shape, item.dtype, content, item.requires_grad, item.is_leaf, gradient
    if isinstance(item, dict):
        return [(key, described(value)) for key, value in item.items()]
    if isinstance(item, list | deque | tuple):
        return [described(value) for value in item]
    if isinstance(item, torch.Generator):
        return item.get_state().tolist()
    if isinstance(item, np.random.Generator):
        return str(item.bit_generator.state)
    if isinstance(item, np.ndarray):
        return item.tolist()
    return described(vars(item)) if isinstance(item, nn.Module | Plainly) else repr(item)


def streams():
    return torch.get_rng_state().tolist(), random.getstate(), pickle.dumps(np.random.get_state())  # noqa: NPY002


def restless():
    module = Restless()
    module.b.weight.grad = torch.ones(2, 4)
    return module


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_all_that_a_network_changes_about_itself_comes_back(change):
    module = restless()
    before = described(module), streams()
    with undisturbed(module):
        change(module)
        assert (described(module), streams()) != before
    assert (described(module), streams()) == before


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_it_comes_back_where_memory_cannot_be_copied_on_write(change):
    module = restless()
    for parameter in module.parameters():
        parameter.data = torch.from_numpy(parameter.detach().numpy().copy())
    before = described(module)
    with undisturbed(module):
        change(module)
    assert described(module) == before


def test_a_changed_network_is_pruned_and_measured():
    """A network that registers a buffer in its first pass, as rotary embeddings do."""

    class Lazily(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.size = nn.Linear(3, 8), nn.Linear(8, 2), 0

        def forward(self, x):
            if self.size < x.shape[1]:
                self.register_buffer("positions", torch.arange(x.shape[1]).float().cos(), persistent=False)
                self.size = x.shape[1]
            return self.b(torch.tanh(self.a(x * self.positions)))

    network = Lazily()
    batch = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    for criterion in (ConnectionSensitivity(), IterativeSNIP()):
        assert prune(network, criterion, 0.5, [batch]).kept == 20
    assert singular_values(network, batch[0]).shape == (4, 2)
    assert not hasattr(network, "positions")
    assert network.size == 0


def test_what_is_not_written_to_takes_no_memory():
    network = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
    with PeakMemory() as memory:
        with undisturbed(network):
            network(torch.ones(1, 100)).sum().backward()
            copied = memory.peak
            network[0].weight.data.mul_(2.0)
        assert copied < 2.1 * 4 * 20_200 + 4000  # the gradients, which are dropped, and one product's
        assert memory.peak <= copied + 4 * 10_000
    addresses = [data_address(p) for p in network.parameters()]
    prune(network, ConnectionSensitivity(), 0.5, [(torch.ones(2, 100), torch.tensor([0, 1]))])
    assert [data_address(p) for p in network.parameters()] == addresses
    assert not any(is_lazy(p) for p in network.parameters())  # memory that is shared cannot be resized


def test_writes_that_were_not_noted_stay():
    layer = nn.Linear(2, 2)
    state = ModuleState(layer)
    bias = layer.bias.detach().clone()
    with torch.no_grad():
        layer.bias.fill_(1.0)
        layer.weight.fill_(2.0)
        state.note_writes()
        layer.weight.fill_(3.0)
    state.restore_tensors()
    assert torch.equal(layer.bias, bias)
    assert (layer.weight == 3.0).all()


def test_objects_that_hold_each_other_are_kept_once():
    module = restless()
    module.parent = [module]
    module.table = {"itself": module.parent}
    with undisturbed(module):
        module.table.clear()
        normalize(module)
    assert module.table["itself"] is module.parent


def test_tensors_without_content_are_left_alone():
    network = nn.BatchNorm1d(2, device="meta")
    state = ModuleState(network)
    network(torch.empty(3, 2, device="meta"))
    state.restore()
    assert network.num_batches_tracked.is_meta
