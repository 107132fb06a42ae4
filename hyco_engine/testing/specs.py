"""A spec that runs within a second or two, and specs made from it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hyco_engine.hooks.registry import Registry

if TYPE_CHECKING:
    from hyco_engine.report.result import RunResult

TINY: Mapping[str, Any] = {
    "run": {"name": "tiny", "cycles": 2, "device": "cpu"},
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
    "physical": {
        "kind": "burgers",
        "compile": "eager",
        "parameters": {"nu": {"init": 0.05, "bounds": [1e-4, 1.0]}},
    },
    "synthetic": {"kind": "resnet", "width": 4, "blocks": 1},
    "augmentation": {"kind": "count", "alpha": 0.5},
    "training": {
        "synthetic": {"epochs_per_cycle": 2, "batch_size": 4},
        "physical": {"epochs_per_cycle": 2, "batch_size": 4, "optimizer": "adam"},
    },
}
"""Burgers on 16 cells: two cycles of the physics and a small resnet."""


class RunSpec(Protocol):
    """The type of the fixture `run_spec`."""

    def __call__(
        self, spec: Mapping[str, Any] | str | Path, *, registry: Registry | None = None, **more: Any
    ) -> RunResult: ...


def merged(changes: Mapping[str, Any], base: Mapping[str, Any] = TINY) -> dict[str, Any]:
    """Return `base` with `changes`: tables with a `kind` replace the base's, others are merged, None removes one."""
    made = copy.deepcopy(dict(base))
    for key, value in changes.items():
        there = made.get(key)
        if value is None:
            made.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(there, Mapping) and "kind" not in value:
            made[key] = merged(value, there)
        else:
            made[key] = copy.deepcopy(value)
    return made
