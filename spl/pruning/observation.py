"""What a forward pass shows of a network: which weights the loss depends on, in which way, and what is behind them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from torch import nn

from spl.criteria.objective import Objective
from spl.criteria.processes import Processes
from spl.errors import InputError
from spl.functional.computed import computed_from
from spl.functional.graph import Graph, operation
from spl.functional.layers import is_weighted
from spl.isometry.activations import Activations, activations_of
from spl.isometry.spans import watched


class Observation(NamedTuple):
    """What forward passes have shown of a network.

    Attributes:
        unreached: the names of the weights that no gradient reaches, such as those of copies (averages, teachers) and
            of parts that this loss does not use; None if that is not known.
        batches: the batches, to be read again.
        activations: the activation behind each weight that was seen, by name; None if they are not known or were not
            asked for.
        is_hidden: whether reentrant gradient checkpointing hides a part of the network.

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
    activations: Activations | None
    is_hidden: bool = False


def observe(
    network: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    batches: Iterable[Any],
    loss: Objective,
    processes: Processes = Processes(),
    follow: bool = False,
) -> Observation:
    """Run a network forward until its loss has depended on each of the parameters, usually on one batch.

    No gradient is computed: the graph of the loss shows on which parameters it depends. If a batch cannot be read, the
    loss raises an error or gradient checkpointing hides the graph, nothing is known of the network. A criterion that
    needs the loss has that error again.

    Args:
        network: the network, in the mode in which to score it.
        parameters: its parameters that are to be pruned, by name.
        batches: batches in the form that `loss` takes. Of an iterator only the first batches are read, one for each
            process, and `Observation.batches` has them again.
        loss: the loss, or another number that depends on the network's outputs.
        processes: the processes that share the batches.
        follow: whether to find the activation behind each weight too.

    Raises:
        InputError: a layer multiplies by a weight that it computes from its parameter; or the first batch of an
            iterator does not show whether the loss depends on all parameters.
    """
    shown = batches
    if isinstance(batches, Iterator):
        shown = list(islice(batches, processes.size))
        batches = chain(shown, batches)
    names = list(parameters)
    look = _Look.at(network, parameters, processes.own(shown), loss, follow)
    with suppress(InputError):  # the loss complains of batches without a loss where it is needed
        loss.finish(processes)
    device = next(iter(parameters.values())).device
    counts = torch.tensor([float(look.is_unknown), *(float(name in look.reached) for name in names)], device=device)
    processes.add_up_([counts])
    if look.computed and not look.is_unknown:
        names_of_computed = ", ".join(sorted(look.computed))
        raise InputError(
            f"{names_of_computed}: the network multiplies by a weight that it computes from this one, as weight "
            "standardization and equalized learning rates do, so its zeros or its singular values are not those of the "
            "layer. Leave it out with exclude."
        )
    unreached = [name for name, count in zip(names, counts[1:].tolist(), strict=True) if not count]
    if counts[0] or len(unreached) == len(names):
        return Observation(None, batches, None, look.is_hidden)
    if unreached and shown is not batches:
        raise InputError(
            f"The loss of the first batch does not depend on {', '.join(unreached)}, and an iterator, which gives its "
            "batches once, does not show whether that of another does: pass a list or a DataLoader, or leave these "
            "weights out with exclude."
        )
    return Observation(unreached, batches, look.activations or None)


_HIDING = "CheckpointFunction"
"""The operation of torch's reentrant checkpointing, whose parameters are not in the graph."""


@dataclass
class _Look:
    """What one process has seen.

    Attributes:
        reached: the names of the parameters on which the loss depends.
        computed: the names of the weights from which others are computed.
        activations: the activation behind each weight that was seen, by name; None if they are not known.
        is_hidden: whether checkpointing hides a part of the network.
        is_unknown: whether not all could be seen, for whatever reason.
    """

    reached: set[str] = field(default_factory=set)
    computed: set[str] = field(default_factory=set)
    activations: dict[str, nn.Module | None] = field(default_factory=dict)
    is_hidden: bool = False
    is_unknown: bool = False

    @classmethod
    def at(
        cls,
        network: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        batches: Iterable[Any],
        loss: Objective,
        follow: bool,
    ) -> "_Look":
        """Look at the graph of the loss on each batch, until all parameters have been reached."""
        look = cls()
        gates = {name for name in parameters if not is_weighted(network.get_submodule(name.rpartition(".")[0]))}
        try:
            for batch in batches:
                with watched(network) as calls:
                    value = loss(network, batch)
                graph = Graph(value)
                look.is_hidden |= any(operation(node) == _HIDING for node in graph)
                look.reached |= {name for name, parameter in parameters.items() if graph.reaches(parameter)}
                look.computed |= set(computed_from(graph, parameters, gates))
                if follow:
                    look.activations = activations_of(network, calls, value) | look.activations
                if len(look.reached) == len(parameters):
                    break
        except Exception:
            look.is_unknown = True
        look.is_unknown |= look.is_hidden
        return look
