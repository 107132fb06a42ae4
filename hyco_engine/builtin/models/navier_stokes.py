"""The incompressible Navier-Stokes equations in a periodic box.

Equation        u_t + (u . grad) u = -grad p + nu lap(u) - drag u + F sin(2 pi waves (y - y0) / L) e_x,  div u = 0, in
                2-D
As text         `rates.u = "-advect(u, u) + nu*lap(u) - drag*u - grad(p)"`, if p were known: no text says that it
                follows from div u = 0
Field           `u`, the velocity, two components named like the axes; centred; unit length/time. p is not kept
Parameters      `nu`, the kinematic viscosity: a number > 0; unit length^2/time
                `F`, with forcing = "kolmogorov": the amplitude of the force; unit length/time^2
                `drag`, with drag = true: a rate >= 0; unit 1/time
Boundary        periodic
Solutions       vortices that merge into larger ones while filaments of vorticity dissipate; with the force, a shear
                flow that is steady while F L^3 / (nu^2 (2 pi waves)^3) is small, and unsteady beyond about sqrt(2)
Good values     cells of at most 2 sqrt(nu / largest strain)

Scheme          Space: Fourier pseudo-spectral, order spectral (errors fall faster than any power of dx while the flow
                is resolved). u x vorticity from the lower two thirds of the waves; the pressure by projection, which is
                the fast Poisson solve of the box. Time: Runge-Kutta with the viscous term integrated exactly, order 4.
                Stable for sum |u| dt/dx < 1.35 whatever nu is; internal steps are chosen for it.
                Numerical diffusion: none; an under-resolved flow piles up energy in the shortest waves instead.
                A part of the state that diverges is projected away in the first step, and so are the shortest waves,
                whose derivatives are zero at all grid points.
                The step follows one number for each wave: the velocity across it.
                Written in torch, whose real transforms do half the work of PhiFlow's complex ones.
Identifiable    nu from how fast the flow decays; F and drag apart only where the flow is unsteady or not of the force's
                shape.

References      C. Canuto et al., Spectral Methods: Evolution to Complex Geometries (2007), section 3; the force: L. D.
                Meshalkin, Ya. G. Sinai, J. Appl. Math. Mech. 25 (1961)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hyco_engine.builtin.models.options_physical import NavierStokesOptions
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.errors import SpecError
from hyco_engine.interfaces import PhysicsContext
from hyco_engine.physics.explicit import ExplicitPhysics, Limit, courant
from hyco_engine.physics.initial import smooth_noise
from hyco_engine.physics.model import TorchModel, TorchPhysics, grid_of
from hyco_engine.physics.parameters import ParameterDeclaration
from hyco_engine.physics.spectral import Spectrum, require_periodic

MAX_COURANT = 1.35
"""Limit of sum |u| dt/dx: Runge-Kutta's 2.83 over 2 pi / 3, the shortest wave that takes part."""


