"""Scenes are read without executing anything, and whatever else is in their place is refused."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from messages import error_naming

from hyco_engine.data.scene_pickle import load_plain, read_scene_npz
from hyco_engine.errors import DataError


def scene(path: Path, **changed: Any) -> Path:
    """What PhiFlow 3.4 writes for a centred vector field in 2-D, by numpy alone."""
    entries: dict[str, Any] = {
        "dim_names": np.array(["x", "y", "vector"]),
        "dim_types": np.array(["spatial", "spatial", "channel"]),
        "dim_item_names": np.asarray((None, None, ("x", "y")), dtype=object),
        "field_type": "CenteredGrid",
        "lower": np.array([0, 0]),
        "upper": np.array([2.0, 1.0], np.float32),
        "bounds_item_names": np.array(["x", "y"]),
        "extrapolation": {"type": "constant", "value": np.array(0.5)},
        "data": np.arange(24, dtype=np.float32).reshape(4, 3, 2),
    }
    entries |= changed
    np.savez_compressed(path, **{name: value for name, value in entries.items() if value is not None})
    return path


def replace_entry(path: Path, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    entries[f"{name}.npy"] = content
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for filename, data in entries.items():
            archive.writestr(filename, data)
    return path


def object_entry(pickled: bytes, shape: str = "()") -> bytes:
    header = f"{{'descr': '|O', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + pickled


def test_a_field_as_phiflow_writes_it(tmp_path: Path) -> None:
    from phi.torch.flow import Box, CenteredGrid, Scene, StaggeredGrid, extrapolation, math, vec

    box = Box(x=2.0, y=1.0)
    inflow = extrapolation.combine_sides(x=(vec(x=1, y=0), extrapolation.BOUNDARY), y=0)
    fields = {
        "density": CenteredGrid(
            lambda p: math.sin(3 * p.vector["x"]) + p.vector["y"], extrapolation.BOUNDARY, x=8, y=6, bounds=box
        ),
        "velocity": StaggeredGrid(lambda p: p * 2, inflow, x=8, y=6, bounds=box),
    }
    written = Scene.create(str(tmp_path), copy_calling_script=False)
    written.write(fields, frame=3)
    folder = tmp_path / "sim_000000"

    density = read_scene_npz(folder / "density_000003.npz")
    assert density.field_type == "CenteredGrid"
    assert density.dims == (("x", "spatial", None), ("y", "spatial", None))
    assert (density.lower.tolist(), density.upper.tolist()) == ([0, 0], [2, 1])
    assert density.bounds_item_names == ("x", "y")
    assert density.extrapolation == {"type": "zero-gradient"}
    assert np.array_equal(density.data, fields["density"].values.numpy("x,y"))

    velocity = read_scene_npz(folder / "velocity_000003.npz")
    assert velocity.field_type == "StaggeredGrid"
    assert velocity.dims[2] == ("vector", "channel", ("x", "y"))
    assert velocity.shape == (9, 7, 2)
    sides = velocity.extrapolation["dims"]
    assert sides["x+"] == {"type": "zero-gradient"}
    assert sides["x-"]["value"].tolist() == [1, 0]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_all_protocols_of_numpy(tmp_path: Path, protocol: int) -> None:
    value = {"type": "constant", "value": np.array([1.0, -2.0])}
    path = scene(tmp_path / "f.npz")
    array = np.empty((), object)
    array[()] = value
    replace_entry(path, "extrapolation", object_entry(pickle.dumps(array, protocol)))
    read = read_scene_npz(path)
    assert read.extrapolation["value"].tolist() == [1, -2]
    assert np.array_equal(read.data, np.arange(24).reshape(4, 3, 2))


def test_the_header_alone(tmp_path: Path) -> None:
    read = read_scene_npz(scene(tmp_path / "f.npz"), data=False)
    assert (read.shape, read.dtype, read.data) == ((4, 3, 2), np.float32, None)


def test_what_older_versions_did_not_write(tmp_path: Path) -> None:
    read = read_scene_npz(scene(tmp_path / "f.npz", dim_item_names=None, bounds_item_names=None))
    assert read.bounds_item_names == ("x", "y")
    assert read.dims[2] == ("vector", "channel", None)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | hnp.arrays(st.sampled_from(["f8", "<f4", ">i2", "?", "U3"]), hnp.array_shapes(min_dims=0, max_dims=3)),
    lambda inner: st.lists(inner, max_size=4)
    | st.tuples(inner, inner)
    | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and bool(a == b)


@settings(max_examples=200, deadline=None)
@given(plain, st.sampled_from([2, 3, 4, 5]))
def test_plain_things_come_back_as_they_were(value: Any, protocol: int) -> None:
    assert same(value, load_plain(pickle.dumps(value, protocol)))


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


MAKE = text("numpy") + text("ndarray") + b"\x93"
NESTED: Any = []
for _ in range(40):
    NESTED = [NESTED]
LAUGHS: Any = ["ha"] * 10
for _ in range(8):
    LAUGHS = [LAUGHS] * 10
LOOP: Any = []
LOOP.append(LOOP)

HOSTILE = {
    "a command": pickle.dumps(Calls(os.system, "touch executed")),
    "a process": pickle.dumps(Calls(subprocess.Popen, ["touch", "executed"])),
    "an import": pickle.dumps(Calls(__import__, "antigravity")),
    "eval by its name": b'cbuiltins\neval\n(S\'open("executed","w")\'\ntR.',
    "a name within a module of numpy": opcodes(text("numpy.core.multiarray"), text("fromfile"), b"\x93"),
    "a name reached by dots": opcodes(text("numpy"), text("ndarray.tofile"), b"\x93"),
    "a plain class": pickle.dumps(Path("x")),
    "a complex number": pickle.dumps(1j),
    "an array of dates": pickle.dumps(np.zeros(2, "M8[s]")),
    "an array with parts": pickle.dumps(np.zeros(2, [("a", "f8")])),
    "a state given to a function": opcodes(MAKE, b"}", text("x"), b"K\x01s", b"b"),
    "a function left as it is": opcodes(MAKE),
    "an array that is never filled": opcodes(MAKE, b")R"),
    "an array of 8 PB": pickle.dumps(Calls(np.ndarray, (10**15,), "f8")),
    "a length beyond the end": opcodes(b"\x8e" + struct.pack("<Q", 2**60)),
    "a buffer beyond memory": opcodes(b"\x96" + struct.pack("<Q", 2**60)),
    "an index beyond memory": opcodes(b"Nr" + struct.pack("<I", 2**32 - 1)),
    "a reference out of the file": opcodes(b"Pid\n"),
    "nested too deep": pickle.dumps(NESTED),
    "a billion laughs": pickle.dumps(LAUGHS),
    "itself": pickle.dumps(LOOP),
    "a pickle of 2 MB": pickle.dumps(b"0" * 2**21),
    "nothing": b"",
    "no pickle": b"\x00\x01\x02",
    "an unfinished one": pickle.dumps({"type": "periodic"})[:-4],
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_pickles_are_refused_and_do_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = replace_entry(scene(tmp_path / "f.npz"), "extrapolation", object_entry(HOSTILE[what]))
    with error_naming(DataError, tmp_path / "f.npz", "'extrapolation'"):
        read_scene_npz(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["f.npz"]


def test_the_refused_name_is_told(tmp_path: Path) -> None:
    path = replace_entry(scene(tmp_path / "f.npz"), "extrapolation", object_entry(HOSTILE["a command"]))
    with pytest.raises(DataError) as caught:
        read_scene_npz(path)
    assert str(caught.value) == (
        f"cannot read {path}, entry 'extrapolation': it names {os.system.__module__}.system, but only plain containers "
        "and numpy arrays are read"
    )


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_noise_in_a_pickle_is_a_value_error_or_plain(noise: bytes, at: int) -> None:
    good = pickle.dumps({"type": "constant", "value": np.array([0.5, 1.0]), "dims": {"x": ("a", None)}})
    try:
        load_plain(good[: at % len(good)] + noise + good[at % len(good) + len(noise) :])
    except MemoryError:
        raise
    except Exception:  # whatever it is, the reader makes a DataError of it
        pass


def header(descr: str, shape: str, body: bytes) -> bytes:
    declared = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    declared += b" " * (-(len(declared) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(declared)) + declared + body


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data", header("<f4", "(1000000000000,)", b"0" * 64), "declares 4000000000000 bytes of numbers, but has 64"),
        ("data", object_entry(pickle.dumps([1]), "(1,)"), "holds object, and the engine reads only real numbers"),
        ("data", header("<f4", "(-1,)", b""), "'data'"),
        ("lower", header("<f8", "(1000000000000,)", b"0" * 16), "declares float64"),
        ("lower", b"0" * (2**20 + 1), "at most 1048576 are read"),
        ("dim_names", header("<U2", "(3,)", "a\nb<i>".encode("utf-32-le")), "which are not names"),
        ("field_type", header("<U4", "()", "Mesh".encode("utf-32-le")), "it holds a 'Mesh'"),
        ("lower", header("<f8", "(1,)", np.array([np.nan]).tobytes()), "lower is not a corner"),
    ],
)
def test_lying_and_wrong_entries(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = replace_entry(scene(tmp_path / "f.npz"), name, content)
    with pytest.raises(DataError) as caught:
        read_scene_npz(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = scene(tmp_path / "f.npz", data=np.zeros((400, 400, 2), np.float32))
    monkeypatch.setattr("hyco_engine.untrusted.free_memory", lambda: 10**6)
    with error_naming(DataError, "'data'", "0.00128 GB", "0.001 GB"):
        read_scene_npz(path)
    assert read_scene_npz(path, data=False).shape == (400, 400, 2)


def test_missing_entries_and_files(tmp_path: Path) -> None:
    with error_naming(DataError, tmp_path / "none.npz"):
        read_scene_npz(tmp_path / "none.npz")
    np.savez(tmp_path / "a.npz", u=np.zeros(3))
    with error_naming(DataError, tmp_path / "a.npz", "dim_names", "'u'"):
        read_scene_npz(tmp_path / "a.npz")


def test_truncated_anywhere(tmp_path: Path) -> None:
    content = scene(tmp_path / "f.npz").read_bytes()
    for length in range(0, len(content), 97):
        (tmp_path / "f.npz").write_bytes(content[:length])
        with pytest.raises(DataError):
            read_scene_npz(tmp_path / "f.npz")


def test_entries_elsewhere_are_never_touched(tmp_path: Path) -> None:
    path = scene(tmp_path / "f.npz")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../outside.npy", b"x")
        archive.writestr("/etc/absolute.npy", b"x")
    assert np.array_equal(read_scene_npz(path).data, read_scene_npz(scene(tmp_path / "g.npz")).data)
    assert not (tmp_path.parent / "outside.npy").exists()
