"""The data manager: tensor cache, fields scheme, splits, checks before training."""

from __future__ import annotations

import json
import logging
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest
import torch
from data_cases import ListSource, choice, grid, layout, numbered
from filelock import FileLock
from messages import error_naming
from safetensors import safe_open
from safetensors.torch import save_file

from hyco_engine.data import store
from hyco_engine.data.fields import Boundary, FieldInfo, StateLayout
from hyco_engine.data.keeping import MAX_VARIANTS
from hyco_engine.data.manager import DataManager
from hyco_engine.data.settings import FieldsScheme, Split
from hyco_engine.errors import DataError, PluginError
from hyco_engine.interfaces import Trajectory
from hyco_engine.tasks import task_for


def make_source(count=3, frames=6, **keys):
    return ListSource(trajectories=[numbered(frames, i, n_dynamic=2, n_static=1) for i in range(count)], **keys)


@pytest.fixture
def source():
    return make_source(layout=layout("uv", "c"))


def entry(root, index=0):
    """The one that was written last."""
    found = (root / "tensors" / "data").glob(f"sim_{index:06d}-*.safetensors")
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def prepared(source, cache, **keys):
    manager = DataManager(source, choice(**keys), cache)
    manager.prepare()
    return manager


# --- what it gives ---


@pytest.mark.parametrize("cached", [True, False])
def test_windows_rollouts_and_numbers(source, tmp_path, cached):
    manager = DataManager(source, choice(split=Split(test="2:")), tmp_path if cached else None)
    assert manager.planned_windows == 3
    assert source.loaded == []
    assert len(manager.train) == 3
    assert manager.layout == source.layout
    assert manager.dt == 0.5
    state, targets = manager.train[1]
    assert state.dtype == torch.float32
    assert torch.equal(state, torch.cat([source.trajectories[0].dynamic[1], source.trajectories[0].static]))
    assert torch.equal(targets, source.trajectories[0].dynamic[2:5])
    (val,) = manager.heldout("val")
    (test,) = manager.heldout("test")
    assert torch.equal(val.dynamic, source.trajectories[1].dynamic)
    assert torch.equal(test.static, source.trajectories[2].static)
    assert manager.summary() == {
        "simulations": 3,
        "dt": 0.5,
        "fields": ["u", "v", "c"],
        "resolution": [5],
        "frames": {"train": 6, "val": 6, "test": 6},
        "observed": {"train": 1.0, "val": 1.0, "test": 1.0},
        "points": {"train": 0, "val": 0, "test": 0},
        "measure": {"val": "rollout", "test": "rollout"},
        "rollouts": {"val": 1, "test": 1},
        "n_windows": 3,
        "skipped_windows": 0,
        "sample_bytes": 4 * 5 * (3 + 3 * 2),
        "bytes": 4 * 5 * (3 * 6 * 2 + 3),
    }
    assert (tmp_path / "tensors").exists() == cached


def test_splits_by_time_train_inside_their_frames_and_roll_out_from_the_first():
    source = ListSource(trajectories=[numbered(20)])
    manager = prepared(source, None, split=Split(by="time", train=":10", val="10:14"), num_predict_steps=2)
    assert [int(manager.train[i][0][0, 0]) for i in range(len(manager.train))] == list(range(8))
    assert manager.heldout("val")[0].dynamic[:, 0, 0].tolist() == [10, 11, 12, 13]
    assert manager.heldout("test") == ()


def test_statistics_come_from_the_train_split_alone():
    source = ListSource(trajectories=[numbered(6, i) for i in (0, 5)])
    assert float(prepared(source, None).statistics.mean[0]) < 10


def test_num_frames_takes_the_first():
    source = ListSource(trajectories=[numbered(9), numbered(9, 1)])
    manager = prepared(source, None, num_frames=5)
    assert [len(t.dynamic) for t in manager.trajectories] == [5, 5]
    assert len(manager.train) == manager.planned_windows == 2


def test_progress_is_told_of_each_simulation(source, tmp_path):
    told = []
    manager = DataManager(source, choice(), tmp_path)
    manager.prepare(lambda done, total: told.append((done, total)))
    manager.prepare()
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert source.loaded == [0, 1, 2]


# --- fields ---


