"""Compare spl's selection of the largest of 1, 10 and 100 million scores with `torch.sort` and `torch.topk`.

Each candidate turns float32 scores of ten layers of equal size into ten masks that keep the same 10 % of all scores. It
runs in its own process, so that the peak memory of the process shows what the selection took besides the scores. The
other two concatenate the scores first, as is usual. spl is also measured in a second round, among the survivors of a
first, and on scores of which 90 % are zero. All on one thread, because the threads of neighbouring processes stall each
other.

Claims: spl takes at most 1.5 times the memory of the scores, masks (0.25 times) included; its time is proportional to
the number of scores.

    python benchmarks/selection.py
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from resource import RUSAGE_SELF, getrusage
from statistics import median

import torch
from tabulate import tabulate
from torch import Tensor

from spl.masks.masks import Masks
from spl.masks.top_k import top_k

Scores = dict[str, Tensor]
LAYERS = 10
REPEATS = 5


def joined(scores: Scores, kept: Callable[[Tensor], Tensor]) -> Masks:
    """Return the masks of the positions that `kept` selects in the concatenated scores."""
    flat = torch.cat([s.flatten() for s in scores.values()])
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[kept(flat)] = True
    parts = mask.split([s.numel() for s in scores.values()])
    return Masks({name: part.view(s.shape) for (name, s), part in zip(scores.items(), parts, strict=True)})


CANDIDATES: dict[str, Callable[[Scores, int], Masks]] = {
    "torch.sort": lambda scores, keep: joined(scores, lambda s: s.sort(descending=True, stable=True).indices[:keep]),
    "torch.topk": lambda scores, keep: joined(scores, lambda s: s.topk(keep, sorted=False).indices),
    "spl": top_k,
}


def measure(name: str, size: int, kind: str, repeats: int) -> dict[str, float | str]:
    """Return the seconds of one selection, and the growth of the peak memory as a multiple of the scores' memory."""
    torch.manual_seed(0)
    scores = {f"fc{i}": torch.rand(size // LAYERS) for i in range(LAYERS)}
    if kind == "90 % zeros":
        for score in scores.values():
            score.sub_(0.9).relu_()
    among = top_k(scores, size // 5) if kind == "among a fifth" else None
    select = CANDIDATES[name] if among is None else lambda scores, keep: top_k(scores, keep, among)
    before = getrusage(RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        masks = select(scores, size // 10)
        seconds.append(time.perf_counter() - begin)
    memory = 1024 * (getrusage(RUSAGE_SELF).ru_maxrss - before) / (4 * size)
    return {"seconds": median(seconds), "memory": memory, "digest": masks.digest()}


def run(*arguments: object) -> dict[str, float | str]:
    """Call `measure` in its own process."""
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)], check=True, capture_output=True, text=True)
    result: dict[str, float | str] = json.loads(done.stdout)
    return result


def main() -> None:
    print(f"Keep 10 % of scores in {LAYERS} layers: 1 thread, torch {torch.__version__}")
    print(f"Medians of {REPEATS} repeats (1 at 100 million for sort and topk); memory relative to that of the scores")
    rows = []
    for size in (10**6, 10**7, 10**8):
        results = {
            name: run(name, size, "uniform", 1 if size == 10**8 and name != "spl" else REPEATS) for name in CANDIDATES
        }
        # among ties topk chooses freely
        assert len({result["digest"] for result in results.values()}) == 1 or size > 10**6
        baseline = float(results["torch.sort"]["seconds"])
        results |= {f"spl, {k}": run("spl", size, k, REPEATS) for k in ("90 % zeros", "among a fifth")}
        rows += [
            (f"{size:,}", name, float(r["seconds"]), float(r["seconds"]) / baseline, float(r["memory"]))
            for name, r in results.items()
        ]
    print(tabulate(rows, ["scores", "", "seconds", "ratio to sort", "memory"], floatfmt=("", "", ".3f", ".3f", ".2f")))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))))
    else:
        main()
