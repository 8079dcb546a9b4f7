"""The commands fit, validate, test, predict and diagnose, from YAML and flags."""

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
import yaml
from jsonargparse import ArgumentParser, capture_parser

from spl import criteria, data, initializers, isometry, networks, updates  # noqa: F401 (short class names on the command line)
from spl.callbacks import (
    FiniteLoss,
    JacobianSpectrum,
    LastCheckpoint,
    MoveMasks,
    PruneAtInit,
    Requeue,
    SafeInterrupt,
    Summary,
)
from spl.callbacks.lightning_private import ignore_stray_checkpoints
from spl.callbacks.reporting.run_names import network_name, run_name
from spl.callbacks.safety.requeue import is_requeued, requeued_checkpoint
from spl.callbacks.trainer import run_folder, runs_folder
from spl.classifier import SparseClassifier
from spl.cli.advice import advice, reason
from spl.cli.configs import resolve_configs
from spl.cli.configuration import names_module
from spl.cli.flags import FitFlags, FitParser
from spl.cli.jsonargparse_private import subparsers
from spl.cli.progress import progress_bar
from spl.cli.run_logger import RunLogger
from spl.cli.save_config import SaveConfig
from spl.cli.trainer import SplTrainer
from spl.criteria import schedules  # noqa: F401
from spl.errors import InputError
from spl.files import read_checkpoint
from spl.lightning_api import (
    Callback,
    LightningDataModule,
    LightningModule,
    ProgressBar,
    Trainer,
    is_overridden,
)
from spl.pruning import patterns, scopes  # noqa: F401


class SplCLI(FitFlags):
    """The command with the flags of fit, which logs runs to lightning_logs/NAME.

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
        """Make the Trainer, without callbacks that have nothing to move, or no forward to measure."""
        callbacks = [c for c in callbacks if not (isinstance(c, MoveMasks) and c.update is None)]
        if not is_overridden("forward", self.model):
            callbacks = [callback for callback in callbacks if not isinstance(callback, JacobianSpectrum)]
        return super()._instantiate_trainer(config, callbacks)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the Trainer, which logs to lightning_logs/NAME unless another logger is given."""
        config = self.config_init[str(self.subcommand)].trainer
        if config["logger"] in (None, True):
            name = self.config_init[str(self.subcommand)].name or self._default_name()
            kwargs["logger"] = RunLogger(runs_folder(config["default_root_dir"]), name=name, default_hp_metric=False)
        if config["enable_progress_bar"] is not False:
            bars = [c for c in config["callbacks"] or [] if isinstance(c, ProgressBar)]
            kwargs["callbacks"] = [*(config["callbacks"] or []), *([] if bars else [progress_bar()])]
        trainer = super().instantiate_trainer(**kwargs)
        ignore_stray_checkpoints(trainer)
        return trainer

    def _default_name(self) -> str:
        """Return the name of a run that has been given none."""
        pruning: PruneAtInit = self.config_init[str(self.subcommand)].pruning
        criterion = type(pruning.choices.criterion).__name__
        correction = "none" if pruning.isometry is None else type(pruning.isometry).__name__
        return run_name(network_name(self.model), criterion, correction, pruning.choices.sparsity)

    def after_instantiate_classes(self) -> None:
        """Record the network's configuration for checkpoints, and skip pretrained weights if a checkpoint is loaded."""
        if not isinstance(self.model, SparseClassifier):
            return
        if _names_file(self.config[str(self.subcommand)].ckpt_path):
            self.model.pretrained = None
        model = self.config_dump["model"]
        network = model.get("init_args", model).get("network")  # a subclass may make a network of its own
        self.model.network_config = None if network is None else _without_none(network)

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


def _without_none(value: Any) -> Any:
    """Return nested dictionaries without their entries that are None."""
    return {k: _without_none(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _names_file(ckpt_path: str | Path | None) -> bool:
    """Return whether this is the path of a file, not a word by which Lightning looks for a checkpoint, such as best."""
    return ckpt_path not in (None, "best", "last", "hpc", "registry")


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
