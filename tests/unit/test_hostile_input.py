"""Foreign files do no harm: what they promise is not believed, what they name is not followed, nothing in them runs."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from messages import error_naming
from safetensors.torch import save_file

from hyco_engine.cli import cli
from hyco_engine.data.array_files import open_arrays
from hyco_engine.data.npy import read_arrays
from hyco_engine.errors import DataError, HycoError
from hyco_engine.runs.checkpoint import Checkpoints
from hyco_engine.runs.metrics import read_metrics, read_summary
from hyco_engine.runs.reading import RunFiles
from hyco_engine.runs.seal import SEAL, seal
from hyco_engine.runs.weights import Weights

pytestmark = pytest.mark.usefixtures("measured")


class Runs:
    """Leaves a file where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    yield
    assert [path.name for path in tmp_path.iterdir()] == ["inner"], "something was written outside"
    assert not (inner / "executed").exists()


def npy(descr: str, shape: str, body: bytes = b"") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def archive(path: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in entries.items():
            opened.writestr(f"{name}.npy", content)
    return path


PICKLED = npy("|O", "(1,)", pickle.dumps([Runs()]))
HUGE = npy("<f8", "(1000000000, 1000000000)", bytes(64))


def arrays(path: Path) -> Any:
    """Return what the source `arrays` reads of a file."""
    reader = open_arrays(path)
    return {name: reader.read(name) for name in reader.arrays}


@pytest.mark.parametrize("read", [read_arrays, arrays])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("content", [HUGE, npy("<f8", "(-1, 4)", bytes(32)), npy("<f8", "(4,)", bytes(31)), b"PK", b""])
def test_lying_arrays(read: Any, suffix: str, content: bytes) -> None:
    path = Path(f"a.{suffix}")
    path.write_bytes(content)
    if suffix == "npz":
        archive(path, u=content)
    with pytest.raises((HycoError, ValueError, OSError)) as caught:
        read(path)
    assert str(caught.value)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_pickles_in_arrays(suffix: str) -> None:
    path = Path(f"a.{suffix}")
    path.write_bytes(PICKLED)
    if suffix == "npz":
        archive(path, u=PICKLED)
    with error_naming(ValueError, "pickled"):
        read_arrays(path)
    with pytest.raises((DataError, KeyError)):
        open_arrays(path).find("u" if suffix == "npz" else "a", "data.path")


def test_a_zip_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(Path("a.npz"), u=npy("<f4", "(4000000,)", bytes(16_000_000)))
    assert path.stat().st_size < 100_000
    monkeypatch.setattr("hyco_engine.untrusted.free_memory", lambda: 10**7)
    with error_naming(ValueError, "0.016 GB", "0.01 GB"):
        read_arrays(path)


def test_an_archive_that_says_less_than_it_holds() -> None:
    """The writer of a zip chooses the sizes in its directory, and no more than these is unpacked."""
    path = archive(Path("a.npz"), u=npy("<f4", "(4,)", bytes(16)))
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02") + 24  # the uncompressed size in the central directory
    content[place : place + 4] = struct.pack("<I", 100)
    path.write_bytes(content)
    with error_naming(ValueError, "CRC-32", "'u.npy'"):
        read_arrays(path)


def test_names_that_lead_elsewhere_are_only_names() -> None:
    path = archive(
        Path("a.npz"), **{"../outside": npy("<f4", "(1,)", bytes(4)), "/tmp/x": npy("<f4", "(1,)", bytes(4))}
    )
    read = read_arrays(path)
    assert isinstance(read, dict)
    assert set(read) == {"../outside", "/tmp/x"}


# --- files of a run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "9" * 100_000, '{"a": 1e999999, "b": NaN', "[]", "null", "\x00", ""]
)
def test_hostile_json(text: str) -> None:
    Path("summary.json").write_text(text)
    with error_naming(DataError, "summary.json"):
        read_summary(Path())
    Path("metrics.jsonl").write_text(f"{text}\n")
    with error_naming(DataError, "metrics.jsonl:1"):
        read_metrics(Path())
    Path(SEAL).write_text(text)
    with pytest.raises(DataError, match=r"checksums\.json is damaged|is damaged: its checksum is not the one"):
        RunFiles(Path()).read("summary.json")


