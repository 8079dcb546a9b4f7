"""Weights that cannot be scored, corrected or masked, and are therefore refused by name."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from spl.criteria import Criterion
from spl.errors import InputError
from spl.functional.layers import EMBEDDINGS, WEIGHTED
from spl.isometry import Correction
from spl.masks.sharding import is_sharded


def check_weights(
    network: nn.Module, parameters: Mapping[str, Tensor], criterion: Criterion, isometry: Correction | None = None
) -> None:
    """Refuse weights that cannot be scored, corrected or masked, although their layers are of a kind that is pruned.

    Args:
        network: the network that has the parameters.
        parameters: the parameters to prune, by name.
        criterion: what would score them. A criterion without data takes complex weights.
        isometry: what would correct them; None for nothing.

    Raises:
        InputError: a weight is sharded, has sparse gradients, or is complex.

    Example:
        >>> from torch import nn
        >>> from spl.criteria import Magnitude
        >>> from spl.pruning.weights import check_weights
        >>> embedding = nn.Embedding(4, 2, sparse=True)
        >>> check_weights(embedding, {"weight": embedding.weight}, Magnitude())
        Traceback (most recent call last):
        spl.errors.InputError: weight: an embedding with sparse=True has sparse gradients, ...
    """
    sharded = [name for name, parameter in parameters.items() if is_sharded(parameter)]
    if sharded or any(isinstance(module, FullyShardedDataParallel) for module in network.modules()):
        raise InputError(
            f"{', '.join(sharded or parameters)}: sharded already, by fully_shard or FSDP, and only whole weights can "
            "be scored. Prune the network and hold its masks first, and call fully_shard then: the masks follow."
        )
    layers = [module for module in network.modules() if isinstance(module, WEIGHTED)]
    dense = {id(layer.weight) for layer in layers}  # a gradient to which a Linear layer adds its part is dense
    embeddings = [module for module in network.modules() if isinstance(module, tuple(EMBEDDINGS))]
    sparse = {id(module.weight) for module in embeddings if module.sparse} - dense
    if named := [name for name, parameter in parameters.items() if id(parameter) in sparse]:
        raise InputError(
            f"{', '.join(named)}: an embedding with sparse=True has sparse gradients, which can be neither scored nor "
            "masked. Make it with sparse=False, or leave it dense, by include_embedding: false or by exclude."
        )
    named = [name for name, parameter in parameters.items() if parameter.is_complex()]
    if named and (criterion.needs_data or isometry is not None):
        what = type(isometry).__name__ if isometry is not None else type(criterion).__name__
        raise InputError(
            f"{', '.join(named)}: complex, and {what} is defined for real weights. Use a criterion without data "
            "(Magnitude, Random) and isometry: null, or leave complex weights dense by exclude."
        )
