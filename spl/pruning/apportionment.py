"""Apportionment: whole numbers in proportion to shares, of an exact total."""

from collections.abc import Mapping, Sequence
from heapq import heapify, heapreplace


def apportion(
    shares: Mapping[str, float], total: int, least: Mapping[str, int], most: Mapping[str, int]
) -> dict[str, int]:
    """Return numbers that add up to `total`, in proportion to `shares` by Webster's method, within bounds.

    Seat i = 0, 1, … of a party with share s has the priority (i + ½)/s. Seats with lower priorities are given first,
    and of equal ones the earlier party's. The seats up to `least` come before all others, and there are none beyond
    `most`. So what one party cannot take goes to the others, and no party loses a seat when the total grows.

    Args:
        shares: positive numbers.
        total: a number from the sum of `least` to the sum of `most`.
        least: the number of seats that each party gets whatever the total.
        most: the number of seats that each party gets at most.
    """
    parties = [(s, least[name], most[name]) for name, s in shares.items()]
    low, high = 0.0, max(((m + 1) / s for s, _, m in parties), default=0.0)
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(_seats(parties, middle)) <= total else (low, middle)
    # one step back, so that rounding cannot have given a seat too many; then seat by seat
    seats = [max(m, n - 1) for n, (_, m, _) in zip(_seats(parties, low), parties, strict=True)]
    queue = [((n + 0.5) / s, i) for i, (n, (s, _, m)) in enumerate(zip(seats, parties, strict=True)) if n < m]
    heapify(queue)
    for _ in range(total - sum(seats)):
        _, i = queue[0]
        seats[i] += 1
        share, _, most_of_it = parties[i]
        heapreplace(queue, ((seats[i] + 0.5) / share if seats[i] < most_of_it else float("inf"), i))
    return dict(zip(shares, seats, strict=True))


def seats_before_first(
    shares: Mapping[str, float], least: Mapping[str, int], most: Mapping[str, int]
) -> dict[str, int]:
    """Return how many seats `apportion` gives before the first seat of each party, if that party is sure of none."""
    ahead = {}
    for place, (name, share) in enumerate(shares.items()):
        first = (0.5 / share, place)
        ahead[name] = 0
        for i, (other, s) in enumerate(shares.items()):
            seats = max(0, int(s * first[0] - 0.5) - 1)
            while ((seats + 0.5) / s, i) < first:
                seats += 1
            ahead[name] += min(max(seats, least[other]), most[other])
    return ahead


def _seats(parties: Sequence[tuple[float, int, int]], scale: float) -> list[int]:
    """Return how many seats of each party have a priority of at most `scale`."""
    return [min(max(int(scale * share + 0.5), least), most) for share, least, most in parties]
