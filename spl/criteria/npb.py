"""NPB: node-path balancing, masks that balance the effective nodes of each layer with its effective paths."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spl.criteria.criterion import Criterion, Scores, Subject
from spl.criteria.layer_counts import (
    erk_shares,
    order_by,
    ranked_scores,
    ranks_of,
    weights_per_layer,
    with_others,
)
from spl.criteria.objective import floating_inputs
from spl.criteria.path_counts import Paths
from spl.errors import InputError
from spl.functional.torch_private import ConvNd

_DIGITS = 9  # path counts are rounded, so that the order in which they are summed up does not decide


class NPB(Criterion):
    """Node-path balancing: each layer solves `max α A + (1 − α) B + β K` for a mask of the number of weights it keeps.

    Pham et al. 2023 (Towards Data-Agnostic Pruning At Initialization, NeurIPS 2023). A is the share of the layer's
    inputs and outputs that keep a weight (the effective nodes). B is the number of paths from the network's inputs to
    the layer's outputs, relative to the most that so many weights can have. K is the number of kernels [k_h, k_w] that
    are not empty, relative to the number of kept weights. The layers are solved from the input to the output, and the
    path counts P of a layer's inputs follow from the masks of the layers before. The defaults are the authors' for
    ResNet-20. (For a layer that keeps fewer weights than one input has, their code takes a larger maximum of B.)
    Under the scope Global the layer densities are those of `ERK`, as in the paper. Other scopes take other numbers from
    the same order of each layer.

    The authors use an integer solver, and divide large layers into pieces for it. But the gains only fall while a layer
    fills up, so that taking the weight of the largest gain each time is exact. Among equal solutions, all inputs
    prefer the same outputs, which gives the layers behind more paths. What is left is drawn on the CPU from a random
    stream of its own, so it is equal on every rank and device. In the end, kept weights on no path are exchanged for
    weights of the same layer on paths, as far as there are any. The values of the weights, normalization layers and
    activations do not matter. Of the data it reads only the shape of one batch.

    Args:
        alpha: α in [0, 1], the importance of nodes; that of paths is 1 − α. More than 0.01 keeps more nodes at high
            sparsities.
        beta: β, the importance of kernels that are not empty. 0 fills the kernels with the most paths.
        seed: the seed of that stream; null for a number that the seed of the run decides.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import NPB
        >>> from spl.pruning import prune
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> masks = prune(network, NPB(seed=0), sparsity=0.75, batches=[(torch.zeros(16, 4), torch.zeros(16))])
        >>> {name: mask.sum().item() for name, mask in masks.items()}
        {'0.weight': 7, '2.weight': 7}
    """

    needs_data = True
    reads = "shape"

    def __init__(self, alpha: float = 0.01, beta: float = 1.0, seed: int | None = None) -> None:
        if not 0 <= alpha <= 1:
            raise InputError(
                f"alpha must lie in [0, 1], got {alpha}: it is the importance of nodes, 1 − alpha of paths."
            )
        if not 0 <= beta < math.inf:
            raise InputError(f"beta must be 0 or a positive number, got {beta}.")
        self.alpha = alpha
        self.beta = beta
        self.seed = seed

    def __call__(self, subject: Subject) -> Scores:
        """Return −(i + ½)/s for the weight that its layer takes as number i = 0, 1, …, with s the share of the layer.

        Raises:
            InputError: a weight does not belong to a Linear layer or an ungrouped convolution that the network calls,
                or the path counts overflow.
        """
        inputs = floating_inputs(subject.first_batch, "NPB")
        layers = {name: w for name, w in subject.weights.items() if w.ndim > 1}
        check_layers(subject.network, layers)
        shares = erk_shares({name: tuple(w.shape) for name, w in layers.items()})
        keep = weights_per_layer(shares, {name: w.numel() for name, w in layers.items()}, subject.keep)
        return with_others(ranked_scores(self._ranks(subject, inputs, keep), shares), subject.weights)

    def _ranks(self, subject: Subject, inputs: Tensor, keep: Mapping[str, int]) -> dict[str, Tensor]:
        """Return the place of each weight in the order in which its layer keeps them."""
        generator = torch.Generator().manual_seed(self.start)
        paths = Paths(subject.network, keep, inputs)
        alive = {name: None if subject.masks is None else subject.masks[name].cpu() for name in keep}
        ranks: dict[str, Tensor] = {}

        def mask(name: str, counts: Tensor) -> Tensor:
            order = LayerOrder(tuple(subject.weights[name].shape), counts, keep[name], self.alpha, self.beta)
            ranks[name] = _first(alive[name], order.ranks(generator))
            return ranks[name] < keep[name]

        masks = paths.decide(mask)
        if missing := [name for name in keep if name not in ranks]:
            raise InputError(
                f"NPB counts no paths through {', '.join(missing)}: the network does not call it. {_REMEDY}"
            )
        dead = math.inf
        while True:  # each exchange lets paths reach more units, so that the next may find places for what is left
            through = paths.through(masks)
            before, dead = dead, sum(int((mask & (through[name] == 0)).sum()) for name, mask in masks.items())
            if not 0 < dead < before:
                return ranks
            ranks = {name: _first(alive[name], _first(through[name] > 0, rank)) for name, rank in ranks.items()}
            masks = {name: rank < keep[name] for name, rank in ranks.items()}


def _first(chosen: Tensor | None, ranks: Tensor) -> Tensor:
    """Return the ranks if those that are chosen come before all others."""
    return ranks if chosen is None else ranks_of(order_by(~chosen, ranks), ranks.shape)


_REMEDY = "Leave it out with exclude, or take SynFlow."


def check_layers(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Check that each weight [out, in, ...] belongs to a Linear layer or a convolution without groups.

    Raises:
        InputError: one belongs to another layer.

    Example:
        >>> from torch import nn
        >>> from spl.criteria.npb import check_layers
        >>> network = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4))
        >>> check_layers(network, {"0.weight": network[0].weight})
        Traceback (most recent call last):
        spl.errors.InputError: 0.weight belongs to Conv2d with groups=4, and NPB counts the paths through Linear ...
    """
    for name in weights:
        path, _, own = name.rpartition(".")
        layer = network.get_submodule(path)
        groups, transposed = getattr(layer, "groups", 1), getattr(layer, "transposed", False)
        plain = isinstance(layer, nn.Linear) or (isinstance(layer, ConvNd) and groups == 1 and not transposed)
        if own != "weight" or not plain:
            kind = type(layer).__name__ + (f" with groups={groups}" if groups != 1 else "")
            raise InputError(
                f"{name} belongs to {kind}, and NPB counts the paths through Linear layers and ungrouped "
                f"convolutions. {_REMEDY}"
            )


