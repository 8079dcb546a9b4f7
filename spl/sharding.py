"""Tensors that are sharded over processes (FSDP2's DTensor), and the parts of masks that belong to their shards."""

from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from spl.errors import InputError


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
    return mask.to(tensor.device)
