"""Burgers: order of accuracy, gradients, capture, stability, and the schemes' own definitions."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from messages import error_naming

from hyco_engine.builtin.models.burgers import build
from hyco_engine.builtin.models.options_physical import BurgersOptions
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.statistics import Statistics
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import BuildContext
from hyco_engine.physics.explicit import MAX_DIFFUSIVE
from hyco_engine.physics.model import FlowModel
from hyco_engine.physics.settings import ParameterSetting, Profile

AXES = ("x", "y", "z")
SCHEMES = ("finite-difference", "semi-lagrangian")


def context(cells: int, dims: int = 1, *, length: float = 1.0, dt: float = 1e-3, **changes: Any) -> BuildContext:
    grid = Grid(axes=AXES[:dims], resolution=(cells,) * dims, lower=(0.0,) * dims, upper=(length,) * dims)
    values: dict[str, Any] = {"seed": 0, "registry": Registry(), "grid": grid, "dt": dt, "dtype": torch.float64}
    return BuildContext(**{**values, **changes})


def burgers(
    cells: int, dims: int = 1, *, scheme: Any = "finite-difference", nu: Any = 0.01, **changes: Any
) -> FlowModel:
    setting = nu if isinstance(nu, ParameterSetting) else ParameterSetting(init=nu)
    changes.setdefault("parameters", {"nu": setting})
    return build(BurgersOptions(scheme=scheme), context(cells, dims, **changes))


def field_nu(scale: float = 0.01) -> ParameterSetting:
    return ParameterSetting(init=Profile(offset=0.2 * scale, scale=scale), field=True)


def run(model: FlowModel, state: torch.Tensor, steps: int) -> torch.Tensor:
    with torch.no_grad():
        for _ in range(steps):
            state = model(state)
    return state


# --- accuracy -----------------------------------------------------------------------------------------------------


def travelling_waves(x: torch.Tensor, t: float, nu: float) -> torch.Tensor:
    """Cole-Hopf: u = -2 nu phi_x / phi for a positive solution phi of the heat equation with period 1."""
    k = 2 * math.pi
    decay = math.exp(-nu * k**2 * t)
    phi = 2 + decay * torch.cos(k * x)
    return 2 * nu * k * decay * torch.sin(k * x) / phi


@pytest.mark.parametrize(("boundary", "time", "factor"), [("periodic", 0.4, None), (0.0, 0.1, None), (0.0, 0.1, 1.7)])
def test_order_of_the_finite_differences(boundary: Any, time: float, factor: float | None) -> None:
    """Order 4 as the card declares, also at walls; dt falls with dx^2. With a factor c, c u solves the equation."""
    nu, errors = 0.05, []
    parameters = {"nu": ParameterSetting(init=nu)}
    if factor is not None:
        parameters["advection"] = ParameterSetting(init=factor)
    size = factor or 1.0
    for cells in (24, 48, 96):
        if boundary == "periodic":
            changes: dict[str, Any] = {}
        else:
            # walls of PhiFlow's constant boundary lie in the centres of the first cells outside
            dx = 0.5 / (cells + 1)
            changes = {
                "grid": Grid(axes=("x",), resolution=(cells,), lower=(dx / 2,), upper=(0.5 - dx / 2,)),
                "boundary": boundary,
            }
        steps = 4 * cells**2 // 64
        model = burgers(cells, parameters=parameters, dt=time / steps, inner_dt=time / steps, **changes)
        x = torch.tensor(model.layout.grid.centers("x"), dtype=torch.float64)
        start = travelling_waves(x, 0.0, nu)[None, None] / size
        difference = run(model, start, steps)[0, 0] - travelling_waves(x, time, nu) / size
        errors.append(float(difference.abs().max()))
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(abs(order - 4) < 0.2 for order in orders), (errors, orders)


def test_a_shock_one_cell_wide_tells_its_viscosity() -> None:
    """The steady shock -tanh(x / 2 nu): the nu for which the differences balance, at a cell Reynolds number of 2."""
    nu, cells = 0.01, 101
    dx = 2 * nu
    grid = Grid(axes=("x",), resolution=(cells,), lower=(-cells * dx / 2,), upper=(cells * dx / 2,))
    sides = {"x": {"lower": 1.0, "upper": -1.0}}
    model = burgers(cells, grid=grid, boundary=sides, dt=1e-6, inner_dt=1e-6, compile="eager")
    x = torch.tensor(grid.centers("x"), dtype=torch.float64)
    found = []
    for shift in torch.linspace(-0.5, 0.5, 11).tolist():
        state = -torch.tanh((x - shift * dx) / (2 * nu))[None, None]
        change = {}
        for value in (0.01, 0.02):
            model.learnables.set_("nu", value)
            change[value] = (model(state) - state).detach()
        slope = (change[0.02] - change[0.01]) / 0.01
        rest = change[0.01] - 0.01 * slope
        found.append(-float((rest * slope).sum() / (slope * slope).sum()) / nu - 1)
    # plain conservative differences of the same order are off by -12 %, plain u u_x by +18 %
    assert max(map(abs, found)) < 0.06, found
    assert abs(sum(found) / len(found)) < 0.03, found


def test_mean_and_energy_are_conserved_without_viscosity() -> None:
    model = burgers(64, nu=1e-12, dt=1e-3)
    state = model.initial_states(2, torch.Generator().manual_seed(0))
    late = run(model, state, 50)
    assert torch.allclose(late.mean(-1), state.mean(-1), atol=1e-14)
    assert torch.allclose(late.square().sum(-1), state.square().sum(-1), rtol=1e-6)


def test_semi_lagrangian_is_what_the_card_says() -> None:
    """Backward lookup, linear interpolation, then one explicit step of D u_xx + D_x u_x."""
    n, length, dt = 128, 100.0, 0.1
    model = burgers(n, length=length, dt=dt, scheme="semi-lagrangian", nu=field_nu(1.0))
    assert model.substeps == 1
    u = model.initial_states(3, torch.Generator().manual_seed(0))
    dx, d = length / n, model.learnables.values()["nu"]
    place = torch.arange(n) - u[:, 0] * dt / dx
    cell = place.floor().long()
    weight = place - cell
    a = u[:, 0].gather(1, cell % n) * (1 - weight) + u[:, 0].gather(1, (cell + 1) % n) * weight
    up, down = a.roll(-1, -1), a.roll(1, -1)
    d_x = (d.roll(-1) - d.roll(1)) / (2 * dx)
    expected = a + dt * (d * (up + down - 2 * a) / dx**2 + d_x * (up - down) / (2 * dx))
    assert torch.allclose(model(u)[:, 0], expected, rtol=0, atol=1e-12)


def test_one_dimension_within_two() -> None:
    """A flow along x that does not vary in y equals the one-dimensional flow."""
    one, two = burgers(16, compile="eager"), burgers(16, 2, compile="eager")
    u = one.initial_states(1, torch.Generator().manual_seed(0))
    state = torch.stack([u[:, 0, :, None].expand(1, 16, 16), torch.zeros(1, 16, 16, dtype=u.dtype)], dim=1)
    assert torch.allclose(two(state)[:, 0, :, 3], one(u)[:, 0], atol=1e-13)
    turned = torch.stack([state[:, 1].mT, state[:, 0].mT], dim=1)
    assert torch.allclose(two(turned)[:, 1, 3], one(u)[:, 0], atol=1e-13)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dims", [1, 2])
def test_a_factor_of_the_advection_scales_the_field(scheme: str, dims: int) -> None:
    plain = burgers(12, dims, scheme=scheme, compile="eager")
    known = {"nu": ParameterSetting(init=0.01), "advection": ParameterSetting(init=1.6)}
    scaled = burgers(12, dims, scheme=scheme, compile="eager", parameters=known)
    assert scaled.learnables.learned == ("nu",)
    u = plain.initial_states(2, torch.Generator().manual_seed(0))
    torch.testing.assert_close(1.6 * scaled(u / 1.6), plain(u), rtol=1e-12, atol=1e-13)
    assert (
        burgers(64, nu=1e-6, dt=0.1).substeps * 8
        <= burgers(
            64, dt=0.1, parameters={"nu": ParameterSetting(init=1e-6), "advection": ParameterSetting(init=-10.0)}
        ).substeps
    )


def test_without_the_factor_nothing_is_computed_for_it() -> None:
    """The step of a spec that does not name it has no further operation, and its weights no further tensor."""
    graphs = {}
    for names in (("nu",), ("nu", "advection")):
        model = burgers(16, parameters={name: ParameterSetting(learn=True) for name in names})
        found = model.graph_for(model.initial_states(2, torch.Generator().manual_seed(0)))
        assert found is not None
        graphs[names] = len(found[0].graph.nodes)
        assert list(model.state_dict()) == [f"learnables.raw.{name}" for name in names]
    assert graphs["nu", "advection"] > graphs["nu",]


def test_a_constant_field_is_a_number() -> None:
    number, field = burgers(16, nu=0.01), burgers(16, nu=ParameterSetting(init=0.01, field=True))
    u = number.initial_states(2, torch.Generator().manual_seed(0))
    assert torch.allclose(number(u), field(u), rtol=1e-12, atol=1e-13)


def test_three_dimensions() -> None:
    model = burgers(6, 3, compile="eager")
    state = model.initial_states(1, torch.Generator().manual_seed(0))
    assert state.shape == (1, 3, 6, 6, 6)
    assert model(state).isfinite().all()


# --- gradients and capture ----------------------------------------------------------------------------------------


CASES = [
    pytest.param(dims, scheme, nu, boundary, id=f"{dims}d-{scheme}-{'field' if nu.field else 'number'}-{boundary}")
    for dims in (1, 2)
    for scheme in SCHEMES
    for nu, boundary in ((ParameterSetting(init=0.01), None), (field_nu(), 0.0))
]


@pytest.mark.parametrize(("dims", "scheme", "nu", "boundary"), CASES)
def test_gradients_match_finite_differences(dims: int, scheme: str, nu: ParameterSetting, boundary: Any) -> None:
    model = burgers(8, dims, scheme=scheme, nu=nu, boundary=boundary, dt=0.01)
    state = 0.3 * model.initial_states(3, torch.Generator().manual_seed(0))
    raw = model.learnables.raw["nu"]
    direction = torch.randn(raw.shape, generator=torch.Generator().manual_seed(1), dtype=raw.dtype)
    weight = torch.randn(state.shape, generator=torch.Generator().manual_seed(2), dtype=raw.dtype)

    def loss() -> torch.Tensor:
        return (model(model(state)) * weight).sum()

    loss().backward()
    assert raw.grad is not None
    slope = float((raw.grad * direction).sum())
    with torch.no_grad():
        raw.add_(1e-5 * direction)
        upper = float(loss())
        raw.sub_(2e-5 * direction)
        lower = float(loss())
    assert slope == pytest.approx((upper - lower) / 2e-5, rel=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("dims", "scheme", "nu", "boundary"), CASES)
def test_captured_is_eager(
    dims: int, scheme: str, nu: ParameterSetting, boundary: Any, dtype: torch.dtype, tolerance: float
) -> None:
    results = []
    for kind in ("eager", "graph"):
        model = burgers(8, dims, scheme=scheme, nu=nu, boundary=boundary, dt=0.01, compile=kind, dtype=dtype)
        state = model.initial_states(3, torch.Generator().manual_seed(0)).requires_grad_()
        output = model(state)
        output.square().sum().backward()
        assert model.execution[0] == kind
        assert output.dtype == dtype
        results.append((output.detach(), state.grad, model.learnables.raw["nu"].grad))
    for one, two in zip(*results, strict=True):
        assert (one - two).abs().max() <= tolerance * one.abs().max()


# --- stability, declarations, initial states ----------------------------------------------------------------------


def test_internal_steps_follow_from_the_start_value() -> None:
    dt, cells = 0.01, 128
    model = burgers(cells, nu=0.05, dt=dt)
    number = 0.05 * model.inner_dt * cells**2
    assert number * 1.5 <= MAX_DIFFUSIVE
    assert model.substeps * model.inner_dt == pytest.approx(dt)
    assert burgers(cells, nu=0.05, dt=dt, inner_dt=dt / 2).substeps == 2


def test_internal_steps_know_the_speed_in_the_data() -> None:
    def steps(std: float) -> int:
        one = torch.ones(1, dtype=torch.float64)
        return burgers(
            64, nu=1e-6, dt=0.01, statistics=Statistics(mean=0 * one, std=std * one, change_std=one)
        ).substeps

    assert steps(0.1) == 1
    assert steps(10.0) > 10 * steps(0.1)


def test_stability_quotes_numbers_and_remedies() -> None:
    model = burgers(64, nu=0.05, dt=0.01, inner_dt=0.01)
    state = torch.full((1, 1, 64), 2.0, dtype=torch.float64)
    message = model.stability(state)
    assert message == (
        "burgers: steps of dt = 0.01 are too long: sum |u| dt/dx = 1.28 (limit 2.06) with |u| up to 2; sum nu dt/dx^2 "
        "= 2.05 (limit 0.52) with nu up to 0.05. Set physical.dt to at most 0.00251, or use a coarser grid"
    )
    assert burgers(64, nu=0.05, dt=0.01).stability(state) is None
    other = burgers(64, nu=0.05, dt=0.01, inner_dt=0.01, scheme="semi-lagrangian").stability(state)
    assert other is not None
    assert "(limit 0.5) with nu up to 0.05" in other


def test_negative_viscosity_is_told() -> None:
    model = burgers(16, nu=ParameterSetting(init=Profile(offset=-1e-3, scale=0.01), field=True))
    message = model.stability(model.initial_states(1, torch.Generator().manual_seed(0)))
    assert message is not None
    assert "nu is negative in places (down to -0.0009" in message


def test_limits_are_sharp() -> None:
    """Just below the quoted limit the shortest wave decays, well above it grows."""
    zigzag = torch.tensor([1e-6, -1e-6] * 16, dtype=torch.float64)[None, None]
    for factor, grows in ((0.99, False), (1.05, True)):
        dt = 0.01
        nu = factor * MAX_DIFFUSIVE / (dt * 32**2)
        late = run(burgers(32, nu=nu, dt=dt, inner_dt=dt), zigzag, 20)
        assert bool(late.abs().max() > zigzag.abs().max()) is grows


@pytest.mark.parametrize("boundary", ["periodic", 0.0, 0.5, "zero-gradient", "symmetric", "antisymmetric"])
@pytest.mark.parametrize("dims", [1, 2])
def test_runs_with_every_boundary(boundary: Any, dims: int) -> None:
    model = burgers(12, dims, boundary=boundary, dt=1e-3, compile="eager")
    state = model.initial_states(2, torch.Generator().manual_seed(0))
    assert run(model, state, 5).isfinite().all()
    assert not torch.equal(state[0], state[1])


def test_data_without_the_field_is_refused() -> None:
    grid = Grid(axes=("x",), resolution=(8,), lower=(0.0,), upper=(1.0,))
    layout = StateLayout(grid=grid, dynamic=(FieldInfo(name="h", boundary=Boundary.parse("periodic", ("x",))),))
    with error_naming(Exception, "'u'", "h"):
        burgers(8, grid=None, layout=layout)
