"""A Linear layer on PyTorch's CSR kernels."""

import warnings

import torch
from torch import Tensor, nn


class CSRLinear(nn.Module):
    """x Wᵀ + b with W as compressed sparse rows: for inference, its weights have no gradient.

    Args:
        linear: the layer whose weights other than 0 it has.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            rows = linear.weight.detach().to_sparse_csr()
        self.register_buffer("starts", rows.crow_indices().clone())
        self.register_buffer("columns", rows.col_indices().clone())
        self.register_buffer("values", rows.values().clone())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        flat = x.reshape(-1, self.in_features)
        output: Tensor = torch.ops.spl.csr_linear(flat, self.starts, self.columns, self.values, self.bias)
        return output.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Its sizes."""
        kept = self.get_buffer("values").numel()
        return f"in_features={self.in_features}, out_features={self.out_features}, kept={kept}"


def _csr_linear(x: Tensor, starts: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    shape = (starts.shape[0] - 1, x.shape[1])
    weight = torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)
    # W xᵀ and not x Wᵀ, the kernel of which is several times slower
    return (weight @ x.mT if bias is None else torch.addmm(bias[:, None], weight, x.mT)).mT


def _like_csr_linear(x: Tensor, starts: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(starts.shape[0] - 1, x.shape[0]).mT


# an operator of its own, for torch.export writes no CSR tensors into files
torch.library.define(
    "spl::csr_linear", "(Tensor x, Tensor starts, Tensor columns, Tensor values, Tensor? bias) -> Tensor"
)
torch.library.impl("spl::csr_linear", ("cpu", "cuda"), _csr_linear)
torch.library.register_fake("spl::csr_linear", _like_csr_linear)
