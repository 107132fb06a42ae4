"""`scheme = "shock"`: its order, what it keeps, how fast shocks move, its steps, and a parameter that moves a shock."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from test_equations import model, rolled
from torch import Tensor

import hyco_engine as hyco
from hyco_engine.equations.terms import FUNCTIONS, Apply, Symbol, slope
from hyco_engine.errors import SpecError
from hyco_engine.rollout import rollout

pytestmark = pytest.mark.usefixtures("measured")

SPEED = {"c": 1.0}


def shock(rate: str | dict[str, str], resolution: tuple[int, ...] = (100,), **more: Any) -> Any:
    return model(rate, resolution, scheme="shock", **{"parameters": SPEED, "boundary": "periodic", "dt": 0.1, **more})


def places(own: Any) -> Tensor:
    return torch.tensor(own.layout.grid.centers("x"), dtype=torch.float64)


def detached(own: Any) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in own.learnables.values().items()}


def wave(x: Tensor) -> Tensor:
    return 1 + 0.3 * torch.sin(2 * math.pi * x)


def burgers(x: Tensor) -> Tensor:
    """Return the wave after 0.2 by its characteristics."""
    u = wave(x)
    for _ in range(100):
        u = wave(x - 0.2 * u)
    return u


@pytest.mark.parametrize(
    ("rate", "solution"),
    [
        ("-c*dx(u)", lambda x: wave(x - 0.2)),
        ("-(c + 0*x)*dx(u)", lambda x: wave(x - 0.2)),
        ("(c + 0*x)*dx(u)", lambda x: wave(x + 0.2)),
        ("-c*dx(u**2/2)", burgers),
        ("-c*u*dx(u)", burgers),
    ],
)
def test_smooth_states_have_an_error_of_fifth_order(rate: str, solution: Any) -> None:
    errors = []
    for n in (20, 40, 80):
        own = shock(rate, (n,), inner_dt=0.1 / (n * n // 80))
        found = rolled(own, wave(places(own))[None, None], 2)[0, 0]
        errors.append(float((found - solution(places(own))).abs().mean()))
    first, second = [math.log2(a / b) for a, b in pairwise(errors)]
    assert first > 4
    assert second > 4.3
    assert errors[-1] < 2e-6


@pytest.mark.parametrize("rate", ["-c*dx(u)", "c*dx(u)", "-(c + 0*x)*dx(u)"])
def test_a_square_wave_gets_no_new_extrema(rate: str) -> None:
    own = shock(rate)
    x = places(own)
    start = ((x > 0.3) & (x < 0.6)).double()[None, None]
    found = rolled(own, start, 20)
    assert float(found.min()) > -1e-4
    assert float(found.max()) < 1 + 1e-4
    assert float((found - start).abs().mean()) < 0.04
    central = model(rate, (100,), scheme="finite-difference", parameters=SPEED, boundary="periodic", dt=0.1)
    assert float(rolled(central, start, 20).max()) > 1.1


@pytest.mark.parametrize("rate", ["-c*dx(u*u/2)", "-c*u*dx(u)", "-c*dx(u)*u"])
def test_shocks_move_at_their_speed_and_sums_are_kept(rate: str) -> None:
    own = shock(rate, boundary="zero-gradient", inner_dt=0.004)
    x = places(own)
    found = rolled(own, torch.where(x < 0.3, 2.0, 0.5).double()[None, None], 4)[0, 0]
    # the mean of the speeds beside it
    assert float((found - 0.5).sum() / 1.5 / 100) == pytest.approx(0.3 + 0.4 * 1.25, abs=1e-9)
    width = int(((found > 0.55) & (found < 1.95)).sum())
    assert width <= 3
    assert found.max() < 2 + 1e-4
    closed = shock(rate, inner_dt=0.005)
    start = wave(x)[None, None]
    assert float(rolled(closed, start, 10).sum()) == pytest.approx(float(start.sum()), abs=1e-10)


def test_a_dam_breaks_as_it_must() -> None:
    rates = {"h": "-dx(q)", "q": "-dx(q**2/h + c*h**2/2)"}
    own = shock(rates, (200,), boundary="zero-gradient", dt=0.02, inner_dt=0.001)
    x = places(own)
    height = torch.where(x < 0.5, 2.0, 1.0).double()
    found = rolled(own, torch.stack([height, 0 * height])[None], 5)[0]
    # between the rarefaction and the shock, both relations hold: J. J. Stoker (1957)
    low, high = 1.0, 2.0
    for _ in range(60):
        middle = (low + high) / 2
        behind = 2 * (math.sqrt(2.0) - math.sqrt(middle))
        ahead = (middle - 1) * math.sqrt((middle + 1) / (2 * middle))
        low, high = (middle, high) if behind > ahead else (low, middle)
    place = (x > 0.5) & (x < 0.58)
    assert found[0][place].numpy() == pytest.approx(middle, rel=2e-3)
    assert (found[1] / found[0])[place].numpy() == pytest.approx(behind, rel=5e-3)


def test_steps_follow_the_fastest_wave() -> None:
    rates = {"h": "-dx(q)", "q": "-c*dx(h)"}
    own = shock(rates, parameters={"c": 4.0}, dt=0.01)
    size = {"h": 1.0, "q": 1.0}
    # waves of speed 2 in cells of 1/100: a Courant number of 2, and half as many again to learn
    assert own.physics.least_steps(own.layout, size, detached(own), 0.01) == pytest.approx(2.0)
    assert own.substeps == 3
    both = shock("-c*dx(u) - 2*dy(u)", (50, 25), dt=0.01)
    assert both.physics.least_steps(both.layout, {"u": 1.0}, detached(both), 0.01) == pytest.approx(1.0)
    slow = shock("-c*dx(u) + 0.02*lap(u)", dt=0.01)
    assert slow.physics.least_steps(slow.layout, {"u": 1.0}, detached(slow), 0.01) > 1.5
    assert "WENO reconstructions" in slow.statements[0]


def test_the_plane_is_moved_along_both_axes() -> None:
    own = shock({"s": "-div(s*v)", "v": "0*v"}, (24, 24), vectors=["v"], parameters={}, inner_dt=0.1 / 10)
    x = places(own)
    state = torch.zeros(1, 3, 24, 24, dtype=torch.float64)
    state[:, 0], state[:, 1], state[:, 2] = wave(x)[:, None] * wave(x)[None, :], 1.0, -0.5
    found = rolled(own, state, 4)[0, 0]
    wanted = wave(x - 0.4)[:, None] * wave(x + 0.2)[None, :]
    assert float((found - wanted).abs().max()) < 3e-4
    carried = shock({"s": "-advect(v, s)", "v": "0*v"}, (24, 24), vectors=["v"], parameters={}, inner_dt=0.1 / 10)
    assert float((rolled(carried, state, 4)[0, 0] - wanted).abs().max()) < 3e-4


@pytest.mark.parametrize("compile", ["eager", "graph"])
def test_derivatives_at_a_shock_are_those_of_differences(compile: str) -> None:
    rates = {"u": "-c*dx(u*u/2) + 0.01*lap(u)", "w": "-u*dx(w) - c*dx(w*u)"}
    own = shock(rates, (32,), dt=0.02, inner_dt=0.005, compile=compile)
    x = places(own)
    state = torch.stack([1 + 0.5 * torch.sin(6 * x) + (x > 0.5), torch.cos(6 * x)])[None].repeat(2, 1, 1)

    def loss() -> Tensor:
        return rollout(own, state, 3).square().sum()

    loss().backward()
    (raw,) = own.learnables.raw.values()
    with torch.no_grad():
        raw += 1e-6
        above = float(loss())
        raw -= 2e-6
        below = float(loss())
    assert float(raw.grad) == pytest.approx((above - below) / 2e-6, rel=1e-5)


def test_a_sample_does_not_depend_on_others_and_no_unit_matters() -> None:
    own = shock("-c*dx(u*u/2)", inner_dt=0.004, dt=0.04)
    x = places(own)
    states = torch.stack([torch.where(x < 0.3, 2.0, 0.5), wave(x)])[:, None].double()
    whole = own(states)
    assert torch.allclose(own(states[1:]), whole[1:], rtol=1e-13)
    other = shock("-c*dx(u*u/2)", inner_dt=0.004, dt=0.04, parameters={"c": 1e-4})
    assert torch.allclose(other(states * 1e4), whole * 1e4, rtol=1e-9)


def test_slopes_of_functions_are_those_of_autograd() -> None:
    from hyco_engine.equations.evaluation import OF_TENSORS, Differences

    u = Symbol("field", "u")
    own = shock("-c*dx(u)", (5,))
    value = torch.tensor([[-0.7, -0.2, 0.3, 0.5, 0.8]], dtype=torch.float64)
    for name, count in FUNCTIONS.items():
        given = (value.abs() if name in ("log", "sqrt") else value).requires_grad_()
        node = Apply(name, (u,) if count == 1 else (u, Symbol("field", "w")))
        fields = {u: given, Symbol("field", "w"): torch.full_like(given, 0.1)}
        evaluation = Differences(own.layout.grid, fields, {}, {}, {}, value)
        found = evaluation.spread_out(evaluation.of(slope(node, u)))
        result = OF_TENSORS[name](*fields.values()) if count == 2 else OF_TENSORS[name](given)
        (wanted,) = torch.autograd.grad(result.sum(), given)
        assert torch.allclose(found, wanted), name


def test_it_is_for_rates_in_space() -> None:
    with pytest.raises(SpecError, match="steady states are solved by central differences: leave scheme out"):
        hyco.Engine(
            {
                "data": {"kind": "simulate", "resolution": {"x": 8}, "dt": 0.1},
                "physical": {"kind": "equation", "steady": {"u": "lap(u)"}, "scheme": "shock"},
            }
        )


def fronts(c: float) -> Any:
    """Return averages over 64 cells of a shock between 2 and 0.5, which moves at 1.25 c, every 0.02."""
    edges = np.linspace(0, 1, 65)
    front = 0.1 + 1.25 * c * 0.02 * np.arange(17)
    return 0.5 + 1.5 * np.clip((front[:, None] - edges[:-1]) / np.diff(edges), 0, 1)


def test_the_loss_is_least_at_the_parameter_of_a_shock() -> None:
    data = torch.from_numpy(fronts(1.3))
    own = shock("-c*dx(u**2/2)", (64,), boundary="zero-gradient", dt=0.02, inner_dt=0.005)

    def loss(c: float) -> float:
        own.learnables.set_("c", c)
        with torch.no_grad():
            return float((rollout(own, data[:1, None], 16)[0, :, 0] - data[1:]).square().mean())

    assert minimize_scalar(loss, bracket=(0.9, 1.2), tol=1e-4).x == pytest.approx(1.3, rel=5e-3)


@pytest.mark.slow
def test_the_parameter_of_a_shock_is_found(tmp_path: Path) -> None:
    c = 1.3
    np.savez(tmp_path / "shock.npz", u=fronts(c)[None])
    spec = {
        "run": {"cycles": 1},
        "data": {
            "kind": "arrays",
            "path": str(tmp_path / "shock.npz"),
            "axes": "stx",
            "dt": 0.02,
            "bounds": {"x": [0.0, 1.0]},
            "boundary": "zero-gradient",
            "num_predict_steps": 4,
            "split": {"by": "time", "train": "0:12", "val": "12:17"},
        },
        "physical": {
            "kind": "equation",
            "scheme": "shock",
            "rates": {"u": "-c*dx(u**2/2)"},
            "parameters": {"c": {"init": 0.7, "bounds": [0.0, 10.0]}},
        },
        "training": {"physical": {"epochs_per_cycle": 8}},
    }
    result = hyco.Engine(spec).run(tmp_path / "run")
    assert result.summary["parameters"]["c"]["final"] == pytest.approx(c, rel=0.01)
