"""The sections that `inspect` prints for files: the source reads them with the announced result."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import tomli_w
import torch
from click.testing import CliRunner
from report_cases import run_folder, summary_of

import hyco_engine as hyco
from hyco_engine.cli import cli
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.errors import DataError
from hyco_engine.inspection import describe
from hyco_engine.inspection.guessing import lines_for, split_line
from hyco_engine.interfaces import Trajectory, TrajectorySource

X = np.linspace(0, 1, 33)[:-1]
T = 0.1 * np.arange(21)
WAVE = np.sin(2 * np.pi * (X[:, None] - T))  # [x, t]
CENTERS = (np.arange(32) + 0.5) / 32
SQUARE = WAVE.T[:, None] * np.cos(2 * np.pi * X)[:, None]  # [t, y, x]
COOLING = (np.sin(np.pi * CENTERS) + 0.5 * np.sin(3 * np.pi * CENTERS))[None] * np.exp(-T)[:, None]
NOISE = 0.01 * np.random.default_rng(0).normal(size=COOLING.shape)


def planned(section: str) -> dict[str, Any]:
    """Return the plan that `check` makes for the section, with a surrogate that completes the spec."""
    spec = tomllib.loads(section)
    placed = {"coordinates", "bounds", "boundary"} & set(spec["data"])
    series = spec["data"]["kind"] in ("arrays", "points") and not placed
    return hyco.Engine(spec | {"synthetic": {"kind": "mlp" if series else "resnet"}}).plan()


def npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


def test_all_that_a_file_says_is_used(tmp_path: Path) -> None:
    path = npz(tmp_path, usol=WAVE, x=X, t=T)
    found = describe(path)
    assert found.what == "a .npz file"
    assert found.contents == ("usol: float64 [32, 21]", "x: float64 [32]", "t: float64 [21]")
    assert found.spec.splitlines() == [
        "[data]",
        'kind = "arrays"',
        f'path = "{path}"',
        'variables = { u = "usol" }   # field = array; name fields as your physics does',
        'axes = "xt"',
        'time = "t"',
        'coordinates = { x = "x" }',
        'boundary = "periodic"   # <- guessed from the values at the ends',
        "num_predict_steps = 2",
        'split = { by = "time", train = "0:14", val = "14:17", test = "17:21" }',
    ]
    assert found.tried == (
        "read as 1 simulation of 21 frames, 0.1 apart; u on 32 cells along x in [-0.015625, 0.984375]; "
        "12 windows to train on"
    )
    plan = planned(found.spec)
    assert (plan["n_real"], plan["data"]["dt"], plan["data"]["resolution"]) == (12, pytest.approx(0.1), [32])


@pytest.mark.parametrize(
    ("shape", "axes", "resolution"),
    [
        ((40, 16), "tx", [16]),
        ((20, 16, 16), "txy", [16, 16]),
        ((6, 30, 64), "stx", [64]),
        ((9, 12, 16, 16), "stxy", [16, 16]),
        ((9, 12, 16, 16, 2), "stxyc", [16, 16]),
        ((9, 12, 2, 16, 16), "stcxy", [16, 16]),
        ((12, 16, 16, 2), "txyc", [16, 16]),
    ],
)
def test_guesses_hold_and_are_marked(tmp_path: Path, shape: tuple[int, ...], axes: str, resolution: list[int]) -> None:
    path = npz(tmp_path, u=np.random.default_rng(0).normal(size=shape))
    found = describe(path)
    section = tomllib.loads(found.spec)["data"]
    assert section["axes"] == axes
    for key in ("axes", "dt", "bounds"):
        (line,) = [line for line in found.spec.splitlines() if line.startswith(f"{key} = ")]
        assert "# <- " in line
    plan = planned(found.spec)
    assert plan["data"]["resolution"] == resolution
    assert plan["data"]["simulations"] == (shape[0] if axes[0] == "s" else 1)
    assert found.tried.startswith("read as ")


@pytest.mark.parametrize(
    ("values", "boundary"),
    [
        (np.sin(np.pi * np.linspace(0, 1, 33))[None] * np.exp(-T)[:, None], 0.0),
        (3 + np.sin(np.pi * np.linspace(0, 1, 33))[None] * np.exp(-T)[:, None], 3.0),
        (WAVE.T, "periodic"),
        (np.linspace(0, 1, 33)[None] * np.exp(-T)[:, None], "zero-gradient"),
        (COOLING + NOISE, 0.0),
        (5 + COOLING + NOISE, 5.0),
        (WAVE.T + NOISE, "periodic"),
        (np.cos(np.pi * CENTERS)[None] * np.exp(-T)[:, None] + NOISE, "zero-gradient"),
    ],
)
def test_ends_tell_the_boundary(tmp_path: Path, values: Any, boundary: object) -> None:
    found = tomllib.loads(describe(npz(tmp_path, u=values)).spec)["data"]["boundary"]
    assert found == (pytest.approx(boundary, rel=0.01) if isinstance(boundary, float) else boundary)


ENDS = np.linspace(-1, 1, 33)
REPEATED = -np.sin(np.pi * ENDS)[None] * np.exp(-T)[:, None]
"""A period whose end is repeated and stays 0."""
LEFT = np.linspace(-1, 1, 32, endpoint=False)
SAWTOOTH = np.sin(np.pi * LEFT) + (LEFT - np.sin(np.pi * LEFT)) * np.exp(-8 * T)[:, None]
"""A start that jumps at the end of its period, which later frames smooth out."""


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"u": REPEATED, "x": ENDS, "t": T}, {"variables": {"u": "u"}, "boundary": "periodic"}),
        ({"u": SAWTOOTH, "x": LEFT, "t": T}, {"variables": {"u": "u"}, "boundary": "periodic"}),
        (
            {"u": (1 - X) * np.exp(0 * T)[:, None] + np.sin(np.pi * X) * np.exp(-T)[:, None], "x": X * 32 / 31, "t": T},
            {"variables": {"u": "u"}},
        ),
        (
            {"C": WAVE.T, "C_all": np.stack([WAVE.T] * 3, -1), "C_all_swap": np.stack([WAVE] * 3, -1), "x": X, "t": T},
            {"variables": {"C": "C"}, "axes": "tx"},
        ),
        ({"u": WAVE.T + NOISE, "clean": WAVE.T, "x": X, "t": T}, {"variables": {"u": "u"}, "boundary": "periodic"}),
        ({"U_series": WAVE.T, "V_series": WAVE.T}, {"variables": {"u": "U_series", "v": "V_series"}}),
        ({"u": WAVE.T + 0j, "x": X, "t": T}, {"variables": {"u": "u"}}),
        (
            {"psi": WAVE.T * 1j, "x": X, "t": T},
            {"variables": {f"psi_{part}": {"variable": "psi", "part": part} for part in ("real", "imag")}},
        ),
        ({"u": WAVE.T[:, ::-1], "x": X[::-1], "t": T}, {"coordinates": {"x": "x"}, "boundary": "periodic"}),
        ({"u": WAVE.T, "x": X**1.5, "t": T}, {"coordinates": {"x": "x"}, "resample": "linear"}),
        ({"u": WAVE.T, "x": X, "t": T**1.5}, {"time": "t", "resample": "linear"}),
        ({"u": WAVE.T[..., None], "x": X, "t": T}, {"axes": "txy"}),
        (
            dict(zip(("X", "T", "U"), (*np.meshgrid(X, T), WAVE.T), strict=True)),
            {"variables": {"u": "U"}, "axes": "tx", "time": "T", "coordinates": {"x": "X"}},
        ),
        (
            {"u": SQUARE, "x": np.meshgrid(X, X)[0], "y": np.meshgrid(X, X)[1], "t": T},
            {"axes": "tyx", "coordinates": {"x": "x", "y": "y"}},
        ),
        ({"u": WAVE.T, "dt": 0.1, "dx": 0.5}, {"dt": 0.1, "bounds": {"x": [0.0, 16.0]}}),
        ({"u": WAVE.T, "L": 7.0}, {"bounds": {"x": [0.0, 7.0]}}),
        ({"y": WAVE[:3], "t": T}, {"axes": "ct"}),
        ({f"u_{k}": SQUARE[k] for k in range(21)}, {"variables": {"u": "u_*"}, "axes": "txy"}),
    ],
)
def test_what_is_printed_runs(tmp_path: Path, arrays: dict[str, Any], expected: dict[str, Any]) -> None:
    found = describe(npz(tmp_path, **arrays))
    section = tomllib.loads(found.spec)["data"]
    assert {key: section.get(key) for key in expected} == expected
    assert found.tried.startswith("read as 1 simulation of "), found.tried
    assert planned(found.spec)["n_real"] > 0


def test_entries_that_do_not_resemble_their_neighbours_are_states_with_inputs(tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).normal(size=(20, 3)) @ np.sin(np.arange(1, 4)[:, None] * np.pi * CENTERS)
    found = describe(npz(tmp_path, a=inputs, u=inputs / 2))
    section = tomllib.loads(found.spec)["data"]
    assert (section["axes"], section["steady"]) == ("sx", True)
    assert section["variables"] == {"a": {"variable": "a", "static": True}, "u": "u"}
    assert (
        found.tried
        == "read as 20 simulations of 2 frames, 1 apart; u, a on 32 cells along x in [0, 1]; 14 windows to train on"
    )
    assert planned(found.spec)["n_real"] == 14


def test_groups_of_one_form_are_simulations(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "runs.h5", "w") as file:
        for k in (2, 10, 1):
            group = file.create_group(f"run{k}")
            group["u"], group["x"], group["t"], group["nu"] = k * WAVE.T, X, T, 0.1 * k
    section = tomllib.loads(describe(tmp_path / "runs.h5").spec)
    data = section["data"]
    assert (data["variables"], data["axes"]) == ({"u": "run*/u"}, "stx")
    assert (data["time"], data["coordinates"]) == ("run*/t", {"x": "run*/x"})
    data["scalars"] = {"nu": "run*/nu"}
    plan = planned(tomli_w.dumps(section))
    assert (plan["data"]["simulations"], plan["data"]["scalars"]) == (3, ["nu"])


def test_a_star_stands_for_arrays_of_one_shape_alone(tmp_path: Path) -> None:
    path = npz(tmp_path, u1=WAVE.T, u2=WAVE.T[:, :16])
    section = {"kind": "arrays", "path": str(path), "variables": {"u": "u*"}, "axes": "stx", "dt": 0.1}
    spec = {"data": section | {"boundary": "periodic", "bounds": {"x": [0.0, 1.0]}}, "synthetic": {"kind": "resnet"}}
    with pytest.raises(DataError) as caught:
        hyco.Engine(spec).plan()
    assert str(caught.value) == (
        f"data.variables.u: {path}: the arrays 'u*' have different shapes: 'u1' (21, 32), 'u2' (21, 16)"
    )


def test_a_cell_array_leads_to_no_other_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.zeros((21, 32))
    with h5py.File(tmp_path / "cell.mat", "w", userblock_size=512) as file:
        file["link"] = h5py.ExternalLink("other.h5", "secret")
        cell = file.create_dataset("c", data=["link"], dtype=h5py.string_dtype())
        cell.attrs["MATLAB_class"] = np.bytes_("cell")
    found = describe(tmp_path / "cell.mat")
    assert found.contents == ("c: it is a cell array; cat(3, c{:}) in MATLAB makes one array of equal parts",)


@pytest.mark.parametrize("version", [5, 7.3])
def test_cells_of_arrays_and_coordinates(tmp_path: Path, version: float) -> None:
    path = tmp_path / "wsindy.mat"
    fields, lines = np.empty((1, 2), object), np.empty((1, 2), object)
    fields[0, :], lines[0, :] = [WAVE, 2 * WAVE], [X[None], T[None]]
    if version == 5:
        scipy.io.savemat(path, {"U_exact": fields, "xs": lines, "lhs": np.array([[1, 0, 1]])})
    else:
        with h5py.File(path, "w", userblock_size=512) as file:
            for name, cell in (("U_exact", fields), ("xs", lines)):
                for k, values in enumerate(cell[0]):
                    file[f"#refs#/{name}{k}"] = values.T
                refs = [[file[f"#refs#/{name}{k}"].ref] for k in range(2)]
                file.create_dataset(name, data=refs, dtype=h5py.ref_dtype).attrs["MATLAB_class"] = np.bytes_("cell")
    found = describe(path)
    section = tomllib.loads(found.spec)["data"]
    assert section["variables"] == {"u": "U_exact/1", "u1": "U_exact/2"}
    assert (section["axes"], section["time"], section["coordinates"]) == ("xt", "xs/2", {"x": "xs/1"})
    assert planned(found.spec)["data"]["resolution"] == [32]


PLACES, HOURS = 50.0 * np.arange(12), (0, 12, 24, 36, 48)
CELLS = {(h, x): 1 + np.exp(-(((x - 300) / 100) ** 2) - h / 24) for h in HOURS for x in PLACES}


@pytest.mark.parametrize(
    ("text", "expected", "tried"),
    [
        (
            ["position (um),0 h,12 h,24 h,36 h,48 h"]
            + [",".join(map(str, [x, *(CELLS[h, x] for h in HOURS)])) for x in PLACES],
            {"variables": {"u": "* h"}, "axes": "tx", "time": "*", "coordinates": {"x": "position"}},
            "read as 1 simulation of 5 frames, 12 apart; u on 12 cells along x",
        ),
        (
            ["time,0.0,0.5,1.0,1.5"] + [f"{t},{t},{2 * t},{t},{3 * t}" for t in range(8)],
            {"variables": {"u": "*"}, "axes": "xt", "time": "time", "coordinates": {"x": "*"}},
            "read as 1 simulation of 8 frames, 1 apart; u on 4 cells along x",
        ),
        (
            ["time_h,position_um,rep1,rep2,rep3"] + [f"{h},{x},{u},{u},{u + 1}" for (h, x), u in CELLS.items()],
            {"variables": {"rep": "rep*"}, "axes": "stx", "time": "time_h", "coordinates": {"x": "position_um"}},
            "read as 3 simulations of 5 frames, 12 apart; rep on 12 cells along x",
        ),
        (
            ["density,replicate,t,x,u"]
            + [f"{d},{r},{h},{x},{d * u}" for (h, x), u in CELLS.items() for d in (10, 12) for r in (1, 2, 3)],
            {"csv": {"simulation": ["density", "replicate"]}, "axes": "stx", "variables": {"u": "u"}},
            "read as 6 simulations of 5 frames, 12 apart; u on 12 cells along x",
        ),
        (
            ["Year, Lynx, Hare"] + [f"{1900 + k}, {k % 7 + 1}, {k % 5 + 1}" for k in range(20)],
            {"time": "Year", "variables": None},
            "read as 1 simulation of 20 frames, 1 apart; Lynx, Hare without space",
        ),
        (
            ["Subject,Dose,Time,conc"] + [f"{s},{300 + s},{t},{t * s}" for s in (1, 2, 3) for t in range(8)],
            {"csv": {"simulation": ["Subject"]}, "time": "Time"},
            "read as 3 simulations of 8 frames, 1 apart; conc without space",
        ),
        (
            ["DATE,flow"] + [f"01/{day:02d}/2020,{day % 5}" for day in range(1, 29)],
            {"csv": {"time_format": "%m/%d/%Y"}, "time": "DATE"},
            "read as 1 simulation of 28 frames, 86400 apart; flow without space",
        ),
        (
            [" ".join(f"{value:.6f}" for value in row) for row in WAVE[:, :12]],
            {"variables": {"c": "c*"}, "axes": "tx"},
            "read as 1 simulation of 12 frames, 1 apart; c on 32 cells along x",
        ),
        (
            ["station,lat,lon,datetime,PM25"]
            + [f"ST{s},{48 + s % 3},{11 + s},2023-01-01T{h:02d}:00:00Z,{h}" for s in range(5) for h in range(24)],
            {"kind": "points", "columns": ["sensor", "y", "x", "t", "PM25"]},
            "read as 1 simulation of 21 frames",
        ),
        (
            ["Subject,note,Dose,Time,conc"]
            + [f"{s},ok,{300 + s},{t * (1 + s / 10)},{t * s}" for s in (1, 2, 3) for t in range(8 + s)],
            {"kind": "points", "columns": ["s", "", "Dose", "t", "conc"], "dt": 0.11, "initial": None},
            "read as 3 simulations of 120 frames, 0.11 apart; conc without space",
        ),
        (
            ["ID,TIME,AMT,DV"]
            + [f"{s},{t},{'.' if t else 100 + s},{s * t if t else '.'}" for s in (1, 2) for t in range(9)],
            {"kind": "points", "columns": ["s", "t", "AMT", "DV"], "initial": {"DV": 0.0}, "num_predict_steps": 120},
            "read as 2 simulations of 161 frames, 0.05 apart; DV without space",
        ),
    ],
)
def test_tables_in_the_forms_of_laboratories(tmp_path: Path, text: list[str], expected: dict, tried: str) -> None:
    (tmp_path / "table.csv").write_text("\n".join(text) + "\n")
    found = describe(tmp_path / "table.csv")
    section = tomllib.loads(found.spec)["data"]
    assert {key: section.get(key) for key in expected} == expected
    assert found.tried.startswith(tried), found.tried
    assert planned(found.spec)["n_real"] > 0


def test_a_boundary_that_one_simulation_alone_shows_is_none(tmp_path: Path) -> None:
    level = np.array([1.0, 2.0, 3.0])[:, None, None]
    path = npz(tmp_path, u=level * (1 + np.sin(np.pi * np.linspace(0, 1, 33)) * np.exp(-T)[:, None]), t=T)
    assert tomllib.loads(describe(path).spec)["data"]["boundary"] == "zero-gradient"


def test_positions_of_points_make_no_grid(tmp_path: Path) -> None:
    found = describe(npz(tmp_path, U_star=np.zeros((480, 2, 31)), t=np.arange(31.0), X_star=np.zeros((480, 2))))
    assert found.what == (
        "a .npz file; X_star seems to hold the positions of 480 points, at which U_star are given: if the points are a "
        "grid, reshape these arrays to its axes, and save the positions along each; else write a row t, x, y and "
        'values for each point and time, which kind = "points" reads'
    )
    assert not found.spec


def test_what_a_table_lacks_is_told_with_the_keys(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("name,size\na,1\nb,1\n")
    found = describe(tmp_path / "other.csv")
    assert found.what == (
        'a table whose columns are not plain; kind = "points" reads observations if data.columns names the columns t, '
        'x, y, z and s (the simulation) and the fields; kind = "arrays" reads series if data.time names a column of '
        "times that increase from row to row, or within each simulation, which data.csv.simulation tells apart"
    )
    assert not found.spec


def test_each_field_has_the_boundary_that_its_ends_show(tmp_path: Path) -> None:
    x = np.linspace(0, 1, 33)
    bump = np.sin(np.pi * x) * np.exp(-T)[:, None]
    found = describe(npz(tmp_path, a=bump + 1 - x, b=bump + 2, x=x, t=T))
    assert tomllib.loads(found.spec)["data"]["variables"] == {
        "a": {"variable": "a", "boundary": {"x": {"lower": 1.0, "upper": 0.0}}},
        "b": {"variable": "b", "boundary": 2.0},
    }
    assert "a, b on 31 cells" in found.tried


def test_matlab_and_folders(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "old.mat", {"usol": WAVE, "x": X, "t": T})
    with h5py.File(tmp_path / "new.mat", "w", userblock_size=512) as file:
        file["usol"], file["x"], file["t"] = WAVE.T, X[None], T[None]
    (tmp_path / "many").mkdir()
    np.save(tmp_path / "many" / "u.npy", WAVE.T)
    np.save(tmp_path / "many" / "times.npy", T)
    for name, axes in (("old.mat", "xt"), ("new.mat", "xt"), ("many", "tx")):
        found = describe(tmp_path / name)
        assert tomllib.loads(found.spec)["data"]["axes"] == axes, name
        assert planned(found.spec)["data"]["resolution"] == [32], name


@pytest.mark.parametrize("names", ["{}", "{}_u", "u-{}", "{}/u"])
def test_arrays_of_other_parts_of_a_split_are_named(tmp_path: Path, names: str) -> None:
    counts = {"train": 6, "valid": 2, "test": 3}
    waves = {part: np.stack([np.roll(WAVE.T, k, axis=1) for k in range(n)]) for part, n in counts.items()}
    with h5py.File(tmp_path / "parts.h5", "w") as file:
        file["x"], file["t"] = X, T
        for part, values in waves.items():
            file[names.format(part)] = values
    found = describe(tmp_path / "parts.h5")
    others = ", ".join(sorted(names.format(part) for part in ("valid", "test")))
    assert found.spec.splitlines()[-1] == (
        f'split = {{ by = "simulation", train = "0:4", val = "4:5", test = "5:6" }}   # <- {others} are not read: '
        "join them to one array, and give their ranges here"
    )
    assert found.tried.startswith("read as 6 simulations of 21 frames, 0.1 apart; ")


@pytest.mark.parametrize(("name", "timed"), [("u_{frame:04d}.txt", "dt = 1.0"), ("u_t{time:.2f}.dat", 'time = "*"')])
def test_text_files_of_a_matrix_each_are_frames(tmp_path: Path, name: str, timed: str) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "readme.txt").write_text("made by a solver\n")
    for frame, values in enumerate(SQUARE):
        np.savetxt(folder / name.format(frame=frame, time=T[frame]), values)
    found = describe(folder)
    assert found.what == "a folder of text files of a matrix each"
    assert found.contents[-1].startswith("readme: ")
    assert timed in found.spec
    apart = "0.1" if "*" in timed else "1"
    assert found.tried.startswith(
        f"read as 1 simulation of 21 frames, {apart} apart; u on 32 cells along x in [0, 1], "
    )
    assert planned(found.spec)["n_real"] > 0


def test_odd_names_stay_whole(tmp_path: Path) -> None:
    path = npz(tmp_path, **{'a "b" c': WAVE.T, "1": WAVE.T})
    section = tomllib.loads(describe(path).spec)["data"]
    assert section["variables"] == {"a__b__c": 'a "b" c', "u1": "1"}


def test_sensor_tables(tmp_path: Path) -> None:
    rows = [f"{t:.2f},{x},{t * x:.4f}" for t in T[1:] for x in (0.25, 0.5, 0.75)]
    (tmp_path / "seen.csv").write_text("\n".join(["t,x,u", *rows]) + "\n")
    found = describe(tmp_path / "seen.csv")
    assert (found.what, found.contents) == ("a table of observations", ("60 rows", "columns: t, x, u"))
    assert planned(found.spec)["parts"]["data"]["kind"] == "points"
    (tmp_path / "other.csv").write_text("name,size\na,1\n")
    assert describe(tmp_path / "other.csv").spec == ""


@pytest.mark.parametrize(
    ("header", "row", "told"),
    [
        ("timestamp;sensor;x;u [K];flag", "2024-05-01T00:{k:02d};S{place};0,{place};1,5;ok", {"columns", "split"}),
        ("t,x,u", "{epoch},0.{place},{k}", {"split"}),
        ("t\tx\ty\tu.x\tu.y", "0.{k}\t0.{place}\t0.5\t1.5\t-2", {"split"}),
        ("t,x,u", "-{k},0.{place},1", {"start", "split"}),
        ("t,x,u", "{k},0.5,1", {"split"}),
    ],
)
def test_what_is_printed_for_a_table_runs(tmp_path: Path, header: str, row: str, told: set[str]) -> None:
    rows = [row.format(k=k, place=place, epoch=1.7e9 + k) for k in range(1, 21) for place in (25, 50, 75)]
    (tmp_path / "seen.csv").write_text("\n".join([header, *rows]) + "\n")
    found = describe(tmp_path / "seen.csv")
    assert found.tried.startswith("read as 1 simulation of 21 frames, "), found.tried
    assert planned(found.spec)["parts"]["data"]["kind"] == "points"
    assert {"columns", "split", "start"} & set(tomllib.loads(found.spec)["data"]) == told
    by = tomllib.loads(found.spec)["data"]["split"]["by"]
    assert by == ("time" if row.count("place") == 0 else "sensor")


def test_a_table_may_be_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    found = describe(npz(tmp_path, t=rng.uniform(0, 1, 50), x=rng.uniform(0, 1, 50), u=rng.normal(size=50)))
    assert found.what == "a .npz file with a table of observations"
    assert found.tried.startswith("read as 1 simulation of 21 frames, "), found.tried


def test_a_folder_of_files_is_one_data_set_without_those_that_are_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "runs ü [1]"
    folder.mkdir()
    for k in range(5):
        # run 2 is symmetric about the ends, so that positions alone tell what its samples are
        values = np.cos(2 * np.pi * (CENTERS - 0.1 * (k - 2))) * np.exp(-T)[:, None]
        np.savez(folder / f"run {k}.npz", u=values, x=CENTERS.astype("f2"), t=T.astype("f2"), nu=0.1 * k, who=1.0)
    found = describe(folder)
    assert found.what == "5 files; run 0.npz is a .npz file"
    assert "\npath = " + json.dumps(f"{tmp_path}/runs ü [[]1]/*.npz", ensure_ascii=False) in found.spec
    section = tomllib.loads(found.spec)["data"]
    assert (section["scalars"], section["split"]["by"]) == ({"nu": "nu"}, "simulation")
    assert "resample" not in section, "half precision rounds positions and times"
    assert found.tried.startswith("read as 5 simulations of 21 frames, 0.1 apart; u on 32 cells along x in ")
    assert planned(found.spec)["n_real"] > 0
    (folder / "run 3.npz").write_bytes(b"broken")
    found = describe(folder)
    assert found.contents[-1].startswith(f"run 3.npz is left out: cannot read {folder / 'run 3.npz'}")
    assert [Path(path).name[4] for path in tomllib.loads(found.spec)["data"]["path"]] == list("0124")
    assert found.tried.startswith("read as 4 simulations of ")


def write_loggers(folder: Path, *, places: bool) -> None:
    """Write three text tables, each of one place, or of random ones; the second begins 30 s later."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(3):
        rows = ["timestamp;x;T"]
        for i in range(20):
            seconds = 60 * i + (30 if k == 1 else 0)
            x = 0.25 * k if places else rng.uniform()
            rows.append(
                f"2024-05-01 00:{seconds // 60:02d}:{seconds % 60:02d};{x:.3f};{k + i / 100:.2f}".replace(".", ",")
            )
        (folder / f"logger {k}.csv").write_text("\n".join(rows) + "\n")


