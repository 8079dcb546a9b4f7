"""The export of pruned networks: files of the kept weights, and networks that are really smaller or faster."""

from spl.export.compaction import CompactResult, compact
from spl.export.csr import CSRResult, to_csr
from spl.export.program import save_onnx, save_program
from spl.export.sparse_file import load_sparse, restored, save_sparse
from spl.export.summary import NetworkSummary, cost_line, summarize
from spl.export.two_four import TwoFourResult, to_two_four

__all__ = [
    "CSRResult",
    "CompactResult",
    "NetworkSummary",
    "TwoFourResult",
    "compact",
    "cost_line",
    "load_sparse",
    "restored",
    "save_onnx",
    "save_program",
    "save_sparse",
    "summarize",
    "to_csr",
    "to_two_four",
]
