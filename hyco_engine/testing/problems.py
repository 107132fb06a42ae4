"""Problems with known solutions, for tests of the engine and of plugins."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.windows import WindowDataset
from hyco_engine.interfaces import PhysicalModel, Trajectory
from hyco_engine.physics.parameters import Learnables, ParameterDeclaration
from hyco_engine.physics.settings import ParameterSetting


def decay_layout(cells: int = 8) -> StateLayout:
    """Return the layout of one scalar field `u` on a periodic interval."""
    grid = Grid(axes=("x",), resolution=(cells,), lower=(0.0,), upper=(1.0,))
    return StateLayout(grid=grid, dynamic=(FieldInfo(name="u", boundary=Boundary.parse("periodic", ("x",))),))


class Decay(PhysicalModel):
    """The equation u_t = -k u, solved exactly: u(t + dt) = u(t) exp(-k dt). The parameter k starts at 0.5."""

    def __init__(
        self,
        layout: StateLayout | None = None,
        dt: float = 0.1,
        settings: Mapping[str, ParameterSetting] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.layout = layout or decay_layout()
        self.dt = dt
        declaration = ParameterDeclaration(name="k", init=0.5, unit="1/s", bounds=(0.0, math.inf))
        self.learnables = Learnables([declaration], settings, self.layout.grid, dtype)

    def forward(self, state: Tensor) -> Tensor:
        return state[:, : self.layout.n_dynamic] * torch.exp(-self.learnables.values()["k"] * self.dt)

    def initial_states(self, count: int, generator: torch.Generator) -> Tensor:
        shape = (count, self.layout.n_all, *self.layout.spatial)
        return torch.randn(shape, generator=generator, dtype=torch.float64)


class LinearSurrogate(nn.Module):
    """The map u(t + dt) = w u(t), where w starts at 1, that is, at "nothing changes"."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, state: Tensor) -> Tensor:
        return self.weight * state[:, :1]


def decay_trajectories(
    count: int = 2, frames: int = 10, k: float = 1.0, dt: float = 0.1, dtype: torch.dtype = torch.float32
) -> tuple[Trajectory, ...]:
    """Return exact solutions of `Decay` from random states, each different."""
    states = Decay(dt=dt).initial_states(count, torch.Generator().manual_seed(0))
    times = torch.arange(frames, dtype=torch.float64) * dt
    factors = torch.exp(-k * times)[:, None, None]
    empty = torch.zeros(0, *states.shape[2:], dtype=dtype)
    return tuple(Trajectory(dynamic=(factors * state).to(dtype), static=empty) for state in states)


def decay_windows(
    count: int = 2, frames: int = 10, horizon: int = 3, dtype: torch.dtype = torch.float32
) -> WindowDataset:
    """Return sliding windows of `decay_trajectories`."""
    return WindowDataset(decay_trajectories(count, frames, dtype=dtype), horizon=horizon)
