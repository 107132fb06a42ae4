"""A run that is stopped anywhere and gone on with is the run that was never stopped, to the last bit."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hyco_engine as hyco
from hyco_engine.runs.checkpoint import Checkpoints
from hyco_engine.runs.keeper import Interrupted
from hyco_engine.runs.metrics import read_metrics

SPEC: dict[str, Any] = {
    "run": {"name": "tiny", "cycles": 2},
    "data": {
        "kind": "simulate",
        "name": "tiny",
        "truth": {"nu": 0.02},
        "num_simulations": 4,
        "num_frames": 8,
        "resolution": {"x": 16},
        "dt": 0.02,
        "split": {"train": "0:2", "val": "2:3", "test": "3:4"},
    },
    "physical": {"kind": "burgers", "parameters": {"nu": {"init": 0.05, "bounds": [1e-4, 1.0]}}},
    "synthetic": {"kind": "resnet", "width": 4, "blocks": 1},
    "augmentation": {"alpha": 0.5},
    "training": {
        "synthetic": {"epochs_per_cycle": 2, "batch_size": 8},
        "physical": {"epochs_per_cycle": 3, "batch_size": 8, "optimizer": "adam"},
    },
}


class StopAt:
    """Asks the run to end at the n-th moment at which it is asked, counted from 1."""

    def __init__(self, moment: int | None = None) -> None:
        self.moment = moment
        self.asked = 0

    def __call__(self) -> str | None:
        self.asked += 1
        return "SIGTERM" if self.asked == self.moment else None


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hyco_engine.report.run_figures.draw", lambda *args: [])


def run(folder: Path, stop: Callable[[], str | None] = lambda: None, resume: bool = False, **keys: Any) -> Any:
    overrides = {key.replace("__", "."): value for key, value in keys.items()}
    spec = copy.deepcopy(SPEC)
    return hyco.Engine(spec, overrides=overrides).run(folder, resume=resume, stop=stop)


def results(folder: Path) -> dict[str, Any]:
    """All that must be equal: weights to the bit, metrics but their times, summary but times and memory."""
    summary = json.loads((folder / "summary.json").read_text())
    for name in ("timings", "peak_rss_bytes"):
        summary.pop(name)
    lines = [{name: value for name, value in line.items() if name != "time"} for line in read_metrics(folder)]
    weights = {path.name: path.read_bytes() for path in sorted((folder / "weights").iterdir())}
    return {"summary": summary, "metrics": lines, "weights": weights}


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "gauss-newton"])
def test_from_every_moment(optimizer: str, tmp_path: Path) -> None:
    count = StopAt()
    run(tmp_path / "whole", count, training__physical__optimizer=optimizer)
    whole = results(tmp_path / "whole")
    for moment in range(1, count.asked + 1):
        folder = tmp_path / f"stopped-{moment}"
        with pytest.raises(Interrupted):
            run(folder, StopAt(moment), training__physical__optimizer=optimizer)
        assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
        run(folder, resume=True, training__physical__optimizer=optimizer)
        assert results(folder) == whole, moment
