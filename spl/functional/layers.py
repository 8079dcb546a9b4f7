"""The classes of modules that have weights, and those of activations."""

from torch import nn

from spl.functional.torch_private import ConvNd

WEIGHTED = (nn.Linear, ConvNd)
"""Linear layers and convolutions, also transposed ones: the layers that are initialized, pruned and corrected."""

_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")

WEIGHTS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("weight",),
    ConvNd: ("weight",),
    nn.MultiheadAttention: _PROJECTIONS,  # its out_proj is a Linear layer
}
"""The parameters that are pruned, by class of layer."""

EMBEDDINGS: dict[type[nn.Module], tuple[str, ...]] = {nn.Embedding: ("weight",)}
"""The parameters of embeddings, which are pruned on request."""

BIASES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("bias",),
    ConvNd: ("bias",),
    nn.MultiheadAttention: ("in_proj_bias",),
}
"""The parameters that are pruned besides the weights if biases are pruned."""

ACTIVATIONS = tuple(
    getattr(nn, name)
    for name in nn.modules.activation.__all__
    if name not in ("MultiheadAttention", "Softmax", "Softmax2d", "LogSoftmax", "Softmin", "GLU")
)
"""The classes of activations that act on each element alone."""
