"""Spec keys of the built-in sources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import attrs

from hyco_engine.data.csv_form import CsvForm
from hyco_engine.data.settings import BoundarySetting
from hyco_engine.errors import SpecError
from hyco_engine.physics.settings import ArrayFile, PhysicalChoice, Profile, check_interval
from hyco_engine.spec.options import option, options

Files = Path | tuple[Path, ...] | None
MANY = 'also a list or a glob ("runs/*.npz"), whose files are joined in order'
RESAMPLE = (
    "interpolation of uneven positions and times to even ones, whose error is told; missing: frames that are "
    "missing among even ones are not observed, which needs observe.mask.value; empty: uneven ones are refused"
)
SPACE = "xyz"
LETTERS = "stcxyz"


def _check_axes_named(names: Iterable[str]) -> None:
    for name in names:
        if name not in tuple(SPACE):
            raise ValueError(f"axes are x, y and z, not {name!r}")


def _check_resolution(value: Mapping[str, int]) -> None:
    _check_axes_named(value)
    for axis, cells in value.items():
        if cells < 1:
            raise ValueError(f"must be at least 1 along {axis}, not {cells}")


def _check_bounds(value: Mapping[str, tuple[float, float]]) -> None:
    _check_axes_named(value)
    for axis, (lower, upper) in value.items():
        if not lower < upper:
            raise ValueError(f"the lower bound of {axis} must be below the upper one, not {lower:g} and {upper:g}")


def _check_letters(value: str) -> None:
    if strange := sorted(set(value) - set(LETTERS)):
        raise ValueError(
            f"axes are s (simulation), t (time), c (component), x, y and z, not {', '.join(map(repr, strange))}"
        )
    if len(set(value)) < len(value):
        raise ValueError(f"each axis appears once, not as in {value!r}")


@options
class ExtraTerms:
    """`[data.extra]`: terms of the true physics that the model does not have."""

    drag: float = option(0.0, help="rate r in u_t = ... - r u, for all dynamic fields", unit="1/time", ge=0.0)
    force: float = option(
        0.0,
        help="amplitude f in u_t = ... + f sin(2 pi waves (x - lower) / L), for the first component of the first field",
    )
    waves: int = option(1, help="number of waves of the force over the domain", ge=1)
    axis: Literal["x", "y", "z"] = option("x", help="axis that the force varies along")


@options
class Draw:
    """`data.truth.<name>` that differs between simulations: each one draws its own. One of the keys says how."""

    uniform: tuple[float, float] | None = option(None, help="evenly in this interval", check=check_interval)
    log_uniform: tuple[float, float] | None = option(
        None, help="evenly on a logarithmic scale, in this interval of positive numbers", gt=0.0, check=check_interval
    )
    grid: tuple[float, ...] = option((), help="one of these in turn; grids of several parameters are combined")
    each: tuple[float, ...] = option(
        (), help="one of these in turn; those of several parameters belong together, such as published pairs"
    )
    latin_hypercube: tuple[float, float] | None = option(
        None,
        help="evenly in this interval, with one simulation in each of `num_simulations` equal parts of it",
        check=check_interval,
    )

    def __attrs_post_init__(self) -> None:
        given = [name for name, value in attrs.asdict(cast("Any", self)).items() if value]
        if len(given) != 1:
            raise ValueError(
                f"must have exactly one of uniform, log_uniform, grid, each and latin_hypercube, not "
                f"{' and '.join(given) or 'none'}"
            )


@options
class SimulateOptions:
    """Data that a physical model makes with its true parameters."""

    resolution: Mapping[str, int] = option(
        help="number of cells along each axis, such as {x = 64}; {} for numbers that have no place",
        check=_check_resolution,
    )
    bounds: Mapping[str, tuple[float, float]] = option(
        attrs.Factory(dict),
        help="ends of each axis, such as {x = [0.0, 1.0]}, the default",
        check=_check_bounds,
    )
    dt: float = option(help="time between two frames", gt=0.0)
    num_simulations: int = option(8, help="number of simulations, each of which has its own initial state", ge=1)
    skip_frames: int = option(0, help="number of frames to simulate before the first frame of the data", ge=0)
    truth: Mapping[str, float | Profile | ArrayFile | Draw] = option(
        attrs.Factory(dict),
        help="true value of each parameter that [physical] learns; a table such as {uniform = [0.01, 0.1]} draws one "
        "for each simulation",
    )
    boundary: BoundarySetting | None = option(None, help="boundary condition of the fields; none: that of the model")
    physics: PhysicalChoice | None = option(
        None, help="the true physics; none: the kind and the options of [physical], but not its parameter settings"
    )
    extra: ExtraTerms | None = option(
        None, help="terms that the true physics has beside those of the model; none: no such terms"
    )

    def __attrs_post_init__(self) -> None:
        for axis in self.bounds:
            if axis not in self.resolution:
                raise SpecError(f"bounds are given for {axis}, which has no resolution", key=f"bounds.{axis}")


@options
class Variable:
    """One field in a file of arrays. A key that is left empty takes the source's value for all fields."""

    variable: str = option("", help="name of the array in the file; empty: the field's name")
    axes: str = option("", help="meaning of its axes, in order; empty: as for all fields", check=_check_letters)
    components: tuple[str, ...] = option((), help="names along the axis c; empty: x, y, ... or c0, c1, ...")
    boundary: BoundarySetting | None = option(None, help="its boundary condition; none: as for all fields")
    sampling: Literal["centered", "staggered"] = option(
        "centered",
        help="staggered: component i lies on the faces across axis i, and padding gives all components one shape",
    )
    static: bool = option(False, help="true: the field is an input only; a field without an axis t always is")
    part: Literal["", "real", "imag", "abs"] = option(
        "", help="real numbers made of complex ones; empty: the real parts, if the imaginary ones are rounding"
    )
    unit: str = option("1", help="its unit, such as m/s")


