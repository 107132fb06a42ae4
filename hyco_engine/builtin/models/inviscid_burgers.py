"""The inviscid Burgers equation in a potential.

Equation        u_t + (u^2 / 2)_x = -V_x,  in 1-D
As text         `rates.u = "-dx(u**2/2 + potential)"`, with scheme = "shock"
Field           `u`, a scalar, centred; unit length/time
Parameter       `potential`, V(x): always a field; unit length^2/time^2
Boundary        any; periodic where the data names none
Solutions       waves steepen into shocks, which move at the mean of the speeds beside them; V speeds u up downhill, and
                holds standing shocks in its valleys. Shocks destroy information: a state behind a shock does not
                determine the state that entered it

Scheme          Space: finite volumes, limited linear reconstruction in cells, Godunov's flux, so that shocks are two to
                three cells wide, move at the right speed, and expansions are no shocks; V_x by central differences. The
                mean of u is conserved without a boundary. Time: strong-stability-preserving Runge-Kutta of second
                order. Order 2 where u is smooth, 1 at shocks.
                limiter = "van-albada" (default): order 2 at extrema too, smooth, hence with gradients that are smooth;
                overshoots at shocks by a few percent. limiter = "minmod": no overshoots, order 1 at extrema.
                Stable for |u| dt/dx < 1; internal steps are chosen for |u| dt/dx < 2/3.
                Numerical diffusion: about |u| dx at shocks, of third order in dx elsewhere.
Identifiable    V up to a constant, which has no effect and keeps its start value: compare V less its mean. Cells that
                shocks occupy all the time carry little information. In periodic domains with an even number of cells,
                a zigzag from cell to cell has no effect either.

References      B. van Leer, J. Comput. Phys. 32 (1979); G. D. van Albada et al., Astron. Astrophys. 108 (1982); C.-W.
                Shu, S. Osher, J. Comput. Phys. 77 (1988)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import attrs
import torch
from phi.field import Field
from phiml.math import abs as magnitude
from phiml.math import maximum, minimum, pad, sign
from phiml.math.extrapolation import ANTIREFLECT, PERIODIC
from torch import Tensor

from hyco_engine.builtin.models.options_physical import InviscidBurgersOptions
from hyco_engine.data.fields import Boundary, FieldInfo, StateLayout
from hyco_engine.errors import SpecError
from hyco_engine.interfaces import PhysicsContext
from hyco_engine.physics.boundaries import side_of
from hyco_engine.physics.explicit import ExplicitPhysics, Limit, State, courant, heun
from hyco_engine.physics.initial import noise_field
from hyco_engine.physics.model import FlowModel, FlowPhysics
from hyco_engine.physics.parameters import ParameterDeclaration
from hyco_engine.physics.second_order import neighbours
from hyco_engine.physics.settings import ParameterSetting

MAX_COURANT = 1.0


class InviscidBurgers(ExplicitPhysics, FlowPhysics):
    """See the module's card."""

    kind = "inviscid-burgers"
    parameters = (
        ParameterDeclaration(
            name="potential",
            init=0.0,
            unit="length^2/time^2",
            may_be_field=True,
            gauge="constant",
            help="potential whose slope accelerates u; known up to a constant",
        ),
    )

    def __init__(self, options: InviscidBurgersOptions) -> None:
        self.options = options

    def fields(self, axes: tuple[str, ...]) -> tuple[list[FieldInfo], list[FieldInfo]]:
        if len(axes) != 1:
            raise SpecError(
                f'inviscid-burgers is one-dimensional, and the data has {len(axes)} axes: use kind = "burgers"',
                key="physical.kind",
            )
        return [FieldInfo(name="u", boundary=Boundary.parse("periodic", axes), unit="length/time")], []

    def step(self, fields: Mapping[str, Field], parameters: Mapping[str, Any], dt: float) -> dict[str, Field]:
        u, potential = fields["u"], parameters["potential"]
        (axis,) = u.resolution.names
        dx = float(u.dx.vector[axis])
        # a mirrored potential would have no slope at a wall, so it is extrapolated linearly there
        beyond = PERIODIC if side_of(potential.boundary, f"{axis}-") == PERIODIC else ANTIREFLECT
        below, above = neighbours(potential.values, beyond, axis)
        force = (below - above) * (0.5 / dx)

        def rate(state: State) -> State:
            flux = godunov(*self._faces(state["u"], u, axis, dx))
            cells = flux.shape.get_size(axis) - 1
            return {"u": force - (flux[{axis: slice(1, cells + 1)}] - flux[{axis: slice(0, cells)}]) * (1 / dx)}

        return {"u": u.with_values(heun(rate, {"u": u.values}, dt)["u"])}

    def limits(self, layout: StateLayout, size: Mapping[str, float], parameters: Mapping[str, Tensor]) -> list[Limit]:
        speed = size.get("u", abs(self.options.offset) + 4 * self.options.amplitude)
        return [courant(layout, speed, "|u|", MAX_COURANT)]

    def initial_states(self, layout: StateLayout, count: int, generator: torch.Generator) -> Tensor:
        grid, (u,) = layout.grid, layout.dynamic
        scale = self.options.length_scale * grid.shortest
        amplitude = self.options.amplitude
        drawn = noise_field(u, grid, layout.spatial, count, generator, scale=scale, amplitude=amplitude)
        return drawn + self.options.offset

    def _faces(self, values: Any, u: Field, axis: str, dx: float) -> tuple[Any, Any]:
        """Return u just left and just right of all faces, the outer ones included."""
        padded = pad(values, {axis: (2, 2)}, u.boundary)
        size = padded.shape.get_size(axis)
        steps = padded[{axis: slice(1, size)}] - padded[{axis: slice(0, size - 1)}]
        back, ahead = steps[{axis: slice(0, size - 2)}], steps[{axis: slice(1, size - 1)}]
        slope = minmod(back, ahead) if self.options.limiter == "minmod" else van_albada(back, ahead, dx**3)
        half = 0.5 * slope
        inner = padded[{axis: slice(1, size - 1)}]
        lower, upper = slice(0, size - 3), slice(1, size - 2)
        return (inner + half)[{axis: lower}], (inner - half)[{axis: upper}]


def minmod(a: Any, b: Any) -> Any:
    """Return the smaller of two slopes; 0 where they differ in sign."""
    return (sign(a) + sign(b)) * 0.5 * minimum(magnitude(a), magnitude(b))


def van_albada(a: Any, b: Any, small: float) -> Any:
    """Return a smooth mean of two slopes that leans to the smaller one.

    `small` keeps it a plain mean where both slopes are small.
    """
    a2, b2 = a * a + small, b * b + small
    return (a * b2 + b * a2) / (a2 + b2)


def godunov(left: Any, right: Any) -> Any:
    """Return the exact flux u^2 / 2 between two states."""
    outward, inward = maximum(left, 0.0), minimum(right, 0.0)
    return maximum(outward * outward, inward * inward) * 0.5


def build(options: InviscidBurgersOptions, context: PhysicsContext) -> FlowModel:
    """Build the model; the registry calls this factory."""
    # a number has no slope, so the potential is a field even where the user does not ask for one
    setting = context.parameters.get("potential") or ParameterSetting()
    parameters = {**context.parameters, "potential": attrs.evolve(cast("Any", setting), field=True)}
    return FlowModel(InviscidBurgers(options), attrs.evolve(context, parameters=parameters))
