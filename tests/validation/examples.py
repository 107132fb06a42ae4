"""Every example spec run to its end, as a user would: `tox -e examples`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.toml"))
NEEDS = {
    "burgers_shock": "raissi_pinns/burgers_shock.mat",
    "gray-scott": "hyco_grayscott",
}
# what each is to find, relative
WITHIN = {"quickstart": {"nu": 0.02}, "burgers_shock": {"nu": 0.05}}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_and_finds_its_parameters(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hyco_engine", "run", str(path), "--json"]
    if path.stem in NEEDS:
        if not DATA.is_dir():
            pytest.skip(f"there is no {DATA}")
        command += ["--set", f'data.path="{DATA / NEEDS[path.stem]}"']
    start = time.monotonic()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    print(f"{path.stem}: {time.monotonic() - start:.0f} s, {summary['parameters']}")
    assert summary["status"] == "completed"
    for name, tolerance in WITHIN.get(path.stem, {}).items():
        assert summary["parameters"][name]["relative_error"] < tolerance
    if path.stem == "quickstart":
        errors = {player: metrics["val"]["nrmse"] for player, metrics in summary["metrics"].items()}
        assert errors["synthetic"] < 0.5 * errors["persistence"]
