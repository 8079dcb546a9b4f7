"""A watch on parameters, which notices that they were written to or replaced."""

from collections.abc import Iterator, Mapping
from operator import is_not
from typing import Any

from torch import Tensor, nn

from spl.functional.torch_private import WRAPPER_PREFIXES, parameter_table, submodule_table, write_counts

_WRAPPED = [prefix.removesuffix(".") for prefix in WRAPPER_PREFIXES]


class ParameterWatch:
    """A comparison of parameters with their state at the last call of `note`, without reading a single weight.

    It notices that a parameter was written to in place (autograd counts such writes), was given other memory
    (`parameter.data = …`), or was replaced, alone or together with a module that contains it. It does not notice
    writes in place through `parameter.data`, because autograd does not count these.

    Args:
        network: the network that has the parameters.
        parameters: some parameters of the network, by name.
    """

    def __init__(self, network: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = list(parameters.values())
        places = {(id(table), key): (table, held) for table, key, held in _places(network, parameters)}
        self._tables = [table for table, _ in places.values()]
        self._keys = [key for _, key in places]
        self._held = [held for _, held in places.values()]
        self.note()

    def note(self) -> None:
        """Accept the parameters as they are now."""
        self._noted = self._marks()

    def written(self) -> bool:
        """Return whether a parameter was written to, or given other memory, since the last `note`."""
        return self._marks() != self._noted

    def replaced(self) -> bool:
        """Return whether a parameter, or a module that contains one, was replaced since the watch was made."""
        held = map(dict[str, Any].get, self._tables, self._keys)
        return any(map(is_not, held, self._held))  # maps, because it is asked before and after every step

    def _marks(self) -> tuple[list[int], list[int]]:
        return write_counts(self._parameters), [p.data_ptr() for p in self._parameters]


def _places(network: nn.Module, parameters: Mapping[str, Tensor]) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Yield each step on the way from the network to its parameters: a table of a module, a key, and what is there."""
    for name, parameter in parameters.items():
        *path, last = name.split(".")
        module: nn.Module = network
        while path or last not in parameter_table(module):
            table = submodule_table(module)
            wrapped = next((key for key in _WRAPPED if key in table), None)  # names leave out these steps
            key = wrapped or path.pop(0)
            child = table[key]
            assert child is not None
            yield table, key, child
            module = child
        yield parameter_table(module), last, parameter
