"""Navier-Stokes in a periodic box: exact flows, orders, invariants, and parameters that are found."""

from __future__ import annotations

import math

import pytest
import torch
from gallery_cases import Case, centers, fit, run, states, time_order, windows
from messages import error_naming
from torch import Tensor

from hyco_engine.data.fields import Grid
from hyco_engine.errors import DataError, SpecError
from hyco_engine.physics.exponential import phi_functions
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.physics.spectral import Spectrum

TAU = 2 * math.pi
BOX = Case(kind="navier-stokes", resolution=(16, 16), upper=(TAU, TAU), dt=0.1, parameters={"nu": 0.05})


def taylor_green(grid: Grid, time: float, nu: float, wind: float = 0.0) -> Tensor:
    """Return decaying vortices that a uniform wind carries along x, `[1, 2, *S]`."""
    x, y = centers(grid)
    decay = math.exp(-2 * nu * time)
    x = x - wind * time
    return torch.stack([wind + torch.sin(x) * torch.cos(y) * decay, -torch.cos(x) * torch.sin(y) * decay])[None]


def energy(u: Tensor) -> Tensor:
    return u.square().sum(1).mean((-1, -2)) / 2


def divergence(grid: Grid, u: Tensor) -> Tensor:
    s = Spectrum(grid, u)
    parts = s.forward(u)
    return s.inverse(s.derivative(parts[:, 0], 0) + s.derivative(parts[:, 1], 1))


def test_taylor_green_vortices_decay_exactly() -> None:
    model = BOX.model()
    start, wanted = (taylor_green(BOX.grid(), time, 0.05) for time in (0.0, 1.0))
    torch.testing.assert_close(run(model, start, 10)[:, -1], wanted, rtol=0, atol=1e-13)


def test_space_is_resolved_to_rounding_and_time_to_fourth_order() -> None:
    """The wind makes the vortices move, so that the error comes from the time steps alone, on any grid."""
    errors: dict[int, list[float]] = {}
    for n in (12, 24):
        case = Case(kind="navier-stokes", resolution=(n, n), upper=(TAU, TAU), dt=0.2, parameters={"nu": 0.05})
        start, wanted = (taylor_green(case.grid(), time, 0.05, wind=1.0) for time in (0.0, 0.2))
        errors[n] = [
            float((case.model(inner_dt=inner)(start).detach() - wanted).abs().max()) for inner in (0.1, 0.05, 0.025)
        ]
    assert errors[12] == pytest.approx(errors[24], rel=0.1)
    assert math.log2(errors[12][1] / errors[12][2]) == pytest.approx(4, abs=0.2)


def test_order_in_time_of_a_turbulent_state() -> None:
    state = states(BOX.model(), 1)
    assert time_order(BOX, state, 0.2, (0.05, 0.025, 0.0125)) == pytest.approx(4, abs=0.2)


def test_spectral_order_in_space() -> None:
    """From the same resolved state, grids of 16, 24 and 48 cells: errors fall faster than any usual order."""

    def after(n: int) -> Tensor:
        case = Case(kind="navier-stokes", resolution=(n, n), upper=(TAU, TAU), dt=0.3, parameters={"nu": 0.05})
        x, y = centers(case.grid())
        start = torch.stack([torch.sin(y) + 0.5 * torch.cos(2 * y), torch.sin(x) - 0.5 * torch.sin(2 * x)])[None]
        u = case.model(inner_dt=0.025)(start).detach()
        # the mean over blocks is compared through the lowest waves, which all grids share
        return torch.fft.fftn(u, dim=(-2, -1), norm="forward")[..., :4, :4] * _phase(n)

    finest = after(48)
    coarse, middle = (float((after(n) - finest).abs().max()) for n in (12, 24))
    assert math.log2(coarse / middle) > 6


def _phase(n: int) -> Tensor:
    """Shifts waves from cell centres to the domain's corner."""
    k = torch.arange(4, dtype=torch.float64)
    return torch.exp(-1j * math.pi / n * (k[:, None] + k))


def test_without_viscosity_energy_is_kept_and_divergence_stays_zero() -> None:
    model = BOX.model(parameters={"nu": 1e-12})
    made = run(model, states(model), 5)
    torch.testing.assert_close(energy(made[:, -1]), energy(made[:, 0]), rtol=1e-4, atol=0)
    assert float(divergence(BOX.grid(), made[:, -1]).abs().max()) < 1e-12
    assert energy(made[:, 0]).tolist() == pytest.approx([0.5, 0.5])


def test_a_divergent_part_is_projected_away() -> None:
    x, _ = centers(BOX.grid())
    state = states(BOX.model(), 1)
    gradient = torch.stack([torch.cos(x), torch.zeros_like(x)])[None]
    model = BOX.model()
    torch.testing.assert_close(model(state + gradient).detach(), model(state).detach(), rtol=0, atol=1e-13)


