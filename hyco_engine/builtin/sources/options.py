"""Spec keys of the built-in sources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import attrs

from hyco_engine.errors import SpecError
from hyco_engine.spec.choices import ArrayFile, BoundarySetting, PhysicalChoice, Profile
from hyco_engine.spec.options import option, options

SPACE = "xyz"
LETTERS = "stcxyz"


def _check_axes_named(names: Iterable[str]) -> None:
    for name in names:
        if name not in tuple(SPACE):
            raise ValueError(f"axes are x, y and z, not {name!r}")


def _check_resolution(value: Mapping[str, int]) -> None:
    _check_axes_named(value)
    if not value:
        raise ValueError("must name at least one axis, such as {x = 64}")
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
    if value and not set(value) & set(SPACE):
        raise ValueError(f"at least one of the axes must be x, y or z, not only {value!r}")


@options
class ExtraTerms:
    """`[data.extra]`: terms of the true physics that the model does not have."""

    drag: float = option(0.0, help="r in u_t = ... - r u, of all dynamic fields", unit="1/time", ge=0.0)
    force: float = option(
        0.0, help="f in u_t = ... + f sin(2 pi waves (x - lower) / L), of the first component of the first field"
    )
    waves: int = option(1, help="waves of the force over the domain", ge=1)
    axis: Literal["x", "y", "z"] = option("x", help="axis that the force varies along")


@options
class SimulateOptions:
    """Data made by a physical model with its true parameters."""

    resolution: Mapping[str, int] = option(help="cells along each axis, such as {x = 64}", check=_check_resolution)
    bounds: Mapping[str, tuple[float, float]] = option(
        attrs.Factory(dict),
        help="ends of each axis, such as {x = [0.0, 1.0]}, which is the default",
        check=_check_bounds,
    )
    dt: float = option(help="time between two frames", gt=0.0)
    num_simulations: int = option(8, help="simulations, each from an initial state of its own", ge=1)
    skip_frames: int = option(0, help="frames simulated before the first one that is kept", ge=0)
    truth: Mapping[str, float | Profile | ArrayFile] = option(
        attrs.Factory(dict), help="true value of each parameter that [physical] learns"
    )
    boundary: BoundarySetting | None = option(None, help="boundary of the fields; none: the model's own")
    physics: PhysicalChoice | None = option(
        None, help="the true physics; none: the kind and options of [physical], without its parameter settings"
    )
    extra: ExtraTerms | None = option(None, help="terms beside those of the physics; none: there are none")

    def __attrs_post_init__(self) -> None:
        for axis in self.bounds:
            if axis not in self.resolution:
                raise SpecError(f"bounds are given for {axis}, which has no resolution", key=f"bounds.{axis}")


@options
class Variable:
    """One field in a file of arrays. A key that is left empty takes the source's value for all fields."""

    variable: str = option("", help="name of the array in the file; empty: the field's name")
    axes: str = option("", help="meaning of its axes in order; empty: as for all", check=_check_letters)
    components: tuple[str, ...] = option((), help="names along the axis c; empty: x, y, ... or c0, c1, ...")
    boundary: BoundarySetting | None = option(None, help="its boundary; none: as for all")
    sampling: Literal["centered", "staggered"] = option(
        "centered", help="staggered: component i on the faces across axis i, padded to one shape"
    )
    static: bool = option(False, help="true: an input only; what has no axis t always is")
    unit: str = option("1", help="its unit, such as m/s")


