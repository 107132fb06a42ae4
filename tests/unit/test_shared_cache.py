"""Two specs that name nothing, in one directory: alternately and at once, as if each were alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SPEC = """
[run]
cycles = 2
[data]
kind = "simulate"
truth.kappa = {kappa}
num_simulations = 3
num_frames = {frames}
resolution.x = 8
dt = 0.01
split = {{train = "0:1", val = "1:2", test = "2:3"}}
[physical]
kind = "heat"
compile = "eager"
parameters.kappa.init = 0.2
[synthetic]
kind = "resnet"
width = 2
blocks = 1
[augmentation]
alpha = 2.0
cache.kind = "disk"
[training.synthetic]
epochs_per_cycle = 2
[training.physical]
epochs_per_cycle = 2
optimizer = "adam"
"""


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
    (tmp_path / "a.toml").write_text(SPEC.format(kappa=0.1, frames=6))
    (tmp_path / "b.toml").write_text(SPEC.format(kappa=0.3, frames=8))
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