def test_kolmogorov_flow_comes_to_its_steady_state() -> None:
    """Drag and viscosity balance the force: u = F sin(2y) / (4 nu + drag)."""
    options = {"forcing": "kolmogorov", "waves": 2, "drag": True}
    model = BOX.model(options=options, parameters={"nu": 0.05, "F": 0.3, "drag": 0.4})
    _, y = centers(BOX.grid())
    steady = torch.stack([0.3 / 0.6 * torch.sin(2 * y), torch.zeros_like(y)])[None]
    torch.testing.assert_close(model(steady).detach(), steady, rtol=0, atol=1e-7)


def test_viscosity_and_force_are_found() -> None:
    case = Case(kind="navier-stokes", resolution=(12, 12), dt=0.05, options={"forcing": "kolmogorov", "waves": 1})
    data = windows(case.model(parameters={"nu": 0.004, "F": 0.8}), frames=4, horizon=1)
    found = fit(case.model(parameters={"nu": 0.02, "F": 0.3}), data, 15)
    assert float(found["nu"]) == pytest.approx(0.004, rel=1e-3)
    assert float(found["F"]) == pytest.approx(0.8, rel=1e-3)


def test_what_it_cannot_do_is_refused() -> None:
    with error_naming(SpecError, 1):
        BOX.model(resolution=(8,), upper=(1.0,))
    with error_naming(DataError, "'u'", "x", "'zero-gradient'"):
        BOX.model(boundary="zero-gradient")