def test_the_scheme_chooses_orders_and_freezes_fields(source, tmp_path):
    for trajectory in source.trajectories:
        trajectory.dynamic[:, 0] = trajectory.dynamic[0, 0].clone()
    manager = prepared(source, tmp_path, fields=FieldsScheme(dynamic=("v",), static=("c", "u")))
    assert [field.name for field in manager.layout.fields] == ["v", "c", "u"]
    state, targets = manager.train[2]
    own = source.trajectories[0]
    assert torch.equal(state, torch.stack([own.dynamic[2, 1], own.static[0], own.dynamic[0, 0]]))
    assert torch.equal(targets[:, 0], own.dynamic[3:6, 1])


def test_static_alone_leaves_the_other_fields_dynamic():
    source = make_source(layout=layout("uv", "c"))
    for trajectory in source.trajectories:
        trajectory.dynamic[:, 0] = 1.0
    manager = DataManager(source, choice(fields=FieldsScheme(static=("u",))), None)
    assert [f.name for f in manager.layout.dynamic] == ["v"]
    assert [f.name for f in manager.layout.static] == ["u"]


def test_dropping_a_staggered_field_drops_the_samples_it_needed():
    open_sides = Boundary.parse("zero-gradient", ("x",))
    own = StateLayout(
        grid=grid(5),
        dynamic=(
            FieldInfo(name="u", boundary=open_sides),
            FieldInfo(name="v", components=("x",), sampling="staggered", boundary=open_sides),
        ),
    )
    trajectories = [Trajectory(dynamic=torch.rand(6, 2, 6), static=torch.zeros(0, 6)) for _ in range(2)]
    everything = prepared(ListSource(trajectories=trajectories, layout=own), None)
    assert everything.train[0][0][0, 5] == 0  # filler, whatever the source put there
    manager = prepared(ListSource(trajectories=trajectories, layout=own), None, fields=FieldsScheme(dynamic=("u",)))
    assert torch.equal(manager.train[0][0], trajectories[0].dynamic[0, :1, :5])


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (
            FieldsScheme(dynamic=("uu",)),
            "data.fields.dynamic: the data has no field 'uu'; did you mean 'u'? (its fields: u, v, c)",
        ),
        (
            FieldsScheme(static=("density",)),
            "data.fields.static: the data has no field 'density' (its fields: u, v, c)",
        ),
        (
            FieldsScheme(dynamic=("u", "c")),
            "data.fields.dynamic: the field 'c' has no time axis, so it cannot be predicted; list it as static",
        ),
        (
            FieldsScheme(static=("u", "v")),
            "data.fields.static: every field is listed as static, so none is predicted; list one as dynamic",
        ),
        (
            FieldsScheme(dynamic=("v",), static=("u",)),
            "data.fields.static: the field 'u' is listed as static, but in simulation 0 frame 1 differs from frame 0; "
            "list it as dynamic",
        ),
    ],
)
def test_scheme_errors(source, scheme, message):
    with pytest.raises(DataError) as caught:
        prepared(source, None, fields=scheme)
    assert str(caught.value) == message


# --- cache ---


def test_the_cache_is_read_back_bit_by_bit_and_mapped(source, tmp_path):
    first = prepared(source, tmp_path)
    again = prepared(source, tmp_path)
    assert source.loaded == [0, 1, 2]
    for a, b, own in zip(first.trajectories, again.trajectories, source.trajectories, strict=True):
        assert torch.equal(a.dynamic, b.dynamic)
        assert torch.equal(b.dynamic, own.dynamic)
        assert torch.equal(b.static, own.static)
    assert str(entry(tmp_path)) in Path("/proc/self/maps").read_text()


def test_metadata_says_what_an_entry_is(source, tmp_path):
    prepared(source, tmp_path)
    with safe_open(entry(tmp_path, 1), framework="pt") as file:
        metadata = json.loads(file.metadata()["hyco"])
    assert len(metadata.pop("checksum")) == 64
    assert StateLayout.from_data(metadata.pop("layout")) == source.layout
    assert metadata == {
        "format": "hyco-engine-tensors-1",
        "dt": 0.5,
        "dtype": "float32",
        "fingerprint": "1",
        "simulation": 1,
        "num_frames": None,
        "frames": 6,
    }


def rebuilt(source, root, **keys):
    """The simulations that are loaded again."""
    source.loaded.clear()
    prepared(source, root, **keys)
    return source.loaded


