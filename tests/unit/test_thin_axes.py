"""Axes of one cell: left out for every source, told, and refused where something moves across them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import hyco_engine as hyco
from hyco_engine.assembly import Assembler
from hyco_engine.data.contracts import TrajectorySource
from hyco_engine.errors import HycoError
from hyco_engine.inspection import describe

pytestmark = pytest.mark.usefixtures("measured")

U = np.random.default_rng(0).normal(size=(6, 5, 8))
"""[simulations, frames, cells]"""
TOLD = "the grid has one cell along y, which is left out: nothing varies along it"


def source_of(tmp_path: Path, data: dict[str, Any], physical: str | None = None) -> TrajectorySource:
    models: dict[str, Any] = {"synthetic": {"kind": "resnet"}}
    if physical is not None:
        models["physical"] = {"kind": physical}
    spec = {
        "data": {"num_predict_steps": 1, "boundary": "periodic"} | data,
        "paths": {"cache": str(tmp_path)},
        **models,
    }
    engine = hyco.Engine(spec)
    found = Assembler(engine.spec, engine.registry).source()
    assert isinstance(found, TrajectorySource)
    return found


def hdf5(path: Path, **arrays: Any) -> str:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name.replace("__", "/")] = values
    return str(path)


def check(source: TrajectorySource, expected: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert source.layout.grid.axes == ("x",)
    assert source.layout.grid.resolution == (8,)
    torch.testing.assert_close(source.load(1).dynamic, torch.from_numpy(expected))
    assert TOLD in caplog.text


def test_arrays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.save(tmp_path / "u.npy", U[..., None])
    keys = {"kind": "arrays", "path": str(tmp_path / "u.npy"), "axes": "stxy", "dt": 0.1, "bounds": {"x": [0.0, 1.0]}}
    with caplog.at_level(logging.INFO):
        check(source_of(tmp_path, keys), U[1][:, None], caplog)


@pytest.mark.parametrize("coordinates", [False, True])
def test_pdebench(tmp_path: Path, caplog: pytest.LogCaptureFixture, coordinates: bool) -> None:
    more = {"x-coordinate": np.arange(8.0), "y-coordinate": np.array([0.5])} if coordinates else {}
    path = hdf5(tmp_path / "a.hdf5", tensor=U[..., None], **more, **{"t-coordinate": np.arange(5.0)})
    with caplog.at_level(logging.INFO):
        check(source_of(tmp_path, {"kind": "pdebench", "path": path}), U[1][:, None], caplog)
    found = describe(Path(path))
    assert found.tried.startswith("read as 6 simulations of 5 frames, 1 apart; u on 8 cells along x in [")


def test_a_component_that_is_0_goes_with_its_axis(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flow = {"density": U[..., None], "Vx": 2 * U[..., None], "Vy": 0 * U[..., None], "t-coordinate": np.arange(5.0)}
    path = hdf5(tmp_path / "a.hdf5", **flow)
    source = source_of(tmp_path, {"kind": "pdebench", "path": path})
    assert [(f.name, f.components) for f in source.layout.fields] == [("density", ()), ("velocity", ("x",))]
    with caplog.at_level(logging.INFO):
        check(source_of(tmp_path, {"kind": "pdebench", "path": path}), np.stack([U[1], 2 * U[1]], axis=1), caplog)
    with h5py.File(path, "r+") as file:
        file["Vy"][1, 2, 3, 0] = 0.1
    with pytest.raises(HycoError) as caught:
        source_of(tmp_path, {"kind": "pdebench", "path": path}).load(1)
    assert str(caught.value) == (
        f"data.fields: {path}, simulation 1: the grid has one cell along y, and the component y of 'velocity' is not "
        "0 there, so the axis cannot be left out; leave the field out by data.fields, or give the component as a field "
        "of its own"
    )
    keys = {"kind": "pdebench", "path": path, "fields": {"dynamic": ["density"]}}
    assert source_of(tmp_path, keys).load(1).dynamic.shape == (5, 2, 8)


def test_the_well(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file.attrs["n_trajectories"] = 6
        file["dimensions/x"], file["dimensions/y"], file["dimensions/time"] = np.arange(8.0), [0.5], np.arange(5.0)
        file["dimensions"].attrs["spatial_dims"] = ["x", "y"]
        file["t0_fields/u"] = U[..., None]
        file["t0_fields"].attrs["field_names"] = ["u"]
    with caplog.at_level(logging.INFO):
        check(source_of(tmp_path, {"kind": "well", "path": str(path)}), U[1][:, None], caplog)


def test_simulations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = {"kind": "simulate", "dt": 0.01, "num_frames": 3, "num_simulations": 3, "truth": {"nu": 0.05}}
    line = source_of(tmp_path, keys | {"resolution": {"x": 8}}, "burgers")
    with caplog.at_level(logging.INFO):
        thin = source_of(tmp_path, keys | {"resolution": {"x": 8, "y": 1}, "bounds": {"y": [0.0, 0.1]}}, "burgers")
        check(thin, line.load(1).dynamic.numpy(), caplog)


def test_sensors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.csv").write_text("t,x,y,u\n0.1,0.2,0.5,1\n0.2,0.7,0.5,2\n")
    keys = {
        "kind": "points",
        "path": str(tmp_path / "a.csv"),
        "resolution": {"x": 8, "y": 1},
        "dt": 0.1,
        "initial": {"u": 0.0},
        "split": {"by": "sensor"},
    }
    with caplog.at_level(logging.INFO):
        source = source_of(tmp_path, keys)
    assert TOLD in caplog.text
    points = source.points(0)
    assert points is not None
    assert points.position.tolist() == [[0.2], [0.7]]
    assert source.load(0).dynamic.shape == (3, 1, 8)


def test_one_cell_along_each_axis_is_refused(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.hdf5", tensor=U[:, :, :1, None], **{"t-coordinate": np.arange(5.0)})
    with pytest.raises(HycoError) as caught:
        source_of(tmp_path, {"kind": "pdebench", "path": path})
    assert str(caught.value) == "data: the grid has one cell along x and y, and fields need at least 2 along an axis"
