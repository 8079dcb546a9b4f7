"""Self-attention whose heads may be fewer than its inputs have channels for."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Multi-head self-attention with any number of heads; it replaces `nn.MultiheadAttention` when heads are removed.

    `nn.MultiheadAttention` needs as many channels inside as outside. The parameters have the names that they have
    there, so the keys of a checkpoint stay the same.

    Args:
        in_proj: the layer [in, 3·heads·d] of the queries, keys and values, whose weight and bias are taken over. Its
            rows are those of the queries of all heads, then those of the keys, then those of the values.
        out_proj: the layer [heads·d, out] behind the heads, which is taken over.
        heads: the number of heads.
        dropout: the probability with which an attention weight is dropped in training.
        batch_first: whether inputs are [N, tokens, in] instead of [tokens, N, in].

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.functional.self_attention import SelfAttention
        >>> whole, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(1, 5, 8)
        >>> in_proj = nn.Linear(8, 24)
        >>> in_proj.weight, in_proj.bias = whole.in_proj_weight, whole.in_proj_bias
        >>> torch.allclose(SelfAttention(in_proj, whole.out_proj, heads=2)(x), whole(x, x, x)[0], atol=1e-6)
        True
        >>> SelfAttention(nn.Linear(8, 12), nn.Linear(4, 8), heads=1)(x).shape  # one of two heads is left
        torch.Size([1, 5, 8])
    """

    in_proj_bias: Tensor | None

    def __init__(
        self, in_proj: nn.Linear, out_proj: nn.Linear, heads: int, dropout: float = 0.0, batch_first: bool = True
    ) -> None:
        super().__init__()
        self.in_proj_weight = in_proj.weight
        self.register_parameter("in_proj_bias", in_proj.bias)
        self.out_proj = out_proj
        self.heads = heads
        self.dropout = dropout
        self.batch_first = batch_first

    def extra_repr(self) -> str:
        """Return the numbers of inputs and heads, and whether the batch comes first."""
        return f"{self.in_proj_weight.shape[1]}, heads={self.heads}, batch_first={self.batch_first}"

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs [N, tokens, out] for inputs [N, tokens, in]; see `batch_first`."""
        if not self.batch_first:
            x = x.transpose(0, 1)
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        split = torch.unflatten(projected, -1, (3, self.heads, -1))
        queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout)
        outputs: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return outputs if self.batch_first else outputs.transpose(0, 1)
