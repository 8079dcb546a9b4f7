"""The `spl` command: fit, validate, test and predict with a SparseClassifier, from YAML and flags."""

import sys
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import TensorBoardLogger

from spl import criteria, data, initializers, isometry, networks  # noqa: F401 (short class names on the command line)
from spl.callbacks import JacobianSpectrum, PruneAtInit, SafeInterrupt, Summary
from spl.errors import InputError
from spl.module import SparseClassifier


class SaveConfig(SaveConfigCallback):
    """Writes the run's config.yaml; a folder that has one belongs to another run, and is left alone."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it, or refuse."""
        existing = Path(trainer.log_dir or ".", self.config_filename)
        if not self.already_saved and trainer.strategy.broadcast(existing.exists()):
            raise InputError(
                f"{existing} is there already, and a run never overwrites another: leave the logger's version out, "
                "or choose a new --name."
            )
        super().setup(trainer, pl_module, stage)


class SplCLI(LightningCLI):
    """LightningCLI with groups of its own: pruning, spectrum, checkpoint; runs go to lightning_logs/NAME."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the groups and their defaults."""
        parser.add_argument("--name", default="default", help="Name of the run: its logs go to lightning_logs/NAME.")
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
                "pruning.criterion": {"class_path": "spl.criteria.ConnectionSensitivity"},
                "pruning.isometry": {"class_path": "spl.isometry.ApproximateIsometry"},
                "checkpoint.monitor": "accuracy/val",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                "checkpoint.save_last": True,
            }
        )

    def before_instantiate_classes(self) -> None:
        """Refuse a checkpoint that is not there, before data and network are made."""
        path = self._get(self.config, "ckpt_path")
        if path not in (None, "best", "last", "hpc", "registry") and not Path(path).is_file():
            raise InputError(f"There is no checkpoint {path}: give the path of a .ckpt file that `spl fit` wrote.")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer, logging to lightning_logs/NAME unless a logger is given."""
        config = self._get(self.config_init, "trainer")
        if config["logger"] in (None, True):
            root = Path(config["default_root_dir"] or ".", "lightning_logs")
            name = self._get(self.config_init, "name")
            kwargs["logger"] = TensorBoardLogger(root, name=name, default_hp_metric=False)
        return super().instantiate_trainer(**kwargs)

    def after_instantiate_classes(self) -> None:
        """Let checkpoints say how their network is built."""
        network = self.parser.dump(self.config)  # a plain tree of primitives
        self.model.network_config = _network_of(network, str(self.subcommand))

    def after_fit(self) -> None:
        """Evaluate the final weights on the test set."""
        if self._get(self.config_init, "test_after_fit"):
            self.trainer.test(self.model, datamodule=self.datamodule)


def _network_of(dump: str, subcommand: str) -> dict[str, Any]:
    import yaml

    network: dict[str, Any] = yaml.safe_load(dump)[subcommand]["model"]["network"]
    return network


def main(args: list[str] | None = None) -> None:
    """Run the command line `args`, those of the process without any; exit with 2 on input that cannot be used."""
    try:
        SplCLI(
            SparseClassifier,
            LightningDataModule,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=SaveConfig,
            trainer_defaults={"callbacks": [SafeInterrupt(), Summary()]},
            args=args,
        )
    except InputError as error:
        print(f"spl: error: {error}", file=sys.stderr)
        sys.exit(2)
