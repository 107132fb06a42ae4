"""Linear terms that are exact at walls: by transforms of what continues evenly or oddly beyond them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from test_equations import model, rolled
from torch import Tensor

from hyco_engine.data.fields import Grid, Rule
from hyco_engine.equations.evaluation import continued
from hyco_engine.physics.mirrored import Mirrored, mirrors
from hyco_engine.physics.stencils import second_derivative
from hyco_engine.rollout import rollout

EVEN, ODD, ZERO, PERIODIC = (Rule.parse(data) for data in ("zero-gradient", "antisymmetric", 0.0, "periodic"))
SIDES = [
    (EVEN, EVEN),
    (ODD, ODD),
    (ZERO, ZERO),
    (EVEN, ZERO),
    (ZERO, EVEN),
    (ODD, ZERO),
    (EVEN, ODD),
    (PERIODIC, PERIODIC),
]


@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("n", [7, 8])
def test_symbols_are_those_of_the_differences_with_these_ghost_cells(sides: tuple[Rule, Rule], n: int) -> None:
    grid = Grid(axes=("x", "y"), resolution=(n, 5), lower=(0.0, 0.0), upper=(1.3, 1.0))
    values = torch.randn(3, n, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    waves = Mirrored(grid, [sides, (EVEN, ZERO)], values)
    spectrum = waves.forward(values)
    assert spectrum.shape[1:] == waves.shape_of
    assert torch.allclose(waves.inverse(spectrum), values, atol=1e-14)

    def second(values: Tensor, dim: int, sides: tuple[Rule, Rule], dx: float) -> Tensor:
        wide = continued(values, dim, 2, *sides)
        return second_derivative([wide.narrow(dim, k, values.shape[dim]) for k in range(5)], dx)

    twice = second(values, -2, sides, grid.spacing[0])
    assert torch.allclose(waves.inverse(waves.symbol((2, 0)) * spectrum), twice, atol=1e-10)
    four = second(second(values, -2, sides, grid.spacing[0]), -1, (EVEN, ZERO), grid.spacing[1])
    assert torch.allclose(waves.inverse(waves.symbol((2, 2)) * spectrum), four, atol=1e-8)


def test_other_sides_have_no_such_transform() -> None:
    assert [mirrors((EVEN, Rule.parse(data))) for data in ("zero-gradient", "reflect", 1.0, "T_left")] == [
        True,
        False,
        False,
        False,
    ]


def stiff(boundary: Any, **more: Any) -> Any:
    return model(
        "u - u**3 + e*lap(u)", (48,), parameters={"e": 0.05}, boundary=boundary, dt=0.05, amplitude=0.3, **more
    )


@pytest.mark.parametrize("boundary", ["zero-gradient", {"x": {"lower": 0.0, "upper": "symmetric"}}])
def test_a_stiff_equation_at_walls_runs_at_the_step_of_the_frame(boundary: Any) -> None:
    own = stiff(boundary)
    assert own.substeps == 1
    assert (
        "exact in the linear terms of u by cosine and sine transforms (they are stiff), with 1 internal step"
        in own.statements[0]
    )
    plain = stiff(boundary, scheme="finite-difference")
    assert plain.substeps > 10
    start = own.initial_states(1, torch.Generator().manual_seed(0))
    # another code steps the same differences
    operator = plain.physics

    def slope(_: float, u: Any) -> Any:
        state = torch.from_numpy(u)[None, None]
        with torch.no_grad():
            return (
                operator.step({"u": state}, {"e": torch.tensor(0.05).double()}, 1e-7)["u"][0, 0].numpy() / 1e-7
                - u / 1e-7
            )

    wanted = solve_ivp(slope, (0, 0.25), start[0, 0].numpy(), method="LSODA", rtol=1e-8, atol=1e-9).y[:, -1]
    errors = []
    for parts in (1, 2):
        found = rolled(stiff(boundary, inner_dt=0.05 / parts), start, 5)[0, 0].numpy()
        errors.append(float(np.abs(found - wanted).max()))
    assert errors[0] < 1e-4
    assert errors[1] < errors[0] / 8


def test_the_order_in_time_is_four() -> None:
    start = stiff("zero-gradient").initial_states(1, torch.Generator().manual_seed(0))
    fine = rolled(stiff("zero-gradient", inner_dt=0.05 / 32), start, 4)
    errors = [
        float((rolled(stiff("zero-gradient", inner_dt=0.05 / n), start, 4) - fine).abs().max()) for n in (2, 4, 8)
    ]
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([4, 4], abs=0.6)


def test_cahn_hilliard_in_a_box_keeps_its_sum() -> None:
    own = model(
        {"c": "lap(c**3 - c - g*lap(c))"},
        (24, 20),
        parameters={"g": 0.01},
        boundary="zero-gradient",
        dt=0.0005,
        amplitude=0.2,
    )
    start = own.initial_states(1, torch.Generator().manual_seed(0))
    found = rolled(own, start, 20)
    assert "by cosine and sine transforms" in own.statements[0]
    assert own.substeps <= 4
    assert float((found - start).sum()) == pytest.approx(0.0, abs=1e-9)
    assert float((found - start).abs().max()) > 0.01


def test_heat_between_walls_is_that_of_differences_at_any_step() -> None:
    parameters = {"k": 1.0}
    own = model("k*lap(u)", (20,), parameters=parameters, boundary=0.0, dt=0.1)
    fine = model(
        "k*lap(u)", (20,), parameters=parameters, boundary=0.0, dt=0.1, scheme="finite-difference", inner_dt=0.1 / 400
    )
    start = own.initial_states(2, torch.Generator().manual_seed(0))
    assert torch.allclose(rolled(own, start, 2), rolled(fine, start, 2), atol=1e-9)


def test_what_is_not_stiff_stays_as_it_was() -> None:
    slow = model("u - u**3 + e*lap(u)", (32,), parameters={"e": 1e-4}, boundary="zero-gradient", dt=0.05)
    assert "classical Runge-Kutta" in slow.statements[0]
    warm = model("u - u**3 + e*lap(u)", (96,), parameters={"e": 0.05}, boundary=1.0, dt=0.001)
    assert "classical Runge-Kutta" in warm.statements[0]


@pytest.mark.parametrize("compile", ["eager", "graph"])
def test_derivatives_are_those_of_differences(compile: str) -> None:
    rates = {"u": "e*lap(u) - u*v + t", "v": "e*lap(v) - e*lap(lap(v))/1000 + u*dx(v)"}
    own = model(rates, (32,), parameters={"e": 0.2}, boundary="zero-gradient", dt=0.05, compile=compile, amplitude=0.2)
    assert "by cosine and sine transforms" in own.statements[0]
    state = own.initial_states(2, torch.Generator().manual_seed(0))

    def loss() -> Tensor:
        return rollout(own, state, 3).square().sum()

    loss().backward()
    (raw,) = own.learnables.raw.values()
    with torch.no_grad():
        raw += 1e-5
        above = float(loss())
        raw -= 2e-5
        below = float(loss())
    assert float(raw.grad) == pytest.approx((above - below) / 2e-5, rel=1e-6)
