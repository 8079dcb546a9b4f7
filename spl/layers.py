"""Kinds of modules: those that hold weights, and the activations between them."""

from torch import nn
from torch.nn.modules.conv import _ConvNd

WEIGHTED = (nn.Linear, _ConvNd)
"""Linear layers and convolutions, transposed ones too: what is initialized, pruned and corrected."""

ACTIVATIONS = tuple(
    getattr(nn, name)
    for name in nn.modules.activation.__all__
    if name not in ("MultiheadAttention", "Softmax", "Softmax2d", "LogSoftmax", "Softmin", "GLU")
)
"""Elementwise functions."""
