"""The connection between masks and the parameters that they act on."""

from collections.abc import Iterable, Mapping
from functools import cached_property

from torch import Tensor, nn
from torch.optim import Optimizer

from spl.functional.wrappers import named_without_wrappers
from spl.masks.masks import BoundMasks, Masks
from spl.masks.sharding import is_sharded
from spl.masks.watch import ParameterWatch

_SMALL = 2**15  # weights that a CPU masks in a few microseconds
_STRIDE = 8


class Binding:
    """Masks together with the parameters of the same names, valid until one of these parameters is replaced.

    Args:
        network: the network that has the parameters.
        masks: the masks of the weights to keep.
        parameters: all parameters of the network, by name.
    """

    def __init__(self, network: nn.Module, masks: Masks, parameters: Mapping[str, Tensor]) -> None:
        masks.check_fits(parameters)
        self._masks = masks
        self.parameters = masks.own(parameters)
        self._network = network
        self._own = ids_of(self.parameters.values())
        # strategies that shard weights move them to other memory all the time
        sharded = any(is_sharded(parameter) for parameter in self.parameters.values())
        names = named_without_wrappers(masks, {name: name for name in parameters})
        self._watch = None if sharded else ParameterWatch(network, {names[n]: p for n, p in self.parameters.items()})

    @cached_property
    def stride(self) -> int:
        """The number of batches after which weights are masked although they show no trace of a write.

        On a CPU, masking more than some ten thousand weights after each batch is noticeable if a step takes a
        millisecond or two. On an accelerator it is not.
        """
        on_cpu = all(parameter.device.type == "cpu" for parameter in self.parameters.values())
        return _STRIDE if on_cpu and sum(p.numel() for p in self.parameters.values()) > _SMALL else 1

    @cached_property
    def masks(self) -> BoundMasks:
        """The masks as factors; they take memory, and so are made on first use."""
        return BoundMasks(self._masks, self.parameters)

    def fits(self) -> bool:
        """Return whether the factors still match the devices and element sizes of the parameters."""
        return self.masks.fits()

    def is_trained_by(self, optimizer: Optimizer) -> bool:
        """Return whether the optimizer has one of the parameters, or of those that have replaced them."""
        if has_any(optimizer, self._own):
            return True
        return self.replaced() and has_any(optimizer, ids_of(self._network.parameters()))

    def replaced(self) -> bool:
        """Return whether another parameter has replaced one of these in the network."""
        return self._watch is not None and self._watch.replaced()

    def touched(self) -> bool:
        """Return whether a parameter shows a trace of a write, or was replaced."""
        return self._watch is not None and (self._watch.written() or self._watch.replaced())

    def note(self) -> None:
        """Accept the weights as they are now."""
        if self._watch is not None:
            self._watch.note()

    def zero_(self) -> None:
        """Set the pruned weights to 0.0, and accept the weights as they are then."""
        self.masks.mask_weights_()
        self.note()

    def move_(self, masks: Masks) -> None:
        """Take other masks of the same parameters; set weights to 0.0 unless the masks before kept them as well."""
        self.masks.mask_weights_()
        self._masks = masks
        self.masks.move_(masks)
        self.zero_()


def ids_of(parameters: Iterable[Tensor]) -> set[int]:
    """Return the identities of parameters, to compare these as objects; `==` compares the numbers in tensors."""
    return {id(parameter) for parameter in parameters}


def has_any(optimizer: Optimizer, ids: set[int]) -> bool:
    """Return whether the optimizer has a parameter with one of these identities."""
    return any(id(parameter) in ids for group in optimizer.param_groups for parameter in group["params"])
