"""The length of a training: how many examples a data set has, and how many steps a configuration asks for."""

import math
from collections.abc import Mapping
from typing import Any

_BATCH_SIZE = 100  # the default of the data sets of `spl.data`
_UNKNOWN = (50_000, None)  # a guess, which decides nothing but estimates of time
_DATA: dict[str, tuple[int, tuple[int, ...] | None]] = {
    "spl.data.MNIST": (54_000, (1, 28, 28)),
    "spl.data.FashionMNIST": (54_000, (1, 28, 28)),
    "spl.data.MNISTSample": (4_050, (1, 28, 28)),
    "spl.data.CIFAR10": (45_000, (3, 32, 32)),
}


def training_examples(config: Mapping[str, Any]) -> tuple[int, tuple[int, ...] | None]:
    """Return the number of training examples, and the shape of an example; a guess and None for unknown data.

    Args:
        config: the configuration of `spl fit`.
    """
    return _DATA.get(config["data"]["class_path"], _UNKNOWN)


def batch_size(config: Mapping[str, Any]) -> int:
    """Return the number of examples of a training step."""
    size = config["data"].get("init_args", {}).get("batch_size")
    return size if isinstance(size, int) else _BATCH_SIZE


def training_steps(config: Mapping[str, Any]) -> int:
    """Return the number of training steps that `max_steps` or, without it, `max_epochs` asks for."""
    trainer = config["trainer"]
    steps, epochs = trainer.get("max_steps", -1), trainer.get("max_epochs")
    if epochs is None:
        epochs = 1000 if steps < 0 else -1  # as Lightning does
    counted = math.inf if epochs < 0 else epochs * _batches_per_epoch(config)
    least = min(counted, math.inf if steps < 0 else steps)
    return int(least) if math.isfinite(least) else 10**9


def _batches_per_epoch(config: Mapping[str, Any]) -> int:
    batches = math.ceil(training_examples(config)[0] / batch_size(config))
    limit = config["trainer"].get("limit_train_batches")
    if isinstance(limit, float):
        return int(limit * batches)
    return batches if limit is None else min(batches, limit)
