"""The precision of products of float32 matrices, which training may lower."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Multiply float32 matrices in float32 inside the context, whatever the settings of training allow.

    `torch.set_float32_matmul_precision`, which Lightning recommends, and `torch.backends.*.fp32_precision` let products
    round to TF32 or bfloat16. Both are as before afterwards.

    Example:
        >>> import torch
        >>> from spl.functional.precision import full_precision
        >>> torch.set_float32_matmul_precision("medium")
        >>> with full_precision():
        ...     _ = torch.randn(64, 64) @ torch.randn(64, 64)
        >>> torch.get_float32_matmul_precision()
        'medium'
        >>> torch.set_float32_matmul_precision("highest")
    """
    settings = list(_settings())
    before = [getattr(holder, name) for holder, name, _ in settings]
    try:
        for holder, name, full in settings:
            setattr(holder, name, full)
        yield
    finally:
        for (holder, name, _), value in zip(settings, before, strict=True):
            setattr(holder, name, value)


class _Legacy:
    """The one setting of torch before 2.9."""

    precision = property(
        lambda self: torch.get_float32_matmul_precision(),
        lambda self, value: torch.set_float32_matmul_precision(value),
    )


def _settings() -> Iterator[tuple[Any, str, str]]:
    """Yield each setting: the object that has it, its name there, and its value for full precision."""
    backends = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        yield _Legacy(), "precision", "highest"
        return
    for backend in backends:  # torch.get_float32_matmul_precision raises an error where these differ from it
        if hasattr(backend, "fp32_precision"):
            yield backend, "fp32_precision", "ieee"