def test_enormous_json(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("summary.json").write_text(json.dumps({"a": "x" * 10_000}))
    monkeypatch.setattr("hyco_engine.untrusted.free_memory", lambda: 50_000)
    with error_naming(DataError, "summary.json", "0.0004 GB of memory", "5e-05 GB are free"):
        read_summary(Path())


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 80) + b'{"a":{"dtype":"F32","shape":[1000000000,1000000000],"data_offsets":[0,4]}}'.ljust(84),
        struct.pack("<Q", 10**6) + b"[" * 10**6,
        pickle.dumps({"a": torch.zeros(1)}),
        b"",
    ],
    ids=["length", "shape", "nesting", "pickle", "empty"],
)
def test_hostile_weights(content: bytes) -> None:
    path = Path("weights") / "synthetic-final.safetensors"
    path.parent.mkdir()
    path.write_bytes(content)
    with error_naming(DataError, "synthetic-final.safetensors"):
        Weights.of_run(RunFiles(Path()), "synthetic-final")


@pytest.mark.parametrize("layout", ['{"grid": 1}', "[" * 100_000, '{"grid": {"axes": ["../x"]}}', "null"])
def test_weights_with_hostile_metadata(layout: str) -> None:
    path = Path("weights.safetensors")
    save_file({"a": torch.zeros(1)}, path, metadata={"kind": "unet", "layout": layout, "dt": "1", "statistics": "{}"})
    with error_naming(DataError, "weights.safetensors"):
        Weights.of_file(path)


def test_checkpoints_that_are_links_or_lie() -> None:
    outside = Path("kept.json")
    outside.write_text("{}")
    folder = Path("checkpoints")
    folder.mkdir()
    (folder / "000001.json").symlink_to(outside.absolute())
    (folder / "000002.json").write_text("[" * 100_000)
    told = {"format": 1, "tensors": {"bytes": 2**60, "sha256": ""}, "content": {}}
    (folder / "000003.json").write_text(json.dumps(told | {"sha256": ""}))
    (folder / "../../etc.json").resolve()
    with pytest.raises(HycoError) as caught:
        Checkpoints(folder).newest()
    assert [name in str(caught.value) for name in ("000001.json", "000002.json", "000003.json")] == [True] * 3
    assert outside.read_text() == "{}"


def test_a_seal_follows_no_links_and_names_stay_inside() -> None:
    run = Path("run")
    run.mkdir()
    (run / "summary.json").write_text("{}")
    (run / "link").symlink_to("/etc/passwd")
    seal(run)
    assert list(json.loads((run / SEAL).read_text())) == ["summary.json"]
    assert RunFiles(run).read("summary.json") == b"{}"
    (run / SEAL).write_text(json.dumps({"../outside": "00", "summary.json": 3}))
    with error_naming(DataError, "summary.json"):
        RunFiles(run).read("summary.json")


# --- names ----------------------------------------------------------------------------------------------------------

NAMES = ["../outside", "/tmp/outside", "a/b", "..", "", "a\nb", "a\x00b", "<script>alert(1)</script>/x", "a" * 1000]


@pytest.mark.parametrize("key", ["run.name", "data.name"])
@pytest.mark.parametrize("name", NAMES)
def test_names_in_a_spec_never_leave_their_folder(key: str, name: str) -> None:
    table, _, leaf = key.partition(".")
    Path("spec.toml").write_text(
        '[data]\nkind = "simulate"\ntruth.nu = 0.1\n[physical]\nkind = "burgers"\n[synthetic]\nkind = "resnet"\n'
    )
    overrides = ["--set", f"{key}={json.dumps(name)}"]
    result = CliRunner().invoke(cli, ["run", "spec.toml", *overrides])
    assert result.exit_code == 2, result.output
    assert leaf in result.stderr
    assert sorted(path.name for path in Path().iterdir()) == ["spec.toml"]
    assert table in result.stderr


