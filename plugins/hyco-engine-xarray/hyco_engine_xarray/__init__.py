"""netCDF files and zarr stores as data of hyco-engine. It imports xarray only when it is built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import attrs

from hyco_engine import Record, hookimpl, imported, option, options
from hyco_engine.builtin.sources.options import Variable
from hyco_engine.data.settings import BoundarySetting
from hyco_engine.physics.settings import ArrayFile, Profile


def _check_letters(value: Mapping[str, str]) -> None:
    for letter in value:
        if letter not in ("s", "t", "c", "x", "y", "z"):
            raise ValueError(f"axes are s (simulation), t (time), c (component), x, y and z, not {letter!r}")


@options
class XarrayOptions:
    """`[data] kind = "xarray"`: netCDF files or zarr stores."""

    path: Path | tuple[Path, ...] | None = option(
        None,
        help="a netCDF file (.nc), or the folder of a zarr store; also a list, a glob or a folder of netCDF files",
    )
    files: Literal["frames", "simulations"] = option(
        "frames",
        help="what each of several files holds; frames: frames of the same simulations, such as those of one year; "
        "simulations: a simulation of its own",
    )
    group: str = option("", help="group in the file; empty: the root")
    variables: Mapping[str, str | Variable] = option(
        attrs.Factory(dict),
        help='variable of each field, such as {T = "temperature"}; none: all that vary in time and along all axes',
    )
    dimensions: Mapping[str, str] = option(
        attrs.Factory(dict),
        help='dimension of each axis, such as {x = "lon", s = "member"}; left out: found by CF attributes and names',
        check=_check_letters,
    )
    dt: float | None = option(None, help="time between two frames; none: that of the file", gt=0.0)
    bounds: Mapping[str, tuple[float, float]] = option(
        attrs.Factory(dict), help="ends of the domain along each axis, such as {x = [-1.0, 1.0]}"
    )
    coordinates: Mapping[str, str] = option(
        attrs.Factory(dict), help="variable of the positions along each axis; none: the coordinate of its dimension"
    )
    boundary: BoundarySetting | None = option(None, help="boundary condition, as for arrays")
    points: Literal["auto", "cells", "nodes"] = option("auto", help="position of the samples, as for arrays")
    resample: Literal["", "linear", "cubic", "missing"] = option(
        "", help="interpolation of uneven positions and times, as for arrays"
    )
    tolerance: float = option(1e-4, help="allowed difference of end samples, as for arrays", ge=0.0)
    truth: Mapping[str, float | Profile | ArrayFile] = option(
        attrs.Factory(dict),
        help="true parameters of the physics, if you know them; the run reports errors against them",
    )


@hookimpl
def hyco_sources() -> list[Record]:
    return [
        Record(
            kind="xarray",
            summary="reads netCDF files and zarr stores, with their coordinates, units and fill values",
            options=XarrayOptions,
            factory=imported("hyco_engine_xarray.source"),
        )
    ]
