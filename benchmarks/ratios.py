"""Time several callables side by side, so that the noise of a shared machine affects all of them alike."""

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch
from tabulate import tabulate


def compare(
    title: str,
    candidates: Mapping[str, Callable[[], object]],
    repeats: int,
    steps: int = 1,
    warmups: int = 3,
    pause: float = 0.0,
) -> dict[str, float]:
    """Call every candidate once per turn, and print the median times per step and ratios to the first candidate.

    Each ratio pairs two calls of the same turn. Every turn begins with another candidate.

    Args:
        title: the title of the printed table.
        candidates: functions to call, by name; the first is the baseline.
        repeats: number of turns.
        steps: number of steps that one call makes.
        warmups: number of turns before that are not counted.
        pause: seconds to wait before each call, so that the workers of the previous candidate come to rest.

    Returns:
        The median ratio of each candidate to the first.
    """
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warmups, repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(pause)
            begin = time.perf_counter()
            candidates[name]()
            elapsed = time.perf_counter() - begin
            if turn >= 0:
                seconds[name].append(elapsed / steps)
    baseline = seconds[names[0]]
    rows = [
        (name, 1e3 * median(own), median(a / b for a, b in zip(own, baseline, strict=True)))
        for name, own in seconds.items()
    ]
    print(
        f"\n{title}: {torch.get_num_threads()} threads, torch {torch.__version__}, {repeats} repeats of {steps} steps"
    )
    print(tabulate(rows, headers=["", "ms per step", f"ratio to {names[0]}"], floatfmt=("", ".3f", ".3f")))
    return {name: ratio for name, _, ratio in rows}