@pytest.mark.parametrize("kind", ["../x", "os.system", "burgers\n", "<b>", "__import__('os')"])
def test_kinds_are_looked_up_and_never_imported(kind: str) -> None:
    Path("spec.toml").write_text(f'[data]\nkind = "simulate"\n[physical]\nkind = {json.dumps(kind)}\n')
    result = CliRunner().invoke(cli, ["check", "spec.toml"])
    assert result.exit_code == 2
    assert "physical.kind" in result.stderr


# --- other formats --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["pt", "mat", "h5", "npz", "npy"])
def test_a_pickle_by_any_name(suffix: str) -> None:
    for content in (pickle.dumps(Runs()), b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + pickle.dumps(Runs())):
        Path(f"a.{suffix}").write_bytes(content)
        with pytest.raises((HycoError, ValueError)):
            arrays(Path(f"a.{suffix}"))
    torch.save({"u": Runs()}, f"b.{suffix}")
    with pytest.raises((HycoError, ValueError, KeyError)):
        open_arrays(Path(f"b.{suffix}")).find("u", "data.path")


def test_objects_in_a_mat_file() -> None:
    scipy_io = pytest.importorskip("scipy.io")
    import numpy as np

    cells = np.empty(1, dtype=object)
    cells[0] = np.zeros(2)
    scipy_io.savemat("a.mat", {"u": cells, "v": {"w": 1.0}, "x": "text"})
    reader = open_arrays(Path("a.mat"))
    for name in ("u", "v", "x"):
        with pytest.raises((HycoError, ValueError)) as caught:
            reader.find(name, "data.path")
        assert "a.mat" in str(caught.value) or name in str(caught.value)


@pytest.mark.parametrize("size", [2**31 - 1, 2**32 - 1])
def test_a_mat_file_that_promises_billions(size: int) -> None:
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    element = struct.pack("<II", 14, size) + struct.pack("<IIII", 6, 8, 6, 0)
    element += struct.pack("<IIii", 5, 8, 10**9, 10**9) + struct.pack("<II", 1, 1) + b"u".ljust(8, b"\0")
    element += struct.pack("<II", 9, size)
    Path("a.mat").write_bytes(head + element)
    with pytest.raises((HycoError, ValueError)):
        arrays(Path("a.mat"))


def test_an_archive_s_symbolic_link_is_no_link() -> None:
    Path("secret.npy").write_bytes(npy("<f4", "(1,)", bytes(4)))
    entry = zipfile.ZipInfo("u.npy")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile("a.npz", "w") as opened:
        opened.writestr(entry, str(Path("secret.npy").absolute()))
    with error_naming(ValueError, "u.npy"):
        read_arrays(Path("a.npz"))


# --- the cache of real data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hostile", ["pickle", "length", "link", "folder"])
def test_hostile_caches_are_made_again_and_nothing_else_is_touched(hostile: str, tmp_path: Path) -> None:
    import hyco_engine as hyco
    from hyco_engine.assembly import Assembler

    spec = {
        "data": {
            "kind": "simulate",
            "truth": {"nu": 0.1},
            "num_simulations": 3,
            "num_frames": 5,
            "resolution": {"x": 8},
            "dt": 0.01,
            "split": {"train": "0:1", "val": "1:2", "test": "2:3"},
        },
        "physical": {"kind": "burgers", "compile": "eager"},
        "paths": {"cache": "cache"},
    }

    def held_out() -> torch.Tensor:
        engine = hyco.Engine(spec)
        assembler = Assembler(engine.spec, engine.registry)
        return assembler.task().simulations().heldout("test")[0].dynamic

    sound = held_out()
    outside = Path("outside")
    outside.write_bytes(b"precious")
    files = [path for path in Path("cache").rglob("*") if path.suffix == ".safetensors"]
    assert files
    for path in files:
        path.unlink()
        match hostile:
            case "pickle":
                path.write_bytes(pickle.dumps(Runs()))
            case "length":
                path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
            case "link":
                path.symlink_to(outside.absolute())
            case "folder":
                path.mkdir()
    if hostile == "folder":
        with error_naming(HycoError, "cache"):
            held_out()
    else:
        assert torch.equal(held_out(), sound)
    assert outside.read_bytes() == b"precious"
