"""The names of Lightning that spl uses, from the package that the program uses: `pytorch_lightning` or `lightning`.

Both packages have the same classes, but the Trainer of one does not know the modules, data and loggers of the other.
When spl first needs Lightning, it takes the package that the program imported first, and keeps to it. If the program
has imported neither, it takes `pytorch_lightning`. So the first import of Lightning in a program decides, and all
processes of a run, which execute the same program, decide alike.

All other modules of spl import the names from here. Lightning is loaded when one of the names is asked for.
"""

import re
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from spl.lightning_api.other_trainer import refuse_models

if TYPE_CHECKING:  # the types are the same in both packages
    from lightning_fabric.plugins import ClusterEnvironment as ClusterEnvironment
    from lightning_fabric.plugins import TorchCheckpointIO as TorchCheckpointIO
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment as SLURMEnvironment
    from lightning_fabric.utilities.data import sized_len as sized_len
    from lightning_fabric.utilities.exceptions import MisconfigurationException as MisconfigurationException
    from pytorch_lightning import Callback as Callback
    from pytorch_lightning import LightningDataModule as LightningDataModule
    from pytorch_lightning import LightningModule as LightningModule
    from pytorch_lightning import Trainer as Trainer
    from pytorch_lightning.callbacks import Checkpoint as Checkpoint
    from pytorch_lightning.callbacks import ModelCheckpoint as ModelCheckpoint
    from pytorch_lightning.callbacks import ModelPruning as ModelPruning
    from pytorch_lightning.callbacks import ModelSummary as ModelSummary
    from pytorch_lightning.callbacks import ProgressBar as ProgressBar
    from pytorch_lightning.callbacks import TQDMProgressBar as TQDMProgressBar
    from pytorch_lightning.cli import LightningArgumentParser as LightningArgumentParser
    from pytorch_lightning.cli import LightningCLI as LightningCLI
    from pytorch_lightning.cli import LRSchedulerCallable as LRSchedulerCallable
    from pytorch_lightning.cli import OptimizerCallable as OptimizerCallable
    from pytorch_lightning.cli import SaveConfigCallback as SaveConfigCallback
    from pytorch_lightning.cli import instantiate_class as instantiate_class
    from pytorch_lightning.core import saving as saving
    from pytorch_lightning.core.saving import CHECKPOINT_PAST_HPARAMS_KEYS as CHECKPOINT_PAST_HPARAMS_KEYS
    from pytorch_lightning.loggers import Logger as Logger
    from pytorch_lightning.loggers import TensorBoardLogger as TensorBoardLogger
    from pytorch_lightning.loggers.logger import DummyLogger as DummyLogger
    from pytorch_lightning.loops import progress as progress
    from pytorch_lightning.strategies import FSDPStrategy as FSDPStrategy
    from pytorch_lightning.strategies import ModelParallelStrategy as ModelParallelStrategy
    from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher as _MultiProcessingLauncher
    from pytorch_lightning.trainer.connectors import checkpoint_connector as checkpoint_connector
    from pytorch_lightning.trainer.connectors.checkpoint_connector import _CheckpointConnector as _CheckpointConnector
    from pytorch_lightning.trainer.states import TrainerFn as TrainerFn
    from pytorch_lightning.utilities import rank_zero_info as rank_zero_info
    from pytorch_lightning.utilities import rank_zero_only as rank_zero_only
    from pytorch_lightning.utilities import rank_zero_warn as rank_zero_warn
    from pytorch_lightning.utilities.combined_loader import CombinedLoader as CombinedLoader
    from pytorch_lightning.utilities.exceptions import SIGTERMException as SIGTERMException
    from pytorch_lightning.utilities.model_helpers import is_overridden as is_overridden
    from pytorch_lightning.utilities.seed import isolate_rng as isolate_rng
    from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature as is_param_in_hook_signature

_PARTS = {  # where the parts of Lightning are, by package
    "pytorch_lightning": {"pytorch": "pytorch_lightning", "fabric": "lightning_fabric"},
    "lightning": {"pytorch": "lightning.pytorch", "fabric": "lightning.fabric"},
}
_NAMES = {  # what each module of Lightning has of the names above
    "fabric.plugins": ("ClusterEnvironment", "TorchCheckpointIO"),
    "fabric.plugins.environments.slurm": ("SLURMEnvironment",),
    "fabric.utilities.data": ("sized_len",),
    "fabric.utilities.exceptions": ("MisconfigurationException",),
    "pytorch": ("Callback", "LightningDataModule", "LightningModule", "Trainer"),
    "pytorch.callbacks": (
        "Checkpoint", "ModelCheckpoint", "ModelPruning", "ModelSummary", "ProgressBar", "TQDMProgressBar",
    ),
    "pytorch.cli": (
        "LRSchedulerCallable", "LightningArgumentParser", "LightningCLI", "OptimizerCallable", "SaveConfigCallback",
        "instantiate_class",
    ),
    "pytorch.core": ("saving",),
    "pytorch.core.saving": ("CHECKPOINT_PAST_HPARAMS_KEYS",),
    "pytorch.loggers": ("Logger", "TensorBoardLogger"),
    "pytorch.loggers.logger": ("DummyLogger",),
    "pytorch.loops": ("progress",),
    "pytorch.strategies": ("FSDPStrategy", "ModelParallelStrategy"),
    "pytorch.strategies.launchers": ("_MultiProcessingLauncher",),
    "pytorch.trainer.connectors": ("checkpoint_connector",),
    "pytorch.trainer.connectors.checkpoint_connector": ("_CheckpointConnector",),
    "pytorch.trainer.states": ("TrainerFn",),
    "pytorch.utilities": ("rank_zero_info", "rank_zero_only", "rank_zero_warn"),
    "pytorch.utilities.combined_loader": ("CombinedLoader",),
    "pytorch.utilities.exceptions": ("SIGTERMException",),
    "pytorch.utilities.model_helpers": ("is_overridden",),
    "pytorch.utilities.seed": ("isolate_rng",),
    "pytorch.utilities.signature_utils": ("is_param_in_hook_signature",),
}  # fmt: skip
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

