"""Tensors that are sharded over processes (FSDP2's DTensor, FSDP's flat pieces), and their parts of whole masks."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Shard

from spl.errors import InputError
from spl.functional.torch_private import WRAPPER_PREFIXES


class Piece(NamedTuple):
    """What a process holds of a flattened tensor under FSDP: from number `start` on, of `size` numbers in all."""

    start: int
    size: int


_PIECE = "_spl_piece"  # attribute of a parameter, which FSDP keeps through fit while its memory changes


def note_pieces(model: nn.Module | None) -> None:
    """Note on each parameter of a model under FSDP which piece of it this process holds; of any other, do nothing.

    FSDP flattens the parameters of a unit in a row and cuts the row at equal places, in the order of the processes:
    the pieces of each parameter follow each other in that order. To be called by all processes.
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
    """The name of a parameter without what wrappers of FSDP and of activation checkpointing put into it."""
    for prefix in WRAPPER_PREFIXES:
        name = name.replace(prefix, "")
    return name


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a process holds but a part of the tensor."""
    return isinstance(tensor, DTensor) or hasattr(tensor, _PIECE)


def fits(mask: Tensor, tensor: Tensor) -> bool:
    """Whether a whole mask is of the tensor, or of the one that it is a piece of."""
    piece: Piece | None = getattr(tensor, _PIECE, None)
    return mask.shape == tensor.shape or (piece is not None and piece.size == mask.numel())


def shard(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, sharing its memory: all of it, unless it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(mask: Tensor, tensor: Tensor) -> Tensor:
    """The part of a whole mask that belongs to this process's shard of `tensor`, on its device.

    Raises:
        InputError: the tensor is cut otherwise than `fully_shard` alone does.
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