class LayerOrder(NamedTuple):
    """The order in which a layer keeps its weights, each time the weight of the largest gain.

    In units of the objective, a weight of input i gains (1 − α) P_i / max B for its paths. The first weight in an
    empty kernel gains β / n besides. If it is the first of its input, or of its output, it also gains
    α / (inputs + outputs) for each. Inputs that no path reaches are last.

    Args:
        shape: the shape of the weight, [out, in, ...].
        paths: Tensor [in], P, the number of paths to each input.
        keep: n, the number of weights that the layer keeps.
        alpha: α.
        beta: β.

    Example:
        >>> import torch
        >>> from spl.criteria.npb import LayerOrder
        >>> order = LayerOrder(shape=(2, 3), paths=torch.tensor([1.0, 5.0, 1.0]), keep=3, alpha=0.9, beta=1.0)
        >>> (order.ranks(torch.Generator().manual_seed(0)) < 3).sum(dim=0)  # one weight for each input
        tensor([1, 1, 1])
    """

    shape: tuple[int, ...]
    paths: Tensor
    keep: int
    alpha: float
    beta: float

    def ranks(self, generator: torch.Generator) -> Tensor:
        """Return the place of each weight in the order, in the shape of the weight.

        Args:
            generator: a random generator on the CPU, which decides between equal gains.
        """
        outputs, inputs = self.shape[:2]
        taps = math.prod(self.shape[2:])
        node, kernel = self.alpha / (inputs + outputs), self.beta / max(1, self.keep)
        relative = (self.paths / self.paths.max().clamp_min(1.0)).round(decimals=_DIGITS)
        rows = torch.randperm(inputs, generator=generator)
        rows = rows[relative[rows].argsort(descending=True, stable=True)]  # the inputs by their paths
        relative = relative[rows]
        path = (1 - self.alpha) / self._most(relative) * relative[:, None]
        dead = (relative == 0)[:, None].expand(-1, outputs)
        kernels = torch.arange(outputs).expand(inputs, -1)  # the kernels of each input, in the order of opening
        opening = path + kernel + node * (kernels == 0)
        first = order_by(dead, -opening, kernels)[:outputs]  # each of these reaches a new output
        opening.view(-1)[first] += node
        gains = torch.cat([opening[:, :, None], path[:, :, None].expand(-1, outputs, taps - 1)], 2)
        turns = kernels[:, :, None] + outputs * (torch.arange(taps) > 0)  # each input fills kernels after opening all
        places = ranks_of(order_by(dead[:, :, None].expand_as(gains), -gains, turns), gains.shape)
        # from the order of opening to outputs, and from the order of filling to taps
        taps_of = torch.rand(gains.shape, generator=generator).argsort(2)
        ranks = torch.empty_like(places)
        ranks[rows[:, None, None], self._outputs(first, generator)[:, :, None], taps_of] = places
        return ranks.transpose(0, 1).reshape(self.shape)

    def _most(self, relative: Tensor) -> float:
        """Return the most paths that n weights can have, given the sorted paths to the inputs."""
        of_input = math.prod(self.shape) // self.shape[1]
        full, rest = divmod(max(1, self.keep), of_input)
        most = float(relative[:full].sum()) * of_input + float(relative[full : full + 1].sum()) * rest
        return most or 1.0

    def _outputs(self, first: Tensor, generator: torch.Generator) -> Tensor:
        """Return the outputs in the order in which each input opens its kernels, [in, out].

        The order is the same for all inputs, so that some outputs have many paths. An input first opens those kernels
        with which the layer reaches all its outputs.

        Args:
            first: the first kernels that are opened, one for each output.
            generator: a random generator on the CPU.
        """
        outputs, inputs = self.shape[:2]
        turns = torch.arange(outputs).repeat(inputs, 1)
        turns[first // outputs, torch.arange(outputs)] -= outputs
        return torch.randperm(outputs, generator=generator)[turns.argsort(1)]
