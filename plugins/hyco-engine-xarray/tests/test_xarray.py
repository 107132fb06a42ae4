"""The source `xarray`: the contract of sources, and what CF metadata say, in netCDF files and zarr stores."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray
from hyco_engine_xarray import XarrayOptions
from hyco_engine_xarray.source import build

from hyco_engine.builtin.sources.options import Variable
from hyco_engine.data.settings import BoundarySetting
from hyco_engine.errors import HycoError
from hyco_engine.hooks.registry import Registry
from hyco_engine.inspection import describe
from hyco_engine.interfaces import SourceContext, TrajectorySource
from hyco_engine.testing.contexts import tiny_context
from hyco_engine.testing.sources import TrajectoryContract

pytest_plugins = ["hyco_engine.testing.fixtures"]

U = np.random.default_rng(0).integers(-32, 32, (6, 8)).astype(float) / 8
X = (np.arange(8) + 0.5) / 8
T = 0.5 * np.arange(6)


def data(u: Any = U, dims: tuple[str, ...] = ("time", "x"), **coords: Any) -> xarray.Dataset:
    coords = {"time": ("time", T), "x": ("x", X)} | coords
    return xarray.Dataset({"u": (dims, u, {"units": "K"})}, coords=coords)


def netcdf(folder: Path, found: xarray.Dataset, **encoding: Any) -> Path:
    found.to_netcdf(folder / "a.nc", engine="h5netcdf", encoding=encoding)
    return folder / "a.nc"


def netcdf3(folder: Path, found: xarray.Dataset, **encoding: Any) -> Path:
    found.to_netcdf(folder / "a.nc", engine="scipy", encoding=encoding)
    return folder / "a.nc"


def zarr(folder: Path, found: xarray.Dataset, **encoding: Any) -> Path:
    found.to_zarr(folder / "a.zarr", encoding=encoding, consolidated=False)
    return folder / "a.zarr"


def opened(path: Path | tuple[Path, ...], **keys: Any) -> TrajectorySource:
    setting = BoundarySetting.from_data(keys.pop("boundary", "periodic"))
    return build(XarrayOptions(path=path, boundary=setting, **keys), tiny_context().derive(SourceContext))


def refused(make: Callable[[], Any]) -> str:
    with pytest.raises(HycoError) as caught:
        make()
    return str(caught.value)


class TestContract(TrajectoryContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make(self, context: SourceContext) -> TrajectorySource:
        if not (self.folder / "a.nc").exists():
            netcdf(self.folder, data(np.stack([U, U + 1, 2 * U]), ("member", "time", "x")))
        return opened(self.folder / "a.nc")

    def changed(self) -> TrajectorySource:
        (self.folder / "other").mkdir(exist_ok=True)
        return opened(netcdf(self.folder / "other", data(U + 1e-9)))


@pytest.mark.parametrize("write", [netcdf, netcdf3, zarr])
def test_each_format_gives_the_same(tmp_path: Path, write: Any) -> None:
    source = opened(write(tmp_path, data()))
    assert source.dt == 0.5
    assert source.layout.grid.resolution == (8,)
    assert (source.layout.grid.lower, source.layout.grid.upper) == ((0.0,), (1.0,))
    assert source.layout.dynamic[0].unit == "K"
    assert torch.equal(source.load(0).dynamic[:, 0], torch.from_numpy(U))


@pytest.mark.parametrize("write", [netcdf, zarr])
def test_chunks_are_read_piece_by_piece(tmp_path: Path, write: Any) -> None:
    many = np.stack([U + k for k in range(4)])
    key = "chunksizes" if write is netcdf else "chunks"
    source = opened(write(tmp_path, data(many, ("member", "time", "x")), u={key: (1, 3, 4)}))
    assert source.num_simulations == 4
    for k in (3, 0):
        assert torch.equal(source.load(k).dynamic[:, 0], torch.from_numpy(U + k))


@pytest.mark.parametrize("write", [netcdf, netcdf3, zarr])
def test_fill_values_are_not_observed_and_packed_numbers_are_unpacked(tmp_path: Path, write: Any) -> None:
    gaps = np.where(U > 3, np.nan, U)
    packed = {"dtype": "i2", "scale_factor": 0.125, "add_offset": 1.0, "_FillValue": -9999}
    source = opened(write(tmp_path, data(gaps), u=packed))
    found = source.load(0).dynamic[:, 0].double()
    torch.testing.assert_close(found, torch.from_numpy(gaps), rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize(
    ("units", "calendar", "dt"),
    [
        ("seconds since 2024-05-01", "standard", 0.5),
        ("hours since 1900-01-01 00:00:0.0", "360_day", 1800.0),
        ("days since 2000-02-30", "360_day", 43200.0),
        ("ms since 2024-05-01", "noleap", 0.0005),
        ("nanoseconds since 2024-05-01", "standard", 5e-10),
    ],
)
def test_times_since_a_date_are_seconds(tmp_path: Path, units: str, calendar: str, dt: float) -> None:
    times = ("time", 1000 + T, {"units": units, "calendar": calendar})
    assert opened(netcdf(tmp_path, data(time=times))).dt == pytest.approx(dt)


@pytest.mark.parametrize("limits", [{"valid_range": [-2.0, 3.0]}, {"valid_min": -2.0, "valid_max": 3.0}])
def test_values_outside_of_the_valid_range_are_not_observed(tmp_path: Path, limits: dict[str, Any]) -> None:
    found = data()
    found["u"].attrs |= limits
    expected = np.where((U < -2) | (U > 3), np.nan, U)
    source = opened(netcdf(tmp_path, found))
    torch.testing.assert_close(source.load(0).dynamic[:, 0], torch.from_numpy(expected), equal_nan=True)


def test_the_valid_range_of_packed_numbers_is_packed(tmp_path: Path) -> None:
    found = data()
    found["u"].attrs["valid_max"] = np.int16(24)
    source = opened(netcdf(tmp_path, found, u={"dtype": "i2", "scale_factor": 0.125, "_FillValue": -9999}))
    values = source.load(0).dynamic[:, 0].double()
    expected = torch.from_numpy(np.where(U > 3, np.nan, U))
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-6, equal_nan=True)


def test_options_of_arrays_are_checked(tmp_path: Path) -> None:
    path = netcdf(tmp_path, data())
    assert refused(lambda: opened(path, bounds={"x": (1.0, 0.0)})) == (
        f"data: {path}: the lower bound of x must be below the upper one, not 1 and 0"
    )


def test_months_are_not_equally_long(tmp_path: Path) -> None:
    path = netcdf(tmp_path, data(time=("time", T, {"units": "months since 2000-01-01"})))
    assert refused(lambda: opened(path)) == (
        f"data.dt: {path}: 'time' counts months since a date, whose length is not known; give data.dt, the time "
        "between two frames"
    )
    assert opened(path, dt=1.0).dt == 1.0


def test_axes_are_found_by_attributes_and_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plane = U[:, :, None] * np.arange(1, 4)
    found = xarray.Dataset(
        {
            "sst": (("time", "lat", "lon"), plane, {"units": "degC"}),
            "land": (("lat", "lon"), np.ones((8, 3))),
            "time_bnds": (("time", "bnds"), np.stack([T, T + 0.5], axis=1)),
        },
        coords={"time": T, "lat": ("lat", X[::-1], {"units": "degrees_north"}), "lon": np.arange(3.0)},
    )
    path = netcdf(tmp_path, found)
    with caplog.at_level(logging.INFO):
        source = opened(path)
    assert [field.name for field in source.layout.fields] == ["sst"]
    assert torch.equal(source.load(0).dynamic[:, 0], torch.from_numpy(plane[:, ::-1].transpose(0, 2, 1).copy()))
    assert "y is the dimension 'lat' in degrees_north" in caplog.text
    assert "y: the samples run downwards in the file, and are flipped" in caplog.text
    both = opened(path, variables={"T": "sst", "land": Variable(static=True)})
    assert [field.name for field in both.layout.static] == ["land"]


def test_dimensions_that_nothing_explains_are_named(tmp_path: Path) -> None:
    path = netcdf(tmp_path, data(U, ("step", "cell"), time=("step", T), x=("cell", X)))
    assert refused(lambda: opened(path)) == (
        f"data.dimensions: {path}: no variable has a dimension of time and only such dimensions as are known (it has "
        "u (step, cell)); "
        'data.dimensions names them, such as { t = "time", x = "lon" }'
    )
    source = opened(path, dimensions={"t": "step", "x": "cell"}, dt=0.5, coordinates={"x": "x"})
    assert torch.equal(source.load(0).dynamic[:, 0], torch.from_numpy(U))
    assert refused(lambda: opened(path, dimensions={"t": "steps"})).endswith(
        "has no dimension 'steps'; did you mean 'step'? (it has step, cell)"
    )
    assert refused(lambda: opened(path, dimensions={"t": "step"}, variables={"u": "u"}, dt=0.5)) == (
        f"data.dimensions: {path}: 'u' has the dimension 'cell', of which nothing says what it is; data.dimensions "
        "names the dimension of each axis: s simulation, t time, c component, x, y, z"
    )


def test_dimensions_of_length_1_are_left_out(tmp_path: Path) -> None:
    plane = U[:, :, None] * np.arange(1, 4)
    found = data(
        plane[None, :, None], ("expver", "time", "level", "lat", "lon"), lat=X[:, None][:, 0], lon=np.arange(3.0)
    )
    source = opened(netcdf(tmp_path, found.drop_vars("x")), boundary={"x": "zero-gradient", "y": "periodic"})
    assert source.layout.grid.axes == ("x", "y")
    assert torch.equal(source.load(0).dynamic[:, 0], torch.from_numpy(plane.transpose(0, 2, 1).copy()))


@pytest.mark.parametrize("name", ["number", "realization", "ensemble_member"])
def test_members_of_an_ensemble_are_simulations(tmp_path: Path, name: str) -> None:
    assert opened(netcdf(tmp_path, data(np.stack([U, 2 * U]), (name, "time", "x")))).num_simulations == 2


@pytest.mark.parametrize(
    ("longitudes", "lower"),
    [([180, 225, 270, 315, 0, 45, 90, 135], 157.5), ([0, 45, 90, 135, -180, -135, -90, -45], -22.5)],
)
def test_longitudes_that_begin_again_go_on(tmp_path: Path, longitudes: list[float], lower: float) -> None:
    lon = ("lon", np.array(longitudes, "f4"), {"units": "degrees_east"})
    source = opened(netcdf(tmp_path, data(dims=("time", "lon"), lon=lon).drop_vars("x")))
    assert (source.layout.grid.lower, source.layout.grid.upper) == ((lower,), (lower + 360,))
    assert torch.equal(source.load(0).dynamic[:, 0], torch.from_numpy(U))


def test_series_have_no_space(tmp_path: Path) -> None:
    path = netcdf(tmp_path, xarray.Dataset({"co2": ("time", U[:, 0])}, coords={"time": T}))
    source = build(XarrayOptions(path=path), tiny_context().derive(SourceContext))
    assert source.layout.grid.axes == ()
    assert torch.equal(source.load(0).dynamic[:, 0], torch.from_numpy(U[:, 0].copy()))


def test_times_are_known_by_their_unit(tmp_path: Path) -> None:
    hours = ("ocean_time", T, {"units": "hours since 2000-01-01"})
    named = data(dims=("ocean_time", "xi_rho"), time=hours, ocean_time=hours, xi_rho=("xi_rho", X)).drop_vars(
        ["x", "time"]
    )
    assert opened(netcdf(tmp_path, named)).dt == 1800
    beside = data(dims=("Time", "west_east"), XTIME=("Time", *hours[1:]), west_east=X).drop_vars(["x", "time"])
    (tmp_path / "wrf").mkdir()
    assert opened(netcdf(tmp_path / "wrf", beside)).dt == 1800


def test_variables_that_describe_others_are_no_fields(tmp_path: Path) -> None:
    found = data()
    found["u"].attrs["ancillary_variables"] = "u_error"
    found["x"].attrs["bounds"] = "x_bounds"
    found["u_error"] = found["x_bounds"] = found["quality"] = found["u"] * 0
    found["quality"].attrs["flag_meanings"] = "good bad"
    assert [field.name for field in opened(netcdf(tmp_path, found)).layout.fields] == ["u"]


def test_uneven_positions_are_refused_or_interpolated(tmp_path: Path) -> None:
    path = netcdf(tmp_path, data(x=("x", X**1.2)))
    assert refused(lambda: opened(path)).startswith("data.coordinates.x: the positions along x must be evenly spaced")
    assert opened(path, resample="linear").load(0).dynamic.shape == (6, 1, 8)


def test_curvilinear_grids_are_refused(tmp_path: Path) -> None:
    plane = U[:, :, None] + np.zeros(3)
    skewed = (("y", "x"), X[:, None] + 0.1 * np.arange(3) ** 2)
    found = xarray.Dataset({"u": (("time", "y", "x"), plane), "lat": skewed}, coords={"time": T, "x": np.arange(3.0)})
    message = refused(lambda: opened(netcdf(tmp_path, found), coordinates={"y": "lat"}, points="cells"))
    assert message.endswith('kind = "points" takes samples as sensors at any place')


def test_groups(tmp_path: Path) -> None:
    data().to_netcdf(tmp_path / "a.nc", engine="h5netcdf", group="run")
    assert opened(tmp_path / "a.nc", group="run").dt == 0.5


@pytest.mark.parametrize("form", [None, 2, 3])
def test_groups_are_named_where_the_root_is_empty(tmp_path: Path, form: int | None) -> None:
    path = tmp_path / ("a.zarr" if form else "a.nc")
    for group in ("model/run1", "model/run2"):
        if form is None:
            data().to_netcdf(path, engine="h5netcdf", group=group, mode="a" if path.exists() else "w")
        else:
            data().to_zarr(path, group=group, zarr_format=form, consolidated=False)
    assert refused(lambda: opened(path)) == (
        f"data.group: {path} holds no variable in its root; it has the groups model/run1, model/run2"
    )
    assert opened(path, group="model/run2").dt == 0.5


def test_links_out_of_a_file_are_refused(tmp_path: Path) -> None:
    path = netcdf(tmp_path, data())
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["v"] = U
    with h5py.File(path, "r+") as file:
        file["v"] = h5py.ExternalLink(tmp_path / "secret.h5", "v")
    assert refused(lambda: opened(path)) == (
        f"data.path: {path}: the numbers of '/v' are in another file, which you did not name"
    )


def test_names_that_lead_back_are_followed_once(tmp_path: Path) -> None:
    path = netcdf(tmp_path, data())
    with h5py.File(path, "r+") as file:
        group = file.create_group("a")
        for _ in range(40):  # 2**40 paths
            inner = group.create_group("a")
            group["b"] = inner
            group = inner
        group["root"] = file["/"]
    assert opened(path).dt == 0.5


def test_links_out_of_a_store_are_refused(tmp_path: Path) -> None:
    path = zarr(tmp_path, data())
    (path / "v").symlink_to(tmp_path)
    assert refused(lambda: opened(path)) == (
        f"data.path: {path / 'v'} is a link to another place, which you did not name"
    )


@pytest.mark.parametrize("codec", ["pickle", "\\u0070ickle"])
def test_pickled_objects_in_a_store_are_refused(tmp_path: Path, codec: str) -> None:
    path = zarr(tmp_path, data())
    (path / "o").mkdir()
    (path / "o" / ".zarray").write_text('{"filters": [{"id": "CODEC"}]}'.replace("CODEC", codec))
    assert refused(lambda: opened(path)) == (
        f"data.path: {path / 'o' / '.zarray'} declares pickled objects, which the engine never reads"
    )


@pytest.mark.parametrize("content", [b"", b"CDF\x01", b"\x89HDF\r\n\x1a\n"])
def test_damaged_files_are_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.nc").write_bytes(content)
    assert refused(lambda: opened(tmp_path / "a.nc")).startswith(f"data.path: cannot read {tmp_path / 'a.nc'}")
    assert refused(lambda: opened(tmp_path / "b.nc")) == f"data.path: there is no file or folder {tmp_path / 'b.nc'}"


CLOCKS = ("days since 2000-01-01", "hours since 2000-01-02", "days since 2000-01-05", "minutes since 2000-01-06")
"""The units of the times of several files: each may count in another unit, from a date of its own."""


def years(folder: Path, names: str = "dcba", frames: tuple[int, ...] = (0, 2, 4, 6), **more: Any) -> Path:
    """Write files of two frames each, the first of which is the one of that number, a day apart from the next."""
    (folder / "years").mkdir()
    for name, first in zip(names, frames, strict=True):
        times = (
            "time",
            [float(first), first + 1.0],
            {"units": CLOCKS[0], "calendar": more.get("calendar", "standard")},
        )
        data(np.stack([0 * X + first, 0 * X + first + 1]), time=times, x=("x", more.get(name, X))).to_netcdf(
            folder / "years" / f"{name}.nc", engine="h5netcdf"
        )
    return folder / "years"


def test_files_are_joined_in_the_order_of_their_times(tmp_path: Path) -> None:
    folder = years(tmp_path)
    for path in (folder, folder / "*.nc", tuple(folder / f"{name}.nc" for name in "cabd")):
        source = opened(path)
        assert (source.num_simulations, source.frames(0), source.dt) == (1, 8, 86400.0)
        assert source.load(0).dynamic[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    alone = opened(folder, files="simulations")
    assert (alone.num_simulations, alone.frames(0)) == (4, 2)
    assert alone.load(0).dynamic[:, 0, 0].tolist() == [6, 7]
    before = opened(folder).fingerprint()
    data(time=("time", T + 8, {"units": CLOCKS[0]})).isel(time=slice(0, 2)).to_netcdf(
        folder / "e.nc", engine="h5netcdf"
    )
    assert opened(folder, resample="linear").fingerprint() != before


@pytest.mark.parametrize("calendar", ["standard", "360_day"])
def test_times_of_files_may_count_from_other_dates_in_other_units(tmp_path: Path, calendar: str) -> None:
    per_day = (1, 24, 1, 1440)
    begin = (0, 1, 4, 5)
    for k, (units, scale, first) in enumerate(zip(CLOCKS, per_day, begin, strict=True)):
        times = ("time", (np.array([2.0 * k, 2 * k + 1]) - first) * scale, {"units": units, "calendar": calendar})
        data(np.stack([0 * X + 2 * k, 0 * X + 2 * k + 1]), time=times).to_netcdf(
            tmp_path / f"{9 - k}.nc", engine="h5netcdf"
        )
    source = opened(tmp_path)
    assert source.dt == pytest.approx(86400.0)
    assert source.load(0).dynamic[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_members_of_joined_files_are_simulations(tmp_path: Path) -> None:
    many = np.stack([U + k for k in range(3)])[:, :, None]
    for k in range(2):
        part = data(many, ("member", "time", "level", "x")).isel(time=slice(3 * k, 3 * k + 3))
        part.to_netcdf(tmp_path / f"{k}.nc", engine="h5netcdf")
    source = opened(tmp_path)
    assert torch.equal(source.load(2).dynamic[:, 0], torch.from_numpy(U + 2))


OTHERWISE = 'files = "simulations" reads each file as a simulation of its own'


def test_files_that_overlap_or_leave_gaps_are_refused(tmp_path: Path) -> None:
    overlapping = years(tmp_path, "ab", (0, 1))
    assert refused(lambda: opened(overlapping)) == (
        "data.path: b.nc begins before a.nc ends (the times 'time'): frames of one simulation follow each other; "
        f"{OTHERWISE}"
    )
    (tmp_path / "gap").mkdir()
    gap = years(tmp_path / "gap", "abc", (0, 2, 7))
    assert refused(lambda: opened(gap)) == (
        "data.path: frames are missing between b.nc and c.nc: the step of the times 'time' is 345600, and 86400 "
        f'elsewhere; data.resample = "missing" takes them as not observed, or {OTHERWISE}'
    )
    assert refused(lambda: opened(gap, resample="missing", dt=1.0)).startswith("data.path: frames are missing")
    assert opened(gap, resample="missing").load(0).dynamic[:, 0, 0].isnan().tolist() == 4 * [False] + 3 * [True] + 2 * [
        False
    ]


def test_files_of_other_grids_or_units_are_refused(tmp_path: Path) -> None:
    folder = years(tmp_path, "ab", (0, 2), b=X + 1)
    assert refused(lambda: opened(folder)) == (
        "data.path: b.nc and a.nc differ in their grid: 'x' reaches from 1.0625 to 1.9375, and from 0.0625 to 0.9375; "
        f"{OTHERWISE}"
    )
    narrow = data(time=("time", T + 2, {"units": CLOCKS[0]})).isel(x=slice(0, 4))
    narrow.to_netcdf(folder / "n.nc", engine="h5netcdf")
    assert refused(lambda: opened((folder / "a.nc", folder / "n.nc"))) == (
        f"data.path: n.nc and a.nc differ in their grid: 'x' has 4 entries and 8; {OTHERWISE}"
    )
    celsius = data().isel(time=slice(0, 2))
    celsius["time"] = ("time", [2.0, 3.0], {"units": CLOCKS[0], "calendar": "standard"})
    celsius["u"].attrs["units"] = "degC"
    celsius.to_netcdf(folder / "c.nc", engine="h5netcdf")
    assert refused(lambda: opened((folder / "a.nc", folder / "c.nc"), variables={"u": "u"})).endswith(
        "the array 'u' cannot be used: c.nc lacks it, or has it with other dimensions or another unit"
    )


def test_the_example_reads_its_file() -> None:
    source = opened(Path(__file__).parents[1] / "heat.nc", boundary=0.0)
    assert (source.frames(0), source.layout.grid.resolution) == (41, (31,))


INSTALLED = "xarray" in Registry.installed().kinds("hyco_sources")


@pytest.mark.skipif(not INSTALLED, reason="inspect knows installed sources only")
@pytest.mark.parametrize("write", [netcdf, netcdf3, zarr])
def test_inspect_prints_what_reads_a_file(tmp_path: Path, write: Any) -> None:
    lat, lon = np.linspace(80, -80, 9), np.arange(0, 360, 30.0)
    ring = 2 + np.sin(np.deg2rad(lon)) * np.exp(-T)[:, None, None] + np.deg2rad(lat)[:, None]
    found = data(
        np.where(lat[:, None] < -70, np.nan, ring),
        ("time", "lat", "lon"),
        lat=("lat", lat, {"units": "degrees_north"}),
        lon=("lon", lon, {"units": "degrees_east"}),
    ).drop_vars("x")
    told = describe(write(tmp_path, found))
    assert told.spec.splitlines()[3:] == [
        'variables = { u = "u" }   # field = variable; name fields as your physics does',
        'boundary = { x = "periodic", y = "zero-gradient" }   # <- guessed from the values at the ends',
        'observe = { mask = { value = "nan" } }   # <- values that are not finite were not observed',
        "num_predict_steps = 1",
        'split = { by = "time", train = "0:2", val = "2:4", test = "4:6" }',
    ]
    assert told.tried.startswith("read as 1 simulation of 6 frames, 0.5 apart; u on 12 cells along x in [-15, 345]")


@pytest.mark.skipif(not INSTALLED, reason="inspect knows installed sources only")
def test_inspect_names_the_group(tmp_path: Path) -> None:
    data().to_netcdf(tmp_path / "a.nc", engine="h5netcdf", group="run")
    told = describe(tmp_path / "a.nc")
    assert 'group = "run"' in told.spec
    assert told.tried.startswith("read as 1 simulation of 6 frames")


@pytest.mark.skipif(not INSTALLED, reason="inspect knows installed sources only")
def test_inspect_tells_whether_files_hold_frames_or_simulations(tmp_path: Path) -> None:
    told = describe(years(tmp_path))
    assert 'files = "frames"' in told.spec
    assert told.tried.startswith("read as 1 simulation of 8 frames, 86400 apart"), told.tried
    (tmp_path / "runs").mkdir()
    told = describe(years(tmp_path / "runs", frames=(0, 0, 0, 0)))
    assert 'files = "simulations"' in told.spec
    assert told.tried.startswith("read as 4 simulations of 2 frames"), told.tried


@pytest.mark.skipif(not INSTALLED, reason="inspect knows installed sources only")
def test_inspect_prints_a_glob_for_stores_and_an_interpolation_for_months(tmp_path: Path) -> None:
    for name in ("b", "a"):
        data().to_zarr(tmp_path / f"{name}.zarr", consolidated=False)
    told = describe(tmp_path)
    assert told.what == "2 zarr stores such as a.zarr, for the plugin hyco-engine-xarray"
    assert f'path = "{tmp_path}/*.zarr"' in told.spec
    assert told.tried.startswith("read as 2 simulations of 6 frames"), told.tried
    months = np.array([f"2001-{month:02d}-01" for month in range(1, 13)], "datetime64[ns]")
    told = describe(netcdf(tmp_path, data(np.resize(U, (12, 8)), time=("time", months))))
    assert 'resample = "linear"   # <- times or positions are not evenly spaced' in told.spec
    assert told.tried.startswith("read as 1 simulation of 12 frames"), told.tried
