"""The flags of `spl fit` and of the commands like it, and how a command line is parsed."""

import sys
import warnings
from contextlib import ExitStack
from typing import Any, ClassVar, NoReturn

from spl.callbacks import JacobianSpectrum, MoveMasks, PruneAtInit
from spl.cli.configuration import (
    bound_yaml,
    check_name,
    check_numbers,
    check_packages,
    other_model,
    translate_class_paths,
)
from spl.cli.jsonargparse_private import spl_parsing_rules
from spl.cli.parsers import OneLineErrors
from spl.cli.printable import printable_errors
from spl.errors import InputError
from spl.lightning_api import LightningArgumentParser, LightningCLI, ModelCheckpoint, rank_zero_only

_TITLES = {  # of the groups of flags
    "trainer": "Trainer of Lightning",
    "model": "Network and training",
    "data": "Data",
    "pruning": "Pruning at initialization",
    "moving": "Masks that move in training",
    "spectrum": "Singular values of the input-output Jacobian",
    "checkpoint": "Checkpoints: ModelCheckpoint of Lightning",
}


class FitParser(OneLineErrors, LightningArgumentParser):
    """The parser of a command that takes the flags of fit."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong, and exit with status 2.

        Raises:
            InputError: a class is based on the other package of Lightning.
        """
        check_packages(ex)
        super().error(message, ex)


class FitFlags(LightningCLI):
    """A LightningCLI with the groups pruning, moving, spectrum and checkpoint."""

    def __init__(self, *args: Any, command: str | None = None, **options: Any) -> None:
        if command in self.subcommands():  # the parsers of the other commands need not be made
            chosen = {command: self.subcommands()[command]}
            self.subcommands = lambda: chosen  # type: ignore[method-assign]
        super().__init__(*args, **options)

    _parsers: ClassVar[dict[tuple[type, tuple[str, ...], bool], dict[str, Any]]] = {}

    def setup_parser(self, add_subcommands: bool, *args: Any, **kwargs: Any) -> None:
        """Make the parsers once in a process for each class: that takes longer than to parse a command line."""
        key = (type(self), tuple(self.subcommands()), self.subclass_mode_model)
        if key not in self._parsers:
            before = set(vars(self))
            super().setup_parser(add_subcommands, *args, **kwargs)
            self._parsers[key] = {name: value for name, value in vars(self).items() if name not in before}
        vars(self).update(self._parsers[key])

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the subcommands of LightningCLI and diagnose, which takes the arguments of fit."""
        commands = LightningCLI.subcommands()
        return commands | {"diagnose": commands["fit"]}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Return a parser with the flags --config and --help_all."""
        parser = super().init_parser(prog="spl", **kwargs)
        parser.add_argument("--help_all", action="help", help="Show all flags, and exit.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the flags, the groups and their defaults."""
        parser.add_argument(
            "--name",
            type=str | None,
            default=None,
            help="Name of the run: its logs go to lightning_logs/NAME. By default, it is made of network, method and "
            "sparsity, such as MLP-SNIP-0.9.",
        )
        parser.add_argument(
            "--test_after_fit",
            type=bool,
            default=True,
            help="Evaluate the final weights on the test set after fit.",
        )
        parser.add_lightning_class_args(PruneAtInit, "pruning")
        parser.add_lightning_class_args(MoveMasks, "moving")
        parser.add_lightning_class_args(JacobianSpectrum, "spectrum")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "pruning.scope": {"class_path": "spl.pruning.scopes.Global"},
                "pruning.pattern": {"class_path": "spl.pruning.patterns.Unstructured"},
                "pruning.isometry": {"class_path": "spl.isometry.DefaultIsometry"},
                "checkpoint.monitor": "accuracy/val",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
            }
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        usage = f"spl {subcommand} [--config NAME ...] [--GROUP.FLAG VALUE ...]"
        parser = super()._prepare_subcommand_parser(klass, subcommand, usage=usage, **kwargs)
        for name, group in (parser.groups or {}).items():
            group.title = _TITLES.get(name, group.title)
        parser.set_defaults({"weights_only": True})  # nothing in a checkpoint is executed
        if self.subclass_mode_model:  # whose metrics nobody knows
            parser.set_defaults({"checkpoint.monitor": None, "checkpoint.filename": None})
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse `args` if there are any, else the command line of the process, and check the numbers in it."""
        bound_yaml()
        with warnings.catch_warnings(), printable_errors(), spl_parsing_rules() as changes, ExitStack() as stack:
            if self.subclass_mode_model:
                stack.enter_context(other_model())
            warnings.filterwarnings("ignore", "LightningCLI's args parameter")
            try:
                super().parse_arguments(parser, translate_class_paths(args))
            except SystemExit as ended:
                if not ended.code:  # of --print_config
                    _announce_dropped(args, changes)
                raise
            _announce_dropped(args, changes)
        config = self.config[self.config.subcommand]
        check_numbers(config.as_dict())
        if config.name is not None:
            check_name(config.name)
        if not isinstance(config.seed_everything, bool) and not 0 <= (config.seed_everything or 0) < 2**32:
            raise InputError(f"seed_everything must lie in [0, 2³²), got {config.seed_everything}.")

    def _parse_ckpt_path(self) -> None:
        """Do nothing; LightningCLI would add the hyperparameters of a checkpoint to the configuration."""


def _announce_dropped(args: Any, changes: list[tuple[str, str]]) -> None:
    """Say which flags of a command line count no more because a later one names another class."""
    if not isinstance(args, list) or getattr(rank_zero_only, "rank", 0) != 0:
        return
    words = [str(word) for word in args]
    names = {new.rpartition(".")[2] for _, new in changes}
    for i, word in enumerate(words):
        flag, equals, value = word.partition("=")
        value = value if equals else next(iter(words[i + 1 : i + 2]), "")
        earlier = [w.partition("=")[0] for w in words[:i] if flag.startswith("--") and w.startswith(f"{flag}.")]
        if earlier and value.rpartition(".")[2] in names:
            print(
                f"spl: {', '.join(earlier)} no longer counts, because {flag} {value} after it starts from the defaults "
                f"of {value}.",
                file=sys.stderr,
            )
