"""Run folders for reports, written by hand: what a run leaves, without running one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.report.rollouts import HeldOutRollout
from hyco_engine.runs.files import dump_json

EVIL = "<script>alert('x')</script>&amp;"


def layout_of(*resolution: int, name: str = "u", components: tuple[str, ...] = ()) -> StateLayout:
    axes = ("x", "y", "z")[: len(resolution)]
    grid = Grid(axes=axes, resolution=resolution, lower=(0.0,) * len(axes), upper=(1.0,) * len(axes))
    field = FieldInfo(name=name, components=components, boundary=Boundary.parse("periodic", axes), unit="m")
    return StateLayout(grid=grid, dynamic=(field,))


def rollout_of(layout: StateLayout, frames: int = 6) -> HeldOutRollout:
    """Waves that decay; the physics is off by a factor, the surrogate by noise."""
    axes = [np.linspace(0, 2 * np.pi, n, endpoint=False) for n in layout.spatial]
    wave = np.sin(sum(np.meshgrid(*axes, indexing="ij")))
    t = np.arange(frames).reshape(-1, *(1 for _ in layout.spatial))
    truth = np.stack([wave * 0.9**t] * layout.n_dynamic, axis=1).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 0.1, truth.shape) * t[:, None]
    return HeldOutRollout(
        truth=truth,
        predictions={"physical": truth * np.float32(1.01), "synthetic": (truth + noise).astype(np.float32)},
        layout=layout,
        dt=0.1,
        split="test",
    )


def metrics_of(nrmse: float | None) -> dict[str, Any]:
    found = {"nrmse": nrmse, "vrmse": nrmse, "nrmse_by_field": {"u": nrmse}, "nrmse_by_step": [nrmse] * 5}
    return {"val": found, "test": found}


def summary_of(**more: Any) -> dict[str, Any]:
    parameter = {
        "initial": 0.05,
        "final": 0.0202,
        "truth": 0.02,
        "relative_error": 0.01,
        "unit": "m^2/s",
        "moved": True,
    }
    balance = {"cycle": 0, "phase": "train_synthetic", "n_real": 20, "n_generated": 2, "weight": 1.0, "alpha": 0.1}
    return {
        "status": "completed",
        "error": None,
        "cycles": 1,
        "parameters": {"nu": {**parameter, "standard_error": 0.0003}},
        "metrics": {
            "physical": metrics_of(0.001),
            "synthetic": metrics_of(0.02),
            "persistence": metrics_of(0.5),
        },
        "balance": [{**balance, "actual_ratio": 0.1, "expected_ratio": 0.1, "ok": True}],
        "cooperation": [{"cycle": 0, "direction": "physical to synthetic", "e_teacher": 0.1, "accepted": True}],
        "cache": {"kind": "memory", "reason": "it is small", "estimated_bytes": 2500, "peak_bytes": 2500},
        "timings": {"total_s": 75.0, "phases": {"train_physical": 40.0, "train_synthetic": 30.0}},
        "physics": {"compile": "graph", "reason": "captured"},
        "identification": {"optimizer": "gauss-newton", "error_bars": None, "starts": None},
        "warnings": [],
        "peak_rss_bytes": 812_000_000,
        "seed": 7,
        "versions": {"hyco-engine": "0.1.0"},
        **more,
    }


RECORDS = [
    {"cycle": 0, "phase": "train_synthetic", "epoch": 1, "train/loss": 0.5, "train/loss_real": 0.4, "val/nrmse": 0.02},
    {"cycle": 0, "phase": "train_physical", "epoch": 1, "train/loss": 0.1, "param/nu": 0.03, "val/nrmse": 0.002},
    {"cycle": 0, "phase": "train_physical", "epoch": 2, "train/loss": 0.05, "param/nu": 0.0202},
]


def run_folder(
    folder: Path,
    rollout: HeldOutRollout | None = None,
    summary: dict[str, Any] | None = None,
    name: str = "small",
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.toml").write_text(f"[run]\nname = {json.dumps(name)}\ncycles = 1\n")
    (folder / "environment.json").write_text(json.dumps({"packages": {"torch": "2"}, "device": {"name": "cpu"}}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    if summary is not None:
        (folder / "summary.json").write_text(dump_json(summary))
    if rollout is not None:
        rollout.save(folder)
    return folder
