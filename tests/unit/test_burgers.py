"""Burgers: order of accuracy, gradients, capture, stability, and the schemes' own definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from hyco_engine.builtin.models.burgers import MAX_DIFFUSIVE, build
from hyco_engine.builtin.models.options_physical import BurgersOptions
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.statistics import Statistics
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import BuildContext
from hyco_engine.physics.model import FlowModel
from hyco_engine.spec.choices import ParameterSetting, Profile

AXES = ("x", "y", "z")
SCHEMES = ("finite-difference", "semi-lagrangian")


def context(cells: int, dims: int = 1, *, length: float = 1.0, dt: float = 1e-3, **changes: Any) -> BuildContext:
    grid = Grid(axes=AXES[:dims], resolution=(cells,) * dims, lower=(0.0,) * dims, upper=(length,) * dims)
    values: dict[str, Any] = {"seed": 0, "registry": Registry(), "grid": grid, "dt": dt, "dtype": torch.float64}
    return BuildContext(**{**values, **changes})


def burgers(cells: int, dims: int = 1, *, scheme: Any = "finite-difference", nu: Any = 0.01, **changes: Any) -> FlowModel:
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


@pytest.mark.parametrize(("boundary", "time"), [("periodic", 0.4), (0.0, 0.1)])
def test_order_of_the_finite_differences(boundary: Any, time: float) -> None:
    """Order 4 as the card declares, also at walls; dt falls with dx^2."""
    nu, errors = 0.05, []
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
        model = burgers(cells, nu=nu, dt=time / steps, inner_dt=time / steps, **changes)
        x = torch.tensor(model.layout.grid.centers("x"), dtype=torch.float64)
        start = travelling_waves(x, 0.0, nu)[None, None]
        difference = run(model, start, steps)[0, 0] - travelling_waves(x, time, nu)
        errors.append(float(difference.abs().max()))
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert all(abs(order - 4) < 0.2 for order in orders), (errors, orders)