_CLASS_PATH = re.compile(r"(\w+\.)+[A-Z]\w*")  # not a path such as lightning.pytorch.ckpt

_chosen: str | None = None
_by_default = False  # whether the program had imported neither package when one was chosen


def __getattr__(name: str) -> Any:
    """Import a name of Lightning when it is asked for first."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    package()
    value = globals()[name] = getattr(import_module(module_name(_HOMES[name])), name)
    return value


def package() -> str:
    """Return which package of Lightning spl uses; the first call decides.

    Example:
        >>> from spl import lightning_api
        >>> lightning_api.package() in ("pytorch_lightning", "lightning")
        True
    """
    global _chosen, _by_default
    if _chosen is None:
        _by_default = not _loaded()
        _chosen = _choice()
        (other,) = _PARTS.keys() - {_chosen}
        refuse_models(_PARTS[other]["pytorch"], _refusal("Trainer", other))
    return _chosen


def module_name(part: str) -> str:
    """Return the name of a module of Lightning, and neither import nor choose anything.

    Args:
        part: the name in the package `lightning`, without that package.

    Example:
        >>> from spl.lightning_api import module_name
        >>> module_name("pytorch.callbacks") in ("pytorch_lightning.callbacks", "lightning.pytorch.callbacks")
        True
    """
    first, dot, rest = part.partition(".")
    return _PARTS[_chosen or _choice()][first] + dot + rest


def settle() -> None:
    """Choose the package of Lightning for good: spl has a Trainer of its own, whatever the program imports later."""
    global _by_default
    package()
    _by_default = False


def version() -> str:
    """Return the version of the package that spl uses.

    Example:
        >>> from spl import lightning_api
        >>> lightning_api.version() >= "2.6"
        True
    """
    return str(import_module(_PARTS[package()]["pytorch"]).__version__)


def other_package(kind: type) -> str:
    """Return the package of Lightning that a class is based on if spl does not use that one; otherwise an empty text.

    Example:
        >>> from spl.lightning_api import Trainer, other_package
        >>> other_package(Trainer)
        ''
    """
    packages = {_package_of(base.__module__) for base in kind.__mro__} - {None}
    return "" if package() in packages else next(iter(packages), None) or ""


def mismatch(thing: object) -> str:
    """Return in one sentence why spl cannot work with an object of the other package; an empty text if it can.

    Example:
        >>> from spl.lightning_api import Trainer, mismatch
        >>> mismatch(Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"))
        ''
    """
    other = other_package(type(thing))
    return other and _refusal(type(thing).__name__, other)


def _refusal(kind: str, other: str) -> str:
    return (
        f"The {kind} is one of {other}, but spl works with {package()}, because the first import of Lightning in a "
        f"program decides: write `import {other}` above all other imports, and use that package alone."
    )


def class_path(path: str) -> str:
    """Return the path that a class of Lightning has in the package that spl uses; any other text unchanged.

    Example:
        >>> from spl.lightning_api import Trainer, class_path
        >>> paths = class_path("lightning.pytorch.Trainer"), class_path("pytorch_lightning.Trainer")
        >>> paths in (("pytorch_lightning.Trainer",) * 2, ("lightning.pytorch.Trainer",) * 2)
        True
        >>> class_path("mine.Trainer")
        'mine.Trainer'
    """
    if not _CLASS_PATH.fullmatch(path):
        return path
    for parts in _PARTS.values():
        for part, name in parts.items():
            if path.startswith(f"{name}."):
                return module_name(part) + path.removeprefix(name)
    return path


def warn_if_imported_late() -> None:
    """Warn if there is a sign that spl has chosen the wrong package.

    The sign is that the program had imported neither package when spl chose one, and has imported the other one since.
    """
    other = next((name for name in _loaded() if name != package()), None)
    if other is not None and _by_default:
        warnings.warn(
            f"spl works with {package()}, because this program imported no Lightning before it, but {other} has been "
            f"imported since. To use spl with {other}, write `import {other}` above all other imports.",
            stacklevel=3,
        )


def _choice() -> str:
    """Return the package that spl would choose now: the one imported first, or else the one that is installed."""
    return next(iter(_loaded()), None) or next(filter(find_spec, _PARTS), "pytorch_lightning")


def _loaded() -> list[str]:
    """Return the packages that are imported, in the order of their imports."""
    packages = {parts["pytorch"]: package for package, parts in _PARTS.items()}
    return [packages[name] for name in list(sys.modules) if name in packages and sys.modules.get(name) is not None]


def _package_of(module: str) -> str | None:
    """Return the package of Lightning that a module belongs to, or None if it belongs to neither."""
    for package, parts in _PARTS.items():
        if any(module == part or module.startswith(f"{part}.") for part in parts.values()):
            return package
    return None
