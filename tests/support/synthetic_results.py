"""Folders of runs that were not really made, with results that a test chooses."""

from pathlib import Path
from typing import Any

import yaml

from spl.reproduction.results import Result
from spl.reproduction.run import RUN_FILE, Run


def begin(root: Path, run: Run) -> Path:
    """Make the folder of a run that has begun; the run that it starts from is finished."""
    folder = root / run.digest[:12]
    folder.mkdir(parents=True, exist_ok=True)
    weights = finish(root, run.pretrained) / "checkpoints" / "last.ckpt" if run.pretrained else None
    (folder / RUN_FILE).write_text(yaml.safe_dump(run.on_machine(Path("/data"), weights)))
    return folder


def finish(
    root: Path,
    run: Run,
    final: float = 3.0,
    best: float = 2.5,
    scalars: dict[str, float] | None = None,
    **record: Any,
) -> Path:
    """Make the folder of a finished run with test errors in %, scalars at step 0, and changes to its record."""
    folder = begin(root, run)
    test = {which: {"loss": 0.1, "accuracy": 1 - error / 100} for which, error in (("final", final), ("best", best))}
    logged = {tag: [[0, value]] for tag, value in (scalars or {}).items()}
    usual = {"device": "cpu", "threads": 1, "seconds": 60.0, "population": 1, "versions": {"torch": "2.15"}}
    Result(folder, run.digest, test, logged, usual | record).write()
    return folder
