"""A run folder or a file of somebody else is data: nothing outside of it is touched, and whatever it holds is told."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from messages import error_naming
from report_cases import layout_of, rollout_of, run_folder, summary_of
from safetensors.torch import save_file
from tiny_specs import HEAT_DATA
from torch import zeros

import hyco_engine as hyco
from hyco_engine.cli import cli
from hyco_engine.data.fields import Grid
from hyco_engine.errors import DataError
from hyco_engine.runs.lock import GUARD, LOCK, is_held
from hyco_engine.runs.reading import RunFiles
from hyco_engine.runs.seal import SEAL, seal
from hyco_engine.runs.weights import Weights

pytestmark = pytest.mark.usefixtures("measured")

SECRET = "the-content-of-another-file"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def told(*arguments: str | Path, code: int = 2) -> str:
    """Run a command that ends with `code` and no traceback; return what it says."""
    result: Result = CliRunner().invoke(cli, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    assert "this is a bug" not in result.output
    return result.output


def complete(folder: Path) -> Path:
    return run_folder(folder, rollout_of(layout_of(8)), summary_of())


# --- one bad run folder (4) -------------------------------------------------------------------------------------------


def nested(run: Path) -> str:
    (run / "spec.toml").write_text("a = " + "[" * 5000 + "]" * 5000)
    return "it is nested too deeply"


def long_key(run: Path) -> str:
    (run / "spec.toml").write_text(".".join("a" * 100_000) + " = 1")
    return "a key in it has more than 64 parts"


def unreadable(run: Path) -> str:
    (run / "summary.json").unlink()
    (run / "summary.json").mkdir()
    return "it is a folder, and the engine reads regular files only"


def fifo(run: Path, name: str) -> str:
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    return "it is a FIFO, and the engine reads regular files only"


def endless(run: Path) -> str:
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to("/dev/zero")
    return "it is a link, and the engine reads regular files only"


def enormous(run: Path) -> str:
    os.truncate(run / "metrics.jsonl", 10**13)
    return "it needs 4e+05 GB of memory"


DAMAGE = {
    "nested": nested,
    "long-key": long_key,
    "unreadable": unreadable,
    "fifo": lambda run: fifo(run, "metrics.jsonl"),
    "fifo-of-sums": lambda run: fifo(run, SEAL),
    "endless": endless,
    "enormous": enormous,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_bad_folder_is_listed_as_damaged_with_its_reason_and_the_others_are_listed(damage: Any) -> None:
    complete(Path("runs/bad-1"))
    complete(Path("runs/good-1"))
    reason = damage(Path("runs/bad-1"))
    bad, good = json.loads(told("runs", "list", "--json", code=0))["runs"]
    assert (bad["run"], bad["status"], reason in bad["error"]) == ("runs/bad-1", "damaged", True), bad
    assert (good["run"], good["status"], good["error"]) == ("runs/good-1", "completed", None)


def test_folders_may_be_nested_deeper_than_python_calls_itself() -> None:
    run = complete(Path("run"))
    names = RunFiles(run).names()
    deepest = run
    for _ in range(1200):
        deepest /= "a"
        deepest.mkdir()
    try:
        assert RunFiles(run).names() == names
        RunFiles(run).refuse_others()
        seal(run)
        assert sorted(json.loads((run / SEAL).read_text())) == names
    finally:  # what removes the others calls itself
        for folder in [deepest, *deepest.parents][:1200]:
            folder.rmdir()


def test_weights_that_are_a_fifo_are_not_opened() -> None:
    run = complete(Path("run"))
    (run / "weights").mkdir()
    reason = fifo(run, "weights/synthetic-final.safetensors")
    with error_naming(DataError, "synthetic-final.safetensors", reason):
        Weights.of_run(RunFiles(run), "synthetic-final")


# --- nothing outside (5) ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["spec.toml", "environment.json", "summary.json", "figures/rollout.safetensors"])
def test_a_report_follows_no_link(name: str) -> None:
    run = complete(Path("run"))
    Path("secret").write_text(f'# "{SECRET}"\n')
    (run / name).unlink()
    (run / name).symlink_to(Path("secret").absolute())
    assert f"cannot read run/{name}: it is a link" in told("report", run)
    assert not (run / "report.html").exists()


def test_a_folder_that_is_a_link_is_not_entered() -> None:
    run, other = complete(Path("run")), complete(Path("other"))
    (run / "figures" / "rollout.safetensors").unlink()
    (run / "figures").rmdir()
    (run / "figures").symlink_to((other / "figures").absolute())
    assert "figures is a link, and the engine follows no links in a run folder" in told("report", run)


def test_a_summary_cannot_name_a_file_elsewhere() -> None:
    field = {"mean": 0.1, "min": 0.1, "max": 0.1, "file": "../secret.npy"}
    np.save("secret.npy", np.ones(8))
    run = run_folder(Path("run"), None, summary_of(parameters={"nu": {"final": field, "moved": True}}))
    assert "cannot read run/../secret.npy: it is not in the run folder" in told("report", run)


def test_looking_at_a_lock_opens_no_link() -> None:
    Path("precious").write_text("kept")
    Path("run").mkdir()
    Path("run", GUARD).symlink_to(Path("precious").absolute())
    Path("run", LOCK).write_text(json.dumps({"pid": 10**400, "started": 1}))
    assert not is_held(Path("run", LOCK))
    assert Path("precious").read_text() == "kept"


SPEC: dict[str, Any] = {
    "run": {"name": "tiny", "cycles": 1},
    "data": HEAT_DATA,
    "physical": {"kind": "heat", "compile": "eager", "parameters": {"kappa": {"field": True}}},
    "training": {"physical": {"epochs_per_cycle": 1, "optimizer": "adam"}},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run whose cache and start values are in files beside it."""
    root = tmp_path_factory.mktemp("received")
    np.save(root / "start.npy", np.full(8, 0.2))
    spec = json.loads(json.dumps(SPEC))
    spec["physical"]["parameters"]["kappa"]["init"] = {"file": str(root / "start.npy")}
    spec["paths"] = {"cache": str(root / "cache")}
    return hyco.Engine(spec).run(root / "run").folder


