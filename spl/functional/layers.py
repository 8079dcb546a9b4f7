"""Kinds of modules: those that hold weights, and the activations between them."""

from torch import nn

from spl.functional.torch_private import ConvNd

WEIGHTED = (nn.Linear, ConvNd)
"""Linear layers and convolutions, transposed ones too: what is initialized, pruned and corrected."""

_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")

WEIGHTS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("weight",),
    ConvNd: ("weight",),
    nn.MultiheadAttention: _PROJECTIONS,  # its out_proj is a Linear layer
}
"""What is pruned, by the layers' own names for it."""

EMBEDDINGS: dict[type[nn.Module], tuple[str, ...]] = {nn.Embedding: ("weight",)}
"""What is pruned as well if it is asked for."""

BIASES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("bias",),
    ConvNd: ("bias",),
    nn.MultiheadAttention: ("in_proj_bias",),
}
"""What is pruned beside the weights, if biases are."""

ACTIVATIONS = tuple(
    getattr(nn, name)
    for name in nn.modules.activation.__all__
    if name not in ("MultiheadAttention", "Softmax", "Softmax2d", "LogSoftmax", "Softmin", "GLU")
)
"""Elementwise functions."""