def test_steps_within_the_limit_are_stable_and_beyond_it_are_told() -> None:
    """A uniform wind that carries noise is the case in which the limit is sharp."""
    for factor, stable in ((0.95, True), (1.2, False)):
        dt = factor * 1.35 * TAU / 16 / 3.0
        model = BOX.model(dt=dt, inner_dt=dt, parameters={"nu": 1e-9})
        state = 1e-3 * states(model, 1)
        state[:, 0] += 3.0
        state[:, 1] += 1e-3 * torch.randn(16, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        grown = float((run(model, state, 400)[:, -1, 1]).abs().max()) / float(state[:, 1].abs().max())
        assert (grown < 3) is stable
    text = BOX.model(dt=2.0, inner_dt=2.0).stability(state)
    assert text is not None
    assert text.startswith("navier-stokes: steps of dt = 2 are too long: sum |u| dt/dx = ")
    assert "(limit 1.35) with |u| up to 3" in text


# --- Kuramoto-Sivashinsky -------------------------------------------------------------------------------------------

CHAOS = Case(kind="kuramoto-sivashinsky", resolution=(64,), upper=(22.0,), dt=0.25)


@pytest.mark.parametrize("waves", [1, 3, 5])
def test_small_waves_grow_and_decay_as_they_should(waves: int) -> None:
    q = TAU * waves / 22
    (x,) = centers(CHAOS.grid())
    wave = 1e-7 * torch.sin(q * x)[None, None]
    model = CHAOS.model(parameters={"alpha": 1.2, "nu": 0.8})
    wanted = wave * math.exp((1.2 * q**2 - 0.8 * q**4) * 2.5)
    torch.testing.assert_close(run(model, wave, 10)[:, -1], wanted, rtol=0, atol=1e-6 * float(wanted.max()))


def test_sivashinsky_order_in_time() -> None:
    """The shortest resolved wave takes several steps to decay on this grid; otherwise the order is nearer to 3."""
    case = Case(kind="kuramoto-sivashinsky", resolution=(24,), upper=(22.0,), dt=0.25)
    model = case.model()
    state = run(model, states(model, 1), 80)[:, -1]
    assert time_order(case, state, 0.4, (0.05, 0.025, 0.0125)) == pytest.approx(4, abs=0.2)


def test_sivashinsky_spectral_order_in_space() -> None:
    def after(n: int) -> Tensor:
        case = Case(kind="kuramoto-sivashinsky", resolution=(n,), upper=(22.0,), dt=2.0)
        (x,) = (TAU / 22 * c for c in centers(case.grid()))
        u = case.model(inner_dt=0.02)((torch.cos(x) + 0.5 * torch.sin(2 * x))[None, None]).detach()
        k = torch.arange(4, dtype=torch.float64)
        return torch.fft.fft(u, norm="forward")[..., :4] * torch.exp(-1j * math.pi / n * k)

    finest = after(96)
    coarse, middle = (float((after(n) - finest).abs().max()) for n in (24, 48))
    assert math.log2(coarse / middle) > 6


def test_sivashinsky_moves_with_a_wind_and_keeps_its_mean() -> None:
    """If u(x, t) is a solution, so is u(x - c t, t) + c; here c carries it once around the domain."""
    model = CHAOS.model(dt=2.0, inner_dt=0.01)
    state = states(model, 1)
    still = model(state).detach()
    torch.testing.assert_close(still.mean(), state.mean(), rtol=0, atol=1e-12)
    torch.testing.assert_close(model(state + 11.0).detach() - 11.0, still, rtol=0, atol=1e-4)


def test_sivashinsky_parameters_are_found() -> None:
    data = windows(CHAOS.model(resolution=(32,), parameters={"alpha": 1.0, "nu": 1.0}), count=4, frames=5, horizon=1)
    found = fit(CHAOS.model(resolution=(32,), parameters={"alpha": 0.6, "nu": 0.7}), data, 15)
    assert float(found["alpha"]) == pytest.approx(1.0, rel=1e-3)
    assert float(found["nu"]) == pytest.approx(1.0, rel=1e-3)


def test_a_factor_of_the_advection_scales_the_solution() -> None:
    """If u solves the equation without the factor c, u / c solves it with it."""
    state = states(CHAOS.model(), 2)
    scaled = CHAOS.model(dt=2.0, inner_dt=0.01, parameters={"advection": 1.3})
    assert scaled.learnables.learned == ("alpha", "nu")
    wanted = CHAOS.model(dt=2.0, inner_dt=0.01)(state).detach()
    torch.testing.assert_close(1.3 * scaled(state / 1.3).detach(), wanted, rtol=0, atol=1e-11)


def test_sivashinsky_order_in_time_with_a_factor() -> None:
    case = Case(kind="kuramoto-sivashinsky", resolution=(24,), upper=(22.0,), dt=0.25, parameters={"advection": 1.3})
    model = case.model()
    state = run(model, states(model, 1), 80)[:, -1]
    assert time_order(case, state, 0.4, (0.05, 0.025, 0.0125)) == pytest.approx(4, abs=0.2)


def test_all_three_parameters_of_sivashinsky_are_found() -> None:
    true = CHAOS.model(resolution=(32,), parameters={"advection": 1.3})
    data = windows(true, count=4, frames=5, horizon=1)
    learned = {"alpha": 0.6, "nu": 0.7, "advection": ParameterSetting(learn=True)}
    found = fit(CHAOS.model(resolution=(32,), parameters=learned), data, 25)
    for name, value in (("alpha", 1.0), ("nu", 1.0), ("advection", 1.3)):
        assert float(found[name]) == pytest.approx(value, rel=1e-3), name


@pytest.mark.parametrize(("nu", "factor", "stable"), [(1e-9, 0.95, True), (1e-9, 1.2, False), (1.0, 0.95, True)])
def test_sivashinsky_is_stable_within_its_limit(nu: float, factor: float, stable: bool) -> None:
    """A uniform wind of 3 carries noise; hyperviscosity of 1 damps waves beyond 4.5^(1/3) faster than that."""
    case = Case(kind="kuramoto-sivashinsky", resolution=(256,), upper=(22.0,), dt=1.0)
    k = 2.83 * 4.5 ** (1 / 3) if nu == 1.0 else TAU * 256 / 22 / 3
    dt = factor * 2.83 / (3.0 * k)
    model = case.model(dt=dt, inner_dt=dt, parameters={"alpha": 0.0, "nu": nu})
    noise = 1e-3 * torch.randn(1, 1, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grown = float((run(model, 3.0 + noise, 400)[:, -1] - 3.0).abs().max()) / float(noise.abs().max())
    assert (grown < 3) is stable
    told = model.stability(3.0 + torch.zeros_like(noise))
    assert (told is None) is stable


def test_phi_functions_are_right_on_both_sides_of_the_switch() -> None:
    z = torch.tensor([-50.0, -1.001, -0.999, -1e-3, 0.0, 1e-8, 0.5, 0.999, 1.001, 3.0], dtype=torch.float64)
    for j, value in enumerate(phi_functions(z), start=1):
        # phi_j(z) = integral over [0, 1] of exp((1 - s) z) s^(j-1) / (j-1)!
        s = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
        wanted = (torch.exp((1 - s) * z[:, None]) * s ** (j - 1) / math.factorial(j - 1)).mean(1)
        torch.testing.assert_close(value, wanted, rtol=1e-6, atol=1e-9)
    below, above = (torch.tensor(v, dtype=torch.float64) for v in (1 - 1e-12, 1.0))
    for one, two in zip(phi_functions(below), phi_functions(above), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=0)
    z = torch.linspace(-3, 3, 25, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: torch.stack(phi_functions(z)), (z,))


def test_sivashinsky_refuses_what_it_cannot_do() -> None:
    with error_naming(SpecError, 2):
        CHAOS.model(resolution=(8, 8), upper=(1.0, 1.0))
    with error_naming(DataError, "periodic"):
        CHAOS.model(boundary=0.0)
    model = CHAOS.model(inner_dt=0.25)
    state = states(model, 1)
    state[:] = 5.0
    assert model.stability(state) == (
        "kuramoto-sivashinsky: steps of dt = 0.25 are too long: |u| k dt = 7.53 (limit 2.83) with |u| up to 5 "
        "and waves up to k = 6.02. Set physical.dt to at most 0.094, or use a coarser grid"
    )
