"""A callback that saves the configuration of a run in its folder."""

from pathlib import Path

from spl.errors import InputError
from spl.lightning_api import LightningModule, SaveConfigCallback, Trainer


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


def _is_created(file: Path) -> bool:
    """Create an empty file, in one step that only one of several processes can take; return False if it exists."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