@options
class ArraysOptions:
    """Fields in `.npy`, `.npz`, `.mat`, `.h5` or `.csv` files, or in a folder of `.npy` files."""

    path: Files = option(
        None,
        help=f"a .npy, .npz, .mat, .h5, .hdf5 or .csv file, or a folder of .npy files; other files in a folder are "
        f"joined; a .csv file has a row for each frame, or for each frame and position if coordinates names its "
        f"columns; {MANY}",
    )
    variables: Mapping[str, str | Variable] = option(
        attrs.Factory(dict),
        help='array or column of each field, such as {u = "usol"}; a star stands for a number: "u_*" is one array, of '
        "u_1, u_2, ..., with an axis in front; a file with one array needs no entry and gives the field u, and a text "
        "table gives each column of numbers",
    )
    axes: str = option(
        "",
        help='meaning of the axes of the arrays, in order: s simulation, t time, c component, x, y, z; such as "stxy", '
        'or "st" for numbers that have no place; empty: those of a text table',
        check=_check_letters,
    )
    csv: CsvForm = option(attrs.Factory(CsvForm), help="form of a .csv file, where it cannot be found in the file")
    dt: float | None = option(None, help="time between two frames; none: the array `time` gives it", gt=0.0)
    time: str = option(
        "",
        help='name of the array with the evenly spaced times of the frames; "*": the numbers at the star of the names '
        "in variables",
    )
    steady: bool = option(
        False,
        help="true: the fields without an axis t are states that do not change, but for those with static = true, "
        "which are inputs; each simulation then has two frames, a first guess of 0 and the state",
    )
    bounds: Mapping[str, tuple[float, float]] = option(
        attrs.Factory(dict), help="ends of the domain along each axis, such as {x = [-1.0, 1.0]}", check=_check_bounds
    )
    coordinates: Mapping[str, str] = option(
        attrs.Factory(dict),
        help='name of the array of sample positions along each axis, such as {x = "x"}; "*" as for time; columns of a '
        "text table make its rows the points of a grid",
        check=_check_axes_named,
    )
    boundary: BoundarySetting | None = option(
        None, help='boundary condition: a number, "periodic", "zero-gradient", ..., or a table by axis and side'
    )
    points: Literal["auto", "cells", "nodes"] = option(
        "auto",
        help="position of the samples; cells: in the middle of cells; nodes: on nodes that include both ends of the "
        "domain; auto decides by positions and end values, and takes cells if bounds alone are given",
    )
    resample: Literal["", "linear", "cubic", "missing"] = option("", help=RESAMPLE)
    tolerance: float = option(
        1e-4,
        help="largest difference of end samples from the value that the boundary fixes or repeats, relative to the "
        "range of the field's values; what the file's numbers are rounded by is allowed beside it",
        ge=0.0,
    )
    truth: Mapping[str, float | Profile | ArrayFile] = option(
        attrs.Factory(dict),
        help="true parameters of the physics, if you know them; the run reports errors against them",
    )

    def __attrs_post_init__(self) -> None:
        if self.dt is not None and self.time:
            raise SpecError("dt and time both give the time between two frames; keep one of them", key="time")
        if self.steady and (self.dt is not None or self.time or "t" in self.axes):
            raise SpecError("states that do not change have no time: leave dt, time and an axis t out", key="steady")
        if self.dt is None and not self.time and not self.steady:
            raise SpecError(
                "the time between two frames is missing; give dt, or name the array of times in time", key="dt"
            )


