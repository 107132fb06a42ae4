"""Advection: exact transport, orders, the vortex, and velocities that are found."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from gallery_cases import Case, centers, fit, run, space_order, states, time_order, windows
from messages import error_naming
from torch import Tensor

from hyco_engine.errors import SpecError
from hyco_engine.physics.settings import ParameterSetting

LINE = Case(kind="advection", resolution=(24,), upper=(2 * math.pi,), dt=0.1)
SQUARE = Case(kind="advection", resolution=(16, 16), dt=0.05, options={"velocity": "ring-vortex", "speed": 0.5})
FIELD = ParameterSetting(init=0.0, field=True)


def test_a_wave_is_carried_by_v_and_m() -> None:
    def exact(model: Any) -> tuple[Tensor, Tensor]:
        (x,) = centers(model.layout.grid)
        state = torch.stack([torch.sin(x), torch.full_like(x, 1.5)])[None]
        return state, torch.sin(x - 0.1 * (1.5 - 0.7))[None, None]

    assert space_order(LINE, (16, 32), exact, parameters={"mx": -0.7}) == pytest.approx(4, abs=0.2)


def test_a_wave_is_carried_across_the_plane() -> None:
    case = Case(kind="advection", resolution=(32, 24), upper=(2 * math.pi, 2 * math.pi), dt=0.1)
    model = case.model(parameters={"mx": 0.25, "my": -0.5})
    x, y = centers(case.grid())
    state = torch.stack([torch.sin(x + 2 * y), torch.full_like(x, 1.0), torch.full_like(x, 2.0)])[None]
    wanted = torch.sin(x - 1.25 * 0.1 + 2 * (y - 1.5 * 0.1))[None, None]
    torch.testing.assert_close(model(state).detach(), wanted, rtol=0, atol=2e-3)


def test_order_in_time() -> None:
    (x,) = centers(LINE.grid())
    state = torch.stack([torch.exp(torch.sin(x)), 1 + 0.3 * torch.cos(x)])[None]
    assert time_order(LINE, state, 0.4, (0.1, 0.05, 0.025)) == pytest.approx(4, abs=0.2)


def test_the_vortex_turns_around_the_centre_and_keeps_what_is_round() -> None:
    model = SQUARE.model(resolution=(32, 32))
    state = states(model, 1)
    v = state[0, 1:]
    assert float(v.norm(dim=0).max()) == pytest.approx(0.5, rel=0.02)
    x, y = centers(model.layout.grid)
    torch.testing.assert_close(v[0] * (x - 0.5) + v[1] * (y - 0.5), torch.zeros_like(x), rtol=0, atol=1e-12)
    state[:, 0] = torch.exp(-((x - 0.5) ** 2 + (y - 0.5) ** 2) / 0.02)
    torch.testing.assert_close(run(model, state, 10)[:, -1], state[:, :1], rtol=0, atol=2e-3)


def test_a_vortex_needs_a_plane() -> None:
    with error_naming(SpecError, 1, 'velocity = "uniform"', key="physical.velocity"):
        LINE.model(options={"velocity": "ring-vortex"})


def test_a_modulation_is_found() -> None:
    data = windows(LINE.model(parameters={"mx": 0.3}), frames=4, horizon=1)
    assert float(fit(LINE.model(), data, 10)["mx"]) == pytest.approx(0.3, rel=1e-3)


def test_a_modulation_field_is_found() -> None:
    true = SQUARE.model(parameters={"mx": FIELD, "my": FIELD})
    x, y = centers(SQUARE.grid())
    wanted = {
        "mx": 0.2 * torch.sin(2 * math.pi * y),
        "my": 0.2 * torch.cos(2 * math.pi * x) * torch.sin(2 * math.pi * y),
    }
    for name, value in wanted.items():
        true.learnables.set_(name, value)
    data = windows(true, count=8, frames=4, horizon=1)
    found = fit(SQUARE.model(parameters={"mx": FIELD, "my": FIELD}), data, 60)
    for name, value in wanted.items():
        assert float((found[name] - value).norm() / value.norm()) < 0.03, name


def test_steps_within_the_limit_are_stable_and_beyond_it_are_not() -> None:
    for factor, stable in ((0.98, True), (1.08, False)):
        dt = factor * 2.06 * 2 * math.pi / 24
        model = LINE.model(dt=dt, inner_dt=dt)
        state = states(model, 1, seed=3)
        state[:, 0] = torch.randn(24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert (float(run(model, state, 300)[:, -1].abs().max()) < 5) is stable
        assert (model.stability(state) is None) is stable
    assert model.stability(state) == (
        f"advection: steps of dt = {dt:g} are too long: sum |v + m| dt/dx = 2.22 (limit 2.06) with |v + m| up to 1. "
        "Set physical.dt to at most 0.539, or use a coarser grid"
    )


# --- inviscid Burgers -----------------------------------------------------------------------------------------------

RING = Case(kind="inviscid-burgers", resolution=(32,), dt=0.05)
POTENTIAL = ParameterSetting(init=0.0, field=True)


def simple_wave(x: Tensor, time: float) -> Tensor:
    """Solve u = 1 + 0.2 sin(2 pi (x - u t)) by fixed-point iteration; it is exact until the shock at t = 0.8."""
    u = torch.ones_like(x)
    for _ in range(200):
        u = 1 + 0.2 * torch.sin(2 * math.pi * (x - u * time))
    return u


def cell_means(n: int, time: float) -> Tensor:
    """Return the exact cell averages, `[1, 1, n]`, by Gauss-Legendre quadrature."""
    nodes = torch.tensor([-math.sqrt(0.6), 0.0, math.sqrt(0.6)], dtype=torch.float64)
    weights = torch.tensor([5.0, 8.0, 5.0], dtype=torch.float64) / 18
    x = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5 + 0.5 * nodes) / n
    return (simple_wave(x, time) @ weights)[None, None]


def test_a_steepening_wave_is_second_order() -> None:
    errors = []
    for n in (128, 256):
        model = RING.model(resolution=(n,), dt=0.5, inner_dt=0.25 / n)
        error = model(cell_means(n, 0.0)).detach() - cell_means(n, 0.5)
        errors.append(float(error.abs().mean()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.2)


def test_the_potential_accelerates_at_second_order() -> None:
    """u_t = -V_x - u u_x for one tiny step, V = cos(2 pi x) / 10."""
    errors = []
    for n in (32, 64):
        model = RING.model(resolution=(n,), dt=1e-7)
        (x,) = centers(model.layout.grid)
        model.learnables.set_("potential", 0.1 * torch.cos(2 * math.pi * x))
        wanted = 0.2 * math.pi * torch.sin(2 * math.pi * x)
        state = torch.zeros(1, 1, n, dtype=torch.float64)
        errors.append(float(((model(state).detach() / 1e-7)[0, 0] - wanted).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("limiter", ["van-albada", "minmod"])
def test_shocks_move_at_the_mean_speed_and_expansions_are_smooth(limiter: str) -> None:
    """Riemann problems between 1 and 0 (shock at speed 1/2) and between -1 and 1 (a fan)."""
    case = Case(
        kind="inviscid-burgers", resolution=(80,), boundary="zero-gradient", dt=0.1, options={"limiter": limiter}
    )
    model = case.model()
    (x,) = centers(case.grid())
    shock = (x < 0.25).double()[None, None]
    after = run(model, shock, 5)[:, -1]
    assert float((after - (x < 0.5).double()).abs().sum() / 80) < 0.02
    overshoot = max(float(after.max()) - 1, -float(after.min()))
    assert overshoot < (1e-12 if limiter == "minmod" else 0.05)
    fan = (2 * (x > 0.5).double() - 1)[None, None]
    after = run(model, fan, 2)[:, -1]
    assert float((after - ((x - 0.5) / 0.2).clamp(-1, 1)).abs().mean()) < 0.02


def test_the_mean_is_conserved_and_a_constant_potential_has_no_effect() -> None:
    model = RING.model()
    state = states(model, 3)
    before = run(model, state, 10)[:, -1]
    torch.testing.assert_close(before.mean(-1), state.mean(-1), rtol=0, atol=1e-13)
    model.learnables.set_("potential", 7.0)
    torch.testing.assert_close(run(model, state, 10)[:, -1], before, rtol=0, atol=1e-12)


def test_a_potential_is_found_up_to_a_constant() -> None:
    options = {"offset": 1.0, "amplitude": 0.3}
    true = RING.model(options=options)
    (x,) = centers(RING.grid())
    wanted = 0.3 * torch.cos(2 * math.pi * x) + 0.1 * torch.sin(4 * math.pi * x)
    true.learnables.set_("potential", wanted)
    found = fit(RING.model(options=options), windows(true, count=4, frames=5, horizon=1), 40)["potential"]
    assert float((found - found.mean() - wanted).norm() / wanted.norm()) < 0.01
    assert float(found.mean()) == pytest.approx(0.0, abs=1e-9)


def test_inviscid_burgers_is_one_dimensional() -> None:
    with error_naming(SpecError, 2, 'kind = "burgers"'):
        RING.model(resolution=(8, 8))


def test_inviscid_burgers_warns_of_long_steps() -> None:
    model = RING.model(inner_dt=0.05)
    state = states(model, 1)
    state[:] = 2.0
    assert model.stability(state) == (
        "inviscid-burgers: steps of dt = 0.05 are too long: sum |u| dt/dx = 3.2 (limit 1) with |u| up to 2. Set "
        "physical.dt to at most 0.0156, or use a coarser grid"
    )
