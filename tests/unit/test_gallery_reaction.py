"""Gray-Scott and Fisher-KPP."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from gallery_cases import Case, centers, fit, space_order, states, time_order, windows
from torch import Tensor

from hyco_engine.physics.settings import ParameterSetting

GRAY_SCOTT = Case(kind="gray-scott", resolution=(24, 24), upper=(38.0, 38.0), dt=4.0)


def gray_scott_reference(u: Tensor, v: Tensor, dx: float, steps: int) -> tuple[Tensor, Tensor]:
    """Simulate with the published scheme: five points, Euler, dt = 0.4."""

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
    """Where v = 0, 1 - u diffuses and decays; a small step is compared with the exact rate."""
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
        "gray-scott: steps of dt = 4 are too long: sum Du dt/dx^2 = 1.28 (limit 0.5) with Du up to 0.4. Set "
        "physical.dt to at most 1.57, or use a coarser grid"
    )
    assert GRAY_SCOTT.model().stability(states(model)) is None


# --- Fisher-KPP -----------------------------------------------------------------------------------------------------

HABITAT = Case(kind="fisher-kpp", resolution=(32,), upper=(1.0,), dt=0.1)


def front(x: Tensor, time: float) -> Tensor:
    """Return the exact front for D = r = 1, of speed 5 / sqrt(6)."""
    return (1 + torch.exp((x - 5 / math.sqrt(6) * time) / math.sqrt(6))) ** -2


def test_fisher_front_moves_as_the_exact_one() -> None:
    """Between walls so far away that the front is flat there."""
    errors = []
    for n in (80, 160):
        case = Case(kind="fisher-kpp", resolution=(n,), lower=(-60.0,), upper=(60.0,), dt=2.0)
        model = case.model(inner_dt=0.05, parameters={"D": 1.0, "r": 1.0})
        (x,) = centers(case.grid())
        inner = (x.abs() < 40).double()
        error = (model(front(x, 0.0)[None, None]).detach() - front(x, 2.0)) * inner
        errors.append(float(error.square().mean().sqrt()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.2)
    assert errors[-1] < 1e-4


def test_fisher_order_in_time() -> None:
    (x,) = centers(HABITAT.grid())
    state = (0.3 + 0.2 * torch.cos(math.pi * x))[None, None]
    assert time_order(HABITAT, state, 0.8, (0.1, 0.05, 0.025), parameters={"D": 0.003, "r": 2.0}) == pytest.approx(
        4, abs=0.2
    )


def test_fisher_order_in_space_with_a_varying_diffusivity() -> None:
    """One tiny step between mirroring walls against the exact rate, D = 1 + 0.5 cos(pi x), u = 0.5 + 0.3 cos(pi x)."""

    def exact(model: Any) -> tuple[Tensor, Tensor]:
        (x,) = centers(model.layout.grid)
        c, s = torch.cos(math.pi * x), torch.sin(math.pi * x)
        model.learnables.set_("D", 1 + 0.5 * c)
        u = 0.5 + 0.3 * c
        rate = -0.3 * math.pi**2 * c * (1 + 0.5 * c) + 0.15 * math.pi**2 * s * s + u * (1 - u)
        return u[None, None], (u + 1e-7 * rate)[None, None]

    parameters = {"D": ParameterSetting(init=1.0, field=True), "r": 1.0}
    case = Case(kind="fisher-kpp", resolution=(16,), boundary="symmetric", dt=1e-7)
    errors = []
    for n in (16, 32):
        model = case.model(resolution=(n,), parameters=parameters)
        state, wanted = exact(model)
        inner = slice(n // 8, -n // 8)
        errors.append(float((model(state).detach() - wanted)[..., inner].abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.2)


def test_fisher_grows_to_saturation_between_walls() -> None:
    model = HABITAT.model(parameters={"D": 0.01, "r": 3.0})
    state = states(model)
    assert float(state.min()) > 0
    assert float(state.max()) <= 0.5
    with torch.no_grad():
        for _ in range(60):
            state = model(state)
    torch.testing.assert_close(state, torch.ones_like(state), rtol=0, atol=1e-4)


@pytest.mark.parametrize("field", [False, True])
def test_a_capacity_scales_the_population(field: bool) -> None:
    """u / K solves the equation of capacity 1, and where it varies in space, u tends to it."""
    state = states(HABITAT.model(), 2)
    known = {"D": 0.003, "r": 2.0, "capacity": ParameterSetting(init=1.6, field=field)}
    scaled = HABITAT.model(parameters=known)
    assert scaled.learnables.learned == ("D", "r")
    wanted = HABITAT.model(parameters={"D": 0.003, "r": 2.0})(state).detach()
    torch.testing.assert_close(scaled(1.6 * state).detach() / 1.6, wanted, rtol=1e-12, atol=0)


def test_fisher_order_in_time_with_a_capacity() -> None:
    (x,) = centers(HABITAT.grid())
    state = (0.3 + 0.2 * torch.cos(math.pi * x))[None, None]
    parameters = {"D": 0.003, "r": 2.0, "capacity": 0.8}
    assert time_order(HABITAT, state, 0.8, (0.1, 0.05, 0.025), parameters=parameters) == pytest.approx(4, abs=0.2)


def test_a_capacity_is_found_beside_growth_and_spread() -> None:
    # equal internal steps, since the data would else differ by those
    true = HABITAT.model(inner_dt=0.05, parameters={"D": 0.003, "r": 1.5, "capacity": 1.6})
    data = windows(true, count=3, frames=20, horizon=1)
    start = {"D": 0.01, "r": 0.7, "capacity": ParameterSetting(init=1.0, learn=True)}
    found = fit(HABITAT.model(inner_dt=0.05, parameters=start), data, 30)
    for name, value in (("D", 0.003), ("r", 1.5), ("capacity", 1.6)):
        assert float(found[name]) == pytest.approx(value, rel=5e-3), name


def test_fisher_parameters_are_found() -> None:
    case = Case(kind="fisher-kpp", resolution=(16, 12), dt=0.2)
    data = windows(case.model(parameters={"D": 0.003, "r": 1.5}), count=3, frames=5, horizon=1)
    found = fit(case.model(parameters={"D": 0.01, "r": 0.7}), data, 20)
    assert float(found["D"]) == pytest.approx(0.003, rel=5e-3)
    assert float(found["r"]) == pytest.approx(1.5, rel=1e-3)


def test_a_growth_field_is_found() -> None:
    setting = ParameterSetting(init=1.0, field=True)
    parameters = {"D": ParameterSetting(init=0.003, learn=False), "r": setting}
    true = HABITAT.model(parameters=parameters)
    (x,) = centers(HABITAT.grid())
    wanted = 1 + 0.5 * torch.cos(2 * math.pi * x)
    true.learnables.set_("r", wanted)
    found = fit(HABITAT.model(parameters=parameters), windows(true, count=4, horizon=1), 40)["r"]
    assert float((found - wanted).norm() / wanted.norm()) < 0.02


def test_fisher_warns_of_long_steps() -> None:
    model = HABITAT.model(inner_dt=0.1, parameters={"D": 0.02, "r": 1.0})
    assert model.stability(states(model)) == (
        "fisher-kpp: steps of dt = 0.1 are too long: sum D dt/dx^2 = 2.05 (limit 0.52) with D up to 0.02; r dt = 0.1 "
        "(limit 2.78) with r up to 1. Set physical.dt to at most 0.0254, or use a coarser grid"
    )