def test_what_differs_has_an_entry_of_its_own(source, tmp_path):
    prepared(source, tmp_path)
    assert rebuilt(source, tmp_path) == []
    source.version = "2"
    assert rebuilt(source, tmp_path) == [0, 1, 2]
    source.dt = 0.25
    assert rebuilt(source, tmp_path) == [0, 1, 2]
    source.layout = attrs.evolve(source.layout, grid=attrs.evolve(source.layout.grid, upper=(2.0,)))
    assert rebuilt(source, tmp_path) == [0, 1, 2]
    assert rebuilt(source, tmp_path, num_frames=5) == [0, 1, 2]
    assert rebuilt(source, tmp_path, num_frames=5, fields=FieldsScheme(dynamic=("u",))) == [0, 1, 2]
    assert rebuilt(source, tmp_path, num_frames=5, fields=FieldsScheme(dynamic=("u",))) == []
    assert rebuilt(source, tmp_path, name="other") == [0, 1, 2]


def test_an_entry_under_another_s_name_is_rebuilt(source, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="hyco_engine")
    prepared(source, tmp_path)
    first = entry(tmp_path)
    source.version = "2"
    prepared(source, tmp_path)
    (second := entry(tmp_path)).write_bytes(first.read_bytes())
    assert rebuilt(source, tmp_path) == [0]
    assert f"the cache entry {second} is rebuilt, because it is stale: its fingerprint differs" in caplog.messages


def test_two_specs_of_one_name_take_turns_and_rebuild_nothing(source, tmp_path):
    other = attrs.evolve(source, version="2", loaded=[])
    for _ in range(2):
        prepared(source, tmp_path)
        prepared(other, tmp_path, num_frames=4)
    assert source.loaded == other.loaded == [0, 1, 2]


def test_the_entries_used_last_are_kept(source, tmp_path):
    for version in "1234":
        source.version = version
        prepared(source, tmp_path)
    source.version = "1"
    assert rebuilt(source, tmp_path) == []
    source.version = "5"
    assert rebuilt(source, tmp_path) == [0, 1, 2]
    assert len(list((tmp_path / "tensors" / "data").glob("*.safetensors"))) == 3 * MAX_VARIANTS
    source.version = "1"
    assert rebuilt(source, tmp_path) == []
    source.version = "2"
    assert rebuilt(source, tmp_path) == [0, 1, 2]


def test_another_precision_is_another_entry(source, tmp_path):
    prepared(source, tmp_path)
    source.loaded.clear()
    manager = DataManager(source, choice(), tmp_path, dtype=torch.float64)
    assert manager.train[0][0].dtype == torch.float64
    assert source.loaded == [0, 1, 2]


def flip(position):
    def damage(path):
        content = bytearray(path.read_bytes())
        content[position if position >= 0 else len(content) + position] ^= 4
        path.write_bytes(content)

    return damage


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def swap(path):
    path.write_bytes(entry(path.parents[2], 1).read_bytes())


def lie_about_frames(path):
    """Rewrite it whole, with one frame less and all metadata as they were."""
    with safe_open(path, framework="pt") as file:
        tensors = {"dynamic": file.get_tensor("dynamic")[1:].clone(), "static": file.get_tensor("static").clone()}
        metadata = file.metadata()
    save_file(tensors, path, metadata=metadata)


def huge_header(path):
    path.write_bytes(struct.pack("<Q", 2**62) + path.read_bytes()[8:])


def no_metadata(path):
    save_file({"dynamic": torch.zeros(1), "static": torch.zeros(1)}, path)


def listed_metadata(path):
    save_file({"dynamic": torch.zeros(1), "static": torch.zeros(1)}, path, metadata={"hyco": "[]"})


@pytest.mark.parametrize(
    "damage",
    [
        flip(-1),
        flip(-60),
        flip(0),
        flip(60),
        truncate,
        swap,
        lie_about_frames,
        huge_header,
        no_metadata,
        listed_metadata,
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
    ],
)
def test_damaged_entries_are_noticed_and_rebuilt(source, tmp_path, damage):
    prepared(source, tmp_path)
    damage(entry(tmp_path))
    assert rebuilt(source, tmp_path) == [0]
    assert rebuilt(source, tmp_path) == []


def test_every_flipped_byte_is_noticed(tmp_path):
    source = ListSource(trajectories=[numbered(4), numbered(4)])
    prepared(source, tmp_path)
    good = entry(tmp_path).read_bytes()
    for position in range(0, len(good), 7):
        flip(position)(entry(tmp_path))
        assert rebuilt(source, tmp_path) == [0], position
        assert rebuilt(source, tmp_path) == []


