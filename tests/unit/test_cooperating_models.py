"""The surrogates that are made for cooperation: u(x, t), and a physics with a correction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_cases import layout

import hyco_engine as hyco
from hyco_engine.builtin.models.coordinate_mlp import CoordinateMLP
from hyco_engine.builtin.models.corrected import Corrected
from hyco_engine.builtin.models.options_synthetic import CoordinateMLPOptions
from hyco_engine.interfaces import BuildContext
from hyco_engine.training.rollout import rollout

CELLS = 16


def sensors(folder: Path) -> dict[str, Any]:
    """Two cooling sine waves, seen by 30 sensors at 9 times; u = exp(-k pi^2 t) sin(pi x), k = 0.1."""
    x = np.random.default_rng(0).uniform(0.05, 0.95, 30)
    t = 0.1 * np.arange(9)
    u = np.exp(-0.1 * np.pi**2 * t)[:, None] * np.sin(np.pi * x)
    np.save(folder / "seen.npy", np.stack([np.broadcast_to(x, u.shape), u], axis=-1))
    centres = (np.arange(CELLS) + 0.5) / CELLS
    np.save(folder / "first.npy", np.sin(np.pi * centres))
    return {
        "run": {"cycles": 2, "device": "cpu"},
        "data": {
            "kind": "points",
            "path": str(folder / "seen.npy"),
            "columns": ["x", "u"],
            "interval": 0.1,
            "split": {"by": "sensor"},
            "resolution": {"x": CELLS},
            "boundary": 0.0,
            "dt": 0.1,
            "initial": {"u": {"file": str(folder / "first.npy")}},
            "num_predict_steps": 8,
            "truth": {"kappa": 0.1},
        },
        "physical": {"kind": "heat", "compile": "eager", "parameters": {"kappa": {"init": 0.2}}},
        "synthetic": {"kind": "coordinate-mlp", "duration": 0.8, "width": 16, "depth": 2},
        "augmentation": {"kind": "interaction", "alpha": 0.1, "points": 32},
        "training": {
            "physical": {"optimizer": "gauss-newton", "epochs_per_cycle": 3},
            "synthetic": {"epochs_per_cycle": 60, "lr": 1e-2},
        },
    }


def test_a_function_of_position_and_time_learns_with_the_physics_from_sensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = hyco.run(sensors(tmp_path))
    metrics = result.summary["metrics"]
    assert metrics["synthetic"]["val"]["nrmse"] < 0.3 * metrics["persistence"]["val"]["nrmse"]
    assert result.summary["parameters"]["kappa"]["relative_error"] < 0.1
    directions = [entry["direction"] for entry in result.summary["cooperation"]]
    assert directions == ["physical->synthetic", "synthetic->physical"] * 2
    again = hyco.load_surrogate(result.folder)
    asked = {"position": torch.tensor([[0.3], [0.7]]), "time": torch.tensor([0.0, 0.4])}
    assert result.synthetic is not None
    with torch.no_grad():
        torch.testing.assert_close(again(asked)["u"], result.synthetic(asked)["u"], rtol=0, atol=0)


def test_position_and_time_are_scaled_over_domain_and_duration() -> None:
    context = BuildContext(seed=0, registry=hyco.Registry(), layout=layout(resolution=(8,)))
    model = CoordinateMLP(CoordinateMLPOptions(duration=4.0), layout(resolution=(8,)), context)
    corners = torch.tensor([[0.0, 0.0], [1.0, 4.0]])
    torch.testing.assert_close((corners - model.origin) * model.scale, torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))


def wrong_physics(**tables: Any) -> dict[str, Any]:
    """Data with growth, for a physics that only diffuses."""
    return {
        "run": {"cycles": 1, "device": "cpu"},
        "data": {
            "kind": "simulate",
            "physics": {"kind": "fisher-kpp"},
            "truth": {"D": 0.01, "r": 1.0},
            "num_simulations": 3,
            "num_frames": 8,
            "resolution": {"x": CELLS},
            "dt": 0.1,
            "split": {"train": "0:2", "val": "2:3"},
        },
        "physical": {"kind": "heat", "compile": "eager", "parameters": {"kappa": {"init": 0.05}}},
        "synthetic": {"kind": "corrected", "width": 8, "positions": False},
        "augmentation": {"kind": "trust", "alpha": 0.5, "warmup": 10},
        "training": {"synthetic": {"optimizer": "lbfgs", "epochs_per_cycle": 40}},
    } | tables


def test_a_correction_finds_what_the_physics_lacks_and_needs_the_run_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = hyco.run(wrong_physics())
    metrics = result.summary["metrics"]
    assert metrics["synthetic"]["val"]["nrmse"] < 0.2 * metrics["physical"]["val"]["nrmse"]
    assert isinstance(result.synthetic, Corrected)
    assert result.physical is not None
    # its physics is a copy with parameters of its own
    own = float(result.synthetic.physics.learnables.values()["kappa"].detach())
    assert own != float(result.physical.learnables.values()["kappa"].detach())
    again = hyco.load_surrogate(result.folder)
    start = torch.rand(2, 1, CELLS, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(rollout(again, start, 3), rollout(result.synthetic, start, 3))


def test_there_must_be_a_physics_to_correct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = wrong_physics()
    del spec["physical"]
    with pytest.raises(hyco.SpecError, match=r"there is no \[physical\] whose physics could be a part of it"):
        hyco.run(spec)
