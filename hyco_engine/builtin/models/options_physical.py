"""Options of the physical models; light, since the registry reads them before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import attrs

from hyco_engine.data.fields import TIME
from hyco_engine.equations.syntax import names, parse
from hyco_engine.errors import Problem, SpecError
from hyco_engine.spec.options import option, options

_LENGTH_SCALE = "length over which the initial states vary, as a fraction of the domain"


@options
class BurgersOptions:
    """`[physical] kind = "burgers"`."""

    scheme: Literal["finite-difference", "semi-lagrangian"] = option(
        "finite-difference",
        help="finite-difference: fourth order and not diffusive; semi-lagrangian: stable at any velocity, but "
        "diffusive",
    )
    amplitude: float = option(1.0, help="root mean square of the initial states of simulated data", ge=0.0)
    length_scale: float = option(0.25, help=_LENGTH_SCALE, gt=0.0)


@options
class GrayScottOptions:
    """`[physical] kind = "gray-scott"`."""

    scheme: Literal["euler", "rk4"] = option(
        "euler", help="time stepping; euler: as in most published data of this equation; rk4: of fourth order"
    )
    spots: int = option(3, help="number of spots of v in the initial states of simulated data", ge=1, le=1000)
    spot_radius: float = option(0.12, help="mean radius of the spots, as a fraction of the domain", gt=0.0, le=0.5)


@options
class HeatOptions:
    """`[physical] kind = "heat"`."""

    form: Literal["conservative", "non-conservative"] = option(
        "conservative", help="conservative: div(kappa grad u); non-conservative: kappa lap(u)"
    )
    conductivity: Literal["free", "bumps"] = option(
        "free", help="free: kappa is a number or a field; bumps: kappa is a sum of Gaussians with few parameters"
    )
    bumps: int = option(2, help="number of Gaussians", ge=1, le=100)
    base: float = option(0.1, help="kappa far from all Gaussians", unit="length^2/time", ge=0.0)
    cap: float = option(
        2.5, help="largest kappa of a sum of Gaussians; inf: no limit", unit="length^2/time", gt=0.0, inf=True
    )
    bump_width: float = option(1.0, help="distance at which a Gaussian has fallen to 1/e", unit="length", gt=0.0)
    order: Literal[2, 4] = option(
        4,
        help="order of the differences in space; choose 2 for data that three-point differences made on the same grid",
    )
    amplitude: float = option(1.0, help="root mean square of the initial states of simulated data", ge=0.0)
    length_scale: float = option(0.25, help=_LENGTH_SCALE, gt=0.0)


@options
class AdvectionOptions:
    """`[physical] kind = "advection"`."""

    velocity: Literal["uniform", "ring-vortex"] = option(
        "uniform",
        help="static field v of simulated data; uniform: the same everywhere; ring-vortex: (2-D) around the domain's "
        "centre",
    )
    speed: float = option(
        1.0, help="speed of v along every axis, or the largest speed of the vortex", unit="length/time"
    )
    ring_radius: float = option(0.25, help="radius at which the vortex is fastest, as a fraction of the domain", gt=0.0)
    amplitude: float = option(1.0, help="root mean square of the initial states of simulated data", ge=0.0)
    length_scale: float = option(0.25, help=_LENGTH_SCALE, gt=0.0)


@options
class NavierStokesOptions:
    """`[physical] kind = "navier-stokes"`."""

    forcing: Literal["none", "kolmogorov"] = option(
        "none", help="kolmogorov: a force F sin(2 pi waves y / L) acts along x, and its amplitude F is a parameter"
    )
    waves: int = option(4, help="number of waves of the force in the domain", ge=1)
    drag: bool = option(False, help="true: a linear drag -drag u acts, and its rate is a parameter")
    amplitude: float = option(
        1.0, help="root mean square speed of the initial states of simulated data", unit="length/time", ge=0.0
    )
    length_scale: float = option(
        0.25,
        help="length over which the stream function of the initial states varies, as a fraction of the domain",
        gt=0.0,
    )


@options
class FisherKppOptions:
    """`[physical] kind = "fisher-kpp"`."""

    amplitude: float = option(
        0.5, help="largest value of the initial states of simulated data, between 0 and 1", gt=0.0, le=1.0
    )
    length_scale: float = option(0.15, help=_LENGTH_SCALE, gt=0.0)


@options
class InviscidBurgersOptions:
    """`[physical] kind = "inviscid-burgers"`."""

    limiter: Literal["van-albada", "minmod"] = option(
        "van-albada",
        help="limiter of the slopes in cells; van-albada: smooth, and of second order at extrema too; minmod: never "
        "overshoots",
    )
    offset: float = option(0.0, help="mean of the initial states of simulated data")
    amplitude: float = option(
        1.0, help="root mean square of the deviation of the initial states from their mean", ge=0.0
    )
    length_scale: float = option(0.25, help=_LENGTH_SCALE, gt=0.0)


@options
class KuramotoSivashinskyOptions:
    """`[physical] kind = "kuramoto-sivashinsky"`."""

    amplitude: float = option(1.0, help="root mean square of the initial states of simulated data", ge=0.0)
    length_scale: float = option(0.25, help=_LENGTH_SCALE, gt=0.0)


@options
class SmokeOptions:
    """`[physical] kind = "smoke"`."""

    walls: Literal["no-slip", "free-slip"] = option(
        "no-slip", help="no-slip: viscosity holds the flow at the walls; free-slip: the flow passes along them freely"
    )
    plumes: int = option(3, help="number of clouds in the initial states of simulated data", ge=1, le=1000)
    plume_radius: float = option(0.12, help="mean radius of the clouds, as a fraction of the box", gt=0.0)


@options
class Series:
    """A measured series: a function of time that is linear between its values."""

    file: Path = option(help="a .csv, .npz, .mat or .h5 file with times and values")
    time: str = option("", help="name of the times, in the time of the data; empty: t or time")
    value: str = option("", help="name of the values; empty: that of the constant, or of all that is beside the times")


@options
class EquationOptions:
    """`[physical] kind = "equation"`."""

    rates: Mapping[str, str] = option(
        attrs.Factory(dict),
        help='rate of change of each field, as text such as rates.u = "nu*lap(u) - u*dx(u)"; docs/equations.md has the '
        "words",
    )
    steady: Mapping[str, str] = option(
        attrs.Factory(dict),
        help='instead of rates: what is 0 for each field of a state that does not change, such as steady.u = "lap(u) + '
        'f"',
    )
    initial: Mapping[str, str] = option(
        attrs.Factory(dict),
        help='start state of a field, or of a component ("u.x"), at the first time of the data, as text such as '
        'initial.u = "A*exp(-x**2)" with positions, parameters and constants; left out: the state that was observed',
    )
    units: Mapping[str, str] = option(
        attrs.Factory(dict),
        help='unit of a field, a parameter, a position, t, or "constants.NAME", such as units.nu = "m**2/s"; what is '
        "added and equated must have the same unit, and other units follow from it; a field has that of the data",
    )
    constants: Mapping[str, float | Series] = option(
        attrs.Factory(dict),
        help="known numbers, by their names in rates after constants, such as constants.g; a table such as {file = "
        '"inflow.csv"} is a measured series, whose value is that at the time of a state',
    )
    scheme: Literal["auto", "spectral", "finite-difference", "shock"] = option(
        "auto",
        help="differences in space; spectral: Fourier transforms, for periodic sides, with linear terms exact in time; "
        "finite-difference: of fourth order, for all sides; shock: fluxes and advection from the upwind side, of fifth "
        "order and without new extrema at shocks; auto: spectral where all sides are periodic",
    )
    vectors: tuple[str, ...] = option(
        (), help="fields with one component for each axis, for simulated data; other data say it themselves"
    )
    inputs: tuple[str, ...] = option(
        (), help="static fields of simulated data, drawn as initial states are; other data say it themselves"
    )
    offset: float = option(0.0, help="mean of the initial states of simulated data")
    amplitude: float = option(
        1.0, help="root mean square of the deviation of the initial states from their mean", ge=0.0
    )
    length_scale: float = option(0.25, help=_LENGTH_SCALE, gt=0.0)

    @property
    def texts(self) -> Mapping[str, str]:
        """The equation of each field."""
        return self.steady or self.rates

    @property
    def key(self) -> str:
        """The key that holds them."""
        return "steady" if self.steady else "rates"

    def __attrs_post_init__(self) -> None:
        if not self.texts:
            raise SpecError('names no field; write for example rates.u = "nu*lap(u)"', key="rates")
        if self.rates and self.steady:
            raise SpecError("a physics has rates of change or steady states: leave rates or steady out", key="steady")
        if self.steady and self.scheme in ("spectral", "shock"):
            raise SpecError("steady states are solved by central differences: leave scheme out", key="scheme")
        if dotted := [name for name in self.texts if "." in name]:
            whole = dotted[0].partition(".")[0]
            raise SpecError(f"a vector has one text: write {self.key}.{whole}", key=f"{self.key}.{dotted[0]}")
        known = (*self.texts, *self.inputs)
        if twice := [name for index, name in enumerate(known) if name in known[:index]]:
            raise SpecError(f"{twice[0]!r} is another field already", key="inputs")
        if unknown := [name for name in self.vectors if name not in known]:
            raise SpecError(f"{unknown[0]!r} is no field with a rate; there are {', '.join(known)}", key="vectors")
        if self.steady and self.initial:
            raise SpecError("steady states have no start: leave initial out", key="initial")
        if unknown := [name for name in self.initial if name.partition(".")[0] not in self.texts]:
            raise SpecError(f"{unknown[0]!r} is no field with a rate; there are {', '.join(self.texts)}", key="initial")
        if twice := [name for name in self.initial if "." in name and name.partition(".")[0] in self.initial]:
            raise SpecError("the whole field has a start already: leave one of them out", key=f"initial.{twice[0]}")
        mistakes: list[Problem] = []
        written = {f"{self.key}.{name}": text for name, text in self.texts.items()}
        for key, text in {**written, **{f"initial.{name}": text for name, text in self.initial.items()}}.items():
            if not all(part.isidentifier() for part in key.split(".")):
                mistakes.append(Problem(message="is no name that an equation could contain", key=key))
                continue
            try:
                parse(text, key)
            except SpecError as error:
                mistakes += error.problems
        if mistakes:
            raise SpecError(mistakes)

    def uses_time(self) -> bool:
        """Return whether a rate names the time or a measured series, or start states need to know that they are."""
        if self.initial:
            return True
        return any(map(self.is_timed, self.texts.values()))

    def gives_start(self) -> tuple[str, ...]:
        """Return the fields and components whose start state is given."""
        return tuple(self.initial)

    def is_timed(self, text: str) -> bool:
        """Return whether a text names the time or a measured series."""
        series = {f"constants.{name}" for name, value in self.constants.items() if type(value) is Series}
        return any(one.name in series | {TIME} for one in names(parse(text, self.key)))