def test_files_with_one_place_each_are_sensors_of_one_simulation(tmp_path: Path) -> None:
    write_loggers(tmp_path / "loggers", places=True)
    found = describe(tmp_path / "loggers")
    section = tomllib.loads(found.spec)["data"]
    assert (section["files"], section["split"]["by"], section["dt"]) == ("sensors", "sensor", 58.8)
    assert found.tried.startswith("read as 1 simulation of 21 frames, 58.8 apart; T on 64 cells along x in [0, 0.5]")
    assert planned(found.spec)["n_real"] == 1


def test_other_tables_in_a_folder_are_simulations(tmp_path: Path) -> None:
    write_loggers(tmp_path / "runs", places=False)
    found = describe(tmp_path / "runs")
    section = tomllib.loads(found.spec)["data"]
    assert ("files" in section, section["split"]["by"]) == (False, "sensor")
    assert found.tried.startswith("read as 3 simulations of 21 frames, "), found.tried
    assert planned(found.spec)["n_real"] == 3


def test_a_folder_of_observations_holds_no_other_tables(tmp_path: Path) -> None:
    write_loggers(tmp_path / "runs", places=False)
    other = tmp_path / "runs" / "notes.csv"
    other.write_text("name,T\nfirst,1.0\nsecond,2.0\n")
    with pytest.raises(DataError, match=re.escape(f"{other} is no table of observations, as other files of")):
        describe(tmp_path / "runs")


