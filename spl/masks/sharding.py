"""Tensors sharded over processes (DTensors of FSDP2, flat pieces of FSDP), and the parts of masks that fit them."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Shard

from spl.errors import InputError
from spl.functional.torch_private import WRAPPER_PREFIXES


class Piece(NamedTuple):
    """The piece of a flattened tensor of `size` numbers that a process holds under FSDP; it begins at `start`."""

    start: int
    size: int


_PIECE = "_spl_piece"  # an attribute of a parameter; FSDP keeps it through fit while the memory changes


def note_pieces(model: nn.Module | None) -> None:
    """Record on each parameter of a model under FSDP which piece of it this process holds; ignore other models.

    FSDP flattens the parameters of a unit into a row and cuts it into equal parts, in the order of the processes: the
    pieces of each parameter follow each other in that order. All processes must call this.
    """
    if not isinstance(model, FullyShardedDataParallel):
        return
    parameters = list(model.parameters())
    own = torch.tensor([parameter.numel() for parameter in parameters], device=model.compute_device)
    group = model.process_group
    assert group is not None
    held = own.new_empty(group.size(), len(own))
    torch.distributed.all_gather(list(held), own, group)
    ends = held.cumsum(0)
    starts = ends[group.rank()] - own
    for parameter, start, size in zip(parameters, starts.tolist(), ends[-1].tolist(), strict=True):
        setattr(parameter, _PIECE, Piece(start, size))


def whole_name(name: str) -> str:
    """Return the name of a parameter without the prefixes of wrappers of FSDP and of activation checkpointing."""
    for prefix in WRAPPER_PREFIXES:
        name = name.replace(prefix, "")
    return name


def is_sharded(tensor: Tensor) -> bool:
    """Return whether each process holds only a part of the tensor."""
    return isinstance(tensor, DTensor) or hasattr(tensor, _PIECE)


def fits(mask: Tensor, tensor: Tensor) -> bool:
    """Return whether an unsharded mask has the shape of the tensor, or of the tensor that it is a piece of."""
    piece: Piece | None = getattr(tensor, _PIECE, None)
    return mask.shape == tensor.shape or (piece is not None and piece.size == mask.numel())


def shard(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor, without a copy: all of it, unless it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(mask: Tensor, tensor: Tensor) -> Tensor:
    """Return the part of an unsharded mask for this process's shard of `tensor`, on the device of `tensor`.

    Raises:
        InputError: the tensor is sharded in another way than by `fully_shard` alone.
    """
    if isinstance(tensor, DTensor):
        for axis, placement in enumerate(tensor.placements):
            if type(placement) is Shard:
                pieces = mask.chunk(tensor.device_mesh.size(axis), placement.dim)
                rank = tensor.device_mesh.get_local_rank(axis)
                mask = pieces[rank] if rank < len(pieces) else mask.narrow(placement.dim, 0, 0)
            elif not placement.is_replicate():
                raise InputError(
                    f"Masks cannot follow a weight of placements {tensor.placements}: shard it by fully_shard alone, "
                    "with tensor_parallel_size=1."
                )
    elif mask.shape != tensor.shape:
        mask = mask.flatten()[getattr(tensor, _PIECE).start :][: tensor.numel()]
    return mask.to(tensor.device)