def _check_columns(value: tuple[str, ...]) -> None:
    named = [name for name in value if name]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise ValueError(f"each column needs a name of its own, and {', '.join(map(repr, twice))} appears twice")


@options
class PointsOptions:
    """Observations of sensors: a table with one observation a row, at any position and time, of one or more fields."""

    path: Files = option(
        None,
        help=f"a .csv, .parquet, .npy, .npz or .mat file; an array [rows, columns] or [times, sensors, columns]; "
        f"{MANY}",
    )
    files: Literal["simulations", "sensors"] = option(
        "simulations",
        help="what each of several files holds; simulations: a simulation of its own; sensors: sensors of the same "
        "simulation, such as one logger",
    )
    array: str = option("", help="name of the array; empty: the only array in the file")
    columns: tuple[str, ...] = option(
        (),
        help="names of the columns: t is the time, x, y, z the position, s the simulation; any other name is a "
        "field, or with a dot a component of a field (u.x, u.y), and sensor (or id) names the sensor; a column with an "
        "empty name is not read; none: the first line of a .csv file names them",
        check=_check_columns,
    )
    csv: CsvForm = option(attrs.Factory(CsvForm), help="form of a .csv file, where it cannot be found in the file")
    interval: float | None = option(
        None, help="time between two entries along axis 0 of the array, if there is no column t", gt=0.0
    )
    start: float | None = option(
        None,
        help="time of the first frame; none: 0, or that of a simulation's first observation if the times are "
        "date-times or begin very far from 0",
    )
    train_sensors: Path | None = option(
        None,
        help='for split by = "sensor": a file with the sensors that train, counted from 0 in the order of their first '
        "observation, or named as in the column sensor; the others validate",
    )
    heldout: float = option(
        0.2, help="share of the sensors that validate, drawn at random, if there is no such file", ge=0.0, lt=1.0
    )
    resolution: Mapping[str, int] = option(
        attrs.Factory(dict),
        help="number of cells along each axis of the grid of the rollouts; empty: no grid, for predictors or, with dt, "
        "for series without places",
        check=_check_axes_named,
    )
    bounds: Mapping[str, tuple[float, float]] = option(
        attrs.Factory(dict),
        help="ends of each axis, such as {x = [0.0, 1.0]}, the default",
        check=_check_bounds,
    )
    boundary: BoundarySetting | None = option(None, help="boundary condition of the grid, as for arrays")
    dt: float | None = option(None, help="time between two frames of the rollouts", gt=0.0)
    steady: bool = option(
        False,
        help="true: the sensors observed states that do not change; there is no column t, and a simulation has two "
        "frames, a first guess (`initial`, by default 0) and the state",
    )
    static: Mapping[str, float | Profile | ArrayFile] = option(
        attrs.Factory(dict), help="fields that are inputs only, known on the grid, as in `initial`"
    )
    initial: Mapping[str, float | Profile | ArrayFile] = option(
        attrs.Factory(dict),
        help='the first frame of each field, or of a component ("u.x"): a number, a profile, or a .npy file of the '
        "shape of the grid; for a vector, its first axis holds the components",
    )
    truth: Mapping[str, float | Profile | ArrayFile] = option(
        attrs.Factory(dict),
        help="true parameters of the physics, if you know them; the run reports errors against them",
    )

    def __attrs_post_init__(self) -> None:
        for axis in self.bounds:
            if axis not in self.resolution:
                raise SpecError(f"bounds are given for {axis}, which has no resolution", key=f"bounds.{axis}")
        if self.steady and (self.dt is not None or self.interval is not None):
            raise SpecError("states that do not change have no time: leave dt and interval out", key="steady")
        if self.static and not self.resolution:
            raise SpecError("fields that are known on the grid need one: give resolution", key="static")

    @property
    def rolls_out(self) -> bool:
        """Whether models roll out to the observations: on a grid, or in time alone where these have no place."""
        return bool(self.resolution) or self.dt is not None


