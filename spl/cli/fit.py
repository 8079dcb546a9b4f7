"""The `spl` command: fit, validate, test, predict and diagnose a SparseClassifier, from YAML and flags."""

import csv
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

import torch
import yaml
from jsonargparse import ArgumentParser, capture_parser

from spl import criteria, data, initializers, isometry, networks  # noqa: F401 (short class names on the command line)
from spl.callbacks import (
    FiniteLoss,
    JacobianSpectrum,
    LastCheckpoint,
    PruneAtInit,
    Requeue,
    SafeInterrupt,
    Summary,
)
from spl.callbacks.lightning_private import ignore_stray_checkpoints
from spl.callbacks.safety.requeue import is_requeued, requeued_checkpoint
from spl.callbacks.trainer import run_folder, runs_folder
from spl.classifier import SparseClassifier
from spl.cli.advice import advice, reason
from spl.cli.configs import resolve_configs
from spl.cli.configuration import (
    bound_yaml,
    check_name,
    check_numbers,
    check_packages,
    names_module,
    other_model,
    translate_class_paths,
)
from spl.cli.jsonargparse_private import spl_parsing_rules, subparsers
from spl.cli.parsers import OneLineErrors
from spl.cli.printable import printable_errors
from spl.cli.progress import progress_bar
from spl.cli.run_logger import RunLogger
from spl.cli.trainer import SplTrainer
from spl.criteria import schedules  # noqa: F401
from spl.data.images import Splits
from spl.errors import InputError
from spl.files import read_checkpoint
from spl.lightning_api import (
    Callback,
    LightningArgumentParser,
    LightningCLI,
    LightningDataModule,
    LightningModule,
    ModelCheckpoint,
    ProgressBar,
    SaveConfigCallback,
    Trainer,
    is_overridden,
    rank_zero_only,
)
from spl.pruning import patterns, scopes  # noqa: F401

