"""Figures of the paper for any network: the same methods, sparsities, seeds and budgets on a network that is given."""

import inspect
import json
import pkgutil
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from torch import nn

from spl.errors import InputError, first_line
from spl.reproduction.artefacts import OF_NETWORKS, Artefact
from spl.reproduction.artefacts.compared_network import ComparedNetwork, NetworkFigure
from spl.reproduction.budgets import Budget
from spl.reproduction.methods import Choice, short_name
from spl.reproduction.page import Page
from spl.reproduction.results import Results
from spl.reproduction.run import RUNS, build

_INPUT = (2, 1, 28, 28)  # two digits of MNIST
_CLASSES = 10


def add_network_argument(parser: ArgumentParser) -> None:
    """Add --network and, for its arguments, --network.NAME."""
    parser.add_subclass_arguments(
        nn.Module, "network", required=False, fail_untyped=False,
        help="network for fig2, fig4 or fig6 in place of the paper's: a class path, and --network.ARGUMENT VALUE",
    )  # fmt: skip


def network_choice(parser: ArgumentParser, parsed: Namespace) -> Choice | None:
    """Take the network out of a parsed command line, and return its class_path and init_args; None without one."""
    network = parsed.pop("network", None)
    if network is None:
        return None
    text = parser.dump(Namespace(network=network), format="json", skip_validation=True)  # type: ignore[no-untyped-call]
    choice: Choice = json.loads(text)["network"]
    return choice


def own_network(choice: Choice) -> ComparedNetwork:
    """Return the network for figures, named by its class and the arguments that are not its defaults.

    Raises:
        InputError: it does not take the digits of MNIST, or does not return a logit for each of their classes.
    """
    _check(choice)
    named = _without_defaults(choice)
    arguments = {k: _last_part(v) if isinstance(v, str) else v for k, v in named["init_args"].items()}
    return ComparedNetwork(short_name(named | {"init_args": arguments}), choice)


def _last_part(text: str) -> str:
    """Return GELU for torch.nn.GELU."""
    return text.rpartition(".")[2] if text.replace(".", "").isidentifier() else text


def _check(choice: Choice) -> None:
    """Refuse a network that does not fit the data."""
    path = choice["class_path"]
    try:
        network = build(choice)
    except InputError:
        raise
    except Exception:  # of a network that cannot be built without values; its runs will tell
        return
    try:
        logits = network(torch.empty(_INPUT, device="meta"))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path} does not take images of MNIST, [N, 1, 28, 28] ({type(error).__name__}: {first_line(error)}): give "
            "a network that does."
        ) from error
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if shape != (_INPUT[0], _CLASSES):
        raise InputError(f"{path} returns {shape} for two images of MNIST: the figures need logits [N, {_CLASSES}].")


def _without_defaults(choice: Choice) -> Choice:
    """Return a choice without the arguments that have their default values."""
    parameters = inspect.signature(pkgutil.resolve_name(choice["class_path"])).parameters
    arguments = choice.get("init_args", {})
    given = {k: v for k, v in arguments.items() if k not in parameters or parameters[k].default != v}
    return {"class_path": choice["class_path"], "init_args": given}


def figures_of(network: ComparedNetwork, names: Sequence[str]) -> list[NetworkFigure]:
    """Return the figures of a network.

    Raises:
        InputError: a name is not that of a figure that can be made of any network.
    """
    if others := [name for name in names if name not in OF_NETWORKS]:
        raise InputError(f"--network is for {', '.join(OF_NETWORKS)}, not for {', '.join(others)}: leave one out.")
    flags = _flags(network.config)
    return [figure(network, flags) for name, figure in OF_NETWORKS.items() if name in names]


def _flags(choice: Choice) -> str:
    arguments: dict[str, Any] = _without_defaults(choice)["init_args"]
    words = ["--network", choice["class_path"]]
    for name, value in arguments.items():
        words += [f"--network.{name}", value if isinstance(value, str) else json.dumps(value)]
    return shlex.join(words)


def write_page(figure: Artefact, network: ComparedNetwork, budget: Budget, folder: Path) -> Path:
    """Write the page of a figure of a network into a folder of its own below `folder`, and return its path."""
    own = folder / f"{figure.name}-{network.name}"
    Page.of(figure, budget, Results(RUNS)).write(own)
    return own / f"{figure.name}.md"
