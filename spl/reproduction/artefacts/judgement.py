"""Judgement: what the paper says against what was measured, where it was."""

from collections.abc import Callable

from spl.reproduction.artefacts.artefact import Finding
from spl.reproduction.curves import Missing

Judgement = tuple[bool | None, str]  # whether it holds, and by how much


def judged(statement: str, judge: Callable[[], Judgement], conclusive: bool = True) -> Finding:
    """The finding of `judge`; undecided, and said so, where results are missing or the budget is too small.

    Args:
        statement: what the paper says.
        judge: looks at the results; may raise `Missing`.
        conclusive: whether the budget is large enough to tell.
    """
    try:
        holds, measured = judge()
    except Missing as missing:
        return Finding(statement, None, f"no result of {missing}")
    if not conclusive:
        return Finding(statement, None, f"{measured}; too few iterations to tell")
    return Finding(statement, holds, measured)
