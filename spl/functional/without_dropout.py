"""Networks in training mode without the noise of training: dropout, stochastic depth and random slopes."""

import inspect
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from spl.functional.torch_private import DropoutNd

_TRAINING = (
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    F.rrelu,
    F.multi_head_attention_forward,
)
_PRODUCT = torch.nn.functional.scaled_dot_product_attention
_NOISY = re.compile("drop|stochastic_?depth", re.IGNORECASE)
_PROBABILITY = re.compile("(^|_|layer|path)drop|stochastic_?depth", re.IGNORECASE)


def is_noisy(module: nn.Module) -> bool:
    """Return whether a module only adds noise in training: dropout, RReLU, or stochastic depth by its class name.

    Example:
        >>> from torch import nn
        >>> from spl.functional.without_dropout import is_noisy
        >>> is_noisy(nn.Dropout2d()), is_noisy(nn.ReLU())
        (True, False)
    """
    if isinstance(module, DropoutNd | nn.RReLU):
        return True
    is_leaf = next(module.children(), None) is None and next(module.parameters(), None) is None
    return is_leaf and _NOISY.search(type(module).__name__) is not None


def silence(network: nn.Module) -> None:
    """Put the noisy modules of a network into evaluation mode, and set the probabilities of dropout to 0.

    These are numbers that modules have under names such as `dropout`, `attn_drop` and `drop_rate`, for functions that
    they call. Unlike `WithoutDropout`, that also holds where gradient checkpointing runs the network again.

    Example:
        >>> from torch import nn
        >>> from spl.functional.without_dropout import silence
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        >>> silence(network)
        >>> [module.training for module in network]
        [True, False]
    """
    for module in network.modules():
        if is_noisy(module):
            module.training = False
        for name, value in vars(module).items():
            is_named = _PROBABILITY.search(name) or (name == "p" and isinstance(module, DropoutNd))
            if is_named and isinstance(value, float) and 0 <= value <= 1:
                vars(module)[name] = 0.0


class WithoutDropout(TorchFunctionMode):
    """A mode in which the functions for dropout do what they do in evaluation, as attention with `dropout_p` does.

    Example:
        >>> import torch
        >>> from torch.nn.functional import dropout
        >>> from spl.functional.without_dropout import WithoutDropout
        >>> with WithoutDropout():
        ...     dropout(torch.ones(3))
        tensor([1., 1., 1.])
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, without its dropout."""
        kwargs = kwargs or {}
        if function in _TRAINING:
            given = inspect.signature(function).bind(*args, **kwargs)
            given.arguments["training"] = False
            args, kwargs = given.args, given.kwargs
        elif function is _PRODUCT:
            args, kwargs = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args, kwargs | {}
            kwargs.pop("dropout_p", None)
        elif function in (torch.dropout, torch.feature_dropout, torch.alpha_dropout):
            return args[0] if args else kwargs["input"]
        return function(*args, **kwargs)
