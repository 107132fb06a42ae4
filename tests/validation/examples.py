"""Every example run to its end, as a user would: `tox -e examples`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from gallery import EXAMPLES, SCRIPT, Missing, ran, run_example

# what each is to find, relative; noise and a wrong physics leave more open
WITHIN = {
    "quickstart": {"nu": 0.02},
    "burgers_shock": {"nu": 0.05},
    "bar": {"kappa": 0.05},
    "bar-sensors": {"kappa": 0.1},
    "sparse-noisy": {"nu": 0.05},
    "smoke": {"buoyancy": 0.01, "nu": 0.01, "D": 0.01},
    "navier-stokes": {"nu": 0.01, "F": 0.01},
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_and_finds_its_parameters(path: Path, tmp_path: Path) -> None:
    start = time.monotonic()
    try:
        summary = run_example(path, tmp_path)
    except Missing as missing:
        pytest.skip(str(missing))
    print(f"{path.stem}: {time.monotonic() - start:.0f} s, {summary['parameters']}")
    assert summary["status"] == "completed"
    for name, tolerance in WITHIN.get(path.stem, {}).items():
        assert summary["parameters"][name]["relative_error"] < tolerance
    split = "test" if "test" in summary["metrics"]["persistence"] else "val"
    errors = {player: metrics[split]["nrmse"] for player, metrics in summary["metrics"].items()}
    assert all(error < 0.5 * errors["persistence"] for player, error in errors.items() if player != "persistence")
    if path.stem == "wrong-physics":
        assert errors["synthetic"] < 0.5 * errors["physical"]


def test_embedding(tmp_path: Path) -> None:
    printed = ran([sys.executable, str(SCRIPT)], tmp_path).splitlines()
    assert printed[-3].startswith("nu = 0.0200")
    assert printed[-1] == "open runs/embedding-1/report.html in a browser"
