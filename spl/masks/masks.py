"""The masks of a network, which say which of its weights are kept."""

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from spl.errors import InputError
from spl.functional.wrappers import named_without_wrappers
from spl.masks.sharding import fits, shard, shard_like


class Masks(Mapping[str, Tensor]):
    """A mapping from the full name of each pruned parameter to a bool tensor, True for the weights that are kept.

    Names count without the prefixes that wrappers put before them (`module.`, `_orig_mod.`, `_forward_module.`), so the
    same masks fit a network and what `torch.compile`, DistributedDataParallel or Fabric make of it.

    Args:
        tensors: bool tensors in the shapes of their parameters, by name.

    Raises:
        InputError: a tensor is not bool.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> masks = Masks({"0.weight": torch.tensor([[True, False, False], [True, True, False]])})
        >>> masks
        Masks(1 parameters, kept 3 of 6, sparsity 0.5000)
        >>> weights = {"0.weight": torch.ones(2, 3)}
        >>> masks.revived(weights)
        {'0.weight': 3}
        >>> masks.apply_(weights)
        >>> weights["0.weight"]
        tensor([[1., 0., 0.],
                [1., 1., 0.]])
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor) or tensor.dtype != torch.bool:
                kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
                raise InputError(f"The mask of {name} must be a bool tensor, got {kind}.")
        self._tensors = dict(tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Masks) and self.digest() == other.digest()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Masks({len(self)} parameters, kept {self.kept} of {self.size}, sparsity {self.sparsity:.4f})"

    @property
    def size(self) -> int:
        """The number m of weights under a mask, kept or pruned."""
        return sum(mask.numel() for mask in self.values())

    @property
    def kept(self) -> int:
        """The number κ of weights that are kept."""
        return sum(int(mask.count_nonzero()) for mask in self.values())

    @property
    def sparsity(self) -> float:
        """The share of weights that are pruned, 1 − κ/m."""
        return 1.0 - self.kept / self.size

    def layer_sparsity(self) -> dict[str, float]:
        """Return the share of weights that are pruned in each parameter, by name."""
        return {name: 1.0 - int(mask.sum()) / mask.numel() for name, mask in self.items()}

    def digest(self) -> str:
        """Return the SHA-256 of names, shapes and bits, which is the same for equal masks on any device."""
        sha = hashlib.sha256()
        for name, mask in sorted(self.items()):
            sha.update(f"{name}{tuple(mask.shape)}".encode())
            sha.update(mask.cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()

    def to(self, device: torch.device | str) -> "Masks":
        """Return the same masks on another device."""
        return Masks({name: mask.to(device) for name, mask in self.items()})

    def own(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters that have a mask, under the names that the masks have; leave out those not found."""
        return named_without_wrappers(self, parameters)

    def named_as(self, parameters: Mapping[str, Tensor]) -> "Masks":
        """Return the masks under the names that `parameters` have.

        Raises:
            InputError: a mask matches no parameter in name and shape.
        """
        self.check_fits(parameters)
        names = named_without_wrappers(self, {name: name for name in parameters})
        return Masks({names[name]: mask for name, mask in self.items()})

    def check_fits(self, parameters: Mapping[str, Tensor]) -> None:
        """Raise an `InputError` that names every mask that matches no parameter in name and shape."""
        wrong = []
        own = self.own(parameters)
        for name, mask in self.items():
            if name not in own:
                wrong.append(f"{name} (no such parameter)")
            elif not fits(mask, own[name]):
                wrong.append(f"{name} (mask {tuple(mask.shape)}, weights {tuple(own[name].shape)})")
        if wrong:
            raise InputError(
                "The masks do not fit the network: " + ", ".join(wrong) + ". Use the network that the masks were "
                "made for: the `config.yaml` beside the checkpoint's folder names it."
            )

    @torch.no_grad()
    def apply_(self, parameters: Mapping[str, Tensor]) -> None:
        """Set every pruned weight to exactly 0.0 in place, also NaN and inf, which a product with 0 would keep."""
        self.check_fits(parameters)
        for name, parameter in self.own(parameters).items():
            shard(parameter).masked_fill_(~shard_like(self[name], parameter), 0.0)

    def revived(self, parameters: Mapping[str, Tensor]) -> dict[str, int]:
        """Count the pruned weights that are not exactly 0.0, NaN included, by name.

        Parameters without any are left out. Of sharded parameters, only the part of this process is counted.
        """
        own = self.own(parameters)
        counts = {
            name: int(((shard(own[name].detach()) != 0) & ~shard_like(mask, own[name])).count_nonzero())
            for name, mask in self.items()
        }
        return {name: count for name, count in counts.items() if count}