def test_leftovers_of_a_killed_writer_are_swept(source, tmp_path):
    rest = tmp_path / "tensors" / "data" / "sim_000000-0123456789ab.safetensors.999.tmp"
    rest.parent.mkdir(parents=True)
    rest.write_bytes(b"half")
    prepared(source, tmp_path)
    names = {path.name for path in entry(tmp_path).parent.iterdir()}
    assert names - {".lock"} == {entry(tmp_path, i).name for i in range(3)}


def test_writers_with_one_process_id_on_two_machines_share_no_file(source, tmp_path, monkeypatch):
    names, save = [], store.save_file
    monkeypatch.setattr(
        store, "save_file", lambda tensors, path, **more: (names.append(path), save(tensors, path, **more))
    )
    for machine in ("a", "b"):
        prepared(source, tmp_path / machine)
    assert len({path.name for path in names}) == len(names) == 6


def test_a_cache_that_cannot_be_written(source, tmp_path):
    (tmp_path / "tensors").write_text("a file where the folder should be")
    with pytest.raises(DataError) as caught:
        prepared(source, tmp_path)
    assert str(caught.value) == (
        f"paths.cache: cannot write to {tmp_path / 'tensors' / 'data'}: Not a directory; set paths.cache to another "
        f"folder"
    )
    target = tmp_path / "other"
    prepared(source, target)
    (blocked := entry(target)).unlink()
    blocked.mkdir()
    with error_naming(DataError, target, "Is a directory", key="paths.cache"):
        prepared(source, target)


def test_a_cache_in_use_is_waited_for(source, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="hyco_engine")
    folder = tmp_path / "tensors" / "data"
    folder.mkdir(parents=True)
    waiting = f"waiting for another process that prepares the data in {folder}"
    with ThreadPoolExecutor() as pool:
        with FileLock(folder / ".lock"):
            job = pool.submit(prepared, source, tmp_path)
            while waiting not in caplog.messages and not job.done():
                time.sleep(0.01)
            assert waiting in caplog.messages
            assert source.loaded == []
        assert len(job.result().train) == 6
    assert source.loaded == [0, 1, 2]


def test_tensors_that_are_in_use_survive_a_rebuild(source, tmp_path):
    manager = prepared(source, tmp_path)
    source.version = "2"
    prepared(source, tmp_path, num_frames=4)
    assert torch.equal(manager.trajectories[0].dynamic, source.trajectories[0].dynamic)


# --- checks ---


def broken(value, *, group="dynamic", place=(4, 1, 3)):
    source = make_source(layout=layout("uv", "c"))
    getattr(source.trajectories[1], group)[place] = value
    return source


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            broken(torch.nan),
            "data: list.txt, line 1 (v): the field 'v' of simulation 1 is nan at index x 3, frame 4; remove or "
            'repair it, or say with data.observe.mask.value = "nan" that it was not observed',
        ),
        (
            broken(torch.nan, place=(slice(2, 4), 0)),
            "data: list.txt, line 1 (u): the field 'u' of simulation 1 is nan at index x 0, frame 2, and 9 more near "
            "it; "
            'remove or repair it, or say with data.observe.mask.value = "nan" that it was not observed',
        ),
        (
            broken(-torch.inf, group="static", place=(0, 2)),
            "data: list.txt, line 1 (c): the field 'c' of simulation 1 is -inf at index x 2; it must be repaired at "
            "its "
            "source",
        ),
    ],
)
def test_values_that_are_not_finite_are_refused(source, tmp_path, message):
    with pytest.raises(DataError) as caught:
        prepared(source, tmp_path)
    assert str(caught.value) == message
    assert not list(tmp_path.rglob("sim_000001*"))


