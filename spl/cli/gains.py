"""What each kind of export gains for a network, and where it gains nothing, in a sentence or two."""

import textwrap

from spl.export.compaction import CompactionReport
from spl.export.csr import CSRResult
from spl.export.two_four import TwoFourResult
from spl.masks.masks import Masks

_WIDTH = 79
_WHOLE_UNITS = "For a smaller network, prune whole units: spl fit --pruning.pattern Channels."


def dense_gain(masks: Masks) -> str:
    """Return what a program of the whole network gains.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.cli.gains import dense_gain
        >>> print(dense_gain(Masks({"weight": torch.tensor([[True, False]])})))
        dense gains nothing: it stores 1 pruned weights as zeros and multiplies by
        them. compact, csr and 2:4 can be faster, and sparse is a smaller file.
    """
    return _lines(
        f"dense gains nothing: it stores {masks.size - masks.kept:,} pruned weights as zeros and multiplies by them. "
        "compact, csr and 2:4 can be faster, and sparse is a smaller file."
    )


def compact_gain(kind: str, before: int, after: int, masks: Masks) -> str:
    """Return what a compact network gains, and how to gain more where it is hardly smaller than the whole one.

    Args:
        kind: the kind of export, compact or onnx.
        before: number of parameters of the network.
        after: number of parameters of the compact network.
        masks: the masks of the network.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.cli.gains import compact_gain
        >>> print(compact_gain("compact", 1000, 990, Masks({"weight": torch.arange(1000) < 100})))
        compact removes 1.0 % of 1,000 parameters, while 90.0 % of the weights under
        masks are pruned: only units without any weight can go. For a smaller network,
        prune whole units: spl fit --pruning.pattern Channels.
    """
    removed, pruned = 1 - after / max(before, 1), 1 - masks.kept / max(masks.size, 1)
    start = f"{kind} removes {_percent(removed)} of {before:,} parameters"
    if removed < pruned / 2:
        return _lines(
            f"{start}, while {_percent(pruned)} of the weights under masks are pruned: only units without any weight "
            f"can go. {_WHOLE_UNITS}"
        )
    return _lines(f"{start}: the network is smaller and faster on any device, with the same outputs.")


def report_gain(kind: str, report: CompactionReport, masks: Masks) -> str:
    """Return what a compact network gains according to its report."""
    return compact_gain(kind, report.before.parameters, report.after.parameters, masks)


def csr_gain(result: CSRResult) -> str:
    """Return what CSR kernels gain.

    Example:
        >>> import torch
        >>> from spl.cli.gains import csr_gain
        >>> from spl.export.csr import CSRResult, Timing
        >>> print(csr_gain(CSRResult(torch.nn.Identity(), [Timing("fc1", density=0.1, dense=1e-5, csr=2e-5)])))
        csr gains nothing here: its kernels are slower in all 1 Linear layers under
        masks. They win in wide layers with few kept weights. For a smaller network,
        prune whole units: spl fit --pruning.pattern Channels.
    """
    wins, count = sum(timing.csr_wins for timing in result.timings), len(result.timings)
    if not wins:
        return _lines(
            f"csr gains nothing here: its kernels are slower in all {count} Linear layers under masks. They win in "
            f"wide layers with few kept weights. {_WHOLE_UNITS}"
        )
    return _lines(
        f"csr is faster here in {wins} of {count} Linear layers under masks. Convolutions, and batches of another "
        "size or another machine, may gain nothing."
    )


def two_four_gain(result: TwoFourResult) -> str:
    """Return what sparse tensor cores gain.

    Example:
        >>> import torch
        >>> from spl.cli.gains import two_four_gain
        >>> from spl.export import TwoFourResult
        >>> result = TwoFourResult(torch.nn.Identity(), {"fc1": "80 μs for a batch"}, {"fc2": "its mask is not 2:4"})
        >>> print(two_four_gain(result))
        2:4 is faster here in 1 of 2 Linear layers under masks, on this kind of device
        alone. Smaller batches may gain nothing.
    """
    count = len(result.converted) + len(result.dense)
    return _lines(
        f"2:4 is faster here in {len(result.converted)} of {count} Linear layers under masks, on this kind of device "
        "alone. Smaller batches may gain nothing."
    )


def sparse_gain(size: int, dense: int) -> str:
    """Return what a file of the kept weights gains.

    Args:
        size: the bytes of the file.
        dense: the bytes of a file of all weights.

    Example:
        >>> from spl.cli.gains import sparse_gain
        >>> print(sparse_gain(2_000, 10_000))
        sparse takes 20.0 % of the bytes of all weights. It gains no time and no
        memory: load_sparse returns all weights, zeros included.
    """
    return _lines(
        f"sparse takes {_percent(size / max(dense, 1))} of the bytes of all weights. It gains no time and no memory: "
        "load_sparse returns all weights, zeros included."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _lines(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_on_hyphens=False)
