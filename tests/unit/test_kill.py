"""A few of the kills; tests/validation/kill.py has as many as are wanted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "validation" / "kill.py"


def test_killed_runs_end_as_undisturbed_ones() -> None:
    command = [sys.executable, str(SCRIPT), "--trials", "2", "--seed", "3", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["trials"], told["survived"], told["silent_differences"], told["leftovers"]) == (2, 2, 0, 0)
    assert sum(told["ends"].values()) > 0
