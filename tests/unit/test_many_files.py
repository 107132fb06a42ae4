"""Several files as one data set: lists, globs and folders, and tables that name files, splits and parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_scalars import assembler_of, manager_of, scalars_of, write_well

import hyco_engine as hyco
from hyco_engine.data.joined import expanded
from hyco_engine.errors import HycoError

DATA = {
    "kind": "arrays",
    "variables": {"u": "u"},
    "axes": "tx",
    "dt": 0.1,
    "bounds": {"x": [0.0, 1.0]},
    "boundary": "periodic",
}


def wave(number, frames=4, cells=8):
    """Return values that show their file and their frame."""
    return 100.0 * number + np.arange(frames)[:, None] + np.arange(cells) / 100


def write(folder, name, number, **more):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / name, u=wave(number, more.pop("frames", 4), more.pop("cells", 8)), **more)
    return str(folder / name)


def numbers(manager):
    """Return the numbers of the files that the simulations come from."""
    return [round(float(t.dynamic[0, 0, 0]) / 100) for t in manager.trajectories]


def refused(tmp_path, data):
    with pytest.raises(HycoError) as found:
        manager_of(tmp_path, data)
    (problem,) = found.value.problems
    return problem.key, problem.message


# --- lists, globs, folders ---


@pytest.mark.parametrize(
    ("names", "read"),
    [
        (["a.npz", "b.csv", "notes.txt"], ["a.npz"]),
        (["a.csv", "b.dat", "c.txt"], ["a.csv", "b.dat", "c.txt"]),
    ],
)
def test_text_tables_are_data_unless_other_files_lie_beside_them(tmp_path, names, read):
    for name in names:
        (tmp_path / name).touch()
    found = expanded(tmp_path, (".npz", ".csv", ".txt", ".dat"), ())
    assert [path.name for path in found] == read


def test_lists_globs_and_folders(tmp_path):
    folder = tmp_path / "runs"
    for number in (1, 2, 10):
        write(folder, f"run_{number}.npz", number)
    (folder / "readme.txt").write_text("not data")
    (folder / ".hidden.npz").write_text("not data")
    chosen = {
        "a list, in its order": ([str(folder / "run_10.npz"), str(folder / "run_1.npz")], [10, 1]),
        "a glob, in the order of the numbers": (str(folder / "run_*.npz"), [1, 2, 10]),
        "a glob that matches other files": (str(folder / "*"), [1, 2, 10]),
        "a folder": (str(folder), [1, 2, 10]),
        "a list of globs": ([str(folder / "run_1*.npz"), str(folder / "run_2.npz")], [1, 10, 2]),
        "folders below": (str(tmp_path / "**" / "run_?.npz"), [1, 2]),
    }
    for what, (path, expected) in chosen.items():
        assert numbers(manager_of(tmp_path, {**DATA, "path": path})) == expected, what


def test_a_name_with_brackets_is_a_name_where_there_is_such_a_file(tmp_path):
    write(tmp_path, "u[1].npz", 7)
    data = {**DATA, "path": str(tmp_path / "u[1].npz"), "split": {"by": "time"}, "num_predict_steps": 1}
    assert numbers(manager_of(tmp_path, data)) == [7]


def test_a_folder_of_arrays_is_one_simulation_as_ever(tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    np.save(folder / "u.npy", wave(3))
    manager = manager_of(tmp_path, {**DATA, "path": str(folder), "split": {"by": "time"}})
    assert numbers(manager) == [3]
    for number in (4, 5):
        (tmp_path / "many").mkdir(exist_ok=True)
        np.save(tmp_path / "many" / f"{number}.npy", wave(number))
    data = {**DATA, "path": str(tmp_path / "many" / "*.npy")}
    assert numbers(manager_of(tmp_path, {k: v for k, v in data.items() if k != "variables"})) == [4, 5]


def test_each_file_has_its_own_start_frames_and_parameters(tmp_path):
    paths = [write(tmp_path, f"{n}.npz", n, frames=3 + n, nu=0.1 * n) for n in (1, 2, 3)]
    manager = manager_of(tmp_path, {**DATA, "path": paths, "split": {"by": "value", "name": "nu", "test": "0.3"}})
    assert [len(t.dynamic) for t in manager.trajectories] == [4, 5, 6]
    assert scalars_of(manager) == {"nu": pytest.approx([0.1, 0.2, 0.3])}
    assert [t.labels["file"] for t in manager.trajectories] == ["1.npz", "2.npz", "3.npz"]
    assert manager.heldout("test")[0].simulation == 2
    assert manager.planned_windows == 3


def test_files_may_hold_several_simulations(tmp_path):
    for number, count in ((0, 2), (1, 3)):
        values = np.stack([wave(10 * number + k) for k in range(count)])
        np.savez(tmp_path / f"{number}.npz", u=values, nu=np.arange(count) + 10.0 * number)
    data = {**DATA, "axes": "stx", "path": str(tmp_path / "?.npz")}
    data |= {"scalars": {"nu": "nu"}, "split": {"by": "value", "name": "file", "val": "1.npz"}}
    manager = manager_of(tmp_path, data)
    assert numbers(manager) == [0, 1, 10, 11, 12]
    assert scalars_of(manager) == {"nu": [0.0, 1.0, 10.0, 11.0, 12.0]}
    assert [t.simulation for t in manager.heldout("val")] == [2, 3, 4]


def test_numbers_that_some_files_lack_are_left_out_and_told(tmp_path, caplog):
    write_well(tmp_path / "1.hdf5", 1, nu=0.1, Re=3.0)
    write_well(tmp_path / "2.hdf5", 1, nu=0.2)
    data = {"kind": "well", "path": [str(tmp_path / "1.hdf5"), str(tmp_path / "2.hdf5")]}
    assert scalars_of(manager_of(tmp_path, data)) == {"nu": [0.1, 0.2]}
    assert "Re is not known of all simulations, and left out: 2.hdf5 does not give it" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells": 9}, "b.npz does not fit to a.npz: it has 9 cells, not 8"),
        ({"t": np.arange(4) * 0.2}, "b.npz does not fit to a.npz: its frames are 0.2 apart, not 0.1"),
        ({"x": np.arange(8) * 2.0 + 1.0}, "b.npz does not fit to a.npz: its x reaches from 0 to 16, not from 0 to 8"),
    ],
)
def test_files_that_do_not_fit_together(tmp_path, changes, message):
    usual = {"t": np.arange(4) * 0.1, "x": np.arange(8) + 0.5}
    if "cells" in changes:
        changes = {**changes, "x": (np.arange(9) + 0.5) * 8 / 9}
    paths = [write(tmp_path, "a.npz", 1, **usual), write(tmp_path, "b.npz", 2, **{**usual, **changes})]
    data = {k: v for k, v in DATA.items() if k not in ("dt", "bounds")}
    data |= {"time": "t", "coordinates": {"x": "x"}, "points": "cells", "path": paths}
    assert refused(tmp_path, data) == ("data.path", message)


def test_files_with_other_rules_at_their_sides_are_another_data_set(tmp_path):
    from test_file_sources import write_scene

    write_scene(tmp_path / "a", simulations=1, boundary="closed", staggered=False)
    write_scene(tmp_path / "b", simulations=1, boundary="mixed", staggered=False)
    assert refused(tmp_path, {"kind": "scene", "path": str(tmp_path / "?"), "dt": 0.1}) == (
        "data.path",
        "b does not fit to a: the boundary of 'velocity' is 'periodic', not 0.0 at x.lower, 'periodic', not 0.0 at "
        "x.upper, 'zero-gradient', not 0.0 at y.upper. All simulations of a data set share the rules at their sides: "
        "give those of each rule their own spec",
    )


WALLS = {"x": {"lower": "T_left", "upper": "zero-gradient"}}
HEATED = {
    "kind": "equation",
    "rates": {"T": "kappa*lap(T)"},
    "parameters": {"kappa": {"init": 0.1, "learn": False}, "T_left": {"from": "T_left"}},
}


@pytest.mark.parametrize("known", ["the table", "the files"])
def test_values_at_walls_that_differ_between_files_are_parameters_of_an_equation(tmp_path, known):
    values = [0.5, 1.5, 3.0]
    rows = ["file,T_left" if known == "the table" else "file"]
    for number, value in enumerate(values):
        np.savez(tmp_path / f"{number}.npz", T=wave(0.01 * number), **{"wall": value} if known == "the files" else {})
        rows.append(f"{number}.npz,{value}" if known == "the table" else f"{number}.npz")
    data = {**table(tmp_path, "\n".join(rows)), "variables": {"T": "T"}, "boundary": WALLS}
    data |= {"scalars": {"T_left": "wall"}} if known == "the files" else {}
    assembler = assembler_of(tmp_path, data, physical=HEATED)
    task = assembler.task()
    assert scalars_of(task.simulations()) == {"T_left": values}
    # one batch, in which each simulation has its own wall
    states, _ = task.train.batch(torch.arange(len(task.train)))
    found = assembler.model("physical", task.form)(states)
    for state, wall, own in zip(states[:, :1], states[:, 1, 0], found, strict=True):
        alone = {**data, "boundary": {"x": {**WALLS["x"], "lower": float(wall)}}}
        fixed = {**HEATED, "parameters": {"kappa": HEATED["parameters"]["kappa"]}}
        other = assembler_of(tmp_path, alone, physical=fixed)
        torch.testing.assert_close(own, other.model("physical", other.task().form)(state[None])[0])
    assert set(states[:, 1, 0].tolist()) > {0.5}


def test_scenes_with_other_values_at_walls_are_one_data_set_of_an_equation(tmp_path):
    from phi.torch.flow import Box, CenteredGrid, Scene, extrapolation, math

    for value in (1.0, 2.0):
        scene = Scene.create(str(tmp_path / "scenes"), name="sim")
        for frame in range(3):
            values = math.tensor(wave(0.01 * value)[frame], math.spatial("x"))
            sides = extrapolation.combine_sides(x=(value, extrapolation.ZERO_GRADIENT))
            scene.write({"heat": CenteredGrid(values, sides, Box(x=1.0))}, frame=frame)
        scene.put_property("T_left", value)
    data = {"kind": "scene", "path": str(tmp_path / "scenes"), "dt": 0.1}
    with pytest.raises(HycoError) as found:
        list(manager_of(tmp_path, data).trajectories)
    assert str(found.value).endswith(
        "sim_000001/heat_000000.npz: the boundary of 'heat' is 2.0, not 1.0 at x.lower. Values that differ between "
        'simulations are a parameter of an equation: set data.boundary.x.lower = "wall", and physical.parameters.wall '
        '= { from = "..." } with the number of the data, or the column of data.table, that holds them'
    )
    physical = {**HEATED, "rates": {"heat": "kappa*lap(heat)"}}
    manager = manager_of(tmp_path, {**data, "boundary": WALLS}, physical=physical)
    assert scalars_of(manager) == {"T_left": [1.0, 2.0]}
    assert manager.layout.field("heat").boundary.to_data()["x"] == WALLS["x"]
    assert [round(float(t.dynamic[0, 0, 0]), 3) for t in manager.trajectories] == [1.0, 2.0]


def test_what_is_not_there(tmp_path):
    write(tmp_path, "a.npz", 1)
    (tmp_path / "b.txt").write_text("")
    one = str(tmp_path / "a.npz")
    glob = str(tmp_path / "*.dat")
    assert refused(tmp_path, {**DATA, "path": glob}) == ("data.path", f"no file or folder with data matches {glob}")
    assert refused(tmp_path, {**DATA, "path": [one, one]}) == ("data.path", f"path names {one} twice")
    key, message = refused(tmp_path, {**DATA, "path": [one, str(tmp_path / "c.npz")]})
    assert (key, message.partition(";")[0]) == ("data.path", f"there is no file {tmp_path / 'c.npz'}")
    assert refused(tmp_path, DATA) == (
        "data.path",
        "required but missing (the file or folder with the data, a list of them, or a glob)",
    )


def test_one_file_at_a_time_is_held_in_memory(tmp_path):
    from data_cases import ListSource, numbered

    from hyco_engine.data.joined import JoinedSource

    class Holding(ListSource):
        def load(self, index):
            held.add(id(self))
            return super().load(index)

        def release(self):
            held.discard(id(self))

    held = set()
    sources = [Holding(trajectories=[numbered(4, 2 * k), numbered(4, 2 * k + 1)]) for k in range(4)]
    joined = JoinedSource(sources, "abcd")
    most = 0
    for index in range(8):
        assert float(joined.load(index).dynamic[0, 0, 0]) == 1000.0 * index
        most = max(most, len(held))
    assert most == 1
    assert joined.num_simulations == 8


def test_the_cache_notices_another_file(tmp_path):
    for number in (1, 2):
        write(tmp_path, f"{number}.npz", number)
    data = {**DATA, "path": str(tmp_path / "?.npz")}
    assert numbers(manager_of(tmp_path, data)) == [1, 2]
    write(tmp_path, "2.npz", 5)
    assert numbers(manager_of(tmp_path, data)) == [1, 5]


def test_files_of_pdebench_and_data_sets_of_the_well(tmp_path):
    import h5py

    for name, nu in (("Nu0.1", 0.1), ("Nu0.01", 0.01)):
        with h5py.File(tmp_path / f"burgers_{name}.hdf5", "w") as file:
            file["tensor"] = np.random.default_rng(0).normal(size=(2, 4, 8))
            file["t-coordinate"], file["x-coordinate"] = np.arange(5) * 0.1, (np.arange(8) + 0.5) / 8
            file.attrs["Nu"] = nu
    data = {"kind": "pdebench", "boundary": "periodic", "scalars": {"nu": "Nu"}}
    for path in (str(tmp_path / "burgers_*.hdf5"), str(tmp_path)):
        manager = manager_of(tmp_path, {**data, "path": path, "split": {"by": "value", "name": "nu", "val": ":0.05"}})
        assert scalars_of(manager) == {"nu": [0.01, 0.01, 0.1, 0.1]}
        assert [t.simulation for t in manager.heldout("val")] == [0, 1]
    for name, f in (("gs", 0.02), ("more", 0.03)):
        write_well(tmp_path / name / "data" / "train" / "a.hdf5", 2, F=f)
        write_well(tmp_path / name / "data" / "valid" / "a.hdf5", 1, F=f)
    manager = manager_of(tmp_path, {"kind": "well", "path": [str(tmp_path / "gs"), str(tmp_path / "more")]})
    assert scalars_of(manager) == {"F": [0.02] * 3 + [0.03] * 3}
    assert [t.simulation for t in manager.train.trajectories] == [0, 1, 3, 4]
    assert [t.simulation for t in manager.heldout("val")] == [2, 5]


# --- tables ---


def table(tmp_path, text):
    (tmp_path / "runs.csv").write_text(text)
    return {**DATA, "table": str(tmp_path / "runs.csv")}


def three(tmp_path):
    for number in (1, 2, 3):
        write(tmp_path / "in", f"{number}.npz", number, nu=9.0)


def test_a_table_names_files_splits_parameters_and_groups(tmp_path):
    three(tmp_path)
    rows = "file,split,nu,rig\nin/2.npz,train,0.2,A\nin/3.npz,Validation,0.3,B\nin/1.npz,test,0.1,A\n"
    manager = manager_of(tmp_path, table(tmp_path, rows))
    assert numbers(manager) == [2, 3, 1]
    assert scalars_of(manager) == {"nu": [0.2, 0.3, 0.1]}, "the table has the last word"
    assert [t.labels["rig"] for t in manager.trajectories] == ["A", "B", "A"]
    assert [t.simulation for t in manager.train.trajectories] == [0]
    assert [manager.heldout(split)[0].simulation for split in ("val", "test")] == [1, 2]
    other = {**table(tmp_path, rows), "split": {"by": "value", "name": "rig", "val": "B"}, "scalars": {"mu": "nu"}}
    manager = manager_of(tmp_path, other)
    assert [t.simulation for t in manager.train.trajectories] == [0, 2]
    assert scalars_of(manager) == {"mu": [0.2, 0.3, 0.1]}


def test_a_simulation_without_a_split_is_not_used(tmp_path):
    three(tmp_path)
    manager = manager_of(tmp_path, table(tmp_path, "file,split\nin/1.npz,train\nin/2.npz,\nin/3.npz,val\n"))
    assert [t.simulation for t in manager.train.trajectories] == [0]
    assert [t.simulation for t in manager.heldout("val")] == [2]


def test_a_table_with_a_row_for_each_simulation_of_one_file(tmp_path):
    np.savez(tmp_path / "all.npz", u=np.stack([wave(k) for k in range(4)]))
    data = {"axes": "stx", "path": str(tmp_path / "all.npz")}
    text = "nu;split\n0,1;train\n0,2;train\n0,3;val\n0,4;test\n"
    manager = manager_of(tmp_path, {**table(tmp_path, text), **data})
    assert scalars_of(manager) == {"nu": [0.1, 0.2, 0.3, 0.4]}
    assert [t.simulation for t in manager.train.trajectories] == [0, 1]
    key, message = refused(tmp_path, {**table(tmp_path, "nu\n0.1\n0.2\n"), **data})
    assert (key, message) == (
        "data.table",
        f"{tmp_path / 'runs.csv'} has 2 rows, and the data 4 simulations: give a row for each, in their order, or name "
        f"the files in a column `file`",
    )


def test_rows_of_files_with_several_simulations(tmp_path):
    for number in (1, 2):
        np.savez(tmp_path / f"{number}.npz", u=np.stack([wave(10 * number + k) for k in range(2)]))
    rows = "file,nu\n1.npz,0.5\n2.npz,0.6\n2.npz,0.7\n"
    manager = manager_of(tmp_path, {**table(tmp_path, rows), "axes": "stx"})
    assert numbers(manager) == [10, 11, 20, 21]
    assert scalars_of(manager) == {"nu": [0.5, 0.5, 0.6, 0.7]}
    key, message = refused(tmp_path, {**table(tmp_path, rows + "2.npz,0.8\n"), "axes": "stx"})
    assert key == "data.table"
    assert message == (
        f"{tmp_path / 'runs.csv'} has 3 rows for 2.npz, which holds 2 simulations: give one row for all of them, or "
        f"one for each, in their order"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,nu\nin/1.npz,0.1\nin/2.npz,\n", "line 3 gives no number for 'nu', which other lines give"),
        (
            "file,split\nin/1.npz,train\nin/2.npz,later\n",
            "the split in line 3 is 'later'; it must be train, val or test, or empty for a simulation that is not used",
        ),
        (
            "file,nu\nin/1.npz,0.1\n../secret.npz,0.2\n",
            "line 3 names '../secret.npz', which is no file in the folder of the table or below it; name it from "
            "there, or list the files in data.path",
        ),
        (
            "file,nu\n/etc/passwd.npz,0.1\n",
            "line 2 names '/etc/passwd.npz', which is no file in the folder of the table or below it; name it from "
            "there, or list the files in data.path",
        ),
    ],
)
def test_mistakes_in_tables(tmp_path, text, message):
    three(tmp_path)
    assert refused(tmp_path, table(tmp_path, text)) == ("data.table", f"{tmp_path / 'runs.csv'}: {message}")


def test_a_table_and_a_path_that_both_name_files(tmp_path):
    three(tmp_path)
    both = {**table(tmp_path, "file\nin/1.npz\n"), "path": str(tmp_path / "in")}
    assert refused(tmp_path, both) == (
        "data.table",
        "the table names the files, and so does data.path: keep one of them",
    )
    simulated = {"kind": "simulate", "resolution": {"x": 8}, "dt": 0.1, "truth": {"kappa": 0.1}}
    assert refused(tmp_path, {**simulated, "table": both["table"]}) == (
        "data.table",
        "the table names files, and the kind 'simulate' reads none: leave the column `file` out",
    )


# --- sensors ---


def test_files_of_sensors(tmp_path):
    for number in (1, 2):
        lines = [f"{t},{x},{100 * number + t}" for t in (0.1, 0.2, 0.3) for x in (0.2, 0.7)]
        (tmp_path / f"log_{number}.csv").write_text("\n".join(["t,x,u", *lines]))
    data = {
        "kind": "points",
        "path": str(tmp_path / "log_*.csv"),
        "resolution": {"x": 8},
        "dt": 0.1,
        "boundary": "periodic",
        "initial": {"u": 0.0},
    }
    manager = assembler_of(tmp_path, data).task().manager
    assert manager.num_simulations == 2
    assert float(manager.trajectories[1].points.value.min()) == pytest.approx(200.1)
    # one simulation that both logged
    manager = assembler_of(tmp_path, {**data, "files": "sensors", "split": {"by": "time"}}).task().manager
    assert manager.num_simulations == 1
    assert sorted(manager.trajectories[0].points.value[:, 0].tolist())[:6:5] == pytest.approx([100.1, 100.3])
    assert len(manager.trajectories[0].points.value) == 12


def samples_of(tmp_path, **more):
    from hyco_engine.builtin.sources.options import PointsOptions
    from hyco_engine.builtin.sources.points import PointSampleSource
    from hyco_engine.interfaces import BuildContext

    options = PointsOptions(path=tmp_path / "log_*.csv", heldout=0.5, **more)
    return PointSampleSource(options, BuildContext(seed=0, registry=hyco.Registry()))


@pytest.mark.parametrize("files", ["simulations", "sensors"])
def test_samples_of_sensors_in_several_files(tmp_path, files):
    for number in (1, 2):
        times = [f"2024-01-01T00:00:{second:02d}" for second in range(10 * number, 10 * number + 4)]
        rows = [f"{time},{0.3 * number + place},{number}" for time in times for place in (0.1, 0.2)]
        (tmp_path / f"log_{number}.csv").write_text("\n".join(["date,x,u", *rows]))
    source = samples_of(tmp_path, files=files)
    train, val = source.samples("train"), source.samples("val")
    assert len(train) == len(val) == 8
    inputs, _ = train.batch(torch.arange(8))
    # date-times of one simulation are those of one clock
    assert float(inputs["time"].max()) == (13.0 if files == "sensors" and _has_second(train) else 3.0)
    (tmp_path / "log_2.csv").write_text("t,x,v\n0.1,0.2,3\n")
    with pytest.raises(HycoError, match=r"log_2.csv does not fit to .*log_1.csv: it has the columns "):
        samples_of(tmp_path, files=files)


def _has_second(samples):
    return 2.0 in samples.batch(torch.arange(len(samples)))[1]["u"].tolist()


def test_files_that_cannot_be_read_are_told_together(tmp_path):
    paths = [write(tmp_path, f"{n}.npz", n) for n in range(9)]
    for number in (1, 5):
        (tmp_path / f"{number}.npz").write_bytes(b"no archive")
    with pytest.raises(HycoError) as found:
        manager_of(tmp_path, {**DATA, "path": str(tmp_path)})
    told = [problem.message for problem in found.value.problems]
    assert [message.partition(": ")[0] for message in told[:2]] == [f"cannot read {paths[n]}" for n in (1, 5)]
    assert told[2:] == ["2 of 9 files cannot be used; a list in data.path leaves them out"]


def test_paths_in_a_spec_start_from_its_folder(tmp_path):
    import hyco_engine as hyco
    from hyco_engine.assembly import Assembler

    for number in (1, 2, 3):
        write(tmp_path / "in", f"{number}.npz", number)
    (tmp_path / "spec.toml").write_text(
        '[data]\nkind = "arrays"\npath = ["in/1.npz", "in/[23].npz"]\naxes = "tx"\ndt = 0.1\nbounds.x = [0, 1]\n'
        'boundary = "periodic"\nnum_predict_steps = 1\n[physical]\nkind = "heat"\n'
    )
    engine = hyco.Engine(tmp_path / "spec.toml")
    source = Assembler(engine.spec, engine.registry).source()
    assert source.num_simulations == 3
    assert torch.equal(source.load(2).dynamic[:, 0], torch.from_numpy(wave(3)))