class NavierStokes(ExplicitPhysics, TorchPhysics):
    """See the module's card."""

    kind = "navier-stokes"

    def __init__(self, options: NavierStokesOptions, grid: Grid) -> None:
        if len(grid.axes) != 2:
            raise SpecError(
                f"navier-stokes is solved in two dimensions, and the data has {len(grid.axes)}", key="physical.kind"
            )
        self.options = options
        self.grid = grid
        self.parameters = [_NU]
        if options.forcing == "kolmogorov":
            self.parameters.append(_FORCE)
        if options.drag:
            self.parameters.append(_DRAG)

    def fields(self, axes: tuple[str, ...]) -> tuple[list[FieldInfo], list[FieldInfo]]:
        boundary = Boundary.parse("periodic", axes)
        return [FieldInfo(name="u", components=axes, boundary=boundary, unit="length/time")], []

    def step(self, fields: Mapping[str, Tensor], parameters: Mapping[str, Tensor], dt: float) -> dict[str, Tensor]:
        u = fields["u"]
        spectrum = Spectrum(self.grid, u)
        drag = parameters.get("drag", torch.zeros((), dtype=u.dtype, device=u.device))
        half = torch.exp(-(parameters["nu"] * spectrum.square + drag) * (dt / 2))
        # the mean flow has no vorticity: only drag changes it
        mean = u.mean((-2, -1), keepdim=True)
        middle, end = mean * torch.exp(-drag * (dt / 2)), mean * torch.exp(-drag * dt)
        across = spectrum.across.to(half.dtype.to_complex())
        force = self._force(parameters, u)
        push = None if force is None else _dot(spectrum.forward(force), across)

        def slope(wave: Tensor, mean: Tensor) -> Tensor:
            return self._slope(spectrum, across, wave, mean, push)

        # classical Runge-Kutta for exp(rate t) w, which changes by the terms that are not viscous alone
        w = _dot(spectrum.forward(u), across)
        k1 = slope(w, mean)
        k2 = slope(half * (w + dt / 2 * k1), middle)
        k3 = slope(half * w + dt / 2 * k2, middle)
        k4 = slope(half * (half * w + dt * k3), end)
        new = half * (half * (w + dt / 6 * k1) + dt / 3 * (k2 + k3)) + dt / 6 * k4
        return {"u": spectrum.inverse(new * across) + end}

    def limits(self, layout: StateLayout, size: Mapping[str, float], parameters: Mapping[str, Tensor]) -> list[Limit]:
        return [courant(layout, size.get("u", 4 * self.options.amplitude), "|u|", MAX_COURANT)]

    def initial_states(self, layout: StateLayout, count: int, generator: torch.Generator) -> Tensor:
        """Draw velocities as the curl of a random smooth stream function."""
        grid = layout.grid
        scale = self.options.length_scale * grid.shortest
        stream = smooth_noise(grid, layout.dynamic[0].boundary, count, generator, scale=scale)
        spectrum = Spectrum(grid, stream)
        wave = spectrum.forward(stream)
        u = torch.stack(
            [spectrum.inverse(spectrum.derivative(wave, 1)), -spectrum.inverse(spectrum.derivative(wave, 0))], dim=1
        )
        speed = u.square().sum(1).mean((-1, -2)).sqrt()
        return u * (self.options.amplitude / speed)[:, None, None, None]

    def _slope(self, spectrum: Spectrum, across: Tensor, wave: Tensor, mean: Tensor, push: Tensor | None) -> Tensor:
        """Return the rate of `wave [B, 1, *waves]`, the velocity across each wave, without viscosity and drag.

        It is that of `u x vorticity` and of the force's spectrum `push`.
        """
        x, y = across * spectrum.resolved
        values = spectrum.inverse(wave * torch.stack([x, y, 1j * spectrum.length * spectrum.resolved]))
        u, vorticity = values[:, :2] + mean, values[:, 2:]
        slope = _dot(spectrum.forward(u * vorticity), torch.stack([-y, x]))
        return slope if push is None else slope + push

    def _force(self, parameters: Mapping[str, Tensor], like: Tensor) -> Tensor | None:
        """Return the force, `[1, 2, *S]`."""
        if self.options.forcing == "none":
            return None
        n = self.grid.resolution[1]
        y = (torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) / n
        along = (torch.sin(2 * math.pi * self.options.waves * y) * parameters["F"]).expand(*self.grid.resolution)
        return torch.stack([along, torch.zeros_like(along)])[None]


def _dot(vectors: Tensor, direction: Tensor) -> Tensor:
    """Return the component `[B, 1, *waves]` of vectors `[B, 2, *waves]` along a direction `[2, *waves]`."""
    product = vectors * direction
    # a sum over so few numbers takes several times as long
    return product[:, :1] + product[:, 1:]


_NU = ParameterDeclaration(
    name="nu", init=0.01, unit="length^2/time", bounds=(0.0, math.inf), help="kinematic viscosity"
)
_FORCE = ParameterDeclaration(name="F", init=1.0, unit="length/time^2", help="amplitude of the force")
_DRAG = ParameterDeclaration(name="drag", init=0.1, unit="1/time", bounds=(0.0, math.inf), help="rate of the drag")


def build(options: NavierStokesOptions, context: PhysicsContext) -> TorchModel:
    """Build the model; the registry calls this factory."""
    model = TorchModel(NavierStokes(options, grid_of(context)), context)
    require_periodic(model.layout, "navier-stokes")
    return model
