"""The Kuramoto-Sivashinsky equation.

Equation        u_t + c u u_x + alpha u_xx + nu u_xxxx = 0,  in 1-D
As text         `rates.u = "-advection*u*dx(u) - alpha*lap(u) - nu*dx(u, 4)"`
Field           `u`, a scalar, centred; unit length/time
Parameters      `alpha`, the anti-diffusion, a number; unit length^2/time
                `nu`, the hyperviscosity, a number > 0; unit length^4/time
                `advection`, the factor c, a number; optional, c = 1 without it
Boundary        periodic
Solutions       waves longer than 2 pi sqrt(nu / alpha) grow, shorter ones decay, u u_x moves energy from the former to
                the latter: cells about 2 pi sqrt(2 nu / alpha) wide that merge and split for ever. Chaotic in domains
                of more than a few cells: errors grow e-fold in about 12 nu / alpha^2 and more, so horizons must be
                shorter
Good values     alpha = nu = 1, a domain of 22 to 200, cells of 0.5 to 1, frames 0.25 to 1 apart; skip_frames past t =
                50 where the data are to be on the attractor

Scheme          Space: Fourier pseudo-spectral, order spectral (errors fall faster than any power of dx while the state
                is resolved), u u_x from the lower two thirds of the waves. Time: exponential Runge-Kutta (ETDRK4), the
                linear terms exact, order 4; down to 3 while waves at the cut decay within a step.
                Stable for |c u| k dt < 2.83, where k = 2 pi / (3 dx) is the shortest wave that takes part. Where
                hyperviscosity damps waves beyond some q faster than u carries them (nu q^3 - alpha q = 1.5 |c u|),
                they are stable for any dt: |c u| q dt < 1 suffices, too, with an error of less than 1 % of what u moves
                in a step. Internal steps are chosen for the longer of the two.
                Numerical diffusion: none.
                Written in torch, whose real transforms do half the work of PhiFlow's complex ones.
Identifiable    alpha and nu together from states with a range of waves; one wave alone determines only
                alpha q^2 - nu q^4. The factor c only where waves have grown until they exchange energy.

References      Y. Kuramoto, Prog. Theor. Phys. Suppl. 64 (1978); G. I. Sivashinsky, Acta Astronaut. 4 (1977); scheme:
                S. M. Cox, P. C. Matthews, J. Comput. Phys. 176 (2002), eqs. 26-29
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from hyco_engine.builtin.models.options_physical import KuramotoSivashinskyOptions
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.errors import SpecError
from hyco_engine.interfaces import PhysicsContext
from hyco_engine.physics.explicit import ExplicitPhysics, Limit, carrying
from hyco_engine.physics.exponential import etdrk4
from hyco_engine.physics.initial import noise_field
from hyco_engine.physics.model import TorchModel, TorchPhysics, grid_of
from hyco_engine.physics.parameters import ParameterDeclaration
from hyco_engine.physics.spectral import Spectrum, require_periodic

MAX_COURANT = 2.83
"""Runge-Kutta's limit of |u| k dt for a wave of number k."""
DAMPED = 1.5
"""ETDRK4 is stable for steps of any length where a wave is damped so many times as fast as it is carried: by its
amplification of y' = (-1.5 + i) b y for b dt from 0.1 to 1000, which is above 1 for -1.2."""


class KuramotoSivashinsky(ExplicitPhysics, TorchPhysics):
    """See the module's card."""

    kind = "kuramoto-sivashinsky"
    parameters = (
        ParameterDeclaration(name="alpha", init=1.0, unit="length^2/time", help="anti-diffusion"),
        ParameterDeclaration(name="nu", init=1.0, unit="length^4/time", bounds=(0.0, math.inf), help="hyperviscosity"),
        ParameterDeclaration(name="advection", init=1.0, help="factor of u u_x", optional=True),
    )

    def __init__(self, options: KuramotoSivashinskyOptions, grid: Grid) -> None:
        if len(grid.axes) != 1:
            raise SpecError(
                f"kuramoto-sivashinsky is one-dimensional, and the data has {len(grid.axes)} axes", key="physical.kind"
            )
        self.options = options
        self.grid = grid

    def fields(self, axes: tuple[str, ...]) -> tuple[list[FieldInfo], list[FieldInfo]]:
        return [FieldInfo(name="u", boundary=Boundary.parse("periodic", axes), unit="length/time")], []

    def step(self, fields: Mapping[str, Tensor], parameters: Mapping[str, Tensor], dt: float) -> dict[str, Tensor]:
        spectrum = Spectrum(self.grid, fields["u"])
        square = spectrum.square
        linear = parameters["alpha"] * square - parameters["nu"] * square**2
        kept = spectrum.resolved
        # u u_x = (u^2)_x / 2
        factor = -0.5 * parameters["advection"] if "advection" in parameters else -0.5

        def slope(u: Tensor, _: float) -> Tensor:
            return factor * spectrum.derivative(spectrum.forward(spectrum.inverse(u * kept).square()) * kept, 0)

        return {"u": spectrum.inverse(etdrk4(linear, slope, spectrum.forward(fields["u"]), dt))}

    def limits(self, layout: StateLayout, size: Mapping[str, float], parameters: Mapping[str, Tensor]) -> list[Limit]:
        speed, name = carrying(size.get("u", 4 * self.options.amplitude), parameters)
        (dx,) = layout.grid.spacing
        damped = _damped_from(speed, float(parameters["alpha"]), float(parameters["nu"]))
        # a wave that is not damped moves by less than one over its number in a step
        k = min(2 * math.pi / (3 * dx), MAX_COURANT * damped)
        values = f"{name} up to {speed:.3g} and waves up to k = {k:.3g}"
        return [Limit(number=f"{name} k dt", values=values, rate=speed * k, limit=MAX_COURANT)]

    def initial_states(self, layout: StateLayout, count: int, generator: torch.Generator) -> Tensor:
        grid, (u,) = layout.grid, layout.dynamic
        scale = self.options.length_scale * grid.shortest
        amplitude = self.options.amplitude
        return noise_field(u, grid, layout.spatial, count, generator, scale=scale, amplitude=amplitude)


def _damped_from(speed: float, alpha: float, nu: float) -> float:
    """Return the wave number from which on waves are damped `DAMPED` times as fast as `speed` carries them."""
    if not nu > 0:
        return math.inf
    roots = np.roots([nu, 0.0, -alpha, -DAMPED * speed])
    return float(roots[np.isreal(roots)].real.max())


def build(options: KuramotoSivashinskyOptions, context: PhysicsContext) -> TorchModel:
    """Build the model; the registry calls this factory."""
    model = TorchModel(KuramotoSivashinsky(options, grid_of(context)), context)
    require_periodic(model.layout, "kuramoto-sivashinsky")
    return model
