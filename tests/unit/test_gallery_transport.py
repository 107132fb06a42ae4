"""Advection: exact transport, orders, the vortex, and velocities that are found."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gallery_cases import Case, centers, fit, run, space_order, states, time_order, windows
from hyco_engine.errors import SpecError
from hyco_engine.spec.choices import ParameterSetting

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
    with pytest.raises(SpecError, match='needs two axes, and the data has 1: use velocity = "uniform"') as caught:
        LINE.model(options={"velocity": "ring-vortex"})
    assert caught.value.problems[0].key == "physical.velocity"


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
        f"advection: steps of dt = {dt:g} are too long: sum |v + m| dt/dx = 2.22 (limit 2.06) with |v + m| up to 1. Set "
        "physical.dt to at most 0.539, or use a coarser grid"
    )
