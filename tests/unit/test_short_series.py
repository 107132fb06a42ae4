"""Runs on series of two and three frames."""

from __future__ import annotations

import math

import numpy as np
import pytest
from messages import error_naming

import hyco_engine as hyco
from hyco_engine.errors import HycoError

KAPPA = 0.05


def spec(tmp_path, frames, **tables):
    x, t = (np.arange(16) + 0.5) / 16, 0.1 * np.arange(frames)
    rate = KAPPA * (2 * math.pi) ** 2
    np.savez(tmp_path / "u.npz", u=1 + np.exp(-rate * t)[:, None] * np.sin(2 * math.pi * x))
    data = {
        "kind": "arrays",
        "path": str(tmp_path / "u.npz"),
        "axes": "tx",
        "dt": 0.1,
        "bounds": {"x": [0.0, 1.0]},
        "boundary": "periodic",
        "num_predict_steps": 1,
        "split": {"by": "time"},
    }
    return {
        "run": {"cycles": 1},
        "paths": {"cache": str(tmp_path / "cache"), "runs": str(tmp_path / "runs")},
        "data": data,
        "physical": {
            "kind": "equation",
            "compile": "eager",
            "rates": {"u": "kappa*lap(u)"},
            "parameters": {"kappa": {"init": 0.1}},
        },
        **tables,
    }


def test_two_frames_identify_a_physics_without_validation(tmp_path, caplog):
    summary = hyco.run(spec(tmp_path, 2)).summary
    assert summary["status"] == "completed"
    assert summary["parameters"]["kappa"]["final"] == pytest.approx(KAPPA, rel=5e-3)
    assert summary["metrics"].get("physical", {}).get("val") is None
    assert "the series are too short to hold out a frame: all train, and nothing validates" in caplog.text


SURROGATE = {
    "synthetic": {"kind": "resnet", "width": 2, "blocks": 1},
    "training": {"synthetic": {"epochs_per_cycle": 1}},
}


def test_a_surrogate_needs_a_third_frame(tmp_path):
    with error_naming(HycoError, "the train split has only 1 frame", key="data.num_predict_steps"):
        hyco.run(spec(tmp_path, 2, **SURROGATE))
    summary = hyco.run(spec(tmp_path, 3, **SURROGATE)).summary
    assert summary["metrics"]["physical"]["val"]["lead_steps"] == [2]
    assert summary["metrics"]["physical"]["val"]["nrmse"] < 0.01
