"""ParameterWatch: notice that parameters were written to, or replaced, by somebody who did not announce it."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from spl.functional.torch_private import parameter_table, submodule_table, write_count


class ParameterWatch:
    """Compares parameters with what they were when `note` was called last, without reading a single weight.

    It sees a parameter that was written to in place (autograd counts such writes), that was given other memory
    (`parameter.data = …`), or that was replaced, by itself or with a module that it is in. It does not see what is
    written in place through `parameter.data`, which autograd does not count.

    Args:
        network: whose modules hold the parameters.
        parameters: some of its parameters, by name.
    """

    def __init__(self, network: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = list(parameters.values())
        places = {(id(table), key): (table, key, held) for table, key, held in _places(network, parameters)}
        self._places = list(places.values())
        self.note()

    def note(self) -> None:
        """Accept the parameters as they are now."""
        self._noted = self._marks()

    def written(self) -> bool:
        """Return whether a parameter was written to, or given other memory, since the last `note`."""
        return self._marks() != self._noted

    def replaced(self) -> bool:
        """Return whether something else stands where a parameter, or a module that it is in, stood at first."""
        return any(table.get(key) is not held for table, key, held in self._places)

    def _marks(self) -> list[tuple[int, int]]:
        return [(write_count(p), p.data_ptr()) for p in self._parameters]


def _places(network: nn.Module, parameters: Mapping[str, Tensor]) -> Iterator[tuple[Mapping[str, Any], str, Any]]:
    """Find what leads from the network to each parameter: tables of modules, keys, and what is there."""
    for name, parameter in parameters.items():
        *path, last = name.split(".")
        module: nn.Module = network
        for key in path:
            table = submodule_table(module)
            child = table[key]
            assert child is not None
            yield table, key, child
            module = child
        yield parameter_table(module), last, parameter