def test_values_too_large_for_the_precision_are_refused(source, tmp_path):
    source.trajectories[2] = Trajectory(
        dynamic=source.trajectories[2].dynamic.double() * 1e60, static=source.trajectories[2].static
    )
    with pytest.raises(DataError) as caught:
        prepared(source, tmp_path)
    assert str(caught.value) == (
        "data: simulation 2 holds values too large for float32; give the data in other units, or set run.precision"
    )


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"num_predict_steps": 6},
            "data.num_predict_steps: a window of 6 predicted steps needs 7 frames, but the train split has only 6 "
            "frames "
            "in a "
            "row; set num_predict_steps to at most 5",
        ),
        (
            {"num_frames": 8},
            "data.num_frames: simulation 0 has 6 frames, but the spec asks for 8; lower num_frames",
        ),
        (
            {"split": Split(val="2:4")},
            "data.split.val: the range '2:4' reaches beyond the data, which has 3 simulations",
        ),
    ],
)
def test_splits_are_checked_before_anything_is_loaded_where_possible(source, tells, keys, message):
    source.tells_frames = tells
    with pytest.raises(DataError) as caught:
        DataManager(source, choice(**keys), None).summary()
    assert str(caught.value) == message
    assert not (tells and source.loaded)


def test_frames_that_are_not_told_are_not_planned(source):
    source.tells_frames = False
    assert DataManager(source, choice(), None).planned_windows is None


@pytest.mark.parametrize(
    ("trajectory", "error", "message"),
    [
        (
            Trajectory(dynamic=torch.zeros(6, 3, 5), static=torch.zeros(1, 5)),
            PluginError,
            "the source 'list' returned simulation 0 with dynamic [6, 3, 5] and static [1, 5]; its layout requires "
            "[frames, 2, 5] and [1, 5]",
        ),
        (
            Trajectory(dynamic=torch.zeros(6, 2, 5, dtype=torch.int64), static=torch.zeros(1, 5)),
            PluginError,
            "the source 'list' returned dynamic as torch.int64; it must be float32 or float64",
        ),
        (
            Trajectory(dynamic=torch.zeros(0, 2, 5), static=torch.zeros(1, 5)),
            DataError,
            "data: simulation 0 has no frames",
        ),
    ],
)
def test_a_source_that_breaks_its_contract(source, trajectory, error, message):
    source.trajectories[0], source.tells_frames = trajectory, False
    with pytest.raises(error) as caught:
        prepared(source, None)
    assert str(caught.value) == message


def test_no_simulations():
    with error_naming(DataError, "simulation", key="data"):
        DataManager(ListSource(trajectories=[]), choice(), None)


# --- every k-th frame, and short series ---


@pytest.mark.parametrize("frames", [9, 10, 11])
def test_every_third_frame(tmp_path, frames):
    mine = choice(every=3, num_predict_steps=1)
    source = ListSource(trajectories=[numbered(frames, i) for i in range(3)])
    manager = task_for(source, mine, tmp_path).simulations()
    count = -(-frames // 3)
    assert manager.dt == 1.5
    assert manager.planned_windows == 2 * (count - 1)
    assert torch.equal(manager.trajectories[1].dynamic[:, 0, 0], 1000.0 + 3 * torch.arange(count))
    again = task_for(ListSource(trajectories=source.trajectories), choice(num_predict_steps=1), tmp_path).simulations()
    assert len(again.trajectories[0].dynamic) == frames, "the cache keeps both apart"


def test_sensors_keep_their_times_where_every_second_frame_is_rolled_out(tmp_path):
    from hyco_engine.data.known import described
    from hyco_engine.interfaces import Points

    class Seen(ListSource):
        def points(self, index):
            time = torch.tensor([1.0, 2.5])
            return Points(
                frame=time / 0.5,
                time=time,
                position=torch.rand(2, 1),
                value=torch.rand(2, 1),
                heldout=torch.tensor([False, True]),
            )

    points = described(Seen(trajectories=[numbered(7)]), choice(every=2)).points(0)
    assert points.frame.tolist() == [1.0, 2.5]
    assert points.time.tolist() == [1.0, 2.5]


def test_one_held_out_frame_is_compared_with_a_continuation(tmp_path):
    source = ListSource(trajectories=[numbered(5, i) for i in range(2)])
    manager = DataManager(source, choice(split=Split(by="time"), num_predict_steps=3), None)
    assert manager.measure["val"] == "continuation"
    (first, second) = manager.heldout("val")
    assert torch.equal(second.dynamic[0], source.trajectories[1].dynamic[0])
    assert bool(second.dynamic[1:4].isnan().all())
    assert torch.equal(second.dynamic[4], source.trajectories[1].dynamic[4])
    assert torch.equal(manager.last_known("val")[0], source.trajectories[0].dynamic[3])
    assert first.simulation == 0
    assert second.simulation == 1