_TITLES = {  # of the groups of flags
    "trainer": "Trainer of Lightning",
    "model": "Network and training",
    "data": "Data",
    "pruning": "Pruning at initialization",
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


class SaveConfig(SaveConfigCallback):
    """A callback that writes config.yaml to the run's folder, unless the folder belongs to another run."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file; raise an `InputError` if the folder has one already."""
        file = Path(trainer.log_dir or ".", self.config_filename)
        is_new = self.already_saved or (trainer.is_global_zero and _is_created(file))
        if not trainer.strategy.broadcast(is_new):
            raise InputError(
                f"{file} exists already, and a run never overwrites another: leave the logger's version out, "
                "or choose a new --name."
            )
        self.overwrite = True  # of the empty file just created
        super().setup(trainer, pl_module, stage)


class SplCLI(LightningCLI):
    """A LightningCLI with the groups pruning, spectrum and checkpoint, which logs runs to lightning_logs/NAME.

    Attributes:
        default_callbacks: the classes of callbacks that every Trainer of the command has.
    """

    default_callbacks: ClassVar[tuple[type[Callback], ...]] = (
        FiniteLoss,
        SafeInterrupt,
        Requeue,
        LastCheckpoint,
        Summary,
    )

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
            "--name", type=str, default="default", help="Name of the run: its logs go to lightning_logs/NAME."
        )
        parser.add_argument(
            "--test_after_fit",
            type=bool,
            default=True,
            help="Evaluate the final weights on the test set after fit.",
        )
        parser.add_lightning_class_args(PruneAtInit, "pruning")
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
        check_name(config.name)
        if not isinstance(config.seed_everything, bool) and not 0 <= (config.seed_everything or 0) < 2**32:
            raise InputError(f"seed_everything must lie in [0, 2³²), got {config.seed_everything}.")

    def _parse_ckpt_path(self) -> None:
        """Do nothing; LightningCLI would add the hyperparameters of a checkpoint to the configuration."""

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint of a requeued job, and check that a checkpoint is whole, before the network is made."""
        config = self.config[str(self.subcommand)]
        if self.subcommand == "fit" and config.ckpt_path is None and is_requeued():
            plain = yaml.safe_load(self.parser.dump(self.config, skip_none=False))["fit"]
            config.ckpt_path = requeued_checkpoint(config.trainer.default_root_dir, plain)
        if _names_file(config.ckpt_path):
            read_checkpoint(config.ckpt_path)

    def instantiate_classes(self) -> None:
        """Make the Trainer, the network and the data.

        Raises:
            InputError: the configuration asks for something that cannot be made; it wraps any other error.
        """
        try:
            super().instantiate_classes()
        except Exception as error:
            if advice(error) is not None:
                raise
            raise InputError(
                f"What the configuration asks for cannot be made ({reason(error)}): correct it; --help shows what is "
                "possible."
            ) from error

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Make the Trainer, without the spectrum of a module that has no forward."""
        if not is_overridden("forward", self.model):
            callbacks = [callback for callback in callbacks if not isinstance(callback, JacobianSpectrum)]
        return super()._instantiate_trainer(config, callbacks)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the Trainer, which logs to lightning_logs/NAME unless another logger is given."""
        config = self.config_init[str(self.subcommand)].trainer
        if config["logger"] in (None, True):
            name = self.config_init[str(self.subcommand)].name
            kwargs["logger"] = RunLogger(runs_folder(config["default_root_dir"]), name=name, default_hp_metric=False)
        if config["enable_progress_bar"] is not False:
            bars = [c for c in config["callbacks"] or [] if isinstance(c, ProgressBar)]
            kwargs["callbacks"] = [*(config["callbacks"] or []), *([] if bars else [progress_bar()])]
        trainer = super().instantiate_trainer(**kwargs)
        ignore_stray_checkpoints(trainer)
        return trainer

    def after_instantiate_classes(self) -> None:
        """Record the network's configuration for checkpoints, and skip pretrained weights if a checkpoint is loaded."""
        if not isinstance(self.model, SparseClassifier):
            return
        if _names_file(self.config[str(self.subcommand)].ckpt_path):
            self.model.pretrained = None
        self.model.network_config = _without_none(self.config_dump["model"]["network"])

    def before_diagnose(self) -> None:
        """Refuse a module that is no SparseClassifier."""
        if not isinstance(self.model, SparseClassifier):
            raise InputError(
                f"spl diagnose measures a SparseClassifier, got {type(self.model).__name__}: give its network as "
                "--model.network, or call spl.diagnose in Python."
            )

    def predict(self, **kwargs: Any) -> None:
        """Write the class probabilities of every example to predictions.csv in the run's folder.

        Raises:
            InputError: the model is no SparseClassifier, so that nobody knows what it predicts.
        """
        if not isinstance(self.model, SparseClassifier):
            raise InputError(
                f"spl predict writes class probabilities, and what {type(self.model).__name__} predicts is its own: "
                "call trainer.predict(model, data) in Python."
            )
        outputs = self.trainer.predict(**kwargs) or []
        probabilities = torch.cat([torch.as_tensor(batch) for batch in outputs])
        path = (run_folder(self.trainer) or Path()) / "predictions.csv"
        with path.open("w", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(["example", "predicted", *(f"p{k}" for k in range(probabilities.shape[1]))])
            for i, row in enumerate(probabilities):
                rows.writerow([i, int(row.argmax()), *(f"{p:.6g}" for p in row.tolist())])
        print(f"Predictions of {len(probabilities)} examples: {path}")

    def after_fit(self) -> None:
        """Evaluate the final weights on the test set; a module of one's own must have a test step and test data."""
        is_possible = isinstance(self.model, SparseClassifier) or (
            is_overridden("test_step", self.model)
            and any(is_overridden("test_dataloader", part) for part in (self.datamodule, self.model) if part)
        )
        if is_possible and self.config_init[str(self.subcommand)].test_after_fit:
            self.trainer.test(self.model, datamodule=self.datamodule)


class RepeatedFitCLI(SplCLI):
    """An `SplCLI` that knows fit alone, for a process that fits many networks one after the other.

    It differs from `SplCLI` in three ways. It has no other subcommand, so that its parser is made in a fifth of the
    time. Images that the previous fit has read are not read again. And a network that diverges is trained to the end,
    because that it did is a result too.
    """

    default_callbacks = tuple(callback for callback in SplCLI.default_callbacks if callback is not FiniteLoss)
    _images: ClassVar[dict[str, Splits]] = {}  # those read last, by the configuration of the data and the device

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the one subcommand, fit."""
        return {"fit": SplCLI.subcommands()["fit"]}

    def fit(self, **kwargs: Any) -> None:
        """Fit, on the images in memory if they are the same."""
        datamodule, source = self.datamodule, f"{self.config['fit'].data} {self.trainer.strategy.root_device}"
        if isinstance(datamodule, data.ImageDataModule) and source in self._images:
            datamodule.share(self._images[source])
        self.trainer.fit(**kwargs)
        if isinstance(datamodule, data.ImageDataModule) and datamodule.splits is not None:
            self._images.clear()
            self._images[source] = datamodule.splits


def _is_created(file: Path) -> bool:
    """Create an empty file, in one step that only one of several processes can take; return False if it exists."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _without_none(value: Any) -> Any:
    """Return nested dictionaries without their entries that are None."""
    return {k: _without_none(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _names_file(ckpt_path: str | Path | None) -> bool:
    """Return whether this is the path of a file, not a word by which Lightning looks for a checkpoint, such as best."""
    return ckpt_path not in (None, "best", "last", "hpc", "registry")


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


C = TypeVar("C", bound=SplCLI)


def run(cli: type[C], args: Sequence[str] | Mapping[str, Any] | None = None, **options: Any) -> C:
    """Run a command line with a CLI of the class `cli`, and return this.

    The model is a SparseClassifier, or the LightningModule that the command line or a configuration names.

    Args:
        cli: the class.
        args: the command line, by default that of the process; or a whole configuration with its subcommand.
        options: further arguments of the class.
    """
    is_config = isinstance(args, Mapping)
    words: Any = args if is_config else resolve_configs(sys.argv[1:] if args is None else list(args))
    own = not is_config and names_module(words)
    return cli(
        LightningModule if own else SparseClassifier,
        None if own else LightningDataModule,
        subclass_mode_model=own,
        subclass_mode_data=True,
        trainer_class=SplTrainer,
        auto_configure_optimizers=False,
        save_config_callback=SaveConfig,
        trainer_defaults={"callbacks": [callback() for callback in cli.default_callbacks]},
        parser_class=FitParser,
        args=words,
        command=words["subcommand"] if is_config else next(iter(words), None),
        **options,
    )


def parsers_of_fit() -> dict[str, ArgumentParser]:
    """Return the parsers of the commands of `SplCLI` by name.

    Example:
        >>> from spl.cli.fit import parsers_of_fit
        >>> list(parsers_of_fit())
        ['fit', 'validate', 'test', 'predict', 'diagnose']
    """
    parser = capture_parser(run, SplCLI, ["--help_all"])
    return subparsers(parser)
