"""Options of the physical models; light, since the registry reads them before anything runs."""

from __future__ import annotations

from typing import Literal

from hyco_engine.spec.options import option, options


@options
class BurgersOptions:
    """`[physical] kind = "burgers"`."""

    scheme: Literal["finite-difference", "semi-lagrangian"] = option(
        "finite-difference",
        help="finite-difference: fourth order, not diffusive; semi-lagrangian: stable at any velocity, diffusive",
    )
    amplitude: float = option(1.0, help="root mean square of the initial states that simulate starts from", ge=0.0)
    length_scale: float = option(
        0.25, help="length over which these initial states vary, as a fraction of the domain", gt=0.0
    )


@options
class GrayScottOptions:
    """`[physical] kind = "gray-scott"`."""

    scheme: Literal["euler", "rk4"] = option(
        "euler", help="time stepping: euler, as most published data of this equation, or the fourth-order rk4"
    )
    spots: int = option(3, help="spots of v in the initial states that simulate starts from", ge=1, le=1000)
    spot_radius: float = option(0.12, help="their mean radius, as a fraction of the domain", gt=0.0, le=0.5)


@options
class HeatOptions:
    """`[physical] kind = "heat"`."""

    form: Literal["conservative", "non-conservative"] = option(
        "conservative", help="conservative: div(kappa grad u); non-conservative: kappa lap(u)"
    )
    conductivity: Literal["free", "bumps"] = option(
        "free", help="free: the parameter kappa, a number or a field; bumps: a sum of Gaussians with few parameters"
    )
    bumps: int = option(2, help="number of Gaussians", ge=1, le=100)
    base: float = option(0.1, help="kappa far from all bumps", unit="length^2/time", ge=0.0)
    cap: float = option(2.5, help="largest kappa with bumps; inf: none", unit="length^2/time", gt=0.0, inf=True)
    bump_width: float = option(1.0, help="distance at which a bump has fallen to 1/e", unit="length", gt=0.0)
    order: Literal[2, 4] = option(
        4, help="order of the differences in space; 2 for data made with three-point differences on the same grid"
    )
    amplitude: float = option(1.0, help="root mean square of the initial states that simulate starts from", ge=0.0)
    length_scale: float = option(
        0.25, help="length over which these initial states vary, as a fraction of the domain", gt=0.0
    )


@options
class AdvectionOptions:
    """`[physical] kind = "advection"`."""

    velocity: Literal["uniform", "ring-vortex"] = option(
        "uniform", help="the static field v of simulated data: the same everywhere, or (2-D) around the domain's centre"
    )
    speed: float = option(1.0, help="of v: along every axis, or the largest of the vortex", unit="length/time")
    ring_radius: float = option(0.25, help="where the vortex is fastest, as a fraction of the domain", gt=0.0)
    amplitude: float = option(1.0, help="root mean square of the initial states that simulate starts from", ge=0.0)
    length_scale: float = option(
        0.25, help="length over which these initial states vary, as a fraction of the domain", gt=0.0
    )


@options
class NavierStokesOptions:
    """`[physical] kind = "navier-stokes"`."""

    forcing: Literal["none", "kolmogorov"] = option(
        "none", help="kolmogorov: a force F sin(2 pi waves y / L) along x, whose amplitude F is a parameter"
    )
    waves: int = option(4, help="waves of the force in the domain", ge=1)
    drag: bool = option(False, help="true: a linear drag -drag u, whose rate is a parameter")
    amplitude: float = option(
        1.0, help="root mean square speed of the initial states that simulate starts from", unit="length/time", ge=0.0
    )
    length_scale: float = option(
        0.25, help="length over which their stream function varies, as a fraction of the domain", gt=0.0
    )


@options
class FisherKppOptions:
    """`[physical] kind = "fisher-kpp"`."""

    amplitude: float = option(
        0.5, help="largest value of the initial states that simulate starts from, between 0 and 1", gt=0.0, le=1.0
    )
    length_scale: float = option(
        0.15, help="length over which these initial states vary, as a fraction of the domain", gt=0.0
    )


@options
class InviscidBurgersOptions:
    """`[physical] kind = "inviscid-burgers"`."""

    limiter: Literal["van-albada", "minmod"] = option(
        "van-albada",
        help="slopes in cells: van-albada, smooth and second order at extrema too; minmod, never overshoots",
    )
    offset: float = option(0.0, help="mean of the initial states that simulate starts from")
    amplitude: float = option(1.0, help="root mean square of their deviation from it", ge=0.0)
    length_scale: float = option(
        0.25, help="length over which these initial states vary, as a fraction of the domain", gt=0.0
    )


@options
class KuramotoSivashinskyOptions:
    """`[physical] kind = "kuramoto-sivashinsky"`."""

    amplitude: float = option(1.0, help="root mean square of the initial states that simulate starts from", ge=0.0)
    length_scale: float = option(
        0.25, help="length over which these initial states vary, as a fraction of the domain", gt=0.0
    )


@options
class SmokeOptions:
    """`[physical] kind = "smoke"`."""

    walls: Literal["no-slip", "free-slip"] = option(
        "no-slip", help="what viscosity does at the walls: hold the flow, or let it pass along them"
    )
    plumes: int = option(3, help="clouds in the initial states that simulate starts from", ge=1, le=1000)
    plume_radius: float = option(0.12, help="their mean radius, as a fraction of the box", gt=0.0)