def _check_renamed(value: Mapping[str, str]) -> None:
    for file in value.values():
        if list(value.values()).count(file) > 1:
            raise ValueError(f"two fields are {file!r} in the files")


@options
class SceneOptions:
    """Folders that PhiFlow's `Scene` writes."""

    path: Files = option(None, help=f"a folder that holds sim_000000, sim_000001, ..., or one of these folders; {MANY}")
    variables: Mapping[str, str] = option(
        attrs.Factory(dict),
        help='other names of fields, such as {T = "t"}, since PhiFlow writes names in small letters; fields that are '
        "not named here keep the name in their files",
        check=_check_renamed,
    )
    dt: float | None = option(None, help="time between two stored frames; none: `dt` in description.json", gt=0.0)
    static: tuple[str, ...] = option(
        (),
        help="fields, by the names in their files, that are inputs only, of which the first frame is used; none: "
        "`static` in description.json",
    )
    boundary: BoundarySetting | None = option(
        None, help="boundary condition of the fields that change, as for arrays; none: that of the files"
    )
    truth: Mapping[str, float | Profile | ArrayFile] = option(
        attrs.Factory(dict),
        help="true parameters of the physics, if you know them; the run reports errors against them",
    )


@options
class WellOptions:
    """HDF5 files in the layout of The Well."""

    path: Files = option(
        None, help=f"a data set's folder (with data/train, ...), a folder of .hdf5 files, or one file; {MANY}"
    )
    boundary: BoundarySetting | None = option(None, help="boundary condition, as for arrays; none: that of the files")
    resample: Literal["", "linear", "cubic", "missing"] = option("", help=RESAMPLE)
    truth: Mapping[str, float | Profile | ArrayFile] = option(
        attrs.Factory(dict),
        help="true parameters of the physics, if you know them; the run reports errors against them",
    )


@options
class PdebenchOptions:
    """An HDF5 file in one of PDEBench's layouts."""

    path: Files = option(None, help=f"a .hdf5 or .h5 file, or a folder of them; {MANY}")
    boundary: BoundarySetting = option(help="boundary condition, as for arrays; the files do not state it")
    bounds: Mapping[str, tuple[float, float]] = option(
        attrs.Factory(dict), help="ends of each axis; left out: those of the file, else 0 and 1", check=_check_bounds
    )
    dt: float | None = option(None, help="time between two frames; none: that of the file", gt=0.0)
    resample: Literal["", "linear", "cubic", "missing"] = option("", help=RESAMPLE)
    truth: Mapping[str, float | Profile | ArrayFile] = option(
        attrs.Factory(dict),
        help="true parameters of the physics, if you know them; the run reports errors against them",
    )
