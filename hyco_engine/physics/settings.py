"""The tables of a spec that say which physics there is and how its parameters start: `[physical]`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import attrs

from hyco_engine.data.fields import SIMULATION
from hyco_engine.errors import SpecError
from hyco_engine.settings import Choice, option, options


def check_interval(value: tuple[float, float] | None) -> None:
    """Check that the lower bound is below the upper one."""
    if value is not None and not value[0] < value[1]:
        raise ValueError(f"the lower bound must be below the upper one, not {value[0]:g} and {value[1]:g}")


@options
class Profile:
    """A field given by a formula: `offset + scale * prod_axes sin^2(pi * waves * (x - lower) / (upper - lower))`."""

    profile: Literal["sin-squared"] = option("sin-squared", help="the formula")
    offset: float = option(0.0, help="value that is added everywhere")
    scale: float = option(1.0, help="amplitude")
    waves: int = option(1, help="number of humps along each axis", ge=1)


@options
class ArrayFile:
    """A field read from a `.npy` file."""

    file: Path = option(help="a .npy file whose shape is the grid's resolution")


@options
class ParameterSetting:
    """`[physical.parameters.<name>]`: the start and the limits of a parameter of the physics.

    A key that is left out takes its value from the model's declaration. With `from`, the data give the value, of each
    simulation its own, and no other key has a meaning.
    """

    from_: str | None = option(
        None,
        help="name of the number of each simulation (`data.scalars`), or of the static field, that is the value; none: "
        "all simulations have the same value",
    )

    init: float | Profile | ArrayFile | None = option(None, help="start value: a number, a profile or a file")
    bounds: tuple[float, float] | None = option(
        None,
        help="open interval in which a smooth transform keeps the value; inf is allowed",
        inf=True,
        check=check_interval,
    )
    learn: bool | None = option(
        None,
        help="false: the value is known and stays fixed; none: it is learned, unless the parameter is optional",
    )
    field: bool = option(False, help="true: the parameter has a value at each grid point; false: it is one number")
    scope: Literal["shared", "simulation", "group"] = option(
        "shared",
        help="simulations that share the value; shared: all; simulation: each has its own; group: those of one group",
    )
    group: str | None = option(
        None, help='with scope = "group": the label of a simulation that names its group, such as a column of the table'
    )
    prior: Literal["none", "population"] = option(
        "none",
        help="what is assumed of the values of simulations or groups; population: they belong to one, whose mean and "
        "spread the data determine, so that a value with few data leans on the others",
    )
    transform: Literal["auto", "linear", "log"] = option(
        "auto", help="scale on which the optimizer steps; auto takes log if the lower bound is >= 0, else linear"
    )
    smoothness: float = option(
        0.0,
        help="weight of a smoothness prior on a field, or along time: it adds the mean of the squared gradient to the "
        "loss",
        ge=0.0,
    )
    along: Literal["", "t"] = option(
        "", help="t: the parameter is a function of time, linear between `knots`; empty: it does not change in time"
    )
    knots: int = option(
        8, help='with along = "t": number of values, at even times from the first to the last training frame', ge=2
    )

    def __attrs_post_init__(self) -> None:
        if self.from_ is not None:
            defaults = {field.name: field.default for field in attrs.fields(cast("Any", type(self)))}
            for name in defaults.keys() - {"from_"}:
                if getattr(self, name) != defaults[name]:
                    raise SpecError(
                        f'the data give the value, because from = "{self.from_}" is set: leave this key out', key=name
                    )
            return
        if (self.group is None) == (self.scope == "group"):
            raise SpecError('scope = "group" and group belong together: set both or none', key="group")
        if self.scope != "shared" and (self.field or self.learn is False):
            raise SpecError(
                f'scope = "{self.scope}" is for a number that is learned: leave field and learn out', key="scope"
            )
        if self.prior != "none" and self.scope == "shared":
            raise SpecError(
                'only values of simulations or groups have a population: set scope = "simulation"', key="prior"
            )
        if self.smoothness and (not (self.field or self.along) or self.learn is False):
            raise SpecError(
                "only a learned field can be kept smooth: set field = true and learn = true", key="smoothness"
            )
        if self.along and (self.field or self.scope != "shared"):
            raise SpecError(
                "a function of time has one value for all of space and all simulations: leave field and scope out",
                key="along",
            )
        if self.init is None or isinstance(self.init, ArrayFile) or self.bounds is None:
            return
        start = self.init
        lower, upper = self.bounds
        reached = (start.offset, start.offset + start.scale) if isinstance(start, Profile) else (start,)
        for number in reached:
            if not lower < number < upper:
                raise SpecError(
                    f"{number:g} is not between the bounds {lower:g} and {upper:g}, which are open; "
                    f"start strictly between them or widen the bounds",
                    key="init",
                )


def index_of(setting: ParameterSetting) -> str | None:
    """Return the name of the index by which simulations differ in the parameter; None if they share its value."""
    return {"shared": None, "simulation": SIMULATION}.get(setting.scope, setting.group)


@options
class PhysicalChoice(Choice):
    """`[physical]`."""

    hook = "hyco_models"
    role = "physical"

    dt: float | None = option(
        None,
        help="internal time step, which must divide the time between two frames; none: the engine chooses a stable one "
        "and follows the parameters",
        gt=0.0,
    )
    compile: Literal["auto", "eager", "graph", "inductor"] = option(
        "auto",
        help="execution of the step: eager runs it as written, graph captures it, inductor also compiles it; auto "
        "estimates which one is fastest",
    )
    parameters: Mapping[str, ParameterSetting] = option(attrs.Factory(dict), help="settings of each parameter, by name")
