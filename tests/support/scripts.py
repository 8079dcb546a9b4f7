"""Scripts that do what would disturb the process of the tests, and print the outcome as JSON."""

import json
import subprocess
from pathlib import Path

from forking import python


def report_of(name: str, *args: object) -> dict:
    """Run a script of this folder and return its report."""
    command = [*python(), str(Path(__file__).with_name(name)), *map(str, args)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-3000:]
    return json.loads(made.stdout.splitlines()[-1])