@options
class ArraysOptions:
    """Fields in `.npy`, `.npz` or `.mat` files, or in a folder of `.npy` files."""

    path: Path = option(help="a .npy, .npz or .mat file, or a folder of .npy files")
    variables: Mapping[str, str | Variable] = option(
        attrs.Factory(dict), help='array of each field, such as {u = "usol"}; a file with one array needs none: field u'
    )
    axes: str = option(
        "",
        help='meaning of the arrays\' axes in order: s simulation, t time, c component, x, y, z; such as "stxy"',
        check=_check_letters,
    )
    dt: float | None = option(None, help="time between two frames; none: from `time`", gt=0.0)
    time: str = option("", help="array that holds the times of the frames, evenly spaced")
    bounds: Mapping[str, tuple[float, float]] = option(
        attrs.Factory(dict), help="ends of the domain along each axis, such as {x = [-1.0, 1.0]}", check=_check_bounds
    )
    coordinates: Mapping[str, str] = option(
        attrs.Factory(dict),
        help='array of sample positions along each axis, such as {x = "x"}',
        check=_check_axes_named,
    )
    boundary: BoundarySetting | None = option(
        None, help='what holds at the edges: a number, "periodic", "zero-gradient", ..., or a table by axis and side'
    )
    points: Literal["auto", "cells", "nodes"] = option(
        "auto",
        help="samples lie in the middle of cells, or on nodes that include both ends of the domain; auto: what "
        "positions and end values tell, and cells where there are bounds alone",
    )
    truth: Mapping[str, float | Profile | ArrayFile] = option(
        attrs.Factory(dict), help="true parameters of the physics, where known, to report errors against"
    )

    def __attrs_post_init__(self) -> None:
        if self.dt is not None and self.time:
            raise SpecError("dt and time both give the time between two frames; keep one of them", key="time")
        if self.dt is None and not self.time:
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

    path: Path = option(help="a .csv, .npy, .npz or .mat file; an array [rows, columns] or [times, sensors, columns]")
    array: str = option("", help="name of the array; empty: the only one in the file")
    columns: tuple[str, ...] = option(
        (),
        help="what the columns are: t time, x, y, z position, s simulation; any other name is a field, or with a dot "
        "a component of one (u.x, u.y), and an empty one is not read; none: the first line of a .csv",
        check=_check_columns,
    )
    interval: float | None = option(None, help="without a column t: time between entries of the array's axis 0", gt=0.0)
    train_sensors: Path | None = option(
        None, help='split by = "sensor": a file with the sensors that train, counted from 0; the others validate'
    )
    heldout: float = option(
        0.2, help="without such a file: share of the sensors that validates, drawn at random", ge=0.0, lt=1.0
    )
    resolution: Mapping[str, int] = option(
        attrs.Factory(dict),
        help="cells along each axis of the grid that models are rolled out on; empty: no grid, for predictors alone",
        check=_check_axes_named,
    )
    bounds: Mapping[str, tuple[float, float]] = option(
        attrs.Factory(dict),
        help="ends of each axis, such as {x = [0.0, 1.0]}, which is the default",
        check=_check_bounds,
    )
    boundary: BoundarySetting | None = option(None, help="what holds at the edges of the grid, as for arrays")
    dt: float | None = option(None, help="time between two frames of the rollouts", gt=0.0)
    initial: Mapping[str, float | Profile | ArrayFile] = option(
        attrs.Factory(dict),
        help='the first frame of each field, or of a component ("u.x"): a number, a profile, or a .npy file of the '
        "grid's shape, of a vector with an entry for each component before it",
    )
    truth: Mapping[str, float | Profile | ArrayFile] = option(
        attrs.Factory(dict), help="true parameters of the physics, where known, to report errors against"
    )

    def __attrs_post_init__(self) -> None:
        for axis in self.bounds:
            if axis not in self.resolution:
                raise SpecError(f"bounds are given for {axis}, which has no resolution", key=f"bounds.{axis}")


@options
class SceneOptions:
    """Folders that PhiFlow's `Scene` writes."""

    path: Path = option(help="a folder that holds sim_000000, sim_000001, ..., or one of these")
    dt: float | None = option(
        None, help="time between two frames that are there; none: `dt` in description.json", gt=0.0
    )
    static: tuple[str, ...] = option(
        (), help="fields that are inputs only; their first frame counts; none: `static` in description.json"
    )
    truth: Mapping[str, float | Profile | ArrayFile] = option(
        attrs.Factory(dict), help="true parameters of the physics, where known, to report errors against"
    )


@options
class WellOptions:
    """HDF5 files in the layout of The Well."""

    path: Path = option(help="a data set's folder (with data/train, ...), a folder of .hdf5 files, or one file")
    boundary: BoundarySetting | None = option(
        None, help="what holds at the edges, as for arrays; none: what the files say"
    )
    truth: Mapping[str, float | Profile | ArrayFile] = option(
        attrs.Factory(dict), help="true parameters of the physics, where known, to report errors against"
    )


@options
class PdebenchOptions:
    """An HDF5 file in one of PDEBench's layouts."""

    path: Path = option(help="a .hdf5 or .h5 file")
    boundary: BoundarySetting = option(help="what holds at the edges, as for arrays; the files do not say")
    bounds: Mapping[str, tuple[float, float]] = option(
        attrs.Factory(dict), help="ends of each axis; left out: from the file, else 0 and 1", check=_check_bounds
    )
    dt: float | None = option(None, help="time between two frames; none: from the file", gt=0.0)
    truth: Mapping[str, float | Profile | ArrayFile] = option(
        attrs.Factory(dict), help="true parameters of the physics, where known, to report errors against"
    )
