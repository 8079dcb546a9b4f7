"""Compare two ways to make exactly orthogonal sparse matrices: rotations in rounds of disjoint planes, and one by one.

The baseline is the construction in plain Python: pick two rows or two columns at random, and rotate them if the entries
that this fills still fit, until none are left or a hundred attempts in a row did not fit. Both start from a partial
permutation, and both are exact. The script prints medians of paired ratios, and the share of the entries that each
fills.

    python benchmarks/givens.py [--repeats 5]
"""

import argparse
import random
from math import cos, pi, sin

import torch
from ratios import compare

from spl.isometry.givens import sparse_orthogonal


def one_by_one(n: int, m: int, entries: int, chance: random.Random) -> list[list[float]]:
    """Return the rows of a matrix V [n, m] with V Vᵀ = I and at most `entries` nonzero entries."""
    matrix = [[0.0] * m for _ in range(n)]
    for i, j in enumerate(chance.sample(range(m), n)):
        matrix[i][j] = 1.0
    left, misses = entries - n, 0
    while left > 0 and misses < 100:
        by_rows = chance.random() < 0.5
        i, j = chance.sample(range(n if by_rows else m), 2)
        a = matrix[i] if by_rows else [row[i] for row in matrix]
        b = matrix[j] if by_rows else [row[j] for row in matrix]
        cost = sum((x == 0) != (y == 0) for x, y in zip(a, b, strict=True))
        if cost == 0 or cost > left:
            misses += 1
            continue
        angle = chance.uniform(0, 2 * pi)
        c, s = cos(angle), sin(angle)
        rotated = [(c * x - s * y, s * x + c * y) for x, y in zip(a, b, strict=True)]
        for k, (x, y) in enumerate(rotated):
            if by_rows:
                matrix[i][k], matrix[j][k] = x, y
            else:
                matrix[k][i], matrix[k][j] = x, y
        left, misses = left - cost, 0
    return matrix


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--repeats", type=int, default=5)
    repeats = arguments.parse_args().repeats
    torch.set_num_threads(1)
    for n, m, density in ((100, 100, 0.2), (100, 784, 0.03), (512, 512, 0.1)):
        entries = round(density * n * m)
        chance, generator = random.Random(0), torch.Generator().manual_seed(0)
        compare(
            f"{n}×{m} at a density of {density}",
            {
                "in rounds": lambda n=n, m=m, e=entries, g=generator: sparse_orthogonal(n, m, e, g),
                "one by one": lambda n=n, m=m, e=entries, c=chance: one_by_one(n, m, e, c),
            },
            repeats,
            warmups=1,
        )
        for name, matrix in (
            ("in rounds", sparse_orthogonal(n, m, entries, generator)),
            ("one by one", torch.tensor(one_by_one(n, m, entries, chance), dtype=torch.float64)),
        ):
            error = (matrix @ matrix.T - torch.eye(n, dtype=torch.float64)).norm()
            print(
                f"{name}: fills {int((matrix != 0).sum()) / entries:.4f} of {entries}, ‖V Vᵀ − I‖ = {float(error):.1e}"
            )


if __name__ == "__main__":
    main()
