"""One small field in the many forms in which files hold it: read exactly, or refused with the key that admits it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch

from hyco_engine.builtin.sources.arrays import ArraysSource
from hyco_engine.builtin.sources.options import ArraysOptions, PdebenchOptions, Variable, WellOptions
from hyco_engine.builtin.sources.pdebench import PdebenchSource
from hyco_engine.builtin.sources.well import WellSource
from hyco_engine.data.checks import check_values
from hyco_engine.data.settings import BoundarySetting
from hyco_engine.errors import HycoError
from hyco_engine.inspection import describe

FRAMES, CELLS = 6, 8
U = np.random.default_rng(0).integers(-32, 32, (FRAMES, CELLS)) / 8.0
"""Numbers that half precision holds exactly."""
T, X = 0.5 * np.arange(FRAMES), (np.arange(CELLS) + 0.5) / CELLS
NODES = np.concatenate([U, U[:, :1]], axis=1)
WALLS = np.pad(U, ((0, 0), (1, 1)))
PAIR = np.stack([U, 2 * U], axis=-1)
PLANE = U[:, :, None] + np.arange(3)

Write = Callable[[Path], Path]


@attrs.frozen(kw_only=True)
class Form:
    """A form of the field: how it is written, the keys that read it, and what then comes of it."""

    write: Write
    keys: dict[str, Any] = attrs.Factory(dict)
    expected: Any = attrs.field(default=U)
    told: str = ""
    refused: str = ""
    """The beginning of the message without the keys in `admitted`, which admit it."""
    admitted: dict[str, Any] = attrs.Factory(dict)
    atol: float = 0.0


def npy(values: Any) -> Write:
    def write(folder: Path) -> Path:
        np.save(folder / "u.npy", values)
        return folder / "u.npy"

    return write


def npz(**arrays: Any) -> Write:
    def write(folder: Path) -> Path:
        np.savez(folder / "a.npz", **arrays)
        return folder / "a.npz"

    return write


def mat(**arrays: Any) -> Write:
    def write(folder: Path) -> Path:
        scipy.io.savemat(folder / "a.mat", arrays)
        return folder / "a.mat"

    return write


def hdf5(name: str = "a.h5", **arrays: Any) -> Write:
    """Write HDF5; in a `.mat` file, with reversed axes, as MATLAB does."""

    def write(folder: Path) -> Path:
        with h5py.File(folder / name, "w") as file:
            for key, values in arrays.items():
                stored = file.create_dataset(
                    key.replace("__", "/"), data=np.asarray(values).T if name[-4:] == ".mat" else values
                )
                if np.asarray(values).dtype.kind == "u":
                    stored.attrs["MATLAB_class"] = np.bytes_("char")
        return folder / name

    return write


def packed(folder: Path) -> Path:
    path = hdf5(u=(8 * U).astype("i2"))(folder)
    with h5py.File(path, "r+") as file:
        file["u"].attrs["scale_factor"] = 0.125
    return path


def matlab_complex(values: Any) -> Any:
    parts = np.empty(values.shape, dtype=[("real", "f8"), ("imag", "f8")])
    parts["real"], parts["imag"] = values.real, values.imag
    return parts


def folder_of(**arrays: Any) -> Write:
    def write(folder: Path) -> Path:
        (folder / "many").mkdir()
        for name, values in arrays.items():
            np.save(folder / "many" / f"{name}.npy", values)
        return folder / "many"

    return write


def renamed(write: Write, name: str) -> Write:
    return lambda folder: write(folder).rename(folder / name)


LINES = {"variables": {"u": "u"}, "time": "t", "dt": None, "coordinates": {"x": "x"}, "bounds": {}}
UNEVEN_T = np.array([0.0, 0.5, 1.0, 1.25, 2.0, 2.5])
SKEWED = X[:, None] + 0.05 * np.arange(3) ** 2
OBJECTS = np.empty(2, dtype=object)
OBJECTS[:] = [np.zeros(2), np.zeros(3)]
SMOOTH_X = np.linspace(0, 1, 41) ** 1.3
SMOOTH = np.sin(2 * SMOOTH_X)[None] * np.ones((FRAMES, 1))
EVEN = np.sin(2 * np.linspace(0, 1, 41))[None] * np.ones((FRAMES, 1))

FORMS = {
    # formats
    "npy": Form(write=npy(U)),
    "npz": Form(write=npz(u=U)),
    "folder": Form(write=folder_of(u=U, t=T, x=X), keys=LINES),
    "mat": Form(write=mat(u=U)),
    "mat, compressed": Form(
        write=lambda p: (scipy.io.savemat(p / "a.mat", {"u": U}, do_compression=True), p / "a.mat")[1]
    ),
    "mat 4": Form(write=lambda p: (scipy.io.savemat(p / "a.mat", {"u": U}, format="4"), p / "a.mat")[1]),
    "mat 7.3": Form(write=hdf5("a.mat", u=U)),
    "hdf5": Form(write=hdf5(u=U)),
    "hdf5, in a group": Form(
        write=hdf5(run__u=U, run__t=T), keys={"variables": {"u": "run/u"}, "time": "run/t", "dt": None}
    ),
    "upper case": Form(write=renamed(npy(U), "U.NPY")),
    "mat, in a struct": Form(
        write=mat(run={"u": U, "t": T}), keys={"variables": {"u": "run/u"}, "time": "run/t", "dt": None}
    ),
    "mat, in a struct of structs": Form(write=mat(run={"data": {"u": U}}), keys={"variables": {"u": "run/data/u"}}),
    "mat 7.3, in a struct": Form(write=hdf5("a.mat", run__u=U), keys={"variables": {"u": "run/u"}}),
    "mat, in a cell": Form(
        write=mat(u=OBJECTS),
        refused="data.variables.u: FILE has no array 'u' (it has u/1 (1, 2), u/2 (1, 3))",
        keys={"variables": {"u": "u"}},
    ),
    "mat, an array of structs": Form(
        write=mat(u=np.array([(1.0,), (2.0,)], dtype=[("a", object)])),
        keys={"variables": {"u": "u"}},
        refused="data.variables.u: FILE: the array 'u' cannot be used: it is an array of several structs",
    ),
    "mat, sparse": Form(
        write=mat(u=scipy.sparse.csc_array(U)),
        keys={"variables": {"u": "u"}},
        refused="data.variables.u: FILE: the array 'u' cannot be used: it is sparse; full(u)",
    ),
    "mat, text": Form(
        write=mat(u="text"),
        keys={"variables": {"u": "u"}},
        refused="data.variables.u: FILE: the array 'u' cannot be used: it is text",
    ),
    "mat 7.3, text": Form(
        write=hdf5("a.mat", u=np.zeros((2, 2), "u2")),
        keys={"variables": {"u": "u"}},
        refused="data.variables.u: FILE: the array 'u' cannot be used: it is text",
    ),
    "netCDF": Form(
        write=lambda p: (p / "a.nc").write_bytes(b"CDF") and p / "a.nc",
        refused="data.path: cannot read FILE: the engine reads arrays from .npy, .npz, .mat, .h5, .hdf5, .csv, .tsv, "
        '.txt, .dat files and from folders of .npy; kind = "xarray", of the plugin hyco-engine-xarray, reads netCDF '
        "and zarr",
    ),
    # types
    "float32": Form(write=npy(U.astype("f4"))),
    "float16": Form(write=npy(U.astype("f2"))),
    "longdouble": Form(write=npy(U.astype("g"))),
    "int8": Form(write=npy((8 * U).astype("i1")), expected=8 * U),
    "uint16": Form(write=npy((8 * U + 400).astype("u2")), expected=8 * U + 400),
    "int64": Form(write=npz(u=(8 * U).astype("i8")), expected=8 * U),
    "bool": Form(write=npy(U > 0), expected=(U > 0).astype(float)),
    "big-endian": Form(write=npy(U.astype(">f8"))),
    "big-endian float32": Form(write=npy(U.astype(">f4"))),
    "big-endian, mat 7.3": Form(write=hdf5("a.mat", u=U.astype(">f8"))),
    "Fortran order": Form(write=npy(np.asfortranarray(U))),
    "masked": Form(write=npz(u=np.ma.masked_array(U, U > 100).filled(-9999.0))),
    "complex, imaginary part 0": Form(
        write=npy(U.astype(complex)),
        told="array 'u' holds complex numbers, of which the real parts are read; the imaginary parts are 0",
    ),
    "complex64, rounding": Form(
        write=npy((U + 1e-7j).astype("c8")), told="the imaginary parts are at most 3e-08 of the largest number"
    ),
    "complex, npz": Form(write=npz(u=U + 0j)),
    "complex, mat": Form(write=mat(u=U + 0j), told="the imaginary parts are 0"),
    "complex, mat 7.3": Form(write=hdf5("a.mat", u=matlab_complex(U + 0j)), told="the imaginary parts are 0"),
    "complex, hdf5": Form(write=hdf5(u=U + 0j), told="the imaginary parts are 0"),
    "complex, real part": Form(
        write=npz(u=U + 2j),
        refused="data.variables.u.part: FILE, array 'u' holds complex numbers up to "
        '4.47, with imaginary parts up to 2; set part = "real", "imag" or "abs"',
        admitted={"variables": {"u": Variable(part="real")}},
    ),
    "complex, imaginary part": Form(
        write=npz(u=1 + 1j * U), refused="data.variables.u.part: ", admitted={"variables": {"u": Variable(part="imag")}}
    ),
    "complex, size": Form(
        write=npz(u=3 * U + 4j * U),
        refused="data.variables.u.part: ",
        admitted={"variables": {"u": Variable(part="abs")}},
        expected=5 * abs(U),
    ),
    "objects": Form(
        write=lambda p: (np.save(p / "u.npy", OBJECTS, allow_pickle=True), p / "u.npy")[1],
        refused="data.path: cannot read FILE: it holds object, pickled Python objects, which the "
        "engine never reads; save them "
        "as numbers, np.asarray(u, dtype=float)",
    ),
    "bfloat16": Form(
        write=npy(np.zeros((FRAMES, CELLS), "V2")),
        refused="data.path: cannot read FILE: it holds |V2, raw bytes without a "
        "type, as numpy saves bfloat16; save u.astype('float32')",
    ),
    "records": Form(
        write=npy(np.zeros((FRAMES, CELLS), [("u", "f8")])),
        refused="data.path: cannot read FILE: it holds [('u', '<f8')], records; save each of their fields as an array",
    ),
    "packed, hdf5": Form(
        write=packed,
        keys={"variables": {"u": "u"}},
        refused="data.variables.u: FILE: the array 'u' cannot be used: it holds packed numbers (scale_factor, "
        'add_offset); kind = "xarray"',
    ),
    "text": Form(
        write=npy(U.astype("U")),
        refused="data.path: cannot read FILE: it holds <U32, text, and the engine reads only numbers",
    ),
    # layouts
    "x t": Form(write=npy(U.T), keys={"axes": "xt"}),
    "x t, mat": Form(write=mat(u=U.T, t=T, x=X), keys=LINES | {"axes": "xt"}),
    "s t x": Form(write=npy(U[None]), keys={"axes": "stx"}),
    "t x s": Form(write=npy(U[..., None]), keys={"axes": "txs"}),
    "components last": Form(write=npy(PAIR), keys={"axes": "txc"}, expected=PAIR),
    "components first": Form(write=npy(np.moveaxis(PAIR, -1, 0)), keys={"axes": "ctx"}, expected=PAIR),
    "axes of length 1, mat": Form(write=mat(u=U[:, None, :, None]), keys={"axes": "tx"}),
    "a plane": Form(
        write=npy(PLANE), keys={"axes": "txy", "bounds": {"x": (0.0, 1.0), "y": (0.0, 1.0)}}, expected=PLANE
    ),
    "a plane of rows": Form(
        write=npy(PLANE.transpose(0, 2, 1)),
        keys={"axes": "tyx", "bounds": {"x": (0.0, 1.0), "y": (0.0, 1.0)}},
        expected=PLANE,
    ),
    "an axis too few": Form(
        write=npy(U), keys={"axes": "stx"}, refused="data.axes: FILE: 'u' (6, 8) has 2 axes, and axes = 'stx' names 3"
    ),
    # coordinates
    "positions": Form(write=npz(u=U, t=T, x=X), keys=LINES),
    "positions as a column": Form(write=npz(u=U, t=T[:, None], x=X[None]), keys=LINES),
    "positions in float32": Form(write=npz(u=U, t=T.astype("f4"), x=(X / 3).astype("f4")), keys=LINES),
    "positions of a million float32": Form(write=npz(u=U, t=T, x=(1e6 + X).astype("f4")), keys=LINES),
    "downwards": Form(
        write=npz(u=U[:, ::-1], t=T, x=X[::-1]),
        keys=LINES,
        told="x: the samples run downwards in the file, and are flipped",
    ),
    "downwards, mat": Form(
        write=mat(u=U[:, ::-1], t=T, x=X[::-1]),
        keys=LINES,
        told="x: the samples run downwards in the file, and are flipped",
    ),
    "meshgrid": Form(
        write=npz(u=PLANE, x=X[:, None] + np.zeros(3), y=np.arange(3) + np.zeros((CELLS, 1))),
        expected=PLANE,
        keys={"variables": {"u": "u"}, "axes": "txy", "bounds": {}, "coordinates": {"x": "x", "y": "y"}},
    ),
    "curvilinear": Form(
        write=npz(u=PLANE, x=SKEWED),
        keys={"variables": {"u": "u"}, "axes": "txy", "coordinates": {"x": "x"}, "bounds": {"y": (0.0, 1.0)}},
        refused="data.coordinates.x: FILE: the positions 'x' along x differ by up to 0.2 between "
        "lines of the grid, which must be "
        'one of straight, even lines; kind = "points" takes samples as sensors at any place',
    ),
    "uneven positions": Form(
        write=npz(u=SMOOTH, t=T, x=SMOOTH_X),
        keys=LINES | {"boundary": "zero-gradient"},
        refused="data.coordinates.x: the positions along x must be evenly spaced; entry ",
        admitted={"resample": "cubic"},
        expected=EVEN,
        atol=1e-5,
        told="u: 41 samples at uneven places along x are interpolated to 41 even ones (cubic); the error is about ",
    ),
    "uneven positions, linear": Form(
        write=npz(u=SMOOTH, t=T, x=SMOOTH_X),
        keys=LINES | {"resample": "linear", "boundary": "zero-gradient"},
        expected=EVEN,
        atol=1e-3,
    ),
    "uneven positions of faces": Form(
        write=npz(u=SMOOTH[..., None], t=T, x=SMOOTH_X),
        keys=LINES | {"axes": "txc", "resample": "linear", "variables": {"u": Variable(sampling="staggered")}},
        refused="data.coordinates.x: staggered fields lie on the faces of cells, and the samples along x are uneven; "
        "give bounds instead of coordinates",
    ),
    "positions that do not increase": Form(
        write=npz(u=U, t=T, x=X[[0, 2, 1, *range(3, CELLS)]]),
        keys=LINES | {"resample": "linear"},
        refused="data.coordinates.x: the positions along x must increase; entry 1 is 0.3125 and the next one 0.1875",
    ),
    "nodes of a period": Form(write=npz(u=NODES, t=T, x=np.arange(CELLS + 1) / CELLS), keys=LINES),
    "nodes at walls": Form(
        write=npz(u=WALLS, t=T, x=np.arange(CELLS + 2) / (CELLS + 1)), keys=LINES | {"boundary": 0.0}
    ),
    "nodes at walls, rounded": Form(
        write=npz(u=(WALLS + np.eye(1, CELLS + 2) * 1e-6).astype("f4"), t=T, x=np.arange(CELLS + 2) / (CELLS + 1)),
        keys=LINES | {"boundary": 0.0},
    ),
    "nodes at walls, far from 0": Form(
        write=npz(u=(WALLS + 101325).astype("f4"), t=T, x=np.arange(CELLS + 2) / (CELLS + 1)),
        keys=LINES | {"boundary": 101325.003},
        expected=(U + 101325).astype("f4"),
    ),
    "nodes at walls, half precision": Form(
        write=npz(u=(WALLS + 100).astype("f2"), t=T, x=np.arange(CELLS + 2) / (CELLS + 1)),
        keys=LINES | {"boundary": 100.02},
        expected=(U + 100).astype("f2"),
    ),
    "nodes at walls, measured": Form(
        write=npz(u=WALLS + np.eye(1, CELLS + 2) * 0.01, x=np.arange(CELLS + 2) / (CELLS + 1)),
        keys={"variables": {"u": "u"}, "coordinates": {"x": "x"}, "bounds": {}, "points": "nodes", "boundary": 0.0},
        refused="data.boundary: FILE, array 'u': the field 'u' of simulation 0 has nodes on the "
        "lower end of x, where the "
        "boundary gives 0, but a sample is 0.01 in frame 0 (allowed difference: 0.000775): ",
        admitted={"tolerance": 0.01},
    ),
    "no positions": Form(
        write=npy(U),
        keys={"bounds": {}},
        refused="data.bounds.x: the positions of the samples along x are missing",
        admitted={"bounds": {"x": (0.0, 1.0)}},
    ),
    # thin axes
    "a plane of one row": Form(write=npy(U[:, None]), keys={"axes": "tyx"}, expected=U[..., None]),
    "one row with its position": Form(
        write=npz(u=U[:, None], y=[0.5]),
        keys={"variables": {"u": "u"}, "axes": "tyx", "coordinates": {"y": "y"}},
        expected=U[..., None],
    ),
    "one cell": Form(
        write=npy(U[:, :1]), refused="data.axes: the data has 1 sample along x, and at least 2 are needed"
    ),
    # times
    "times from 1.7e9": Form(write=npz(u=U, t=1.7e9 + T), keys={"variables": {"u": "u"}, "time": "t", "dt": None}),
    "date-times": Form(
        write=npz(u=U, t=np.datetime64("2024-05-01T12:00") + (1000 * T).astype("m8[ms]")),
        keys={"variables": {"u": "u"}, "time": "t", "dt": None},
        told="t: date-times are read as seconds since 2024-05-01T12:00:00.000",
    ),
    "times from 1.7e9 in float32": Form(
        write=npz(u=U, t=(1.7e9 + T).astype("f4")),
        keys={"variables": {"u": "u"}, "time": "t", "dt": None},
        refused="data.time: the times 't' must increase; it runs from 1.7e+09 to 1.7e+09",
    ),
    "times from 1.7e9 in float32, over hours": Form(
        write=npz(u=U, t=(1.7e9 + 60 * T).astype("f4")),
        keys={"variables": {"u": "u"}, "time": "t", "dt": None},
        refused="data.time: the times 't' must increase; entry 0 is 1.7e+09 and the next one 1.7e+09",
    ),
    "spans of time": Form(
        write=npz(u=U, t=(1000 * T).astype("m8[ms]")),
        keys={"variables": {"u": "u"}, "time": "t", "dt": None},
        told="t: spans of time are read as seconds since 0 milliseconds",
    ),
    "integer times": Form(write=npz(u=U, t=np.arange(FRAMES)), keys={"variables": {"u": "u"}, "time": "t", "dt": None}),
    "backward times": Form(
        write=npz(u=U, t=-T),
        keys={"variables": {"u": "u"}, "time": "t", "dt": None},
        refused="data.time: the times 't' must increase; it runs from -0 to -2.5",
    ),
    "uneven times": Form(
        write=npz(u=UNEVEN_T[:, None] * np.arange(CELLS), t=UNEVEN_T),
        keys={"variables": {"u": "u"}, "time": "t", "dt": None},
        refused="data.time: the times 't' must be evenly spaced; entry 3 is 1.25 where a spacing of 0.5 gives 1.5; "
        'data.resample = "linear"',
        admitted={"resample": "linear"},
        expected=np.arange(0, 2.6, 0.25)[:, None] * np.arange(CELLS),
    ),
    "missing frames": Form(
        write=npz(u=U[[0, 1, 2, 4, 5]], t=T[[0, 1, 2, 4, 5]]),
        keys={"variables": {"u": "u"}, "time": "t", "dt": None},
        refused="data.time: the times 't' must be evenly spaced; ",
        admitted={"resample": "missing"},
        expected=np.where(np.arange(FRAMES)[:, None] == 3, np.nan, U),
        told="t: 1 of 6 frames are missing, and not observed",
    ),
    "no times": Form(
        write=npy(U),
        keys={"dt": None},
        refused="dt: the time between two frames is missing; give dt",
        admitted={"dt": 0.5},
    ),
    # sizes
    "1e-12": Form(write=npy(1e-12 * U), expected=1e-12 * U),
    "1e12": Form(write=npy(1e12 * U), expected=1e12 * U),
    "constant": Form(write=npy(np.full((FRAMES, CELLS), 3.0)), expected=np.full((FRAMES, CELLS), 3.0)),
    "constant, with positions": Form(
        write=npz(u=np.full((FRAMES, CELLS), 3.0), t=T, x=X),
        keys=LINES,
        expected=np.full((FRAMES, CELLS), 3.0),
    ),
    "constant, with positions that show no cells": Form(
        write=npz(u=np.full((FRAMES, CELLS), 3.0), t=T, x=X + 0.02),
        keys=LINES,
        expected=np.full((FRAMES, CELLS), 3.0),
        refused="data.points: along x the last samples equal the first, but neither",
        admitted={"points": "cells"},
    ),
    "dt 1e-9": Form(write=npz(u=U, t=1e-9 * T), keys={"variables": {"u": "u"}, "time": "t", "dt": None}),
    "dt 1e6": Form(write=npz(u=U, t=1e6 * T), keys={"variables": {"u": "u"}, "time": "t", "dt": None}),
    # missing values
    "NaN": Form(write=npy(np.where(U > 3, np.nan, U)), expected=np.where(U > 3, np.nan, U)),
}


def opened(path: Path, **keys: Any) -> ArraysSource:
    base = {"axes": "tx", "dt": 0.5, "boundary": "periodic", "bounds": {"x": (0.0, 1.0)}} | keys
    return ArraysSource(ArraysOptions(path=path, **base | {"boundary": BoundarySetting.from_data(base["boundary"])}))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_form_is_read_exactly_or_refused_with_the_key_that_admits_it(
    tmp_path: Path, form: Form, caplog: pytest.LogCaptureFixture
) -> None:
    path = form.write(tmp_path)
    if form.refused:
        with pytest.raises(HycoError) as caught:
            opened(path, **form.keys).load(0)
        assert str(caught.value).startswith(form.refused.replace("FILE", str(path)))
        if not form.admitted:
            return
    with caplog.at_level(logging.INFO):
        source = opened(path, **form.keys | form.admitted)
        dynamic = source.load(0).dynamic
    expected = torch.from_numpy(np.array(form.expected, dtype=np.float64))
    components = expected.ndim > 1 + source.layout.n_axes
    found = dynamic.double().movedim(1, -1) if components else dynamic.double()[:, 0]
    if min(source.layout.grid.resolution) == 1:
        assert source.layout.grid.axes == ("x", "y")
    torch.testing.assert_close(found, expected, rtol=0, atol=form.atol, equal_nan=True)
    assert form.told in caplog.text


def test_there_are_as_many_forms_as_people_have() -> None:
    assert len(FORMS) >= 60


def test_a_value_that_was_not_observed_is_named_with_the_key(tmp_path: Path) -> None:
    path = npy(np.where(U > 3, np.nan, U))(tmp_path)
    source = opened(path)
    with pytest.raises(HycoError) as caught:
        check_values(source.load(0), source, 0)
    assert 'say with data.observe.mask.value = "nan" that it was not observed' in str(caught.value)


@pytest.mark.parametrize("name", FORMS)
def test_inspect_prints_what_reads_a_form_or_says_why_nothing_does(tmp_path: Path, name: str) -> None:
    path = FORMS[name].write(tmp_path)
    if name in ("objects", "bfloat16", "records", "text"):
        with pytest.raises(HycoError):
            describe(path)
        return
    found = describe(path)
    if found.spec:
        assert found.tried.startswith("read as "), found.tried
    else:
        assert FORMS[name].refused
        assert found.contents or "no installed source reads it" in found.what


# --- layouts of HDF5 that sources of their own read ---


def well(times: Any, positions: Any) -> Write:
    def write(folder: Path) -> Path:
        with h5py.File(folder / "a.hdf5", "w") as file:
            file.attrs.update({"grid_type": "cartesian", "n_trajectories": 2, "n_spatial_dims": 1})
            file.attrs["simulation_parameters"] = []
            dimensions = file.create_group("dimensions")
            dimensions.attrs["spatial_dims"] = ["x"]
            dimensions["time"], dimensions["x"] = times, positions
            group = file.create_group("t0_fields")
            group.attrs["field_names"] = ["u", "depth"]
            one = 2 * np.asarray(times)[:, None] + np.asarray(positions)
            for name, values in (("u", np.stack([one, 2 * one])), ("depth", np.stack([one[0], 2 * one[0]]))):
                group[name] = values
                group[name].attrs.update({"sample_varying": True, "time_varying": name == "u", "dim_varying": [True]})
        return folder / "a.hdf5"

    return write


def pdebench(times: Any, positions: Any) -> Write:
    def write(folder: Path) -> Path:
        centres = positions if len(positions) == CELLS else (positions[1:] + positions[:-1]) / 2
        one = 2 * np.asarray(times)[:, None] + centres
        return hdf5("a.hdf5", tensor=np.stack([one, 2 * one]), **{"t-coordinate": times, "x-coordinate": positions})(
            folder
        )

    return write


GAPS = T[[0, 1, 2, 4, 5]]
EDGES = np.linspace(0, 1, CELLS + 1) ** 1.2
LAYOUTS = {
    "times": ("t", UNEVEN_T, X, "linear"),
    "times, cubic": ("t", UNEVEN_T, X, "cubic"),
    "missing frames": ("t", GAPS, X, "missing"),
    "positions": ("x", T, X**1.2, "linear"),
    "positions, cubic": ("x", T, X**1.2, "cubic"),
    "positions downwards": ("x", T, (X**1.2)[::-1], "linear"),
    "times and positions": ("tx", UNEVEN_T, X**1.2, "linear"),
    "edges": ("x", T, EDGES, "linear"),
}


def source_of(kind: str, path: Path, **keys: Any) -> WellSource | PdebenchSource:
    boundary = BoundarySetting.from_data("zero-gradient")
    if kind == "well":
        return WellSource(WellOptions(path=path, boundary=boundary, **keys))
    return PdebenchSource(PdebenchOptions(path=path, boundary=boundary, **keys))


@pytest.mark.parametrize("kind", ["well", "pdebench"])
@pytest.mark.parametrize(("uneven", "times", "positions", "method"), LAYOUTS.values(), ids=LAYOUTS)
def test_uneven_samples_of_layouts_are_interpolated_or_refused_with_the_key(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    uneven: str,
    times: Any,
    positions: Any,
    method: str,
) -> None:
    if kind == "well" and len(positions) > CELLS:
        positions = (positions[1:] + positions[:-1]) / 2  # it has centres alone
    path = {"well": well, "pdebench": pdebench}[kind](times, positions)(tmp_path)
    with pytest.raises(HycoError, match=r'must be evenly spaced; .*; data.resample = "linear" or "cubic" interpolates'):
        source_of(kind, path)
    with caplog.at_level(logging.INFO):
        source = source_of(kind, path, resample=method)
        found = [source.load(index) for index in (0, 1)]
    frames = len(found[0].dynamic)
    now = torch.tensor(times[0] + source.dt * np.arange(frames))
    expected = 2 * now[:, None] + torch.tensor(source.layout.grid.centers("x"), dtype=torch.float64)
    if method == "missing":
        expected[3] = math.nan
    for index, trajectory in enumerate(found):
        torch.testing.assert_close(trajectory.dynamic[:, 0], (1 + index) * expected, equal_nan=True, rtol=0, atol=1e-9)
    assert source.frames(0) == frames
    if kind == "well":
        torch.testing.assert_close(found[1].static[0], 2 * expected[0])
    told = "t: 1 of 6 frames are missing" if method == "missing" else f"samples at uneven places along {uneven[0]}"
    assert caplog.text.count(told) == (1 if kind == "pdebench" or uneven[0] == "t" else 2)
    changed = source.fingerprint() != source_of(kind, path, resample="linear").fingerprint()
    assert changed == (method != "linear")
