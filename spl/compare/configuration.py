"""The configuration of a comparison: that of `spl fit`, in its shortest form, and what a comparison cannot use."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from spl.cli.fit import run
from spl.cli.repeated_fit import RepeatedFitCLI
from spl.errors import InputError

_ONE_DEVICE = (None, "auto", "1", 1)
_REFUSED = {  # options of `spl fit`, and why a comparison does not take them
    ("ckpt_path",): "finished and interrupted runs are found without it",
    ("model", "pretrained"): "every run starts from its own initialization",
    ("trainer", "logger"): "the results are read from the logs that spl fit writes by default",
    ("trainer", "default_root_dir"): "all runs lie in lightning_logs of the current folder",
    ("trainer", "fast_dev_run"): "it leaves no results; --trainer.limit_train_batches and max_epochs make runs short",
    ("trainer", "num_nodes"): "each run is made on one device",
}


def shortest(config: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration of `spl fit` without what equals the defaults.

    Two ways of asking for the same fit give the same configuration, and so the same digest.

    Args:
        config: flags of `spl fit`, or a configuration.

    Raises:
        InputError: a number or a name in it is not possible; the parser itself exits with status 2.
    """
    given: Any = {"subcommand": "fit", "fit": dict(config)} if isinstance(config, Mapping) else ["fit", *config]
    cli = run(_Parsed, given)
    parsed = cli.config["fit"].clone()
    parsed.pop("config", None)
    found: dict[str, Any] = json.loads(cli.parser_of_fit.dump(parsed, format="json", skip_default=True))
    return found


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse a configuration that names no data or network, or has options that a comparison does not take."""
    for need, flag in (("data", "--data"), ("model", "--model.network")):
        if need not in config:
            raise InputError(f"The configuration lacks {need}: give a --config that has it, or {flag}.")
    for path, reason in _REFUSED.items():
        value: Any = config
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value not in (None, path == ("trainer", "logger")):  # by default, a Trainer has a logger and nothing else
            raise InputError(f"A comparison does not take {'.'.join(path)}: {reason}. Leave it out.")
    devices = config.get("trainer", {}).get("devices")
    if devices not in _ONE_DEVICE:
        raise InputError(
            f"trainer.devices is {devices}, and a comparison makes each run on one device: leave it out, and give "
            "--jobs, the number of runs at a time."
        )


class _Parsed(RepeatedFitCLI):
    """`spl fit` that parses its configuration and makes nothing."""

    @property
    def parser_of_fit(self) -> Any:
        return self._parser("fit")

    def _set_seed(self) -> None:
        pass

    def _add_instantiators(self) -> None:
        pass

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def after_instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass
