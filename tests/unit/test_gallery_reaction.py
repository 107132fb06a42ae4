"""Gray-Scott and Fisher-KPP."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gallery_cases import Case, centers, fit, space_order, states, time_order, windows
from hyco_engine.spec.choices import ParameterSetting

GRAY_SCOTT = Case(kind="gray-scott", resolution=(24, 24), upper=(38.0, 38.0), dt=4.0)


def gray_scott_reference(u: Tensor, v: Tensor, dx: float, steps: int) -> tuple[Tensor, Tensor]:
    """The published scheme: five points, Euler, dt = 0.4."""

    def laplacian(a: Tensor) -> Tensor:
        return sum(a.roll(s, d) for s in (1, -1) for d in (-1, -2)) - 4 * a  # type: ignore[return-value]

    for _ in range(steps):
        r = u * v * v
        u, v = (
            u + 0.4 * (0.2 * laplacian(u) / dx**2 - r + 0.018 * (1 - u)),
            v + 0.4 * (0.08 * laplacian(v) / dx**2 + r - (0.018 + 0.051) * v),
        )
    return u, v


def test_gray_scott_is_the_published_scheme() -> None:
    model = GRAY_SCOTT.model(dt=40.0, parameters={"Du": 0.2, "Dv": 0.08, "f": 0.018, "k": 0.051})
    assert model.substeps == 100
    state = states(model)
    u, v = gray_scott_reference(state[:, 0], state[:, 1], 38 / 24, 100)
    torch.testing.assert_close(model(state).detach(), torch.stack([u, v], dim=1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("scheme", "order"), [("euler", 1), ("rk4", 4)])
def test_gray_scott_order_in_time(scheme: str, order: int) -> None:
    x, y = (2 * math.pi / 38 * c for c in centers(GRAY_SCOTT.grid()))
    state = torch.stack([0.6 + 0.3 * torch.sin(x) * torch.cos(y), 0.3 + 0.2 * torch.cos(x + y)])[None]
    measured = time_order(GRAY_SCOTT, state, 2.0, (0.5, 0.25, 0.125), options={"scheme": scheme})
    assert measured == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("varying", [False, True])
def test_gray_scott_order_in_space(varying: bool) -> None:
    """u -> 1 where v = 0: 1 - u diffuses, which one small step shows against the exact rate."""
    case = Case(kind="gray-scott", resolution=(16,), upper=(2 * math.pi,), dt=1e-4)

    def exact(model: Any) -> tuple[Tensor, Tensor]:
        (x,) = centers(model.layout.grid)
        u = 1 - torch.sin(x)
        if varying:
            # (D u_x)_x with D = 0.2 + 0.1 cos x and u_x = -cos x
            rate = -(0.2 + 0.1 * torch.cos(x)) * -torch.sin(x) + 0.1 * torch.sin(x) * torch.cos(x)
            model.learnables.set_("Du", 0.2 + 0.1 * torch.cos(x))
        else:
            rate = 0.2 * torch.sin(x)
        after = u + 1e-4 * (rate + 0.03 * (1 - u))
        return torch.stack([u, 0 * u])[None], torch.stack([after, 0 * u])[None]

    parameters = {"Du": ParameterSetting(init=0.2, field=True)} if varying else {}
    assert space_order(case, (32, 64), exact, parameters=parameters) == pytest.approx(2, abs=0.2)


def test_gray_scott_diffusivities_are_found_from_far_off() -> None:
    truth = {"Du": 0.2, "Dv": 0.08, "f": 0.018, "k": 0.051}
    data = windows(GRAY_SCOTT.model(parameters=truth), count=2, frames=6, horizon=1)
    found = fit(GRAY_SCOTT.model(parameters={**truth, "Du": 0.1, "Dv": 0.05}), data, 25)
    for name, value in truth.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-3), name


def test_gray_scott_warns_of_long_steps() -> None:
    model = GRAY_SCOTT.model(inner_dt=4.0, parameters={"Du": 0.4})
    text = model.stability(states(model))
    assert text == (
        "gray-scott: steps of dt = 4 are too long: sum Du dt/dx^2 = 1.28 (limit 0.5) with Du up to 0.4. Set physical.dt "
        "to at most 1.57, or use a coarser grid"
    )
    assert GRAY_SCOTT.model().stability(states(model)) is None
