"""What a forward pass shows of a network before it is scored: which weights the loss depends on, and in which way."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spl.criteria.objective import Objective
from spl.criteria.processes import Processes
from spl.errors import InputError
from spl.functional.computed import computed_from
from spl.functional.graph import Graph
from spl.functional.layers import is_weighted


class Observation(NamedTuple):
    """What forward passes have shown of a network.

    Attributes:
        unreached: the names of the weights that no gradient reaches, such as those of copies (averages, teachers) and
            of parts that this loss does not use; None if that is not known.
        batches: the batches, to be read again.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.pruning import PruningChoices
        >>> from spl.pruning.observation import observe
        >>> network = nn.Sequential(nn.Linear(4, 3))
        >>> network.average = nn.Linear(4, 3)
        >>> network.forward = network[0].forward
        >>> batches = [(torch.ones(2, 4), torch.tensor([0, 1]))]
        >>> observe(network, dict(network.named_parameters()), batches, PruningChoices().loss).unreached
        ['average.weight', 'average.bias']
    """

    unreached: list[str] | None
    batches: Iterable[Any]


def observe(
    network: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    batches: Iterable[Any],
    loss: Objective,
    processes: Processes = Processes(),
) -> Observation:
    """Run a network forward until its loss has depended on each of the parameters, usually on one batch.

    No gradient is computed: the graph of the loss shows on which parameters it depends. If a batch cannot be read or
    the loss raises an error, nothing is known of the network. A criterion that needs both has that error again.

    Args:
        network: the network, in the mode in which to score it.
        parameters: its parameters that are to be pruned, by name.
        batches: batches in the form that `loss` takes. Of an iterator only the first batches are read, one for each
            process, and `Observation.batches` has them again.
        loss: the loss, or another number that depends on the network's outputs.
        processes: the processes that share the batches.

    Raises:
        InputError: a layer multiplies by a weight that it computes from its parameter; or the first batch of an
            iterator does not show whether the loss depends on all parameters.
    """
    shown = batches
    if isinstance(batches, Iterator):
        shown = list(islice(batches, processes.size))
        batches = chain(shown, batches)
    names = list(parameters)
    reached, failed, computed = _look(network, parameters, processes.own(shown), loss)
    with suppress(InputError):  # the loss complains of batches without a loss where it is needed
        loss.finish(processes)
    device = next(iter(parameters.values())).device
    counts = torch.tensor([float(failed), *(float(name in reached) for name in names)], device=device)
    processes.add_up_([counts])
    if computed:
        raise InputError(
            f"{', '.join(computed)}: the network multiplies by a weight that it computes from this one, as weight "
            "standardization and equalized learning rates do, so its zeros or its singular values are not those of the "
            "layer. Leave it out with exclude."
        )
    unreached = [name for name, count in zip(names, counts[1:].tolist(), strict=True) if not count]
    if counts[0] or len(unreached) == len(names):
        return Observation(None, batches)
    if unreached and shown is not batches:
        raise InputError(
            f"The loss of the first batch does not depend on {', '.join(unreached)}, and an iterator, which gives its "
            "batches once, does not show whether that of another does: pass a list or a DataLoader, or leave these "
            "weights out with exclude."
        )
    return Observation(unreached, batches)


def _look(
    network: nn.Module, parameters: Mapping[str, nn.Parameter], batches: Iterable[Any], loss: Objective
) -> tuple[set[str], bool, list[str]]:
    """Return on which parameters the loss depends, whether an error occurred, and which weights it only computes from.

    Weights that were named by `include` may be used in any way.
    """
    factors = {n: p for n, p in parameters.items() if is_weighted(network.get_submodule(n.rpartition(".")[0]))}
    reached: set[str] = set()
    computed: list[str] = []
    try:
        for batch in batches:
            graph = Graph(loss(network, batch))
            reached |= {name for name, parameter in parameters.items() if graph.reaches(parameter)}
            computed += [name for name in computed_from(graph, factors) if name not in computed]
            if len(reached) == len(parameters):
                break
    except Exception:
        return reached, True, []
    return reached, False, computed


def copies(parameters: Mapping[str, Tensor]) -> dict[str, str]:
    """Return which weights are equal to an earlier one of the same shape, and to which: copies that a module keeps.

    Example:
        >>> import copy
        >>> from torch import nn
        >>> from spl.pruning.observation import copies
        >>> network = nn.ModuleDict({"student": nn.Linear(3, 2)})
        >>> network["teacher"] = copy.deepcopy(network["student"])
        >>> copies({name: p for name, p in network.named_parameters() if p.ndim > 1})
        {'teacher.weight': 'student.weight'}
    """
    found: dict[str, str] = {}
    seen: dict[tuple[object, ...], list[str]] = {}
    for name, weight in parameters.items():
        start = weight.detach().flatten()[:_START].tolist()
        alike = seen.setdefault((weight.shape, weight.dtype, *start), [])
        if len(set(start)) > 1 and (same := [n for n in alike if torch.equal(parameters[n], weight)]):
            found[name] = same[0]
        alike.append(name)
    return found


_START = 16  # the numbers that decide whether whole weights are compared; weights that begin constant are no copies
