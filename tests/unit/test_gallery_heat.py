"""The heat equation: analytic solutions, orders, conductivities of all kinds, the published case's bumps."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
import torch
from gallery_cases import Case, centers, fit, run, space_order, states, time_order, windows
from torch import Tensor

from hyco_engine.data.fields import Boundary, Grid
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.rollout import rollout

FIELD = ParameterSetting(init=1.0, field=True)
RING = Case(kind="heat", resolution=(32,), upper=(2 * math.pi,), boundary="periodic", dt=0.05)
BUMPS = {"A1": 3.0, "x1": 1.0, "y1": 1.0, "A2": 2.5, "x2": -2.0, "y2": -2.0}
PLATE = Case(
    kind="heat",
    resolution=(12, 12),
    lower=(-3.0, -3.0),
    upper=(3.0, 3.0),
    dt=0.02,
    options={"conductivity": "bumps", "form": "non-conservative"},
)


@pytest.mark.parametrize("order", [2, 4])
def test_a_wave_decays_as_it_should(order: int) -> None:
    def exact(model: Any) -> tuple[Tensor, Tensor]:
        (x,) = centers(model.layout.grid)
        wave = torch.sin(2 * x)[None, None]
        return wave, wave * math.exp(-0.3 * 4 * 0.05)

    measured = space_order(RING, (24, 48), exact, options={"order": order}, parameters={"kappa": 0.3})
    assert measured == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("form", ["conservative", "non-conservative"])
@pytest.mark.parametrize("order", [2, 4])
def test_order_with_a_varying_conductivity(form: str, order: int) -> None:
    """A tiny step is compared with the exact rate for kappa = 1 + 0.5 cos x and u = sin x."""

    def exact(model: Any) -> tuple[Tensor, Tensor]:
        (x,) = centers(model.layout.grid)
        kappa = 1 + 0.5 * torch.cos(x)
        model.learnables.set_("kappa", kappa)
        rate = -kappa * torch.sin(x)
        if form == "conservative":
            rate = rate - 0.5 * torch.sin(x) * torch.cos(x)
        u = torch.sin(x)
        return u[None, None], (u + 1e-6 * rate)[None, None]

    options = {"order": order, "form": form}
    measured = space_order(RING, (16, 32), exact, options=options, parameters={"kappa": FIELD}, dt=1e-6)
    assert measured == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("order", [2, 4])
def test_order_between_walls_at_zero(order: int) -> None:
    """The state is a sine between its zeros, which lie on the first ghost samples."""
    errors = []
    for n in (15, 31):
        dx = math.pi / (n + 1)
        case = Case(kind="heat", resolution=(n,), lower=(dx / 2,), upper=(math.pi - dx / 2,), dt=0.05)
        model = case.model(options={"order": order}, parameters={"kappa": 0.3})
        (x,) = centers(case.grid())
        wave = torch.sin(2 * x)[None, None]
        errors.append(float((model(wave).detach() - wave * math.exp(-0.3 * 4 * 0.05)).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


def test_order_in_time() -> None:
    (x,) = centers(RING.grid())
    state = (torch.sin(x) + torch.cos(3 * x))[None, None]
    assert time_order(RING, state, 0.08, (0.04, 0.02, 0.01), parameters={"kappa": 0.3}) == pytest.approx(4, abs=0.2)


def test_conservative_heat_keeps_its_sum_in_a_closed_box() -> None:
    case = Case(kind="heat", resolution=(12, 10), boundary="zero-gradient", dt=0.02)
    for order in (2, 4):
        model = case.model(options={"order": order}, parameters={"kappa": FIELD})
        model.learnables.set_("kappa", 0.1 + 0.3 * torch.rand(12, 10, generator=torch.Generator().manual_seed(1)))
        state = states(model)
        after = run(model, state, 3)[:, -1]
        if order == 2:
            torch.testing.assert_close(after.sum((-1, -2)), state.sum((-1, -2)), rtol=0, atol=1e-11)
        assert float(after.var()) < float(state.var())


def test_bumps_are_the_published_conductivity() -> None:
    """FTCS with kappa = min(2.5, 0.1 + sum A exp(-|x - c|^2)), as the data of the case were made."""
    n, dx = 20, 6 / 21
    grid = Grid(axes=("x", "y"), resolution=(n, n), lower=(-3 + dx / 2,) * 2, upper=(3 - dx / 2,) * 2)
    case = Case(kind="heat", resolution=(n, n), lower=grid.lower, upper=grid.upper, dt=1e-5, options=PLATE.options)
    model = case.model(options={**PLATE.options, "order": 2}, parameters=BUMPS)
    assert model.layout.dynamic[0].boundary == Boundary.parse(0.0, ("x", "y"))
    x, y = centers(grid)
    kappa = 0.1 + 3 * torch.exp(-((x - 1) ** 2) - (y - 1) ** 2) + 2.5 * torch.exp(-((x + 2) ** 2) - (y + 2) ** 2)
    state = states(model, 1)
    u = torch.nn.functional.pad(state[0, 0], (1, 1, 1, 1))
    laplacian = (u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4 * u[1:-1, 1:-1]) / dx**2
    rate = (model(state).detach() - state)[0, 0] / 1e-5
    torch.testing.assert_close(rate, kappa.clamp(max=2.5) * laplacian, rtol=2e-3, atol=2e-2)
    assert float(kappa.max()) > 2.5


def test_bumps_start_apart_and_inside() -> None:
    learnables = PLATE.model(options={**PLATE.options, "bumps": 5}).learnables
    values = {name: value.detach() for name, value in learnables.values().items()}
    places = torch.tensor([[float(values[f"x{i}"]), float(values[f"y{i}"])] for i in range(1, 6)])
    assert float(places.abs().max()) < 3
    assert float(torch.pdist(places).min()) > 0.5


def test_bumps_are_found() -> None:
    data = windows(PLATE.model(parameters=BUMPS), count=4, frames=5, horizon=1)
    start = {"A1": 1.0, "x1": 1.4, "y1": 0.7, "A2": 1.0, "x2": -1.8, "y2": -1.5}
    found = fit(PLATE.model(parameters=start), data, 60)
    for name, value in BUMPS.items():
        assert float(found[name]) == pytest.approx(value, rel=0.02), name


def test_a_conductivity_field_is_found() -> None:
    case = Case(kind="heat", resolution=(16,), boundary="periodic", dt=0.005)
    true = case.model(parameters={"kappa": FIELD})
    (x,) = centers(case.grid())
    kappa = 0.4 + 0.2 * torch.sin(2 * math.pi * x)
    true.learnables.set_("kappa", kappa)
    data = windows(true, count=6, frames=5, horizon=1)
    start = ParameterSetting(init=0.5, field=True)
    found = fit(case.model(parameters={"kappa": start}), data, 40)["kappa"]
    assert float((found - kappa).norm() / kappa.norm()) < 0.02


def test_a_conductivity_is_found() -> None:
    case = Case(kind="heat", resolution=(12, 12), dt=0.01)
    data = windows(case.model(parameters={"kappa": 0.2}), frames=4, horizon=1)
    assert float(fit(case.model(parameters={"kappa": 0.7}), data, 15)["kappa"]) == pytest.approx(0.2, rel=1e-3)


@pytest.mark.parametrize(("order", "limit"), [(2, 0.69), (4, 0.52)])
def test_steps_within_the_limit_are_stable_and_beyond_it_are_not(order: int, limit: float) -> None:
    for factor, stable in ((0.98, True), (1.08, False)):
        dt = factor * limit / 16**2
        case = Case(kind="heat", resolution=(16,), boundary="periodic", dt=dt, options={"order": order})
        model = case.model(inner_dt=dt, parameters={"kappa": 1.0})
        state = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(8)[None, None]
        assert (float(run(model, state, 200)[:, -1].abs().max()) < 1) is stable
        assert (model.stability(state) is None) is stable
    assert model.stability(state) == (
        f"heat: steps of dt = {dt:g} are too long: sum kappa dt/dx^2 = {1.08 * limit:.3g} (limit {limit}) with kappa "
        f"up to 1. Set physical.dt to at most {limit / 256:.3g}, or use a coarser grid"
    )


@pytest.mark.parametrize("wall", ["symmetric", "zero-gradient"])
@pytest.mark.parametrize(
    ("kind", "parameter", "options"),
    [
        ("heat", "kappa", {"form": "conservative", "order": 2}),
        ("heat", "kappa", {"form": "conservative", "order": 4}),
        ("heat", "kappa", {"form": "non-conservative", "order": 4}),
        ("fisher-kpp", "D", {}),
    ],
)
def test_between_mirroring_walls_it_is_the_periodic_solution_of_the_doubled_domain(
    kind: str, parameter: str, options: dict[str, Any], wall: str
) -> None:
    # so the order of the periodic grid holds up to the walls, also for a parameter without a slope there
    n = 16
    half = Case(kind=kind, resolution=(n,), dt=1e-3, options=options, boundary=wall, parameters={parameter: FIELD})
    whole = attrs.evolve(half, resolution=(2 * n,), upper=(2.0,), boundary="periodic")
    x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    coefficient, state = 0.6 + 0.3 * torch.cos(math.pi * x), 0.5 + 0.2 * torch.cos(math.pi * x) + 0.1 * x
    results = []
    for case, mirror in ((half, False), (whole, True)):
        model = case.model(inner_dt=1e-3)
        model.learnables.set_(parameter, torch.cat([coefficient, coefficient.flip(0)]) if mirror else coefficient)
        start = torch.cat([state, state.flip(0)]) if mirror else state
        with torch.no_grad():
            results.append(rollout(model, start[None, None], 5)[..., :n])
    torch.testing.assert_close(*results, rtol=1e-13, atol=1e-13)
