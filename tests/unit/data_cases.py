"""Small data sets for the tests of data and sources."""

from __future__ import annotations

import attrs
import torch

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.settings import SourceChoice
from hyco_engine.interfaces import Trajectory, TrajectorySource


def grid(*resolution: int) -> Grid:
    n = len(resolution)
    return Grid(axes=tuple("xyz"[:n]), resolution=resolution, lower=(0.0,) * n, upper=(1.0,) * n)


def scalar(name: str, axes: str = "x", boundary: object = "periodic") -> FieldInfo:
    return FieldInfo(name=name, boundary=Boundary.parse(boundary, tuple(axes)))


def layout(dynamic: str = "u", static: str = "", resolution: tuple[int, ...] = (5,)) -> StateLayout:
    """Scalar fields, one for each letter."""
    axes = "xyz"[: len(resolution)]
    return StateLayout(
        grid=grid(*resolution),
        dynamic=tuple(scalar(name, axes) for name in dynamic),
        static=tuple(scalar(name, axes) for name in static),
    )


def numbered(frames: int, simulation: int = 0, n_dynamic: int = 1, n_static: int = 0, cells: int = 5) -> Trajectory:
    """Return values that show their place, simulation * 1000 + frame + channel / 10 + cell / 100 (negative: static)."""
    place = torch.arange(n_dynamic)[:, None] / 10 + torch.arange(cells) / 100
    static = torch.arange(n_static)[:, None] / 10 + torch.arange(cells) / 100
    return Trajectory(
        dynamic=1000.0 * simulation + torch.arange(frames)[:, None, None] + place,
        static=-1000.0 * simulation - 1 - static,
    )


@attrs.define(kw_only=True)
class ListSource(TrajectorySource):
    """Trajectories at hand; counts how often each is loaded."""

    trajectories: list[Trajectory]
    layout: StateLayout = attrs.Factory(layout)
    dt: float = 0.5
    version: str = "1"
    tells_frames: bool = True
    loaded: list[int] = attrs.Factory(list)

    @property
    def num_simulations(self) -> int:  # type: ignore[override]
        return len(self.trajectories)

    def fingerprint(self) -> str:
        return self.version

    def load(self, index: int) -> Trajectory:
        self.loaded.append(index)
        return self.trajectories[index]

    def frames(self, index: int) -> int | None:
        return len(self.trajectories[index].dynamic) if self.tells_frames else None

    def origin(self, field: str, index: int) -> str:
        return f"list.txt, line {index} ({field})"


def choice(**keys: object) -> SourceChoice:
    return SourceChoice(kind="list", **keys)  # type: ignore[arg-type]
