"""A writer for simulations as PhiFlow's Scenes: `sim_000000/<field>_000000.npz`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from phi.field import Field
from phi.field._field_io import write_single_field

from hyco_engine.data.fields import StateLayout
from hyco_engine.interfaces import Trajectory
from hyco_engine.physics.layout import SAMPLES, Converter


class SceneWriter:
    """Writes one folder per simulation. Only the first frame of static fields is written."""

    def __init__(self, folder: Path, layout: StateLayout, dt: float) -> None:
        self._folder = folder
        self._layout = layout
        self._dt = dt
        self._converter = Converter(layout)

    def write(self, index: int, trajectory: Trajectory) -> Path:
        """Write simulation `index` and return its folder."""
        folder = self._folder / f"sim_{index:06d}"
        folder.mkdir(parents=True)
        static = [field.name for field in self._layout.static]
        for frame, dynamic in enumerate(trajectory.dynamic):
            fields = self._converter.fields(torch.cat([dynamic, trajectory.static])[None])
            for name, field in fields.items():
                if frame == 0 or name not in static:
                    write_single_field(_first(field), str(folder / f"{name}_{frame:06d}.npz"))
        about = {**trajectory.scalars, "dt": self._dt, "static": static}
        (folder / "description.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
        return folder

    def close(self) -> None:
        """Do nothing, because every file is complete."""


def _first(field: Field) -> Field:
    return field[{SAMPLES: 0}]
