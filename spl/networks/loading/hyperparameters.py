"""The check of hyperparameters in a checkpoint, which are arguments of a classifier that saves them.

Lightning passes them on. `SparseClassifier` saves none, but a subclass may. Plain values are data. Lightning would call
what `_instantiator` names, and that would import and call whatever the others name.
"""

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from spl.errors import InputError
from spl.lightning_api import CHECKPOINT_PAST_HPARAMS_KEYS, LightningModule
from spl.networks.loading.plain import NotAllowedError, class_paths, quoted

_KEYS = (LightningModule.CHECKPOINT_HYPER_PARAMS_KEY, *CHECKPOINT_PAST_HPARAMS_KEYS)
_CALLED = ("_instantiator", "_class_path")


def check_hyperparameters(checkpoint: Mapping[str, Any], path: str | Path, given: Container[str]) -> None:
    """Refuse hyperparameters that would have something imported or called.

    Args:
        checkpoint: the contents of the file.
        path: path of the file, for messages.
        given: names of the arguments that the caller passes, which replace those in the file.

    Raises:
        InputError: a hyperparameter is neither plain nor given, or it names something that would be called.

    Example:
        >>> from spl.networks.loading.hyperparameters import check_hyperparameters
        >>> check_hyperparameters({"hyper_parameters": {"lr": 0.1}}, "last.ckpt", given=())
        >>> check_hyperparameters({"hyper_parameters": {"_class_path": "os.system"}}, "last.ckpt", given=())
        Traceback (most recent call last):
        spl.errors.InputError: last.ckpt asks for 'os.system' as _class_path in its hyperparameters, and nothing ...
    """
    try:
        class_paths(checkpoint.get(LightningModule.CHECKPOINT_HYPER_PARAMS_TYPE))
        for key in _KEYS:
            _check(checkpoint.get(key, {}), given)
    except NotAllowedError as error:
        raise InputError(
            f"{path} asks for {error} in its hyperparameters, and nothing that a checkpoint names is imported or "
            "called. In Python, pass such arguments, load_from_checkpoint(path, network=..., optimizer=...), or make "
            "the classifier and let a Trainer restore it, which reads no hyperparameters: "
            "Trainer().test(model, ckpt_path=path, weights_only=True)."
        ) from error


def _check(saved: object, given: Container[str]) -> None:
    if type(saved) is not dict:
        raise NotAllowedError(f"a value of the type {type(saved).__name__}")
    for name in _CALLED:
        if name in saved:
            raise NotAllowedError(f"{quoted(str(saved[name]))} as {name}")
    for name, value in saved.items():
        if name not in given and (asked := class_paths(value)):
            raise NotAllowedError(", ".join(map(quoted, asked[:5])))