@pytest.fixture
def received(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a copy of the run folder alone, whose spec names a cache that is not there."""
    import shutil

    run = tmp_path / "received"
    shutil.copytree(finished, run)
    spec = (run / "spec.toml").read_text().replace(str(finished.parent), str(tmp_path / "elsewhere"))
    (run / "spec.toml").write_text(spec)
    (run / SEAL).unlink()
    yield run
    assert not (tmp_path / "elsewhere").exists(), "the spec of the folder said where to write"


def test_evaluating_writes_only_to_a_cache_that_the_user_names(received: Path) -> None:
    once = json.loads(told("evaluate", received, "--json", code=0))
    again = json.loads(told("evaluate", received, "--json", "--set", "paths.cache='mine'", code=0))
    assert once["metrics"] == again["metrics"]
    assert len(list(Path("mine").rglob("sim_*.safetensors"))) == 3


def test_evaluating_ones_own_run_takes_its_cache_and_leaves_it_as_it_is(finished: Path) -> None:
    files = sorted((finished.parent / "cache").rglob("sim_*"))
    before = [path.stat().st_mtime_ns for path in files]
    summary = json.loads((finished / "summary.json").read_text())
    found = json.loads(told("evaluate", finished, "--split", "test", "--json", code=0))
    assert found["metrics"]["physical"]["test"]["nrmse"] == summary["metrics"]["physical"]["test"]["nrmse"]
    assert len(files) == 3
    assert [path.stat().st_mtime_ns for path in files] == before


def test_models_start_from_the_folder_s_own_copies(received: Path) -> None:
    np.save("state.npy", np.sin(np.arange(8.0))[None])
    told("predict", received, "--input", "state.npy", "--out", "out.npy", "--steps", "2", code=0)
    (received / "parameters" / "kappa-initial.npy").unlink()
    says = told("predict", received, "--input", "state.npy", "--out", "out.npy", "--steps", "2")
    assert "holds no parameters/kappa-initial.npy" in says


@pytest.mark.parametrize("name", ["log.txt", "figures", "metrics.jsonl"])
def test_a_run_is_not_resumed_through_links(received: Path, name: str) -> None:
    Path("outside").mkdir()
    (received / name).unlink(missing_ok=True)
    (received / name).symlink_to(Path("outside").absolute())
    says = told("run", received / "spec.toml", "--run-dir", received, "--resume")
    assert f"{received / name} is a link, and a run writes only to files of its own" in says
    assert list(Path("outside").iterdir()) == []


def test_a_folder_by_the_name_of_the_metrics_ends_no_resumed_run_in_a_traceback(received: Path) -> None:
    (received / "summary.json").unlink()
    (received / "metrics.jsonl").unlink()
    (received / "metrics.jsonl").mkdir()
    says = told("run", received / "spec.toml", "--run-dir", received, "--resume", code=1)
    assert "metrics.jsonl cannot be read: it is a folder" in says


# --- sizes and numbers (6) --------------------------------------------------------------------------------------------

LAYOUT = layout_of(8).to_data()
STATISTICS: dict[str, Any] = {"mean": [0.0], "std": [1.0], "change_std": [1.0]}


@pytest.mark.parametrize(
    ("layout", "dt", "statistics", "why"),
    [
        ({"resolution": [2 * 10**9]}, "0.1", {}, "it needs 64 GB of memory, but only"),
        ({"upper": [1e999]}, "0.1", {}, "Infinity is no JSON"),
        ({}, "nan", {}, "the time between two frames is nan; it must be a finite number above 0"),
        ({}, "0", {}, "the time between two frames is 0; it must be a finite number above 0"),
        ({}, "0.1", {"mean": [float("nan")]}, "NaN is no JSON"),
        ({}, "0.1", {"std": [0.0]}, "std of the statistics must be above 0"),
        ({}, "0.1", {"std": [1.0, 2.0]}, "std of the statistics has 2 numbers, and the layout 1 channels"),
        ({}, "0.1", {"change_std": 3}, "change_std of the statistics must be a list of finite numbers"),
    ],
)
def test_weights_with_numbers_that_cannot_be(
    layout: dict[str, Any], dt: str, statistics: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyco_engine.untrusted.free_memory", lambda: 2 * 10**9)
    described = {**LAYOUT, "grid": {**LAYOUT["grid"], **layout}}
    about = {"kind": "x", "layout": json.dumps(described), "dt": dt, "statistics": json.dumps(STATISTICS | statistics)}
    save_file({"a": zeros(1)}, "w.safetensors", metadata=about)
    with pytest.raises(DataError) as caught:
        Weights.of_file(Path("w.safetensors"))
    assert str(caught.value).startswith(f"the weights w.safetensors are damaged: {why}")


@pytest.mark.parametrize("bounds", [(float("nan"), 1.0), (0.0, float("nan")), (-1e308, 1e308), (0.0, float("inf"))])
def test_a_grid_of_no_size(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="every lower bound below its upper one"):
        Grid(axes=("x",), resolution=(8,), lower=bounds[:1], upper=bounds[1:])


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        (("parameters", "nu", "final"), 10**400, "the number 10000000000000000000... is too large"),
        (("parameters", "nu", "final"), "0.1", "parameters.nu.final must be a number, not '0.1'"),
        (("parameters", "nu"), None, "parameters.nu must be a table, not None"),
        (
            ("metrics", "physical", "val", "nrmse_by_step"),
            {},
            "metrics.physical.val.nrmse_by_step must be a list, not {}",
        ),
        (("timings", "total_s"), [1], "timings.total_s must be a number, not [1]"),
        (("balance",), [3], "an entry of balance must be a table, not 3"),
        (("warnings",), {"a": 1}, "warnings must be a list, not {'a': 1}"),
        (("seed",), [[0]] * 3 + [json.loads("[" * 80 + "]" * 80)], "it is nested more than 64 times"),
    ],
)
def test_a_summary_of_another_form(place: tuple[str, ...], value: Any, why: str) -> None:
    summary = summary_of()
    table = summary
    for key in place[:-1]:
        table = table[key]
    table[place[-1]] = value
    run = complete(Path("run"))
    (run / "summary.json").write_text(json.dumps(summary))
    for command in (("report", run), ("compare", run, run, "--out", "c.html"), ("inspect", run)):
        assert told(*command).startswith(f"error: run/summary.json is damaged: {why}")


def test_whole_numbers_beyond_64_bits_and_half_characters_are_shown() -> None:
    run = run_folder(Path("run"), None, summary_of())
    (run / "summary.json").write_text(json.dumps(summary_of(seed=10**30, warnings=["\ud800"])))
    assert "wrote run/report.html" in told("report", run, code=0)
    assert "1e+30" in (run / "report.html").read_text()


# --- archives (7) -----------------------------------------------------------------------------------------------------


def test_data_that_cannot_fit_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed("bomb.npz", u=np.zeros((4, 10, 1000), np.float32))
    data = {"kind": "arrays", "path": "bomb.npz", "axes": "stx", "dt": 0.1, "bounds": {"x": [0.0, 1.0]}}
    spec = {"data": {**data, "boundary": "periodic"}, "synthetic": {"kind": "resnet"}}
    monkeypatch.setattr("hyco_engine.builtin.sources.arrays.GLIMPSED", 0)
    monkeypatch.setattr("hyco_engine.builtin.sources.arrays.ArraysSource.load", None)
    monkeypatch.setattr("hyco_engine.untrusted.free_memory", lambda: 250_000)
    with pytest.raises(DataError) as caught:
        hyco.run(spec, run_dir="run")
    assert str(caught.value) == (
        "data: simulation 0 of the data has 10 frames of 1 x 1000 values, and to load it and train on one of its "
        "windows it needs 0.000344 GB of memory, but only 0.00025 GB are free. Take fewer frames (num_frames), fewer "
        "fields or a coarser grid; 0.00016 GB are for its file, which is read as a whole, as .npy and .h5 files are not"
    )


# --- what must not end in "this is a bug" (11) ------------------------------------------------------------------------

POINTS = """
[data]
kind = "points"
path = "points.csv"
split = { by = "sensor" }
dt = 0.1
resolution = { x = 16 }
bounds = { x = [0.0, 1.0] }
boundary = "periodic"
initial = { u = 0.0 }
[physical]
kind = "heat"
"""


@pytest.mark.parametrize(("time", "frames"), [("1e12", "10000000000001"), ("1e308", "1e+200")])
def test_one_row_far_in_the_future(time: str, frames: str) -> None:
    Path("points.csv").write_text(f"t,x,u\n0.1,0.5,1\n0.2,0.25,1\n{time},0.5,1\n")
    Path("spec.toml").write_text(POINTS)
    says = told("run", "spec.toml")
    assert f"up to its last observation, at {float(time):g}, a rollout has {frames} frames of 0.1" in says
    assert "GB of memory are free" in says


def test_a_field_of_a_table_without_end() -> None:
    Path("a.csv").write_text("t,x,u\n0,0,1\n0,1," + "x" * 30_000_000 + "\n")
    assert "a.csv: line 3: field larger than field limit (131072)" in told("inspect", "a.csv")


def test_a_fifo_by_the_name_of_a_data_file() -> None:
    for name in ("a.npy", "a.csv", "a.h5"):
        os.mkfifo(name)
        assert f"{name} is neither a regular file nor a folder" in told("inspect", name)
    Path("folder").mkdir()
    os.mkfifo("folder/a.h5")
    assert "folder is a folder without data of a known kind" in told("inspect", "folder")


def test_paths_that_are_no_utf_8() -> None:
    folder = Path(os.fsdecode(b"\xff"))
    folder.mkdir()
    run_folder(folder / "run", None, summary_of())
    assert "wrote \\udcff/run/report.html" in told("report", folder / "run", code=0)
    data = '[data]\nkind = "simulate"\nresolution.x = 8\ndt = 0.1\ntruth.kappa = 0.1\n'
    (folder / "spec.toml").write_text(data + '[physical]\nkind = "heat"\n')
    says = told("run", folder / "spec.toml")
    assert "is not UTF-8, and a spec holds no other text: rename the folder" in says


def test_a_header_of_weights_that_lies() -> None:
    Path("w.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with error_naming(DataError, "w.safetensors", "it is no safetensors file, or it is cut off"):
        Weights.of_file(Path("w.safetensors"))
