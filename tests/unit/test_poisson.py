"""The direct Poisson solver against the difference Laplacian it inverts."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from hyco_engine.data.fields import Grid
from hyco_engine.physics.poisson import FastPoisson, Side

SIDES: tuple[Side, ...] = ("closed", "open", "periodic")


def laplacian(p: Tensor, grid: Grid, sides: tuple[Side, ...]) -> Tensor:
    """Second differences with ghost cells: mirrored, mirrored with the other sign, or from the other end."""
    total = torch.zeros_like(p)
    for i, (dx, side) in enumerate(zip(grid.spacing, sides, strict=True)):
        axis = i - len(sides)
        n = p.shape[axis]
        first, last = p.narrow(axis, 0, 1), p.narrow(axis, n - 1, 1)
        if side == "periodic":
            first, last = last, first
        elif side == "open":
            first, last = -first, -last
        padded = torch.cat([first, p, last], dim=axis)
        total = total + (padded.narrow(axis, 0, n) + padded.narrow(axis, 2, n) - 2 * p) / dx**2
    return total


@pytest.mark.parametrize("sides", [(a,) for a in SIDES] + list(itertools.product(SIDES, repeat=2)) + [SIDES])
def test_it_inverts_the_laplacian(sides: tuple[Side, ...]) -> None:
    sizes = (7, 10, 6)[: len(sides)]
    grid = Grid(
        axes=("x", "y", "z")[: len(sides)],
        resolution=sizes,
        lower=(0.0,) * len(sizes),
        upper=(1.0, 2.5, 0.7)[: len(sizes)],
    )
    p = torch.randn(3, *sizes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if "open" not in sides:
        p = p - p.mean(tuple(range(1, p.dim())), keepdim=True)
    solver = FastPoisson(grid, sides)
    f = laplacian(p, grid, sides)
    torch.testing.assert_close(solver.solve(f), p, rtol=0, atol=1e-12)
    if "open" not in sides:
        torch.testing.assert_close(solver.solve(f + 3.0), p, rtol=0, atol=1e-12)
    single = solver.solve(f.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, p.float(), rtol=0, atol=2e-5)


def test_it_converges_at_second_order() -> None:
    errors = []
    for n in (16, 32):
        grid = Grid(axes=("x", "y"), resolution=(n, n), lower=(0.0, 0.0), upper=(1.0, 1.0))
        x = torch.tensor(grid.centers("x"), dtype=torch.float64)
        p = torch.cos(math.pi * x)[:, None] * torch.sin(2 * math.pi * x)
        errors.append(float((FastPoisson(grid, ("closed", "open")).solve(-5 * math.pi**2 * p) - p).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.2)


def test_it_captures() -> None:
    grid = Grid(axes=("x", "y"), resolution=(6, 5), lower=(0.0, 0.0), upper=(1.0, 1.0))
    solver = FastPoisson(grid, ("closed", "closed"))
    f, g = torch.randn(2, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(make_fx(lambda values: solver.solve(values))(f)(g), solver.solve(g), rtol=0, atol=0)
