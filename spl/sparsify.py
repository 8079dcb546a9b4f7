"""The whole act on one page: score the weights, find masks, set the pruned weights to zero, correct what is left."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from spl.criteria import Criterion, Scores
from spl.criteria.objective import Function, Objective
from spl.criteria.processes import Processes
from spl.functional.wrappers import unwrapped
from spl.isometry import Change, Correction
from spl.isometry.change import norm_of
from spl.masks.masks import Masks
from spl.pruning import PruningChoices, find_masks
from spl.pruning.coverage import Coverage
from spl.pruning.weights import check_weights

Stage = Literal["dense", "pruned", "corrected"]


class Sparsified(NamedTuple):
    """What `sparsify` has done to a network.

    Attributes:
        masks: which weights are kept, by parameter name.
        changes: what the correction did to each layer, by the name of its weight; empty without a correction.
        scores: the scores by which the kept weights were selected, of the units that the pattern prunes as a whole.
        coverage: the share of the network's weights that the masks cover, its sparsity, and why others stay dense.

    Example:
        >>> from torch import nn
        >>> from spl.criteria import Magnitude
        >>> sparse = sparsify(nn.Linear(10, 10), Magnitude(), sparsity=0.9)
        >>> sparse.masks.kept, sparse.changes, list(sparse.scores), sparse.coverage.sparsity
        (10, {}, ['weight'], 0.9)
    """

    masks: Masks
    changes: dict[str, Change]
    scores: Scores
    coverage: Coverage


def sparsify(
    network: nn.Module,
    criterion: Criterion,
    sparsity: float,
    batches: Iterable[Any] | None = None,
    isometry: Correction | None = None,
    *,
    loss: Objective | Function | None = None,
    seed: int | None = None,
    processes: Processes = Processes(),
    on_stage: Callable[[Stage, Masks | None], None] = lambda stage, masks: None,
    **choices: Any,
) -> Sparsified:
    """Prune `network` in place, and bring its layers back to isometry.

    The weights that are not pruned change only by the correction. Gradients, BatchNorm's statistics, modes and random
    streams are left as they were found. `spl.masks.MaskedWeights` keeps the pruned weights at 0 in training.

    Args:
        network: the network that will be trained. It may be wrapped already by `torch.compile`,
            DistributedDataParallel or Fabric; masks then have the names of the network inside.
        criterion: what scores its weights.
        sparsity: the share of weights to remove, in [0, 1).
        batches: batches (inputs [N, ...], labels [N]), or what `loss` takes, on the network's device, for a criterion
            that needs data.
        isometry: the correction after pruning, such as `spl.isometry.ApproximateIsometry`; None for no correction.
        loss: what criteria differentiate, if it is not the cross-entropy of logits: an `Objective`, or a function of
            network and batch that returns the mean over the batch's examples; see `spl.pruning.prune`.
        seed: decides the random numbers of criteria and corrections that have no seed of their own. Without one, the
            last `torch.manual_seed` decides them.
        processes: the processes that score together; see `spl.pruning.find_masks`.
        on_stage: is called with the weights of each stage in place: `("dense", None)` before pruning, `("pruned",
            masks)` after it, and `("corrected", masks)` after a correction.
        choices: further choices by name, such as `scope` and `pattern`; see `spl.pruning.PruningChoices`.

    Raises:
        InputError: the network cannot be pruned or corrected as asked for; see `spl.pruning.find_masks` and
            `spl.isometry.Correction`.

    Example:
        >>> import torch
        >>> from spl.criteria import ConnectionSensitivity
        >>> from spl.isometry import ApproximateIsometry
        >>> from spl.networks import MLP
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch._C.Generator object at ...>
        >>> network, batch = MLP(depth=3), (torch.randn(100, 784), torch.randint(10, (100,)))
        >>> sparse = sparsify(network, ConnectionSensitivity(), 0.9, [batch], ApproximateIsometry())
        >>> sparse.masks
        Masks(3 parameters, kept 8940 of 89400, sparsity 0.9000)
        >>> sparse.changes["fc2.weight"].after.matrix < sparse.changes["fc2.weight"].before.matrix
        True
    """
    seed = torch.initial_seed() if seed is None else seed
    network = unwrapped(network)
    chosen = PruningChoices(criterion=criterion.seeded(seed), sparsity=sparsity, **choices)
    parameters = chosen.parameters(network)
    check_weights(network, parameters, criterion, isometry)
    on_stage("dense", None)

    with processes.together():
        found = find_masks(network, chosen, batches, loss, processes, follow=isometry is not None)
    masks = Masks(processes.from_first(dict(found.masks)))
    parameters = dict(network.named_parameters())  # coupled channels have masks of biases and normalization too
    norms = {name: norm_of(parameters[name]) for name in masks} if isometry else {}
    masks.apply_(parameters)
    on_stage("pruned", masks)

    changes: dict[str, Change] = {}
    if isometry is not None and masks.kept < masks.size:
        with processes.together():
            masks, changes = isometry.seeded(seed).knowing(found.activations, norms)(network, masks)
        for name in changes:  # hardware may differ, and processes must not
            parameters[name].data.copy_(processes.from_first(parameters[name].detach().cpu()))
        on_stage("corrected", masks)
    return Sparsified(masks, changes, found.scores, found.coverage)
