"""PHEW: random walks along paths with higher edge weights."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from spl.criteria.criterion import Criterion, Scores, Subject
from spl.errors import InputError
from spl.functional.layers import RECURRENT, is_transposed

_WALKS = 10_000  # the walks that are made at once
_WORTHWHILE = 0.01  # the new weights per walk below which walking stops, and the remaining weights go by magnitude


class PHEW(Criterion):
    """Paths with higher edge weights: keeps weights in the order in which random walks with steps ∝ `|w|` reach them.

    Patil & Dovrolis 2021 (arXiv:2010.11354). Walks start at each input in turn and end at an output; every second walk
    goes the other way. They keep the weights that they pass, until `Subject.keep` weights are kept. A walk passes one
    weight of each layer, so the network must be a chain of layers; shortcuts without weights are ignored. Weights that
    no walk reached follow by magnitude, and biases are last. The walks are drawn on the CPU from a random stream of
    their own, so they are equal on every rank and device. It needs no data.

    Args:
        seed: the seed of that stream; null for a number that the seed of the run decides.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import PHEW
        >>> from spl.pruning import prune
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> masks = prune(network, PHEW(seed=0), sparsity=0.75)
        >>> {name: mask.sum().item() for name, mask in masks.items()}
        {'0.weight': 8, '2.weight': 6}
    """

    needs_data = False

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def __call__(self, subject: Subject) -> Scores:
        """Return minus the number of the first walk that used a weight; weights that no walk used are below these."""
        chain = {name: w for name, w in subject.weights.items() if w.ndim > 1}
        check_chain(subject.network, chain)
        layers = [w.abs().double().cpu().reshape(*w.shape[:2], -1) for w in chain.values()]
        first = first_walks(layers, subject.keep, torch.Generator().manual_seed(self.start))
        last = max(int(f.max()) for f in first)
        largest = max(float(layer.max()) for layer in layers) or 1.0
        scores = {name: torch.full(w.shape, -last - 3.0, dtype=torch.float64) for name, w in subject.weights.items()}
        for name, walk, magnitude in zip(chain, first, layers, strict=True):
            score = torch.where(walk < 0, magnitude / largest - last - 2.0, -walk.double())
            scores[name] = score.view(chain[name].shape)
        return {name: score.to(subject.weights[name].device) for name, score in scores.items()}


def check_chain(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Check that the layers form a chain.

    Raises:
        InputError: a layer does not take the outputs of the one before, or its weights are no edges.
    """
    remedy = "PHEW walks through a chain of layers: leave the layer out with exclude, or take SynFlow."
    for name in weights:
        layer = network.get_submodule(name.rpartition(".")[0])
        if isinstance(layer, RECURRENT):
            raise InputError(f"{name} is a weight of a recurrent layer, which is no step of a chain. {remedy}")
        if is_transposed(layer):
            raise InputError(f"{name} is [in, out], and PHEW takes weights as [out, in]. {remedy}")
        if getattr(layer, "transposed", False) or getattr(layer, "groups", 1) > 1:
            raise InputError(f"{name} is a grouped or transposed convolution, whose weights are no edges. {remedy}")
    for (before, a), (name, b) in pairwise(weights.items()):
        if b.shape[1] % a.shape[0]:
            raise InputError(
                f"{name} takes {b.shape[1]} inputs, which are not the {a.shape[0]} outputs of {before}. {remedy}"
            )


def first_walks(layers: Sequence[Tensor], keep: int, generator: torch.Generator) -> list[Tensor]:
    """Return the number of the first walk through each edge, −1 if there is none, in the shapes of `layers`.

    Walks 0, 2, … go from input to output, walks 1, 3, … from output to input. Walking ends once `keep` edges are used,
    or nearly all edges that can be.

    Args:
        layers: non-negative edge weights [out, in, taps], the input layer first.
        keep: the number of edges to use.
        generator: a random generator on the CPU.
    """
    forth = [Transitions(layer.transpose(0, 1)) for layer in layers]
    back = [Transitions(layer) for layer in layers]
    unused = torch.iinfo(torch.int64).max
    first = [torch.full(layer.shape, unused) for layer in layers]
    walks, used, before = 0, 0.0, -math.inf
    while used < keep and used - before > _WORTHWHILE * _WALKS:
        numbers = torch.arange(walks, walks + _WALKS)
        _walk_forth(forth, first, numbers[::2], generator)
        _walk_back(back, first, numbers[1::2], generator)
        walks += _WALKS
        before, used = used, sum(int((f < unused).sum()) for f in first)
    return [f.masked_fill(f == unused, -1) for f in first]


def _walk_forth(steps: list["Transitions"], first: list[Tensor], walks: Tensor, generator: torch.Generator) -> None:
    """Walk from each input in turn to the outputs.

    If several inputs of the next layer come from one unit, as after flattening, a walk takes a random one of them.
    """
    units = walks // 2 % first[0].shape[1]
    outputs = first[0].shape[1]
    for step, seen in zip(steps, first, strict=True):
        fan = seen.shape[1] // outputs
        units = units * fan + torch.randint(fan, units.shape, generator=generator)
        ends, taps = step.sample(units, generator)
        _record_(seen, ends, units, taps, walks)
        units, outputs = ends, seen.shape[0]


def _walk_back(steps: list["Transitions"], first: list[Tensor], walks: Tensor, generator: torch.Generator) -> None:
    """Walk from each output in turn to the inputs."""
    units = walks // 2 % first[-1].shape[0]
    inputs = first[-1].shape[0]
    for step, seen in zip(reversed(steps), reversed(first), strict=True):
        units = units // (inputs // seen.shape[0])
        ends, taps = step.sample(units, generator)
        _record_(seen, units, ends, taps, walks)
        units, inputs = ends, seen.shape[1]


def _record_(seen: Tensor, outputs: Tensor, inputs: Tensor, taps: Tensor, walks: Tensor) -> None:
    edges = (outputs * seen.shape[1] + inputs) * seen.shape[2] + taps
    seen.view(-1).scatter_reduce_(0, edges, walks, "amin")


class Transitions:
    """The steps that a walk may take from each unit of a layer, sampled by inverse transform.

    One cumulative sum runs over the edges of all units.

    Args:
        edges: non-negative edge weights [units, ends, taps].
    """

    def __init__(self, edges: Tensor) -> None:
        units, ends, self.taps = edges.shape
        self.edges = ends * self.taps
        weights = edges.reshape(units, -1)
        weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, 1.0)  # from a dead end, any edge is taken
        self.cumulative = torch.cat([weights.new_zeros(1), weights.flatten().cumsum(0)])

    def sample(self, units: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw one random step from each of `units`, and return the units at their ends, and their taps."""
        low, high = self.cumulative[units * self.edges], self.cumulative[(units + 1) * self.edges]
        targets = low + (high - low) * torch.rand(units.shape, generator=generator, dtype=torch.float64)
        found = torch.searchsorted(self.cumulative, targets, right=True) - 1
        edges = found.clamp(max=(units + 1) * self.edges - 1) - units * self.edges  # where rounding went up to `high`
        return edges // self.taps, edges % self.taps
