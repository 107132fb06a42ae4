"""Scenes as PhiFlow writes them, files of The Well and of PDEBench by their documented layouts."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from messages import error_naming

import hyco_engine as hyco
from hyco_engine.assembly import Assembler
from hyco_engine.data.fields import Boundary
from hyco_engine.errors import HycoError
from hyco_engine.inspection import describe

pytestmark = pytest.mark.usefixtures("measured")

RNG = np.random.default_rng(0)


def waves(*shape):
    """Smooth positive numbers that change with every axis."""
    out = np.full(shape, 1.5)
    for axis, n in enumerate(shape):
        phase = np.sin(0.7 * axis + 2 * np.pi * np.arange(n) / max(n, 2))
        out = out + 0.2 * phase.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return out


def spec(tmp_path, data, **tables):
    return {
        "run": {"name": "files", "cycles": 1},
        "paths": {"cache": str(tmp_path / "cache"), "runs": str(tmp_path / "runs")},
        "data": {"num_predict_steps": 1, **data},
        "synthetic": {"kind": "resnet", "width": 4, "blocks": 1},
        "training": {"synthetic": {"epochs_per_cycle": 1}},
        **tables,
    }


def manager_of(tmp_path, data):
    engine = hyco.Engine(spec(tmp_path, data))
    assembler = Assembler(engine.spec, engine.registry)
    return assembler.task().simulations()


def trains(tmp_path, data):
    """Train a small surrogate for one epoch, directly from the file."""
    summary = hyco.run(spec(tmp_path, data)).summary
    assert summary["status"] == "completed"
    assert np.isfinite(summary["metrics"]["synthetic"]["val"]["nrmse"])
    return summary


def refused(tmp_path, data):
    with pytest.raises(HycoError) as found:
        hyco.run(spec(tmp_path, data))
    (problem,) = found.value.problems
    assert problem.key is not None
    assert problem.key.startswith("data")
    assert not (tmp_path / "runs" / "files-1").exists()
    return problem.message


# --- Scenes ---


def write_scene(parent, simulations=3, frames=4, boundary="mixed", staggered=True):
    from phi.torch.flow import Box, CenteredGrid, Scene, StaggeredGrid, extrapolation, math, vec

    mixed = extrapolation.combine_sides(x=extrapolation.PERIODIC, y=(extrapolation.ZERO, extrapolation.ZERO_GRADIENT))
    ext = {"mixed": mixed, "closed": extrapolation.ZERO, "open": extrapolation.ZERO_GRADIENT}[boundary]
    box = Box(vec(x=0, y=-1), vec(x=2, y=1))
    written = []
    for index in range(simulations):
        scene = Scene.create(str(parent), name="sim")
        for frame in range(frames):
            make = StaggeredGrid if staggered else CenteredGrid
            values = [waves(4, 3) + 0.1 * frame + index, waves(4, 3) - 0.1 * frame]
            if staggered:
                v = make(lambda x, k=0.1 * frame + index: math.sin(x) + k, ext, box, x=4, y=3)
            else:
                stacked = math.stack(
                    {n: math.tensor(a, math.spatial("x,y")) for n, a in zip("xy", values, strict=True)},
                    math.channel("vector"),
                )
                v = make(stacked, ext, box)
            rho = CenteredGrid(math.tensor(values[0], math.spatial("x,y")), extrapolation.ZERO_GRADIENT, box)
            scene.write({"velocity": v, "rho": rho}, frame=frame)
            written.append((index, frame, v, rho))
    return written


@pytest.mark.parametrize("boundary", ["mixed", "closed", "open"])
@pytest.mark.parametrize("staggered", [True, False])
def test_scenes_hold_what_phiflow_wrote(tmp_path, boundary, staggered):
    from hyco_engine.physics.layout import Converter

    written = write_scene(tmp_path / "scenes", boundary=boundary, staggered=staggered)
    manager = manager_of(tmp_path, {"kind": "scene", "path": str(tmp_path / "scenes"), "dt": 0.1})
    assert manager.num_simulations == 3
    layout = manager.layout
    assert (layout.grid.axes, layout.grid.resolution) == (("x", "y"), (4, 3))
    assert (layout.grid.lower, layout.grid.upper) == ((0.0, -1.0), (2.0, 1.0))
    assert {f.name: f.sampling for f in layout.dynamic} == {
        "rho": "centered",
        "velocity": "staggered" if staggered else "centered",
    }
    converter = Converter(layout)
    for index, frame, v, rho in written:
        expected = converter.tensor({"velocity": v, "rho": rho})[0].cpu()  # PhiFlow's own device is the GPU
        torch.testing.assert_close(manager.trajectories[index].dynamic[frame], expected.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("staggered", [True, False])
def test_scenes_train_out_of_the_box(tmp_path, staggered):
    write_scene(tmp_path / "scenes", staggered=staggered)
    trains(tmp_path, {"kind": "scene", "path": str(tmp_path / "scenes"), "dt": 0.1})


@pytest.fixture
def warm(tmp_path):
    """Scenes of a temperature T, whose name PhiFlow writes in small letters."""
    from phi.torch.flow import CenteredGrid, Scene, extrapolation, math

    scene = Scene.create(str(tmp_path / "scenes"))
    for frame in range(8):
        values = math.tensor(waves(4, 3) * 0.9**frame, math.spatial("x,y"))
        scene.write({"T": CenteredGrid(values, extrapolation.PERIODIC)}, frame=frame)
    return {"kind": "scene", "path": str(tmp_path / "scenes"), "dt": 0.1, "split": {"by": "time"}}


def planned(data, **rates):
    physical = {"kind": "equation", "rates": rates, "parameters": {"nu": {"init": 0.1}}}
    return hyco.Engine({"data": data, "physical": physical}).plan()


def test_fields_of_scenes_get_other_names(warm, tmp_path):
    plan = planned(warm | {"variables": {"T": "t"}}, T="nu*lap(T)")
    assert plan["data"]["fields"] == ["T"]
    written = manager_of(tmp_path, warm).trajectories[0].dynamic
    assert torch.equal(manager_of(tmp_path, warm | {"variables": {"T": "t"}}).trajectories[0].dynamic, written)
    assert 'variables = { T = "t" }' in describe(tmp_path / "scenes").spec


@pytest.mark.parametrize(
    ("variables", "rates", "told"),
    [
        (
            {},
            {"t": "nu*lap(t)"},
            "data.variables: 't' names a field of the data, and the time of a state, which the models get: give the "
            'field another name, such as data.variables = { T = "t" }',
        ),
        (
            {},
            {"t": "-nu"},
            "physical.rates.t: 't' is the time in equations: choose another name with data.variables, such as "
            '{ T = "t" }',
        ),
        (
            {},
            {"T": "nu*lap(T)"},
            "data.fields: the physical model needs the field 'T'; the data has t. Name the data's fields as the "
            'physics does: data.variables does it for files, such as { T = "t" }',
        ),
        (
            {"T": "tt"},
            {"T": "nu*lap(T)"},
            "data.variables.T: {folder} has no field 'tt'; did you mean 't'? (it has t)",
        ),
    ],
)
def test_a_field_that_is_named_as_the_time_is_told(warm, tmp_path, variables, rates, told):
    with pytest.raises(HycoError) as caught:
        planned(warm | {"variables": variables}, **rates)
    assert str(caught.value) == told.replace("{folder}", str(tmp_path / "scenes" / "sim_000000"))


def test_one_simulation_static_fields_and_obstacles(tmp_path, caplog):
    write_scene(tmp_path / "scenes", simulations=1, staggered=False)
    folder = tmp_path / "scenes" / "sim_000000"
    shutil.copy(folder / "rho_000000.npz", folder / "obstacle_mask_000000.npz")
    for frame in range(1, 4):
        (folder / f"rho_00000{frame}.npz").unlink()
    data = {"kind": "scene", "path": str(folder), "dt": 0.1, "static": ["rho"], "split": {"by": "time"}}
    manager = manager_of(tmp_path, data)
    assert [f.name for f in manager.layout.dynamic] == ["velocity"]
    assert [f.name for f in manager.layout.static] == ["rho"]
    assert "has obstacles, which are ignored" in caplog.text
    torch.testing.assert_close(manager.trajectories[0].static[0], torch.from_numpy(waves(4, 3)).float())


def test_a_missing_frame_and_fields_of_different_lengths_are_told_before_training(tmp_path):
    write_scene(tmp_path / "scenes", simulations=2, staggered=False)
    data = {"kind": "scene", "path": str(tmp_path / "scenes"), "dt": 0.1}
    folder = tmp_path / "scenes" / "sim_000001"
    moved = folder / "rho_000003.npz"
    moved.rename(tmp_path / "kept.npz")
    assert refused(tmp_path, data) == (f"{folder}: 'velocity' has 4 frames, 0 to 3, and 'rho' has 3, 0 to 2")
    (tmp_path / "kept.npz").rename(moved)
    (folder / "velocity_000001.npz").unlink()
    assert refused(tmp_path, data) == f"{folder}: frame 1 of 'velocity' is missing"
    for path in folder.glob("velocity*"):
        path.unlink()
    assert refused(tmp_path, data) == f"{folder} has no field 'velocity', which {folder.parent / 'sim_000000'} has"


def test_scenes_that_are_damaged_or_none_are_refused(tmp_path):
    data = {"kind": "scene", "path": str(tmp_path / "scenes"), "dt": 0.1}
    assert refused(tmp_path, data) == f"there is no folder {tmp_path / 'scenes'}"
    (tmp_path / "scenes").mkdir()
    assert "is no folder of Scenes" in refused(tmp_path, data)
    write_scene(tmp_path / "scenes", staggered=False)
    assert "has no field 'smoke'" in refused(tmp_path, {**data, "static": ["smoke"]})
    whole = tmp_path / "scenes" / "sim_000001" / "rho_000002.npz"
    whole.write_bytes(whole.read_bytes()[:200])
    assert f"cannot read {whole}" in refused(tmp_path, data)


# --- The Well ---


def write_well(base, folders=("train", "valid", "test"), simulations=2, frames=5, cells=(6, 4), wall=False):
    for number, folder in enumerate(folders):
        path = base / "data" / folder / "flow.hdf5"
        path.parent.mkdir(parents=True)
        with h5py.File(path, "w") as file:
            file.attrs["dataset_name"] = "flow"
            file.attrs["grid_type"] = "cartesian"
            file.attrs["n_spatial_dims"] = 2
            file.attrs["n_trajectories"] = simulations
            file.attrs["simulation_parameters"] = ["Re"]
            file.attrs["Re"] = 100.0
            dimensions = file.create_group("dimensions")
            dimensions.attrs["spatial_dims"] = ["x", "y"]
            dimensions["time"] = 0.25 * np.arange(frames, dtype=np.float32)
            dimensions["x"] = (np.arange(cells[0]) + 0.5) / cells[0]
            dimensions["y"] = 2 * (np.arange(cells[1]) + 0.5) / cells[1]
            conditions = file.create_group("boundary_conditions")
            for axis, kind in (("x", "PERIODIC"), ("y", "WALL" if wall else "PERIODIC")):
                group = conditions.create_group(f"{axis}_{kind.lower()}")
                group.attrs["associated_dims"] = [axis]
                group.attrs["bc_type"] = kind
                mask = np.zeros(cells["xy".index(axis)], bool)
                mask[[0, -1]] = True
                group["mask"] = mask
            file.create_group("scalars").attrs["field_names"] = ["Re"]
            fields = {
                "t0_fields": {"density": (True, True, (True, True), ()), "height": (False, False, (True, False), ())},
                "t1_fields": {"velocity": (True, True, (True, True), (2,))},
                "t2_fields": {"stress": (True, True, (True, True), (2, 2))},
            }
            for group_name, members in fields.items():
                group = file.create_group(group_name)
                group.attrs["field_names"] = list(members)
                for name, (by_sample, by_time, by_axis, tail) in members.items():
                    shape = (
                        *((simulations,) if by_sample else ()),
                        *((frames,) if by_time else ()),
                        *(n for n, varies in zip(cells, by_axis, strict=True) if varies),
                        *tail,
                    )
                    group[name] = (waves(*shape) + number).astype(np.float32)
                    group[name].attrs["sample_varying"] = by_sample
                    group[name].attrs["time_varying"] = by_time
                    group[name].attrs["dim_varying"] = list(by_axis)
    (base / "stats.yaml").write_text("mean: {}\n")
    return base


def test_a_well_is_read_with_its_own_split_and_trains(tmp_path):
    base = write_well(tmp_path / "flow")
    data = {"kind": "well", "path": str(base)}
    manager = manager_of(tmp_path, data)
    layout = manager.layout
    assert [(f.name, f.components) for f in layout.dynamic] == [
        ("density", ()),
        ("velocity", ("x", "y")),
        ("stress", ("xx", "xy", "yx", "yy")),
    ]
    assert [f.name for f in layout.static] == ["height"]
    assert layout.grid.upper == pytest.approx((1.0, 2.0))
    assert layout.grid.lower == pytest.approx((0.0, 0.0))
    assert manager.dt == pytest.approx(0.25)
    assert manager.summary()["frames"] == {"train": 10, "val": 10, "test": 10}
    with h5py.File(base / "data" / "valid" / "flow.hdf5") as file:
        found = manager.heldout("val")[1]
        torch.testing.assert_close(found.dynamic[:, 0], torch.from_numpy(file["t0_fields/density"][1]))
        stress = torch.from_numpy(file["t2_fields/stress"][1]).flatten(-2).movedim(-1, 1)
        torch.testing.assert_close(found.dynamic[:, 3:], stress)
        height = torch.from_numpy(file["t0_fields/height"][()])
        torch.testing.assert_close(found.static[0], height[:, None].expand(6, 4))
    trains(tmp_path, data)


def test_what_the_spec_divides_counts_more_and_one_folder_or_file_will_do(tmp_path):
    base = write_well(tmp_path / "flow")
    whole = {"kind": "well", "path": str(base), "split": {"train": "0:1", "val": "1:2"}}
    assert manager_of(tmp_path, whole).summary()["frames"] == {"train": 5, "val": 5, "test": 0}
    for path in (base / "data" / "train", base / "data" / "train" / "flow.hdf5"):
        assert manager_of(tmp_path, {"kind": "well", "path": str(path)}).num_simulations == 2


def test_walls_are_taken_for_zero_vectors_and_told(tmp_path, caplog):
    base = write_well(tmp_path / "flow", wall=True)
    layout = manager_of(tmp_path, {"kind": "well", "path": str(base)}).layout
    boundaries = {field.name: field.boundary.to_data() for field in layout.fields}
    assert boundaries["velocity"]["y"] == {"lower": 0.0, "upper": 0.0}
    assert boundaries["density"]["y"] == {"lower": "zero-gradient", "upper": "zero-gradient"}
    assert boundaries["velocity"]["x"] == {"lower": "periodic", "upper": "periodic"}
    assert caplog.text.count("has walls and does not give the fields' boundary there") == 1
    given = manager_of(tmp_path, {"kind": "well", "path": str(base), "boundary": "symmetric"}).layout
    assert given.dynamic[0].boundary == Boundary.parse("symmetric", ("x", "y"))


def test_wells_that_do_not_keep_the_layout_are_refused(tmp_path):
    base = write_well(tmp_path / "flow")
    data = {"kind": "well", "path": str(base)}
    path = base / "data" / "train" / "flow.hdf5"

    def changed(change):
        copy = tmp_path / "copy.hdf5"
        shutil.copy(path, copy)
        with h5py.File(copy, "r+") as file:
            change(file)
        return refused(tmp_path, {**data, "path": str(copy)})

    def other_frames(file):
        del file["t1_fields/velocity"]
        file["t1_fields/velocity"] = np.zeros((2, 4, 6, 4, 2))

    def far(file):
        del file["t0_fields/density"]
        file["t0_fields/density"] = h5py.ExternalLink(str(path), "t0_fields/density")

    assert changed(other_frames) == (
        f"{tmp_path / 'copy.hdf5'}: t1_fields/velocity has the shape (2, 4, 6, 4, 2), and its attributes declare "
        "(2, 5, 6, 4, 2)"
    )
    assert "holds no t0_fields/density" in changed(far)
    assert "has a spherical grid" in changed(lambda file: file.attrs.__setitem__("grid_type", "spherical"))
    assert "has no group 'dimensions'" in changed(lambda file: file.__delitem__("dimensions"))
    assert "does not give the boundary at the ends of x" in changed(
        lambda file: file.__delitem__("boundary_conditions")
    )
    assert "there is no file or folder" in refused(tmp_path, {**data, "path": str(tmp_path / "nothing")})


@pytest.mark.parametrize("kind", ["well", "pdebench"])
def test_a_truncated_file_is_told_before_training(tmp_path, kind):
    path = tmp_path / "cut.hdf5"
    with h5py.File(path, "w") as file:
        file["tensor"] = np.zeros((3, 6, 512))
    path.write_bytes(path.read_bytes()[:4000])
    message = refused(tmp_path, {"kind": kind, "path": str(path), **({"boundary": 0.0} if kind == "pdebench" else {})})
    assert message.startswith(f"cannot read {path}")
    assert "truncated" in message


# --- PDEBench ---


def one_field(file, n_axes=1):
    file["tensor"] = waves(3, 5, *(8, 6)[:n_axes]).astype(np.float32)
    file["x-coordinate"] = ((np.arange(8) + 0.5) / 8).astype(np.float32)
    if n_axes == 2:
        file["y-coordinate"] = ((np.arange(6) + 0.5) / 3).astype(np.float32)
    file["t-coordinate"] = (0.05 * np.arange(6)).astype(np.float32)  # one more than there are frames
    file.attrs["beta"] = 0.4


def compressible(file):
    for k, name in enumerate(("density", "pressure", "Vx", "Vy")):
        file[name] = (waves(3, 5, 8, 6) + k).astype(np.float32)
    file["x-coordinate"] = (np.arange(8) + 0.5) / 8
    file["y-coordinate"] = (np.arange(6) + 0.5) / 6
    file["t-coordinate"] = 0.05 * np.arange(6)
    file.attrs["eta"] = 0.1


def grouped(file):
    for seed in range(3):
        group = file.create_group(f"{seed:04d}")
        group["data"] = (waves(5, 8, 6, 2) + seed).astype(np.float32)
        group["grid/x"] = (np.arange(8) + 0.5) / 4 - 1
        group["grid/y"] = (np.arange(6) + 0.5) / 3 - 1
        group["grid/t"] = 0.05 * np.arange(5)
        group.attrs["config"] = "sim: {}"


def incompressible(file):
    file["velocity"] = waves(3, 5, 8, 8, 2).astype(np.float32)
    file["particles"] = waves(3, 5, 8, 8, 1).astype(np.float32)
    file["force"] = waves(3, 8, 8, 2).astype(np.float32)
    file["t"] = np.tile(0.05 * np.arange(5), (3, 1))


LAYOUTS = {
    "one field, 1-D": (lambda file: one_field(file), {"u": ()}, {}, (8,), (0.0, 1.0)),
    "one field, 2-D": (lambda file: one_field(file, 2), {"u": ()}, {}, (8, 6), (0.0, 1.0)),
    "compressible": (
        compressible,
        {"density": (), "pressure": (), "velocity": ("x", "y")},
        {},
        (8, 6),
        (0.0, 1.0),
    ),
    "grouped": (grouped, {"u": (), "v": ()}, {}, (8, 6), (-1.0, 1.0)),
    "incompressible": (
        incompressible,
        {"velocity": ("x", "y"), "particles": ()},
        {"force": ("x", "y")},
        (8, 8),
        (0.0, 1.0),
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_of_pdebench_is_read_and_trains(tmp_path, name):
    write, dynamic, static, cells, ends = LAYOUTS[name]
    path = tmp_path / "data.hdf5"
    with h5py.File(path, "w") as file:
        write(file)
    data = {"kind": "pdebench", "path": str(path), "boundary": "periodic", "truth": {}}
    manager = manager_of(tmp_path, data)
    layout = manager.layout
    assert {field.name: field.components for field in layout.dynamic} == dynamic
    assert {field.name: field.components for field in layout.static} == static
    assert layout.grid.resolution == cells
    assert (layout.grid.lower[0], layout.grid.upper[0]) == pytest.approx(ends)
    assert manager.dt == pytest.approx(0.05)
    assert manager.num_simulations == 3
    found = manager.trajectories[1]
    with h5py.File(path) as file:
        if "tensor" in file:
            expected = file["tensor"][1][:, None]
        elif "Vx" in file:
            expected = np.stack([file[key][1] for key in ("density", "pressure", "Vx", "Vy")], axis=1)
        elif "velocity" in file:
            both = np.concatenate([file["velocity"][1], file["particles"][1]], axis=-1)
            expected = np.moveaxis(both, -1, 1)
            torch.testing.assert_close(found.static, torch.from_numpy(np.moveaxis(file["force"][1], -1, 0)))
        else:
            expected = np.moveaxis(file["0001/data"][()], -1, 1)
    torch.testing.assert_close(found.dynamic, torch.from_numpy(np.ascontiguousarray(expected)))
    trains(tmp_path, data)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda f: f.__setitem__("other", np.zeros(3)), "has none of PDEBench's layouts"),
        (lambda f: (compressible(f), f.__delitem__("Vy"), f.__setitem__("Vy", np.zeros((3, 4, 8, 6)))), "'Vy' has the"),
        (
            lambda f: (grouped(f), f.__delitem__("0001/data"), f.__setitem__("0001/data", np.zeros((4, 8, 6, 2)))),
            "0001",
        ),
        (lambda f: (incompressible(f), f.__delitem__("force"), f.__setitem__("force", np.zeros(3))), "force has the"),
        (lambda f: (one_field(f), f.__delitem__("t-coordinate")), "holds no times of its frames; give dt"),
        (
            lambda f: (one_field(f), f.__delitem__("t-coordinate"), f.__setitem__("t-coordinate", np.arange(9.0))),
            "holds 9 times for 5 frames",
        ),
        (
            lambda f: (one_field(f), f.__delitem__("x-coordinate"), f.__setitem__("x-coordinate", np.arange(5.0))),
            "holds positions of the shape (5,) along x for 8 cells",
        ),
    ],
)
def test_files_that_keep_no_layout_are_refused(tmp_path, write, message):
    path = tmp_path / "data.hdf5"
    with h5py.File(path, "w") as file:
        write(file)
    assert message in refused(tmp_path, {"kind": "pdebench", "path": str(path), "boundary": "periodic"})


def test_gaps_in_one_field_of_one_simulation_are_told_or_taken_as_such(tmp_path):
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        grouped(file)
        file["0001/data"][2, 3, 4, 1] = np.nan
        file["0002/data"][4, :, :, 0] = np.nan
    data = {"kind": "pdebench", "path": str(path), "boundary": "periodic", "split": {"train": "0:2", "val": "2:3"}}
    assert refused(tmp_path, data) == (
        f"{path}, 0001/data: the field 'v' of simulation 1 is nan at index x 3, y 4, frame 2; remove or repair it, or "
        'say with data.observe.mask.value = "nan" that it was not observed'
    )
    data["observe"] = {"mask": {"value": "nan"}, "noise": {"level": 0.1}}
    manager = manager_of(tmp_path, data)
    assert manager.trajectories[1].dynamic.isnan().nonzero().tolist() == [[2, 1, 3, 4]]
    (held,) = manager.heldout("val")
    assert held.dynamic.isnan().flatten(2).all(2).nonzero().tolist() == [[4, 0]]
    # what was seen is noisy, in what validates too
    with h5py.File(path) as file:
        clean = torch.from_numpy(file["0002/data"][..., 1])
    added = held.dynamic[:, 1] - clean
    assert float(added.std()) == pytest.approx(0.1 * float(clean.std()), rel=0.2)
    assert trains(tmp_path, data)["data"]["observed"]["val"] == pytest.approx(0.9)


def test_hdf5_simulations_are_read_one_at_a_time(tmp_path, monkeypatch):
    from hyco_engine.builtin.sources.options import PdebenchOptions
    from hyco_engine.builtin.sources.pdebench import PdebenchSource
    from hyco_engine.data.settings import BoundarySetting

    path = tmp_path / "data.hdf5"
    with h5py.File(path, "w") as file:
        one_field(file)
    source = PdebenchSource(PdebenchOptions(path=Path(path), boundary=BoundarySetting("periodic")))
    seen = []
    before = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, index: seen.append(index) or before(self, index))
    source.load(2)
    assert seen == [2]
    assert source.origin("u", 2) == f"{path}, simulation 2"


def turn_over(path, positions, axis):
    """Let the positions run downwards, and all fields with them whose axis has as many cells."""
    with h5py.File(path, "r+") as file:
        n = len(file[positions])
        names = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        for name in names:
            own = file[name].shape
            if name == positions or (len(own) > 2 and own[axis] == n):
                file[name][...] = np.flip(file[name][()], 0 if name == positions else axis)


@pytest.mark.parametrize(("kind", "name"), [("pdebench", "one field, 2-D"), ("pdebench", "compressible"), ("well", "")])
def test_axes_that_run_downwards_are_flipped_and_told(tmp_path, caplog, kind, name):
    caplog.set_level(logging.INFO, "hyco_engine")
    if kind == "well":
        write_well(tmp_path / "data", folders=("train",))
        path = tmp_path / "data" / "data" / "train" / "flow.hdf5"
        data, positions = {"kind": "well", "path": str(path)}, "dimensions/y"
    else:
        path = tmp_path / "data.hdf5"
        with h5py.File(path, "w") as file:
            LAYOUTS[name][0](file)
        data, positions = {"kind": "pdebench", "path": str(path), "boundary": "periodic"}, "y-coordinate"
    upright = manager_of(tmp_path, data)
    read = [trajectory.dynamic.clone() for trajectory in upright.trajectories]
    turn_over(path, positions, axis=3)
    turned = manager_of(tmp_path, data)
    assert turned.layout == upright.layout
    assert f"{path}: the samples along y run downwards in the file, and are flipped" in caplog.text
    for before, after in zip(read, turned.trajectories, strict=True):
        assert torch.equal(after.dynamic, before)


def test_what_was_read_is_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO, "hyco_engine")
    path = tmp_path / "data.hdf5"
    with h5py.File(path, "w") as file:
        one_field(file)
    manager_of(tmp_path, {"kind": "pdebench", "path": str(path), "boundary": "periodic"})
    assert f"{path}: 3 simulation(s) of 5 frames, dt 0.05, fields u on 8 cells" in caplog.text


# --- simulations written as files ---


def made(tmp_path, kind, **data):
    physical = {"kind": kind}
    base = {
        "kind": "simulate",
        "resolution": {"x": 8, "y": 6},
        "dt": 0.02,
        "num_simulations": 3,
        "num_frames": 4,
        "truth": {"nu": 0.02},
        "split": {"train": "0:1", "val": "1:2", "test": "2:3"},
    }
    return spec(tmp_path, {**base, **data}, physical=physical)


def read_back(tmp_path, data):
    manager = manager_of(tmp_path, data)
    return manager.layout, manager.dt, manager.trajectories


@pytest.mark.parametrize("form", ["scene", "well"])
def test_what_simulate_writes_is_read_back(tmp_path, form):
    given = made(tmp_path, "burgers", boundary=0.0)
    engine = hyco.Engine(given)
    result = engine.simulate(tmp_path / "out", form)
    assembler = Assembler(engine.spec, engine.registry)
    expected = assembler.task().simulations()
    layout, dt, found = read_back(tmp_path, {"kind": form, "path": str(tmp_path / "out"), "name": "back"})
    assert layout.grid == expected.layout.grid
    assert [(f.name, f.components, f.boundary) for f in layout.fields] == [
        (f.name, f.components, f.boundary) for f in expected.layout.fields
    ]
    assert dt == pytest.approx(0.02)
    assert result["simulations"] == len(found) == 3
    for ours, theirs in zip(found, expected.trajectories, strict=True):
        assert torch.equal(ours.dynamic, theirs.dynamic)
    if form == "well":
        assert {str(Path(path).relative_to(tmp_path / "out")) for path in result["files"]} == {
            f"data/{name}/data.hdf5" for name in ("train", "valid", "test")
        }
        with h5py.File(tmp_path / "out" / "data" / "train" / "data.hdf5") as file:
            assert file.attrs["n_trajectories"] == 1
            assert file["scalars/nu"][()] == pytest.approx(0.02)
            assert file["t1_fields/u"].shape == (1, 4, 8, 6, 2)
        assert (tmp_path / "out" / "stats.yaml").read_text().startswith("mean:\n  u: [")
    else:
        from phi.torch.flow import Scene

        u = Scene.at(str(tmp_path / "out"), 1).read("u", frame=2)
        assert u.values.numpy("vector,x,y") == pytest.approx(expected.trajectories[1].dynamic[2].numpy())


def test_staggered_and_static_fields_are_written_as_scenes_and_refused_by_the_well(tmp_path):
    given = made(tmp_path, "smoke", truth={"nu": 0.01, "D": 0.01, "buoyancy": 0.2}, dt=0.05)
    engine = hyco.Engine(given)
    assembler = Assembler(engine.spec, engine.registry)
    expected = assembler.task().simulations()
    staggered = [field.name for field in expected.layout.fields if field.sampling == "staggered"]
    engine.simulate(tmp_path / "out")
    _, _, found = read_back(tmp_path, {"kind": "scene", "path": str(tmp_path / "out"), "name": "back"})
    for name in [field.name for field in expected.layout.fields]:
        layout = manager_of(tmp_path, {"kind": "scene", "path": str(tmp_path / "out"), "name": "back"}).layout
        ours = found[1].dynamic[:, layout.channels(name)]
        torch.testing.assert_close(ours, expected.trajectories[1].dynamic[:, expected.layout.channels(name)])
    if staggered:
        with error_naming(HycoError, "staggered"):
            engine.simulate(tmp_path / "other", "well")


def test_simulate_on_the_command_line(tmp_path, monkeypatch):
    import json

    from click.testing import CliRunner

    from hyco_engine.cli import cli

    monkeypatch.chdir(tmp_path)
    Path("spec.toml").write_text(
        '[data]\nkind = "simulate"\nresolution = { x = 8 }\ndt = 0.02\nnum_simulations = 2\nnum_frames = 4\n'
        'truth = { nu = 0.02 }\n[physical]\nkind = "burgers"\n'
    )
    result = CliRunner().invoke(cli, ["simulate", "spec.toml", "--out", "out"])
    assert result.exit_code == 0, result.output
    assert 'read them with [data] kind = "scene", path = "out", dt = 0.02' in result.output
    assert sorted(path.name for path in Path("out/sim_000001").glob("*.npz")) == [f"u_00000{i}.npz" for i in range(4)]
    again = CliRunner().invoke(cli, ["simulate", "spec.toml", "--out", "out", "--json"])
    assert again.exit_code == 2
    assert "out is not empty; name a new folder" in json.loads(again.stdout)["errors"][0]["message"]


# --- a true physics with terms that the model lacks ---


def test_extra_terms_follow_the_equation_that_they_state(tmp_path):
    """Without diffusion of a constant, u_t = -r u + f sin(2 pi x): known in closed form where nothing else acts."""
    from hyco_engine.builtin.sources.extra import Extra
    from hyco_engine.builtin.sources.options import ExtraTerms
    from hyco_engine.data.fields import FieldInfo, Grid, StateLayout

    grid = Grid(axes=("x",), resolution=(16,), lower=(0.0,), upper=(2.0,))
    rule = Boundary.parse("periodic", ("x",))
    layout = StateLayout(grid=grid, dynamic=(FieldInfo(name="u", boundary=rule), FieldInfo(name="v", boundary=rule)))
    x = torch.tensor(grid.centers("x"), dtype=torch.float64)
    for drag in (0.0, 0.7):
        half = Extra(ExtraTerms(drag=drag, force=0.3, waves=2), layout, dt=0.5)
        state = half(half(torch.ones(1, 2, 16, dtype=torch.float64)))
        decay = np.exp(-drag * 0.5)
        grown = (1 - decay) / drag if drag else 0.5
        torch.testing.assert_close(state[0, 0], decay + grown * 0.3 * torch.sin(2 * torch.pi * x))
        torch.testing.assert_close(state[0, 1], torch.full((16,), decay, dtype=torch.float64))


def test_data_of_another_physics_than_the_model(tmp_path):
    same = manager_of_physics(tmp_path, {})
    dragged = manager_of_physics(tmp_path, {"extra": {"drag": 0.5}})
    forced = manager_of_physics(tmp_path, {"extra": {"force": 0.5, "axis": "y"}})
    assert torch.equal(same[0], dragged[0])
    energy = [float(frames[-1].square().sum()) for frames in (same, dragged)]
    assert energy[1] < 0.95 * energy[0]
    assert not torch.allclose(same[-1], forced[-1])
    assert torch.allclose(forced[-1, 1].mean(), same[-1, 1].mean(), atol=1e-3)
    with error_naming(HycoError, "z", "x", "y"):
        manager_of_physics(tmp_path, {"extra": {"force": 0.5, "axis": "z"}})


def manager_of_physics(tmp_path, data):
    engine = hyco.Engine(made(tmp_path, "burgers", **data))
    assembler = Assembler(engine.spec, engine.registry)
    return assembler.task().simulations().trajectories[0].dynamic