class BoundMasks:
    """Masks bound to the parameters of one network, which mask all layers in one fused operation.

    A pruned number becomes 0.0 whatever it was, also NaN and infinity, which a product of floats would keep. So bit
    patterns are multiplied: each number is read as an integer of the same size and multiplied by 1 or 0.
    `masked_fill_` would do the same, one layer at a time, and takes 6 to 10 times as long on a CPU.

    Args:
        masks: the masks of the weights to keep.
        parameters: the parameters of the network by name; the factors are made for their devices and element sizes.

    Raises:
        InputError: a mask matches no parameter in name and shape.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.masks import BoundMasks, Masks
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> bound = BoundMasks(Masks({"weight": torch.tensor([[True, False]])}), dict(layer.named_parameters()))
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> bound.mask_gradients_()
        >>> layer.weight.grad
        tensor([[1., 0.]])
    """

    def __init__(self, masks: Masks, parameters: Mapping[str, Tensor]) -> None:
        masks.check_fits(parameters)
        self.parameters = list(masks.own(parameters).values())
        pairs = zip(self.parameters, masks.values(), strict=True)
        self.factors = [_factor(shard(p.detach()), shard_like(mask, p)) for p, mask in pairs]
        self._memory: list[int] = []
        self._weights: list[Tensor] = []

    @torch.no_grad()
    def mask_gradients_(self) -> None:
        """Set the gradients of pruned weights to 0.0 in place; skip parameters without a gradient."""
        gradients = [p.grad for p in self.parameters]
        live = [(_bits(shard(g)), f) for g, f in zip(gradients, self.factors, strict=True) if g is not None]
        if live:
            tensors = [bits for bits, _ in live]  # some strategies keep gradients in another precision than weights
            torch._foreach_mul_(tensors, [f if f.dtype == g.dtype else f.to(g.dtype) for g, f in live])

    @torch.no_grad()
    def mask_weights_(self) -> None:
        """Set the pruned weights to 0.0 in place, unnoticed by autograd."""
        memory = [shard(p).data_ptr() for p in self.parameters]
        if memory != self._memory:
            self._memory, self._weights = memory, [_bits(shard(p.data)) for p in self.parameters]
        torch._foreach_mul_(self._weights, self.factors)

    def move_(self, masks: Masks) -> None:
        """Take other masks of the same parameters."""
        for parameter, factor, mask in zip(self.parameters, self.factors, masks.values(), strict=True):
            own = shard_like(mask, parameter)
            factor.copy_(own[..., None] if parameter.is_complex() else own)

    def fits(self) -> bool:
        """Return whether the factors still match the devices and element sizes of the parameters."""
        pairs = zip(self.parameters, self.factors, strict=True)
        return all(f.device == p.device and f.dtype == _integer(p) for p, f in pairs)


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _integer(tensor: Tensor) -> torch.dtype:
    """Return the integer type as large as a tensor's numbers, or as the parts of complex numbers."""
    return _INTEGERS[tensor.element_size() // (2 if tensor.is_complex() else 1)]


def _bits(tensor: Tensor) -> Tensor:
    """View the numbers of a tensor as integers."""
    if tensor.dtype == torch.float32:  # a short cut for the usual case, as this runs in every step
        return tensor.view(torch.int32)
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return real.view(_integer(tensor))


def _factor(like: Tensor, mask: Tensor) -> Tensor:
    """Make a mask a factor for the bits of `like`, in the same memory format, because products are slow otherwise."""
    factor = torch.empty_like(_bits(like))
    return factor.copy_(mask[..., None] if like.is_complex() else mask)
