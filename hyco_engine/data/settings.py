"""The tables of a spec that say what data there is, and what of it is used: `[data]`."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from hyco_engine.data.fields import NAMED_RULES, Boundary, RuleError
from hyco_engine.errors import SpecError
from hyco_engine.settings import Choice, check_folder_name, option, options

_RANGE = re.compile(r"\s*([+-]?\d{1,15})?\s*:\s*([+-]?\d{1,15})?\s*", re.ASCII)


def parse_range(text: str) -> slice:
    """Read `start:stop` as in Python: either number may be missing or negative. Raises ValueError."""
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(f"must be a range start:stop such as '0:30' or '30:', not {text[:120]!r}")
    start, stop = (None if part is None else int(part) for part in match.groups())
    # a start counted from one end and a stop from the other cannot be compared without the length
    if stop == 0 or (start is not None and stop is not None and (start < 0) == (stop < 0) and stop <= start):
        raise ValueError(f"the range {text!r} is empty: start must be below stop, which is not part of it")
    return slice(start, stop)


def check_range(value: str) -> None:
    """Check that the value is a range or empty."""
    if value:
        parse_range(value)


def overlaps(ranges: Mapping[str, str]) -> list[str]:
    """Return the pairs of ranges that overlap at any length; ranges counted from the end are not compared."""
    spans = []
    for name, text in ranges.items():
        where = parse_range(text) if text else slice(-1)
        start, stop = where.start or 0, math.inf if where.stop is None else where.stop
        if start >= 0 and stop >= 0:
            spans.append((name, text, start, stop))
    return [
        f"{name} {text!r} and {other} {other_text!r}"
        for (name, text, start, stop), (other, other_text, other_start, other_stop) in itertools.combinations(spans, 2)
        if start < other_stop and other_start < stop
    ]


@options
class FieldsScheme:
    """The predicted fields, the fields that are inputs only, and the scalars of a simulation that models know.

    Their order is the channel order.
    """

    dynamic: tuple[str, ...] = option((), help="predicted fields; empty: all fields that the source calls dynamic")
    static: tuple[str, ...] = option((), help="fields that are inputs only")
    scalars: Literal["auto"] | tuple[str, ...] = option(
        "auto",
        help="numbers of a whole simulation that the models get as inputs; auto: all that differ between simulations, "
        "but for seeds and indices; those that a parameter takes with `from` are always among them",
    )
    time: bool = option(
        False,
        help="true: models get the time of a state as an input, t; a physics that depends on time gets it anyway",
    )

    def __attrs_post_init__(self) -> None:
        names = self.dynamic + self.static
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"a field must be listed once, as dynamic or as static: {', '.join(twice)}")


@options
class Split:
    """The simulations (or frames) that train, validate and test. Ranges are `start:stop`, as in Python."""

    by: Literal["simulation", "time", "sensor", "value"] = option(
        "simulation",
        help="simulation: split the set of simulations; time: split each simulation in time; sensor: the source "
        "chooses the points that validate; value: split the simulations by a known number or group",
    )
    name: str = option("", help='for by = "value": the name of the number, such as "nu", or of the group')
    train: str = option(
        "",
        help='range, such as "0:30"; by value: values and ranges of numbers, such as "0.01, 0.05:0.1", or names of '
        'groups, such as "A, B"; empty: all that val and test leave',
    )
    val: str = option(
        "",
        help="as train; empty: the last tenth of the simulations (at least one), or of the frames, or a tenth of the "
        "values, from amid the others",
    )
    test: str = option("", help="as train; empty: nothing")
    measure: Literal["auto", "rollout", "continuation"] = option(
        "auto",
        help="start of the rollouts that measure held-out data; rollout: its own first complete frame; continuation: "
        "the first complete training frame before it, or the last one as a physics with learned start states knows it; "
        "auto takes continuation if a split in time has noise or no complete frame, else rollout",
    )

    def __attrs_post_init__(self) -> None:
        ranges = {"train": self.train, "val": self.val, "test": self.test}
        if self.by == "value" and not self.name:
            raise SpecError('by = "value" needs the name of a number or of a group of the simulations', key="name")
        if self.name and self.by != "value":
            raise SpecError('only a split by = "value" has a name', key="name")
        if self.by != "value":
            for name, text in ranges.items():
                try:
                    check_range(text)
                except ValueError as error:
                    raise SpecError(str(error), key=name) from None
            if pairs := overlaps(ranges):
                raise ValueError(f"the ranges of a split must not overlap: {', '.join(pairs)}")
        if self.by == "sensor" and (self.train or self.val or self.test):
            raise SpecError('by = "sensor" takes no ranges: the source says which sensors train', key="by")
        if self.measure == "continuation" and self.by != "time":
            raise SpecError('only a split by = "time" has training frames to continue from', key="measure")


@options
class Noise:
    """`[data.observe.noise]`: Gaussian noise, independent for each value of the dynamic fields."""

    level: float = option(help="standard deviation of the noise", ge=0.0)
    relative: bool = option(
        True,
        help="unit of level; true: the standard deviation of the field in its simulation; false: the field's own unit",
    )
    heldout: bool = option(True, help="false: the frames that validate and test stay free of noise")


@options
class Mask:
    """`[data.observe.mask]`: the observed values. If several keys are set, all of them must hold."""

    every: int | None = option(None, help="k: only the frames 0, k, 2k, ... of each simulation are observed", ge=1)
    frames: tuple[int, ...] = option(
        (), help="only these frames of each simulation are observed; [0, -1]: the first and the last; empty: all"
    )
    region: Mapping[str, tuple[float, float]] = option(
        attrs.Factory(dict), help="only cells whose centre lies in this interval are observed, such as {x = [0.0, 0.5]}"
    )
    points: int | None = option(
        None, help="only so many cells are observed, drawn at random, the same in all frames", ge=1
    )
    scattered: int | None = option(
        None, help="only so many values of each field and simulation are observed, drawn at random", ge=1
    )
    file: Path | None = option(
        None,
        help="a .npy file with an entry for each cell, or for each frame and cell; values whose entry is not 0 are "
        "observed",
    )
    value: float | Literal["nan"] | None = option(
        None, help='value in the data that means "not observed"; none: there is none, and the engine refuses NaN'
    )
    first_frame: bool = option(False, help="true: the first frame of each simulation is complete, except for `value`")
    heldout: bool = option(True, help="false: the frames that validate and test are complete, except for `value`")

    def __attrs_post_init__(self) -> None:
        if self.every is not None and self.frames:
            raise SpecError("every and frames both choose frames; keep only one of them", key="frames")
        for axis, (lower, upper) in self.region.items():
            if not lower < upper:
                raise SpecError(
                    f"the lower end must be below the upper one, not {lower:g} and {upper:g}", key=f"region.{axis}"
                )


@options
class Observe:
    """`[data.observe]`: the observations that are made of the data."""

    noise: Noise | None = option(None, help="noise that the engine adds to the data")
    mask: Mask | None = option(None, help="observation mask; none: all values are observed")


def check_factor(value: float) -> None:
    """Check that the conversion can be undone."""
    if value == 0:
        raise ValueError("must not be 0, which would make all values equal")


def check_factors(value: Mapping[str, Any]) -> None:
    """Check those conversions that are numbers."""
    for scale in value.values():
        if not isinstance(scale, Scale):
            check_factor(scale)


@options
class Scale:
    """`[data.scale.<field>]`: the conversion of a field when it is read, to factor * value + offset."""

    factor: float = option(1.0, help="factor of the values in the source", check=check_factor)
    offset: float = option(0.0, help="what is added afterwards, in the new unit")


@options
class SourceChoice(Choice):
    """`[data]`."""

    hook = "hyco_sources"

    name: str = option("data", help="name of the data set and of its cache folder", check=check_folder_name)
    fields: FieldsScheme = option(attrs.Factory(FieldsScheme), help="dynamic and static fields")
    scale: Mapping[str, float | Scale] = option(
        attrs.Factory(dict),
        help="conversion of fields to other units, such as {u = 1e-3} or {T = {factor = 0.5556, offset = 255.37}}; "
        "boundary values and observe.mask.value are in the source's units",
        check=check_factors,
    )
    units: Mapping[str, str] = option(
        attrs.Factory(dict),
        help='unit of each field, such as {u = "m/s"}: pint converts a field for which the data gives another unit; '
        "with a `scale` of its own, or where the data gives no unit, this names its unit",
    )
    table: Path | None = option(
        None,
        help="a .csv file with a row for each simulation: `file` names the data in place of path, `split` is train, "
        "val or test, other columns of numbers are known numbers, and those of texts are groups",
    )
    scalars: Mapping[str, str] = option(
        attrs.Factory(dict),
        help='known numbers of whole simulations, such as {nu = "viscosity"}: the name in the spec, and that in the '
        "data (an array with one number for each simulation, an attribute, a scalar of The Well, a property of a "
        "Scene, a column of the table); numbers that are not named here keep the names that they have in the data",
    )
    every: int = option(1, help="k: only every k-th frame of the data is used, and k times dt is between them", ge=1)
    num_frames: int | None = option(None, help="number of frames to use of each simulation; none: all", ge=2)
    num_predict_steps: int = option(3, help="horizon: the number of steps that a training rollout predicts", ge=1)
    stride: int = option(1, help="number of frames between the starts of neighbouring windows", ge=1)
    split: Split = option(attrs.Factory(Split), help="data that trains, validates and tests")
    observe: Observe = option(attrs.Factory(Observe), help="noise and observation mask")

    def __attrs_post_init__(self) -> None:
        if self.num_frames is not None and self.num_predict_steps >= self.num_frames:
            raise SpecError(
                f"a window of {self.num_predict_steps} steps needs {self.num_predict_steps + 1} frames, but num_frames "
                f"is {self.num_frames}; predict fewer steps or use more frames",
                key="num_predict_steps",
            )


@attrs.frozen
class BoundarySetting:
    """A boundary condition as it is written in a spec; `value` is what `Boundary.parse` reads."""

    value: Any
    formulas: Mapping[str, str] = attrs.Factory(dict)
    """The values at sides that follow from parameters of the physics, by the end of their key, such as `.x.lower`."""

    @classmethod
    def from_data(cls, data: Any) -> BoundarySetting:
        """Read one rule for all sides, or a table by axis and side. Raises ValueError."""
        if isinstance(data, BoundarySetting):
            return data
        axes = tuple(data) if isinstance(data, Mapping) and set(data) != {"normal", "tangential"} else ("x",)
        if not axes or not set(axes) <= set("xyz"):
            raise ValueError(f"a boundary by axis must name x, y or z, not {', '.join(axes) or 'nothing'}")
        Boundary.parse(data, axes)
        return cls(data, dict(_formulas(data)))

    def to_data(self) -> Any:
        """Return the form that `from_data` reads."""
        return self.value

    def on(self, axes: Sequence[str], key: str = "data.boundary") -> Boundary:
        """Return the boundary on a grid with these axes. Raises SpecError at `key` where it does not fit them."""
        try:
            return Boundary.parse(self.value, axes)
        except RuleError as error:
            raise SpecError(str(error), key=".".join([key, *error.path])) from None
        except ValueError as error:
            raise SpecError(str(error), key=key) from None


def _formulas(data: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the formulas in a boundary as it is written, each with the end of its key."""
    if isinstance(data, Mapping):
        for name, own in data.items():
            yield from _formulas(own, f"{key}.{name}")
    elif isinstance(data, str) and data not in NAMED_RULES:
        yield key, data
