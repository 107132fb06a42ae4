"""Smoke in a closed box: the pressure solve against PhiFlow's, invariants, orders, parameters that are found."""

from __future__ import annotations

import math

import pytest
import torch
from gallery_cases import Case, centers, fit, run, states, time_order, windows
from phi.field import Field, divergence
from phi.physics import fluid
from phiml.math import Solve
from torch import Tensor

from hyco_engine.errors import DataError, SpecError
from hyco_engine.interfaces import PhysicalModel
from hyco_engine.physics.layout import Converter
from hyco_engine.physics.phi_context import phi_context

BOX = Case(kind="smoke", resolution=(12, 16), upper=(1.0, 1.5), dt=0.1)


def moving(model: PhysicalModel, steps: int = 10) -> Tensor:
    """States some time after the start, when everything moves."""
    return run(model, states(model), steps)[:, -1]


def random_flow(model: PhysicalModel, seed: int = 0) -> Tensor:
    """Return random smoke and random faces, `[2, C, *S]`, with zeros as padding."""
    state = torch.randn(2, 3, *model.layout.spatial, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    state[:, 1, -1, :] = 0
    state[:, 2, :, -1] = 0
    return state


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.filterwarnings("ignore:Rank deficiency:RuntimeWarning")
def test_the_projection_is_that_of_phiflow() -> None:
    model = BOX.model(compile="eager")
    state = random_flow(model)
    physics = model.physics
    ours = physics.project(physics._inner_faces(state[:, 1:]))
    converter = Converter(model.layout)
    with phi_context(state):
        velocity: Field = converter.fields(state)["velocity"]
        projected, _ = fluid.make_incompressible(velocity, (), Solve("CG", 1e-13, 1e-13, max_iterations=5000))
        theirs = converter.tensor({"velocity": projected}, ["velocity"])
    torch.testing.assert_close(ours[0], theirs[:, 0, :-1], rtol=0, atol=1e-10)
    torch.testing.assert_close(ours[1], theirs[:, 1, :, :-1], rtol=0, atol=1e-10)


def test_the_flow_is_free_of_divergence_and_smoke_is_conserved() -> None:
    model = BOX.model(compile="eager")
    state = moving(model)
    with phi_context(state):
        velocity = Converter(model.layout).fields(state)["velocity"]
        rest = divergence(velocity).values.native(["samples", "x", "y"])
    assert float(state[:, 1:].abs().max()) > 0.1
    assert float(rest.abs().max()) < 1e-12
    torch.testing.assert_close(state[:, 0].sum((-1, -2)), states(model)[:, 0].sum((-1, -2)), rtol=1e-12, atol=0)


def test_smoke_rises() -> None:
    model = BOX.model(compile="eager")
    first, last = states(model), moving(model, 5)
    height = torch.arange(16, dtype=torch.float64)
    before, after = ((s[:, 0] * height).sum((-1, -2)) / s[:, 0].sum((-1, -2)) for s in (first, last))
    assert bool((after > before + 0.05).all())


def test_without_viscosity_and_buoyancy_energy_is_kept() -> None:
    model = BOX.model(parameters={"buoyancy": 0.0, "nu": 1e-12, "D": 0.01}, dt=0.02, inner_dt=0.01, compile="eager")
    state = moving(BOX.model(compile="eager"))
    energies = run(model, state, 4)[:, :, 1:].square().sum((2, 3, 4))
    torch.testing.assert_close(energies[:, -1], energies[:, 0], rtol=1e-6, atol=0)


def test_vortices_between_slippery_walls_decay_exactly_at_second_order() -> None:
    """u = sin x cos y, v = -cos x sin y on [0, pi]^2 decays as exp(-2 nu t)."""
    errors = []
    for n in (16, 32):
        case = Case(kind="smoke", resolution=(n, n), upper=(math.pi, math.pi), dt=0.5, options={"walls": "free-slip"})
        model = case.model(parameters={"buoyancy": 1.0, "nu": 0.2, "D": 0.1}, inner_dt=0.01, compile="eager")
        x, y = centers(case.grid())
        h = math.pi / n / 2
        state = torch.zeros(1, 3, n, n, dtype=torch.float64)
        state[0, 1] = torch.sin(x + h) * torch.cos(y)
        state[0, 2] = -torch.cos(x) * torch.sin(y + h)
        state[0, 1, -1], state[0, 2, :, -1] = 0, 0
        errors.append(float((model(state).detach() - state * math.exp(-0.2)).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.2)


def test_smoke_at_rest_spreads_at_second_order() -> None:
    errors = []
    for n in (12, 24):
        case = Case(kind="smoke", resolution=(n, 4), upper=(1.0, 1.0), dt=0.25)
        model = case.model(parameters={"buoyancy": 0.0, "nu": 0.1, "D": 0.1}, inner_dt=0.25 / 64, compile="eager")
        x, _ = centers(case.grid())
        state = torch.zeros(1, 3, n, 4, dtype=torch.float64)
        state[0, 0] = 1 + torch.cos(math.pi * x)
        wanted = 1 + torch.cos(math.pi * x) * math.exp(-0.1 * math.pi**2 * 0.25)
        errors.append(float((model(state).detach()[0, 0] - wanted).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.2)


def test_order_in_time() -> None:
    state = moving(BOX.model(compile="eager"))
    assert time_order(BOX, state, 0.08, (0.04, 0.02, 0.01)) == pytest.approx(4, abs=0.2)


def test_buoyancy_and_diffusion_are_found() -> None:
    case = Case(kind="smoke", resolution=(8, 10), dt=0.2)
    truth = {"buoyancy": 0.8, "nu": 0.01, "D": 0.005}
    data = windows(case.model(parameters=truth), count=3, frames=6, horizon=1)
    found = fit(case.model(parameters={"buoyancy": 0.4, "nu": 0.02, "D": 0.01}), data, 20)
    for name, value in truth.items():
        assert float(found[name]) == pytest.approx(value, rel=5e-3), name


def test_it_runs_in_three_dimensions() -> None:
    case = Case(kind="smoke", resolution=(5, 6, 7), dt=0.1)
    model = case.model(compile="eager")
    state = moving(model, 3)
    assert float(state[:, 3].abs().max()) > 0.05
    parts = model.physics._inner_faces(state[:, 1:])
    for one, two in zip(model.physics.project(parts), parts, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-13)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(SpecError, match="two or three dimensions, and the data has 1"):
        BOX.model(resolution=(8,), upper=(1.0,))
    with pytest.raises(
        DataError, match="closed box, and the boundary of 'smoke' along x is 'periodic': it must be zero-"
    ):
        BOX.model(boundary="periodic")
    model = BOX.model(inner_dt=0.1, parameters={"buoyancy": 1.0, "nu": 0.05, "D": 0.01})
    state = random_flow(model)
    state[:, 1:] = state[:, 1:].sign() * 5
    assert model.stability(state) == (
        "smoke: steps of dt = 0.1 are too long: sum |u| dt/dx = 11.3 (limit 2.83) with |u| up to 5; sum nu dt/dx^2 = "
        "1.29 (limit 0.69) with nu up to 0.05. Set physical.dt to at most 0.0226, or use a coarser grid"
    )
