"""What a user may have meant by a word that the command does not know."""

from collections.abc import Iterable
from difflib import SequenceMatcher

_ALIKE = 0.7
_AS_ALIKE = 0.05  # how much less alike than the best one another choice may be


def close_matches(word: str, choices: Iterable[str]) -> list[str]:
    """Return up to three of `choices` that are most like `word`, the likeliest first; capitals count little.

    Example:
        >>> from spl.cli.suggestions import close_matches
        >>> close_matches("synflo", ["SNIP", "SynFlow", "GraSP"])
        ['SynFlow']
    """
    matcher = SequenceMatcher(b=word.lower(), autojunk=False)
    ratios: dict[str, float] = {}
    for choice in choices:
        matcher.set_seq1(choice.lower())
        if matcher.real_quick_ratio() >= _ALIKE and matcher.quick_ratio() >= _ALIKE:
            ratios[choice] = matcher.ratio()
    best = max(ratios.values(), default=0.0)
    found = [choice for choice, ratio in ratios.items() if ratio >= max(_ALIKE, best - _AS_ALIKE)]
    return sorted(found, key=ratios.__getitem__, reverse=True)[:3]


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return a question about what was meant, or an empty text if nothing is like `word`.

    Example:
        >>> from spl.cli.suggestions import did_you_mean
        >>> did_you_mean("fitt", ["fit", "test"])
        'did you mean fit?'
    """
    found = close_matches(word, choices)
    return f"did you mean {' or '.join(found)}?" if found else ""
