"""The classes of modules that have weights, and those of activations."""

from collections.abc import Mapping

from torch import nn

from spl.functional.self_attention import SelfAttention
from spl.functional.torch_private import ConvNd

WEIGHTED = (nn.Linear, ConvNd)
"""Linear layers and convolutions, also transposed ones: the layers that are initialized, pruned and corrected."""

_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")

RECURRENT = (nn.RNNBase, nn.RNNCellBase)
"""Recurrent layers (LSTM, GRU, RNN) and their cells, which are pruned and corrected."""

WEIGHTS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("weight",),
    ConvNd: ("weight",),
    nn.MultiheadAttention: _PROJECTIONS,  # its out_proj is a Linear layer
    SelfAttention: ("in_proj_weight",),
}
"""The parameters that are pruned, by class of layer."""

EMBEDDINGS: dict[type[nn.Module], tuple[str, ...]] = {nn.Embedding: ("weight",)}
"""The parameters of embeddings, which are pruned on request."""

BIASES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("bias",),
    ConvNd: ("bias",),
    nn.MultiheadAttention: ("in_proj_bias",),
    SelfAttention: ("in_proj_bias",),
}
"""The parameters that are pruned besides the weights if biases are pruned."""

ACTIVATIONS = tuple(
    getattr(nn, name)
    for name in nn.modules.activation.__all__
    if name not in ("MultiheadAttention", "Softmax", "Softmax2d", "LogSoftmax", "Softmin", "GLU")
)
"""The classes of activations that act on each element alone."""

_TRANSPOSED = {("transformers.pytorch_utils", "Conv1D"), ("transformers.modeling_utils", "Conv1D")}
_LINEAR = {("torch_geometric.nn.dense.linear", "Linear")}
_GATES: dict[type[nn.Module], int] = {nn.LSTM: 4, nn.GRU: 3, nn.LSTMCell: 4, nn.GRUCell: 3}


def is_transposed(module: nn.Module) -> bool:
    """Return whether a module is a `Conv1D` of Hugging Face, a linear layer with a weight [in, out].

    Layers of other packages are recognized by name, so that their package is not imported.
    """
    return not _TRANSPOSED.isdisjoint(_class_names(module))


def is_weighted(module: nn.Module) -> bool:
    """Return whether a module is one of `WEIGHTED`, or a linear layer of Hugging Face or PyTorch Geometric.

    Example:
        >>> from torch import nn
        >>> from spl.functional.layers import is_weighted
        >>> is_weighted(nn.Linear(2, 1)), is_weighted(nn.LayerNorm(2))
        (True, False)
    """
    return isinstance(module, WEIGHTED) or not (_TRANSPOSED | _LINEAR).isdisjoint(_class_names(module))


def _class_names(module: nn.Module) -> set[tuple[str, str]]:
    return {(kind.__module__, kind.__name__) for kind in type(module).__mro__}


def prunable_names(module: nn.Module, table: Mapping[type[nn.Module], tuple[str, ...]]) -> list[str]:
    """Return the names of the parameters of a module itself that `table` lists, or that its kind of layer has.

    Recurrent layers have a name for each layer and direction, so the tables cannot list them, nor can they list the
    classes of other packages. `WEIGHTS` stands for their weights, and `BIASES` for their biases.

    Example:
        >>> from torch import nn
        >>> from spl.functional.layers import BIASES, WEIGHTS, prunable_names
        >>> prunable_names(nn.LSTM(3, 4, proj_size=2), WEIGHTS)
        ['weight_ih_l0', 'weight_hh_l0', 'weight_hr_l0']
        >>> prunable_names(nn.GRUCell(3, 4), BIASES)
        ['bias_ih', 'bias_hh']
    """
    names = [name for kind, own in table.items() if isinstance(module, kind) for name in own]
    if not names and is_weighted(module):
        return ["weight"] if table is WEIGHTS else ["bias"] if table is BIASES else []
    if isinstance(module, RECURRENT) and table is WEIGHTS:
        return names + _recurrent_names(module, "weight")
    if isinstance(module, RECURRENT) and table is BIASES:
        return names + (_recurrent_names(module, "bias") if module.bias else [])
    return names


def _recurrent_names(module: nn.RNNBase | nn.RNNCellBase, kind: str) -> list[str]:
    if isinstance(module, nn.RNNCellBase):
        return [f"{kind}_ih", f"{kind}_hh"]
    parts = ["ih", "hh", "hr"] if kind == "weight" and module.proj_size else ["ih", "hh"]
    directions = ["", "_reverse"] if module.bidirectional else [""]
    layers = range(module.num_layers)
    return [f"{kind}_{part}_l{layer}{way}" for layer in layers for way in directions for part in parts]


def gates(module: nn.Module, name: str) -> int:
    """Return of how many matrices, one below the other, the weight called `name` of a recurrent layer consists.

    An LSTM has four gates and a GRU three. The projection of an LSTM and the weights of a plain RNN are one matrix.

    Example:
        >>> from torch import nn
        >>> from spl.functional.layers import gates
        >>> gates(nn.LSTM(3, 4, proj_size=2), "weight_ih_l0"), gates(nn.LSTM(3, 4, proj_size=2), "weight_hr_l0")
        (4, 1)
    """
    if name.startswith("weight_hr"):
        return 1
    return next((number for kind, number in _GATES.items() if isinstance(module, kind)), 1)
