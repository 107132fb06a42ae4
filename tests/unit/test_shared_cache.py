"""Two specs that name nothing, in one directory: alternately and at once, as if each were alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_specs import heat_on_disk


def begin(folder: Path, spec: str, run: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hyco_engine", "run", f"{spec}.toml", "--run-dir", run, "--quiet"]
    return subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def finish(process: subprocess.Popen[str]) -> None:
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "weights").iterdir())}


@pytest.mark.slow
def test_two_specs_in_one_directory(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(heat_on_disk(cycles=2, epochs=2))
    (tmp_path / "b.toml").write_text(heat_on_disk(cycles=2, epochs=2, kappa=0.3, frames=8))
    both = [begin(tmp_path, name, f"{name}-at-once") for name in "ab"]
    for process in both:
        finish(process)
    tensors = tmp_path / "cache" / "tensors" / "data"
    inodes = {path.name: path.stat().st_ino for path in tensors.glob("*.safetensors")}
    assert len(inodes) == 6
    for name in "ab":  # in turn: nothing is made again
        finish(begin(tmp_path, name, f"{name}-again"))
    assert {path.name: path.stat().st_ino for path in tensors.glob("*.safetensors")} == inodes
    for name in "ab":
        assert weights(tmp_path / f"{name}-at-once") == weights(tmp_path / f"{name}-again")
        assert json.loads((tmp_path / f"{name}-again" / "summary.json").read_text())["cache"]["kind"] == "disk"
    assert not [path for path in (tmp_path / "cache" / "generated").rglob("*") if path.is_file()]
