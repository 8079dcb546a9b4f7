"""Average pooling in place of max pooling, for counts of paths."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

_WINDOWS: dict[type[nn.Module], Any] = {
    nn.MaxPool1d: F.avg_pool1d,
    nn.MaxPool2d: F.avg_pool2d,
    nn.MaxPool3d: F.avg_pool3d,
}
_ADAPTIVE: dict[type[nn.Module], Any] = {
    nn.AdaptiveMaxPool1d: F.adaptive_avg_pool1d,
    nn.AdaptiveMaxPool2d: F.adaptive_avg_pool2d,
    nn.AdaptiveMaxPool3d: F.adaptive_avg_pool3d,
}


def averaging(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return the function that averages over the windows of a max pooling.

    It is None for all other modules, subclasses with a forward of their own among them, for dilated windows, which no
    average pooling has, and where indices are returned.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.functional.pooling import averaging
        >>> averaging(nn.MaxPool1d(2))(torch.tensor([[1.0, 3.0]]))
        tensor([[2.]])
        >>> averaging(nn.ReLU()) is None
        True
    """
    pooling: Any = module
    if getattr(pooling, "return_indices", False):
        return None
    if (kind := type(module)) in _ADAPTIVE:
        return partial(_ADAPTIVE[kind], output_size=pooling.output_size)
    if kind not in _WINDOWS or pooling.dilation not in (1, (1,), (1, 1), (1, 1, 1)):
        return None
    window = {name: getattr(pooling, name) for name in ("kernel_size", "stride", "padding", "ceil_mode")}
    return partial(_WINDOWS[kind], **window)
