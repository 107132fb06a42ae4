"""Navier-Stokes with smoke, in millimetres: with scales every normalizer trains both models, without `check` warns.

    pytest tests/validation/unlike_units.py

Velocities vary by 28 mm/s, the smoke by 0.14: without scales the one counts 4e4 times as much as the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hyco_engine as hyco
from hyco_engine.runs.metrics import read_metrics

NORMALIZERS = ("manual", "running-mean", "sqrt-dim", "batch-stat", "uncertainty", "grad-norm")
FIELDS = ("smoke", "velocity")
SPEC: dict[str, Any] = {
    "run": {"name": "millimetres", "cycles": 1},
    "data": {
        "kind": "simulate",
        "truth": {"buoyancy": 800.0, "nu": 4e3, "D": 3e3},
        "num_simulations": 4,
        "num_frames": 13,
        "resolution": {"x": 12, "y": 16},
        "bounds": {"x": [0.0, 1000.0], "y": [0.0, 1330.0]},
        "dt": 0.1,
        "num_predict_steps": 1,
        "split": {"train": "0:2", "val": "2:3", "test": "3:4"},
    },
    "physical": {
        "kind": "smoke",
        "parameters": {"buoyancy": {"init": 400.0}, "nu": {"init": 8e3}, "D": {"init": 6e3}},
    },
    "synthetic": {"kind": "resnet", "width": 16, "blocks": 2},
    "augmentation": {"kind": "count", "alpha": 0.5},
    "training": {
        "synthetic": {"epochs_per_cycle": 10, "batch_size": 8, "lr": 3e-3},
        "physical": {"epochs_per_cycle": 10, "batch_size": 8, "optimizer": "adam", "lr": 5e-2},
    },
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", NORMALIZERS)
def test_with_scales_every_normalizer_trains_both_models(kind: str) -> None:
    terms = {name: {"scale": "data"} for name in FIELDS}
    spec = {**SPEC, "loss": {"normalizer": {"kind": kind}, "terms": terms}}
    assert hyco.Engine(spec).plan()["notes"] == []
    result = hyco.run(spec)
    assert not [text for text in result.summary["warnings"] if "scale" in text]
    lines = [line for line in read_metrics(result.folder) if "train/loss" in line]
    for name in FIELDS:
        for player in ("synthetic", "physical"):
            losses = [line[f"train/loss/{name}"] for line in lines if line["phase"] == f"train_{player}"]
            assert losses[-1] < 0.5 * losses[0], (player, name, losses)
    for name, entry in result.summary["parameters"].items():
        before = abs(entry["initial"] / entry["truth"] - 1)
        assert entry["relative_error"] < 0.5 * before, (name, entry)


def test_without_scales_check_and_run_warn() -> None:
    (note,) = hyco.Engine(SPEC).plan()["notes"]
    assert "their units differ ('smoke': 1, 'velocity': length/time)" in note
    result = hyco.run({**SPEC, "run": {"name": "millimetres", "cycles": 0}})
    (warning,) = (text for text in result.summary["warnings"] if "scale" in text)
    assert "'velocity', with a standard deviation of" in warning
    assert "times as much as 'smoke' with" in warning
