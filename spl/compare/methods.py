"""The methods of a comparison: how each chooses weights, corrects them, and moves its masks in training."""

import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spl.compare.lottery import Rewinding
from spl.errors import InputError
from spl.isometry import ApproximateIsometry, DefaultIsometry
from spl.updates import GMP

DENSE = "dense"
_DENSE_PRUNING = {"sparsity": 0.0, "criterion": {"class_path": "spl.criteria.Magnitude"}, "isometry": None}
"""Magnitudes cost nothing to score, and at sparsity 0 nothing is removed."""

_WHEN = ("every", "until")  # the arguments of `Update`, which all updates of a comparison share

Choice = dict[str, Any]
"""The class_path and init_args of an object."""


@dataclass(frozen=True)
class ComparedMethod:
    """A method of a comparison: how the weights that stay are chosen and corrected, and whether masks move in training.

    Attributes:
        label: the name as it was given, which tables and figures show.
        criterion: the class path of the criterion; None for a network that is dense when training begins.
        correction: the class path of the correction; None for none.
        scope: the class path of the scope (sparsity distribution); None for that of the configuration.
        rewinding: how rounds of iterative magnitude pruning rewind; None for a method that prunes once.
        update: the class path of the update that moves the masks in training; None for masks that stay.
    """

    label: str
    criterion: str | None = None
    correction: str | None = None
    scope: str | None = None
    rewinding: Rewinding | None = None
    update: str | None = None

    @property
    def is_dense(self) -> bool:
        """Whether nothing is pruned at any time."""
        return self.criterion is None and self.update is None

    def configure(self, config: Mapping[str, Any], sparsity: float) -> dict[str, Any]:
        """Return the configuration of `spl fit` with this method.

        Arguments that the configuration gives for a class that this method has are kept. `every` and `until` of an
        update hold for all updates. The dense network depends on none of the options of `pruning`.

        Args:
            config: the configuration without a method.
            sparsity: the share of weights to remove.
        """
        chosen = {key: value for key, value in config.items() if key != "moving"}
        pruning = config.get("pruning", {})
        chosen["pruning"] = dict(_DENSE_PRUNING) if self.criterion is None else pruning | self._pruning(pruning)
        if self.update is not None:
            own = config.get("moving", {}).get("update")
            update = choice_of(self.update, own)
            update["init_args"] = _shared(self.update, own) | update.get("init_args", {})
            if self.criterion is None and self.scope is not None:
                update["init_args"]["scope"] = {"class_path": self.scope}
            chosen["moving"] = {"update": update}
        return self.with_sparsity(chosen, sparsity)

    def with_sparsity(self, config: Mapping[str, Any], sparsity: float) -> dict[str, Any]:
        """Return a configuration of this method with another sparsity."""
        if self.is_dense:
            return dict(config)
        if self.criterion is not None:
            return {**config, "pruning": config["pruning"] | {"sparsity": sparsity}}
        update = config["moving"]["update"]
        update = update | {"init_args": update.get("init_args", {}) | {"sparsity": sparsity}}
        return {**config, "moving": config["moving"] | {"update": update}}

    def _pruning(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of `pruning` that this method decides, without the sparsity."""
        assert self.criterion is not None
        options: dict[str, Any] = {"isometry": None}
        if self.rewinding is not None:  # each round names its own checkpoint
            options["criterion"] = {"class_path": self.criterion, "init_args": {"checkpoint": "of the round before"}}
        else:
            options["criterion"] = choice_of(self.criterion, own.get("criterion"))
        if self.correction is not None:
            options["isometry"] = choice_of(self.correction, own.get("isometry"))
        if self.scope is not None:
            options["scope"] = choice_of(self.scope, own.get("scope"))
        return options


def starts_dense(update: str) -> bool:
    """Return whether the update with this class path prunes a dense network while it trains, as GMP does."""
    return issubclass(pkgutil.resolve_name(update), GMP)


def _shared(update: str, own: Any) -> dict[str, Any]:
    """Return when masks move, as the configuration says it for some update, for another one that has such arguments."""
    if not isinstance(own, dict) or "class_path" not in own:
        return {}
    given, wanted = (inspect.signature(pkgutil.resolve_name(path)).parameters for path in (own["class_path"], update))
    asked = {name: own.get("init_args", {}).get(name) for name in _WHEN if name in given and name in wanted}
    return {name: value for name, value in asked.items() if value not in (None, given[name].default)}


def choice_of(path: str, own: Any) -> Choice:
    """Return the choice of a class, with the arguments that the configuration gives if it has the same class."""
    kind = pkgutil.resolve_name(path)
    if isinstance(own, dict) and "class_path" in own:
        given = pkgutil.resolve_name(own["class_path"])
        if kind is (ApproximateIsometry if given is DefaultIsometry else given):
            return own | {"class_path": path}
    parameters = inspect.signature(kind).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if needed:
        raise InputError(
            f"{path} cannot be made without {', '.join(needed)}: give the class and its arguments in the "
            "configuration, from where they are taken, or derive a class that needs none."
        )
    return {"class_path": path}
