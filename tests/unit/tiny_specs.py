"""Specs of runs that take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BURGERS: dict[str, Any] = {
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
    "augmentation": {"kind": "count", "alpha": 0.5},
    "training": {
        "synthetic": {"epochs_per_cycle": 2, "batch_size": 4},
        "physical": {"epochs_per_cycle": 2, "batch_size": 4, "optimizer": "adam"},
    },
}
"""What most runs are: a model written in PhiFlow, whose steps are captured."""
TINY: dict[str, Any] = BURGERS | {
    "physical": {
        "kind": "equation",
        "compile": "eager",
        "rates": {"u": "nu*lap(u)"},
        "parameters": {"nu": {"init": 0.05, "bounds": [1e-4, 1.0]}},
    },
}
"""The same around a physics of no cost, for what does not depend on the physics: a third of the time."""

HEAT_DATA: dict[str, Any] = {
    "kind": "simulate",
    "name": "tiny",
    "truth": {"kappa": 0.1},
    "num_simulations": 3,
    "num_frames": 5,
    "resolution": {"x": 8},
    "dt": 0.01,
    "split": {"train": "0:1", "val": "1:2", "test": "2:3"},
}
"""Heat on 8 cells, with a simulation in each split."""
HEAT_HYBRID: dict[str, Any] = {
    "data": HEAT_DATA,
    "synthetic": {"kind": "resnet", "width": 2, "blocks": 1},
    "training": {
        "synthetic": {"epochs_per_cycle": 1, "batch_size": 4},
        "physical": {"epochs_per_cycle": 1, "batch_size": 4, "optimizer": "adam"},
    },
}
"""The same data, with a surrogate and what one short cycle takes; it lacks a name, the physics and a strategy."""


def in_time(path: Path, physical: dict[str, Any]) -> dict[str, Any]:
    """Return the spec of one cycle on the 31 frames `u [t, x]` of an .npz file: 21 train, 5 validate, 5 test."""
    return {
        "run": {"cycles": 1, "device": "cpu"},
        "data": {
            "kind": "arrays",
            "path": str(path),
            "variables": {"u": "u"},
            "axes": "tx",
            "time": "t",
            "coordinates": {"x": "x"},
            "boundary": "periodic",
            "split": {"by": "time", "train": "0:21", "val": "21:26", "test": "26:31"},
        },
        "physical": physical,
    }


def heat_on_disk(*, cycles: int, epochs: int, kappa: float = 0.1, frames: int = 6) -> str:
    """TOML: heat on 8 cells, whose generated samples are held on disk."""
    return f"""
[run]
cycles = {cycles}
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
kind = "count"
alpha = 2.0
cache.kind = "disk"
[training.synthetic]
epochs_per_cycle = {epochs}
[training.physical]
epochs_per_cycle = {epochs}
optimizer = "adam"
"""
