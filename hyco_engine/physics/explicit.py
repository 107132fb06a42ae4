"""Explicit time stepping: classical Runge-Kutta, with step sizes from the stability limits of a scheme."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import attrs
from phi.field import Field
from torch import Tensor

from hyco_engine.data.fields import StateLayout
from hyco_engine.physics.model import Physics

MAX_COURANT = 2.06
"""The limit of sum |u| dt/dx: classical Runge-Kutta's 2.83 over the 1.372 of the fourth-order first derivative."""
MAX_DIFFUSIVE = 0.52
"""The limit of sum D dt/dx^2: classical Runge-Kutta's 2.785 over the 16/3 of the fourth-order second derivative."""
LEARNING_ROOM = 1.5
"""The multiple up to which the limiting rates may grow before the internal steps have to become shorter."""

State = dict[str, Any]
"""The values of the dynamic fields by name, as phi tensors."""


@attrs.frozen(kw_only=True)
class Limit:
    """A dimensionless number that a scheme bounds: `rate * dt < limit`."""

    number: str
    """The formula of the number, such as `sum D dt/dx^2`."""
    values: str
    """The values that it was computed from, such as `D up to 0.2`."""
    rate: float
    limit: float


def courant(layout: StateLayout, speed: float, name: str, limit: float = MAX_COURANT) -> Limit:
    """Return the limit for the Courant number of a speed, summed over the axes."""
    rate = sum(speed / dx for dx in layout.grid.spacing)
    return Limit(number=f"sum {name} dt/dx", values=f"{name} up to {speed:.3g}", rate=rate, limit=limit)


def advective(layout: StateLayout, speed: float, parameters: Mapping[str, Tensor]) -> Limit:
    """Return the limit for a field u that carries itself, times the optional parameter `advection`."""
    return courant(layout, *carrying(speed, parameters))


def carrying(speed: float, parameters: Mapping[str, Tensor]) -> tuple[float, str]:
    """Return the speed at which a field u carries itself, times the optional parameter `advection`, and its formula."""
    factor = parameters.get("advection")
    return (speed, "|u|") if factor is None else (abs(float(factor)) * speed, "|advection u|")


def diffusive(layout: StateLayout, diffusivity: float, name: str, limit: float = MAX_DIFFUSIVE) -> Limit:
    """Return the limit for the diffusion number of a diffusivity, summed over the axes."""
    rate = sum(max(diffusivity, 0.0) / dx**2 for dx in layout.grid.spacing)
    return Limit(number=f"sum {name} dt/dx^2", values=f"{name} up to {diffusivity:.3g}", rate=rate, limit=limit)


class ExplicitPhysics(Physics):
    """A physics that is stable while its numbers, each divided by its limit, have a sum of squares below 1.

    It is a second base class beside `FlowPhysics` or `TorchPhysics`, which say how the step is written.
    """

    kind: ClassVar[str]
    max_step: float = math.inf
    """The longest internal step for accuracy."""

    @abstractmethod
    def limits(
        self, layout: StateLayout, size: Mapping[str, float], parameters: Mapping[str, Tensor]
    ) -> Sequence[Limit]:
        """Return the limits of the time step for fields of these largest magnitudes; `size` lacks unknown fields."""

    def internal_steps(
        self, layout: StateLayout, size: Mapping[str, float], parameters: Mapping[str, Tensor], dt: float
    ) -> int:
        load = LEARNING_ROOM * _load(self.limits(layout, size, parameters))
        # the tolerance prevents one step too many when dt is a multiple of max_step up to rounding
        return max(1, math.ceil(dt * max(load, 1 / self.max_step) - 1e-9))

    def least_steps(
        self, layout: StateLayout, size: Mapping[str, float], parameters: Mapping[str, Tensor], dt: float
    ) -> float:
        return dt * _load(self.limits(layout, size, parameters))

    def stability(
        self, layout: StateLayout, state: Mapping[str, Tensor], parameters: Mapping[str, Tensor], dt: float
    ) -> str | None:
        size = {name: float(values.abs().max()) for name, values in state.items()}
        limits = self.limits(layout, size, parameters)
        load = _load(limits)
        if dt * load <= 1:
            return None
        numbers = "; ".join(
            f"{part.number} = {part.rate * dt:.3g} (limit {part.limit:g}) with {part.values}" for part in limits
        )
        return (
            f"{self.kind}: steps of dt = {dt:g} are too long: {numbers}. Set physical.dt to at most {1 / load:.3g}, or "
            "use a coarser grid"
        )


def _load(limits: Sequence[Limit]) -> float:
    return math.hypot(*(part.rate / part.limit for part in limits))


def euler(rate: Callable[[State], State], state: State, dt: float) -> State:
    """Return the state after one forward Euler step."""
    return _moved(state, dt, rate(state))


def rk4(rate: Callable[[State], State], state: State, dt: float) -> State:
    """Return the state after one step of the classical Runge-Kutta method."""
    k1 = rate(state)
    k2 = rate(_moved(state, dt / 2, k1))
    k3 = rate(_moved(state, dt / 2, k2))
    k4 = rate(_moved(state, dt, k3))
    return {name: v + dt / 6 * (k1[name] + 2 * (k2[name] + k3[name]) + k4[name]) for name, v in state.items()}


def heun(rate: Callable[[State], State], state: State, dt: float) -> State:
    """Return the state after one step of the second-order strong-stability-preserving Runge-Kutta method."""
    k1 = rate(state)
    k2 = rate(_moved(state, dt, k1))
    return {name: v + dt / 2 * (k1[name] + k2[name]) for name, v in state.items()}


def ssprk3(rate: Callable[[State], State], state: State, dt: float) -> State:
    """Return the state after one step of the third-order strong-stability-preserving Runge-Kutta method."""
    first = _moved(state, dt, rate(state))
    second = _between(0.25, state, _moved(first, dt, rate(first)))
    return _between(2 / 3, state, _moved(second, dt, rate(second)))


def _between(share: float, one: State, other: State) -> State:
    return {name: (1 - share) * value + share * other[name] for name, value in one.items()}


def _moved(state: State, dt: float, rates: State) -> State:
    return {name: v + dt * rates[name] for name, v in state.items()}


def values_of(parameter: Any) -> Any:
    """Return a parameter, a number or a Field, as a factor for values on the grid."""
    return parameter.values if isinstance(parameter, Field) else parameter


def spacing(field: Field) -> dict[str, float]:
    """Return the cell size along each axis."""
    return {axis: float(field.dx.vector[axis]) for axis in field.resolution.names}
