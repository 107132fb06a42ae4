"""Random smooth states satisfy their boundary and differ in every sample."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from messages import error_naming

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.masks import sample_mask
from hyco_engine.errors import DataError
from hyco_engine.physics.initial import noise_field, smooth_noise

GRID = Grid(axes=("x",), resolution=(400,), lower=(0.0,), upper=(10.0,))
GRID_2D = Grid(axes=("x", "y"), resolution=(24, 16), lower=(0.0, 0.0), upper=(3.0, 2.0))


def noise(boundary: Any, grid: Grid = GRID, count: int = 3, seed: int = 0, **changes: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return smooth_noise(grid, Boundary.parse(boundary, grid.axes), count, generator, **changes)


@pytest.mark.parametrize("boundary", ["periodic", 0.0, "zero-gradient", "antisymmetric", "reflect", "antireflect"])
@pytest.mark.parametrize("grid", [GRID, GRID_2D])
def test_size_and_seed(boundary: str, grid: Grid) -> None:
    state = noise(boundary, grid)
    assert state.shape == (3, *grid.resolution)
    assert torch.allclose(state.flatten(1).square().mean(1), torch.ones(3, dtype=torch.float64))
    assert not torch.allclose(state[0], state[1])
    assert torch.equal(state, noise(boundary, grid))
    assert not torch.equal(state, noise(boundary, grid, seed=1))
    if boundary in ("periodic", "zero-gradient"):
        assert state.flatten(1).mean(1).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("boundary", "lower", "upper"),
    [
        # the value beyond the first sample, extrapolated smoothly from the first samples
        (0.0, lambda g, u: g, lambda g, u: g),
        ("antisymmetric", lambda g, u: g + u, lambda g, u: g + u),
        ("symmetric", lambda g, u: g - u, lambda g, u: g - u),
        ({"x": {"lower": 0.0, "upper": "zero-gradient"}}, lambda g, u: g, lambda g, u: g - u),
        ({"x": {"lower": 2.0, "upper": -1.0}}, lambda g, u: g - 2.0, lambda g, u: g + 1.0),
    ],
)
def test_boundaries_hold(boundary: Any, lower: Any, upper: Any) -> None:
    state = noise(boundary)
    for values, rest in ((state, lower), (state.flip(-1), upper)):
        first, second, third, fourth = values[:, :4].unbind(1)
        ghost = 4 * first - 6 * second + 4 * third - fourth
        assert rest(ghost, first).abs().max() < 1e-4


def test_periodic_states_join() -> None:
    state = noise("periodic")
    jump = (state[:, 0] - state[:, -1]).abs().max()
    assert jump <= state.diff(dim=1).abs().max() * 1.01


def test_scale_is_a_length() -> None:
    rough, smooth = (noise("periodic", count=50, scale=scale).diff(dim=1).square().mean() for scale in (0.5, 1.0))
    # the mean square of the slope of a Gaussian spectrum falls with the square of its length
    assert float((rough / smooth).sqrt()) == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("sampling", ["centered", "staggered"])
def test_components_follow_their_own_rules(sampling: Any) -> None:
    rule = {"normal": 0.0, "tangential": "zero-gradient"}
    boundary = Boundary.parse(rule, GRID_2D.axes)
    info = FieldInfo(name="v", components=("x", "y"), sampling=sampling, boundary=boundary)
    layout = StateLayout(grid=GRID_2D, dynamic=(info,))
    generator = torch.Generator().manual_seed(0)
    state = noise_field(info, GRID_2D, layout.spatial, 4, generator, amplitude=2.0)
    assert state.shape == (4, 2, *layout.spatial)
    assert torch.equal(state, state * sample_mask(layout))
    own = state[:, 0][:, : info.samples(GRID_2D, 0)[0], : info.samples(GRID_2D, 0)[1]]
    assert torch.allclose(own.flatten(1).square().mean(1), torch.full((4,), 4.0, dtype=torch.float64))
    assert own[:, 0].abs().mean() < own[:, 8].abs().mean()


def test_values_per_component() -> None:
    boundary = Boundary.parse([1.0, -1.0], GRID_2D.axes)
    info = FieldInfo(name="v", components=("x", "y"), boundary=boundary)
    state = noise_field(info, GRID_2D, GRID_2D.resolution, 1, torch.Generator().manual_seed(0), amplitude=0.0)
    assert torch.equal(state[0, 0], torch.ones(24, 16, dtype=torch.float64))
    assert torch.equal(state[0, 1], -torch.ones(24, 16, dtype=torch.float64))


def test_values_that_cannot_be_joined() -> None:
    with error_naming(DataError, "boundary"):
        noise({"x": 0.0, "y": 1.0}, GRID_2D)


def test_small_grids() -> None:
    for cells in (1, 2, 3):
        grid = Grid(axes=("x",), resolution=(cells,), lower=(0.0,), upper=(1.0,))
        for boundary in ("periodic", 0.0, "zero-gradient"):
            assert noise(boundary, grid).isfinite().all() or cells == 1