def test_the_tables_of_a_folder_are_read_as_one_of_them_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(2):
        times = np.sort(rng.uniform(0, 10, (3, 6)))
        doses = [f"{s},{t:.3f},{np.exp(-t):.4f}" for s, own in enumerate(times) for t in own]
        dated = [f"{d:02d}/{d:02d}/2021,{x},{rng.normal():.3f}" for d in range(1, 13) for x in (0.1, 0.5, 0.9)]
        for name, head, rows in (("doses", "id,time,conc", doses), ("dated", "time,x,u", dated)):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{k}.csv").write_text("\n".join([head, *rows]) + "\n")
    found = describe(tmp_path / "doses")
    assert found.what == "2 files; 0.csv is a table of series, each at its own times"
    assert found.tried.startswith("read as 6 simulations of "), found.tried
    found = describe(tmp_path / "dated")
    assert tomllib.loads(found.spec)["data"]["csv"] == {"time_format": "%d/%m/%Y"}
    assert found.tried.startswith("read as 2 simulations of 21 frames, "), found.tried


def test_nothing_that_changes(tmp_path: Path) -> None:
    found = describe(npz(tmp_path, x=X))
    assert (found.what, found.spec) == ("a .npz file; nothing in it looks like a field that changes in time", "")


def test_run_folders_and_weights(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", None, summary_of())
    found = describe(folder)
    assert found.what == f"a run folder, completed; hyco-engine report {folder} shows it"
    assert found.contents[0].startswith("nu was found to within 1 % of its true value.")
    assert (
        describe(folder / "spec.toml").what == f"a spec; hyco-engine check {folder / 'spec.toml'} says what it would do"
    )


def test_the_command(tmp_path: Path) -> None:
    path = npz(tmp_path, u=WAVE.T, t=T)
    found = describe(path)
    text = CliRunner().invoke(cli, ["inspect", str(path)]).stdout
    contents = "".join(f"  {line}\n" for line in found.contents)
    assert text == f"{path}: a .npz file\n{contents}\n{found.spec}\n\n{found.tried}\n"
    data = json.loads(CliRunner().invoke(cli, ["inspect", str(path), "--json"]).stdout)
    assert data == {
        "path": str(path),
        "what": found.what,
        "contents": list(found.contents),
        "spec": found.spec,
        "tried": found.tried,
    }


def test_what_it_prints_is_a_spec_that_passes_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    npz(Path(), usol=WAVE, x=X, t=T)
    printed = CliRunner().invoke(cli, ["inspect", "data.npz"]).stdout
    section = printed[printed.index("[data]") : printed.rindex("\n\n")]
    Path("mine.toml").write_text(f'{section}\n[synthetic]\nkind = "resnet"\n')
    done = CliRunner().invoke(cli, ["check", "mine.toml"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "12 real windows" in done.stdout


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.npz", None, "there is no file or folder {path}"),
        ("data.npz", b"PK\x03\x04 and nothing more", "cannot read {path}: File is not a zip file"),
        ("notes.txt", b"words", "{path} is of no known kind; known are "),
        ("empty.csv", b"", "{path} is empty"),
        *(
            (name, b"\x80\x04", f"{{path}} is of no known kind: {told}; known are ")
            for name, told in {
                **dict.fromkeys(
                    ("a.pt", "a.pth", "a.pkl"),
                    "it holds pickled Python objects, which the engine never reads; save its arrays with numpy.savez",
                ),
                "a.json": "save its lists of numbers as arrays with numpy.savez",
                **dict.fromkeys(("a.csv.gz", "a.npy.gz"), "unpack it, and read the file or the folder that was in it"),
                "a.xlsx": "save its sheets as .csv files",
                "a.avi": "save its frames as numbers, one array [frames, y, x], with numpy.save",
            }.items()
        ),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        describe(path)
    assert str(error.value).startswith(message.format(path=path))


def test_objects_are_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", u=WAVE.T, o=np.array([{}], dtype=object))
    assert describe(tmp_path / "data.npz").contents == (
        "u: float64 [21, 32]",
        "o: it holds object, pickled Python objects, which the engine never reads; save them as numbers, "
        "np.asarray(u, dtype=float)",
    )


@pytest.mark.parametrize(
    ("values", "boundary"),
    [
        (np.sin(2 * np.pi * (CENTERS - 0.1 - T[:, None])), "periodic"),
        (np.cos(np.pi * CENTERS) * np.exp(-T)[:, None], "zero-gradient"),
        (np.sin(np.pi * CENTERS) * np.exp(-T)[:, None], 0.0),
    ],
)
def test_the_ends_of_pdebench_tell_the_boundary(tmp_path: Path, values: Any, boundary: object) -> None:
    with h5py.File(tmp_path / "one.hdf5", "w") as file:
        file["tensor"] = np.stack([values, 2 * values]).astype("f4")
        file["x-coordinate"], file["t-coordinate"] = CENTERS, np.append(T, T[-1] + 0.1)
    found = describe(tmp_path / "one.hdf5")
    assert tomllib.loads(found.spec)["data"]["boundary"] == boundary
    assert "# <- guessed from the values at the ends" in found.spec


def test_pdebench(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "one.hdf5", "w") as file:
        file["tensor"] = np.random.default_rng(0).normal(size=(5, 12, 16)).astype("f4")
        file["x-coordinate"] = (np.arange(16) + 0.5) / 16
        file["t-coordinate"] = 0.1 * np.arange(13)
    found = describe(tmp_path / "one.hdf5")
    assert found.what == "a PDEBench file, all simulations in one array"
    assert found.tried.startswith("read as 5 simulations of 12 frames, 0.1 apart; u on 16 cells along x in [0, 1]; ")
    assert planned(found.spec)["data"]["simulations"] == 5
    with h5py.File(tmp_path / "strange.h5", "w") as file:
        file["what"] = np.zeros(3)
    found = describe(tmp_path / "strange.h5")
    assert (found.contents, found.spec) == (("what: float64 [3]",), "")


SIMULATED = """
[data]
kind = "simulate"
truth = { nu = 0.02 }
num_simulations = 4
num_frames = 8
resolution = { x = 16 }
dt = 0.02
split = { train = "0:2", val = "2:3", test = "3:4" }
[physical]
kind = "burgers"
"""


@pytest.mark.parametrize(("form", "what"), [("scene", "PhiFlow scenes"), ("well", "a data set of The Well")])
def test_what_simulate_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, what: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.toml").write_text(SIMULATED)
    done = CliRunner().invoke(cli, ["simulate", "spec.toml", "--out", "made", "--format", form])
    assert done.exit_code == 0, done.output
    found = describe(Path("made"))
    assert found.what == what
    assert (
        found.tried
        == "read as 4 simulations of 8 frames, 0.02 apart; u on 16 cells along x in [0, 1]; 10 windows to train on"
    )
    plan = planned(found.spec)["data"]
    assert plan == {"simulations": 4, "dt": 0.02, "fields": ["u"], "resolution": [16], "scalars": []}


@pytest.mark.parametrize(
    ("frames", "sims", "ranges"),
    [
        (50, 10, ("simulation", [0, 7, 8, 10])),
        (50, 3, ("simulation", [0, 1, 2, 3])),
        (100, 1, ("time", [0, 70, 85, 100])),
        (10, 2, ("time", [0, 6, 8, 10])),
        (6, 1, ("time", [0, 2, 4, 6])),
        (4, 1, ("time", [0, 2, 4])),
    ],
)
def test_a_split_that_is_proposed_has_no_empty_part(frames, sims, ranges):
    by, ends = ranges
    names = ("train", "val", "test")
    parts = [f'{name} = "{a}:{b}"' for name, a, b in zip(names, ends, ends[1:], strict=False)]
    assert split_line(frames, sims) == f'split = {{ by = "{by}", {", ".join(parts)} }}'


def test_a_few_arrays_in_the_first_place_may_be_simulations(tmp_path: Path) -> None:
    path = npz(tmp_path, u=np.stack([WAVE.T, 2 * WAVE.T]), t=T)
    (line,) = [line for line in describe(path).spec.splitlines() if line.startswith("axes = ")]
    assert line == (
        'axes = "ctx"   # <- guessed for [2, 21, 32]: component, time, x; or axes = "stx", if these 2 are simulations'
    )
    section = describe(path).spec.replace('axes = "ctx"', 'axes = "stx"')
    assert planned(section)["data"]["simulations"] == 2


class Ring(TrajectorySource):
    """Fields without a file: a ring of longitudes, an end that is kept, gaps."""

    dt = 1.0
    num_simulations = 4

    def __init__(self, *names: str) -> None:
        grid = Grid(axes=("x", "y"), resolution=(12, 8), lower=(-15.0, 0.0), upper=(345.0, 1.0))
        fields = tuple(FieldInfo(name=name, boundary=Boundary.parse("zero-gradient", "xy")) for name in names)
        self.layout = StateLayout(grid=grid, dynamic=fields, static=())

    def fingerprint(self) -> str:
        return ""

    def frames(self, index: int) -> int:
        return 40

    def load(self, index: int) -> Trajectory:
        y = torch.linspace(0.5, 2, 8).double()
        ring = torch.sin(2 * torch.pi * torch.arange(12) / 12).double()
        first = (ring[:, None] * y * torch.exp(-0.1 * torch.arange(40).double())[:, None, None])[:, None]
        second = first + torch.randn(first.shape, generator=torch.Generator().manual_seed(0)).double()
        second[:, :, :, 3] = torch.nan
        return Trajectory(dynamic=torch.cat([first, second], dim=1)[:, : self.layout.n_dynamic], static=first[0, :0])

    def glimpse(self) -> Trajectory | None:
        return self.load(0)


def test_a_source_that_knows_its_axes_is_told_the_rest() -> None:
    assert lines_for(Ring("u")) == [
        'variables = { u = "u" }   # field = variable; name fields as your physics does',
        'boundary = { x = "periodic", y = "zero-gradient" }   # <- guessed from the values at the ends',
        "num_predict_steps = 3",
        'split = { by = "simulation", train = "0:2", val = "2:3", test = "3:4" }',
    ]


def test_longitudes_round_the_earth_are_a_ring_whatever_the_values_show() -> None:
    section = tomllib.loads("\n".join(lines_for(Ring("u", "land.v"))))
    assert section["variables"] == {"u": "u", "land.v": "land.v"}
    assert section["boundary"] == {"x": "periodic", "y": "zero-gradient"}
    assert section["observe"] == {"mask": {"value": "nan"}}
