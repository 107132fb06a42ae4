"""The tables of a spec that say which physics there is and how its parameters start: `[physical]`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import attrs

from hyco_engine.errors import SpecError
from hyco_engine.settings import Choice, option, options


def check_interval(value: tuple[float, float] | None) -> None:
    """The lower bound is below the upper one."""
    if value is not None and not value[0] < value[1]:
        raise ValueError(f"the lower bound must be below the upper one, not {value[0]:g} and {value[1]:g}")


@options
class Profile:
    """A field given by a formula: `offset + scale * prod_axes sin^2(pi * waves * (x - lower) / (upper - lower))`."""

    profile: Literal["sin-squared"] = option("sin-squared", help="the formula")
    offset: float = option(0.0, help="added everywhere")
    scale: float = option(1.0, help="amplitude")
    waves: int = option(1, help="humps along each axis", ge=1)


@options
class ArrayFile:
    """A field read from a `.npy` file."""

    file: Path = option(help="a .npy file whose shape is the grid's resolution")


@options
class ParameterSetting:
    """`[physical.parameters.<name>]`: how a parameter of the physics starts and what it may become.

    What is left out comes from the model's own declaration.
    """

    init: float | Profile | ArrayFile | None = option(None, help="start value: a number, a profile, or a file")
    bounds: tuple[float, float] | None = option(
        None, help="open interval; kept by a smooth transform; inf is allowed", inf=True, check=check_interval
    )
    learn: bool = option(True, help="false: the value is known and stays")
    field: bool = option(False, help="true: one value per grid point, false: one number")
    transform: Literal["auto", "linear", "log"] = option(
        "auto", help="scale on which steps are taken; auto: log where the lower bound is >= 0"
    )
    smoothness: float = option(
        0.0, help="of a field: so many times the mean of its squared gradient is added to the loss", ge=0.0
    )

    def __attrs_post_init__(self) -> None:
        if self.smoothness and not (self.field and self.learn):
            raise SpecError("only a field that is learned can be kept smooth: add field = true", key="smoothness")
        if self.init is None or isinstance(self.init, ArrayFile) or self.bounds is None:
            return
        start = self.init
        lower, upper = self.bounds
        reached = (start.offset, start.offset + start.scale) if isinstance(start, Profile) else (start,)
        for number in reached:
            if not lower < number < upper:
                raise SpecError(
                    f"{number:g} is not between the bounds {lower:g} and {upper:g}, which are never reached; "
                    f"start strictly inside or widen the bounds",
                    key="init",
                )


@options
class PhysicalChoice(Choice):
    """`[physical]`."""

    hook = "hyco_models"
    role = "physical"

    dt: float | None = option(None, help="internal time step, which must divide the data's; none: the data's", gt=0.0)
    compile: Literal["auto", "eager", "graph", "inductor"] = option(
        "auto", help="how the step is run: as written, captured as a graph, or captured and compiled"
    )
    parameters: Mapping[str, ParameterSetting] = option(attrs.Factory(dict), help="settings by parameter name")
