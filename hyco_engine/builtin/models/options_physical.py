"""Options of the physical models; light, since the registry reads them before anything runs."""

from __future__ import annotations

from typing import Literal

from hyco_engine.spec.options import option, options


@options
class BurgersOptions:
    """`[physical] kind = "burgers"`."""

    scheme: Literal["finite-difference", "semi-lagrangian"] = option(
        "finite-difference",
        help="finite-difference: fourth order, no diffusion of its own; semi-lagrangian: stable at any velocity, diffusive",
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
