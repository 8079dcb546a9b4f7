"""The weights that an initializer can draw."""

from torch import nn
from torch.nn.parameter import is_lazy

from spl.errors import InputError
from spl.functional.layers import WEIGHTED
from spl.functional.torch_private import parameter_table


def check_drawable(network: nn.Module) -> None:
    """Raise an `InputError` if an initializer cannot draw a weight or bias: what it writes to a computed one is lost.

    Example:
        >>> check_drawable(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
        Traceback (most recent call last):
        spl.errors.InputError: weight: computed from other parameters ...
    """
    computed, own = [], {}
    for prefix, layer in network.named_modules():
        table = parameter_table(layer)
        for kind in ("weight", "bias") if isinstance(layer, WEIGHTED) else ():
            name = f"{prefix}.{kind}" if prefix else kind
            if kind not in table:
                computed.append(name)
            elif (parameter := table[kind]) is not None:
                own[name] = parameter
    if computed:
        raise InputError(
            f"{', '.join(computed)}: computed from other parameters (weight norm, spectral norm, "
            "torch.nn.utils.prune), so an initializer cannot draw it. Draw the weights before they are parametrized, "
            "or leave the initializer out."
        )
    if undrawn := [name for name, parameter in own.items() if is_lazy(parameter)]:
        raise InputError(
            f"{', '.join(undrawn)}: a lazy layer has no weights to draw before its first input. Run the network once "
            "on a batch before, or leave the initializer out."
        )
    if complex_ := [name for name, parameter in own.items() if parameter.is_complex()]:
        raise InputError(
            f"{', '.join(complex_)}: complex, and initializers draw real weights. Leave the initializer out."
        )
