"""Sparse networks to take away: files of what is kept, and networks that are really smaller or faster."""

from spl.export.compaction import CompactResult, compact
from spl.export.sparse_file import load_sparse, restored, save_sparse

__all__ = ["CompactResult", "compact", "load_sparse", "restored", "save_sparse"]
