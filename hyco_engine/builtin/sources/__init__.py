"""The built-in data sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyco_engine.builtin.sources.options import (
    ArraysOptions,
    PdebenchOptions,
    PointsOptions,
    SceneOptions,
    SimulateOptions,
    WellOptions,
)
from hyco_engine.hooks.hookspecs import hookimpl
from hyco_engine.hooks.records import Record

if TYPE_CHECKING:
    from hyco_engine.interfaces import SampleSource, SourceContext, TrajectorySource


@hookimpl
def hyco_sources() -> list[Record]:
    return [
        Record(
            kind="simulate",
            summary="makes simulations by a registered physical model with its true parameters",
            options=SimulateOptions,
            factory=_simulate,
        ),
        Record(
            kind="arrays",
            summary="reads fields from .npy, .npz, .mat and .h5 files",
            options=ArraysOptions,
            factory=_arrays,
        ),
        Record(
            kind="points",
            summary="reads observations of sensors, at any position and time, from .csv, .npy, .npz and .mat files",
            options=PointsOptions,
            factory=_points,
        ),
        Record(
            kind="scene",
            summary="reads folders that PhiFlow's Scene writes",
            options=SceneOptions,
            factory=_scene,
        ),
        Record(
            kind="well",
            summary="reads HDF5 files in the layout of The Well",
            options=WellOptions,
            factory=_well,
        ),
        Record(
            kind="pdebench",
            summary="reads HDF5 files in the layouts of PDEBench",
            options=PdebenchOptions,
            factory=_pdebench,
        ),
    ]


def _simulate(options: SimulateOptions, context: SourceContext) -> TrajectorySource:
    from hyco_engine.builtin.sources.simulate import SimulateSource

    return SimulateSource(options, context)


def _arrays(options: ArraysOptions, context: SourceContext) -> TrajectorySource:
    from hyco_engine.builtin.sources.arrays import ArraysSource
    from hyco_engine.data.array_files import HDF5
    from hyco_engine.data.joined import open_files

    # other text tables are read where they are named; in a folder, .txt may be a note
    return open_files(options, ArraysSource, suffixes=(".npz", ".mat", *HDF5, ".csv", ".tsv"), parts=(".npy",))


def _points(options: PointsOptions, context: SourceContext) -> TrajectorySource | SampleSource:
    from hyco_engine.builtin.sources.point_table import SUFFIXES
    from hyco_engine.builtin.sources.points import PointSampleSource, PointsSource
    from hyco_engine.data.joined import open_files

    if not options.rolls_out:
        return PointSampleSource(options, context)
    if options.files == "sensors":
        return PointsSource(options, context)
    return open_files(options, lambda own: PointsSource(own, context), suffixes=SUFFIXES)


def _scene(options: SceneOptions, context: SourceContext) -> TrajectorySource:
    from hyco_engine.builtin.sources.scene import SceneSource
    from hyco_engine.data.joined import open_files

    return open_files(options, SceneSource)


def _well(options: WellOptions, context: SourceContext) -> TrajectorySource:
    from hyco_engine.builtin.sources.well import WellSource
    from hyco_engine.data.array_files import HDF5
    from hyco_engine.data.joined import open_files

    return open_files(options, WellSource, parts=HDF5)


def _pdebench(options: PdebenchOptions, context: SourceContext) -> TrajectorySource:
    from hyco_engine.builtin.sources.pdebench import PdebenchSource
    from hyco_engine.data.array_files import HDF5
    from hyco_engine.data.joined import open_files

    return open_files(options, PdebenchSource, suffixes=HDF5)
