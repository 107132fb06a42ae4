"""A run that is stopped anywhere and gone on with is the run that was never stopped, to the last bit."""

from __future__ import annotations

import copy
import errno
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from messages import error_naming
from tiny_specs import TINY

import hyco_engine as hyco
from hyco_engine.errors import RunError, SpecError
from hyco_engine.interfaces import Tracker
from hyco_engine.runs.keeper import Interrupted
from hyco_engine.runs.metrics import read_metrics

SPEC: dict[str, Any] = TINY | {
    "training": {
        "synthetic": {"epochs_per_cycle": 2, "batch_size": 8},
        "physical": {"epochs_per_cycle": 2, "batch_size": 8, "optimizer": "adam"},
    },
}


class StopAt:
    """Asks the run to end at the n-th moment at which it is asked, counted from 1."""

    def __init__(self, moment: int | None = None) -> None:
        self.moment = moment
        self.asked = 0

    def __call__(self) -> str | None:
        self.asked += 1
        return None if self.moment is None or self.asked < self.moment else "SIGTERM"


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def run(
    folder: Path,
    stop: Callable[[], str | None] = lambda: None,
    resume: bool = False,
    changes: Mapping[str, Any] | None = None,
    callbacks: Any = (),
) -> Any:
    engine = hyco.Engine(copy.deepcopy(SPEC), overrides=changes or {}, callbacks=callbacks)
    return engine.run(folder, resume=resume, stop=stop)


def stopped(folder: Path, moment: int, **more: Any) -> Path:
    with error_naming(Interrupted, "SIGTERM"):
        run(folder, StopAt(moment), **more)
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
    return folder


def results(folder: Path) -> dict[str, Any]:
    """Return all that must be equal: weights bitwise, metrics without times, summary without times and memory."""
    summary = json.loads((folder / "summary.json").read_text())
    for name in ("timings", "peak_rss_bytes"):
        summary.pop(name)
    lines = [{name: value for name, value in line.items() if name != "time"} for line in read_metrics(folder)]
    weights = {path.name: path.read_bytes() for path in sorted((folder / "weights").iterdir())}
    return {"summary": summary, "metrics": lines, "weights": weights}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Return an undisturbed run with its tables in a CSV file, and how often the run asked whether to stop."""
    folder, count = tmp_path_factory.mktemp("whole"), StopAt()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(folder / "run", count, changes={"trackers.csv.file": "metrics.csv"})
    return folder / "run", count.asked


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_stopped_and_resumed_again_and_again(whole: tuple[Path, int], tmp_path: Path) -> None:
    folder, asked = tmp_path / "run", whole[1]
    changes = {"trackers.csv.file": "metrics.csv"}
    stopped(folder, asked // 4, changes=changes)
    for _ in range(3):
        with pytest.raises(Interrupted):
            run(folder, StopAt(asked // 4), resume=True, changes=changes)
    result = run(folder, resume=True, changes=changes)
    assert results(folder) == results(whole[0])
    # nothing that was told before counts twice
    assert (folder / "metrics.csv").read_bytes() == (whole[0] / "metrics.csv").read_bytes()
    assert len(checkpoints(folder)) == 4
    assert not (folder / "run.lock").exists()
    assert result.summary["status"] == "completed"


def test_an_ensemble_is_stopped_and_resumed(tmp_path: Path) -> None:
    changes, count = {"synthetic.members": 2}, StopAt()
    run(tmp_path / "whole", count, changes=changes)
    stopped(tmp_path / "run", count.asked // 2, changes=changes)
    run(tmp_path / "run", resume=True, changes=changes)
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def test_stopped_before_anything_was_trained_it_starts_from_the_beginning(
    whole: tuple[Path, int], tmp_path: Path
) -> None:
    folder = stopped(tmp_path / "run", 1)
    assert not (folder / "checkpoints").exists()
    run(folder, resume=True)
    assert results(folder) == results(whole[0])
    assert f"{folder} holds no checkpoint yet: the run starts from its beginning" in (folder / "log.txt").read_text()


def test_killed_while_it_wrote_its_first_file_it_starts_from_the_beginning(
    whole: tuple[Path, int], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").touch()
    (tmp_path / "run" / ".spec.toml.26449-7a87be17.tmp").write_text("[run]")
    run(tmp_path / "run", resume=True)
    assert results(tmp_path / "run") == results(whole[0])
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_a_completed_run_stays_as_it_is(whole: tuple[Path, int]) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole[0].rglob("*") if path.is_file()}
    result = run(whole[0], resume=True, changes={"trackers.csv.file": "metrics.csv"})
    assert result.resumed_completed
    assert result.summary["status"] == "completed"
    assert result.synthetic is not None
    assert not result.synthetic.training
    assert {path: path.stat().st_mtime_ns for path in whole[0].rglob("*") if path.is_file()} == before


def test_more_cycles_go_on_as_if_they_had_been_asked_for_from_the_beginning(tmp_path: Path) -> None:
    constant = {"training.synthetic.schedule": "constant"}
    run(tmp_path / "whole", changes=constant)
    run(tmp_path / "run", changes={**constant, "run.cycles": 1})
    run(tmp_path / "run", resume=True, changes=constant)
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def test_more_cycles_under_a_cosine_schedule_are_another_run_and_it_says_so(tmp_path: Path) -> None:
    run(tmp_path / "run", changes={"run.cycles": 1})
    summary = run(tmp_path / "run", resume=True).summary
    (told,) = [warning for warning in summary["warnings"] if "cosine" in warning]
    assert told.startswith("run.cycles was 1 and is 2: from here on the cosine schedule of training.synthetic falls")


def test_a_choice_of_the_engine_may_be_written_out_and_not_changed(whole: tuple[Path, int], tmp_path: Path) -> None:
    """The resolved spec in the run folder has the values that were chosen, and the run resumes from it."""
    folder = stopped(tmp_path / "run", 8)
    with error_naming(SpecError, "was 'float32' when the run began, and is 'float64' now", key="run.precision"):
        run(folder, resume=True, changes={"run.precision": "float64"})
    stopped(folder, 8, resume=True, changes={"run.precision": "float32"})
    run(folder, resume=True)
    assert results(folder) == results(whole[0])


def test_a_changed_spec_is_refused_key_by_key(tmp_path: Path) -> None:
    folder = stopped(tmp_path / "run", 8)
    with pytest.raises(SpecError) as caught:
        run(folder, resume=True, changes={"training.synthetic.lr": 0.5, "run.cycles": 0, "run.name": "other"})
    told = {problem.key: problem.message for problem in caught.value.problems}
    assert told["training.synthetic.lr"] == "was 0.001 when the run began, and is 0.5 now"
    begun = "is 0, and the run has already begun cycle 1; a run resumes only with the spec that it began with"
    assert told["run.cycles"].startswith(begun)
    assert set(told) == {"training.synthetic.lr", "run.cycles"}


@pytest.mark.parametrize("damage", ["cut", "empty", "bit", "gone", "foreign"])
@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_a_damaged_checkpoint_is_left_out_and_the_older_one_taken(
    damage: str, suffix: str, whole: tuple[Path, int], tmp_path: Path, interrupted: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(interrupted, folder)
    (folder / "checksums.json").unlink()
    older, newest = sorted((folder / "checkpoints").glob(f"*.{suffix}"))
    content = newest.read_bytes()
    match damage:
        case "cut":
            newest.write_bytes(content[: len(content) // 2])
        case "empty":
            newest.write_bytes(b"")
        case "bit":
            newest.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
        case "gone":
            newest.unlink()
        case "foreign":
            newest.write_bytes(older.with_suffix(".json" if suffix == "safetensors" else ".safetensors").read_bytes())
    from hyco_engine.runs.checkpoint import Checkpoints

    found = Checkpoints(folder / "checkpoints").newest()
    assert found is not None
    assert found.path.stem == older.stem
    assert len(found.notes) == (0 if (damage, suffix) == ("gone", "json") else 1)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, whole: tuple[Path, int]) -> Path:
    """Return a run that was stopped in its middle, with two checkpoints."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stopped(folder / "run", whole[1] // 2)
    return folder / "run"


def test_the_run_goes_on_from_the_older_checkpoint(whole: tuple[Path, int], tmp_path: Path, interrupted: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(interrupted, folder)
    newest = sorted((folder / "checkpoints").glob("*.json"))[-1]
    newest.write_text(newest.read_text()[:-9])
    run(folder, resume=True)
    assert results(folder) == results(whole[0])
    assert f"the checkpoint {newest} cannot be used: it is damaged" in (folder / "log.txt").read_text()
    assert not newest.exists()


def test_where_no_checkpoint_is_left_it_stops(tmp_path: Path, interrupted: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(interrupted, folder)
    for path in (folder / "checkpoints").glob("*.json"):
        path.write_text("{}")
    with error_naming(RunError, folder, "new run folder"):
        run(folder, resume=True)
    assert (folder / "summary.json").exists()


def test_damaged_metrics_are_noticed(tmp_path: Path, interrupted: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(interrupted, folder)
    lines = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(lines[:30] + b"9" + lines[31:])
    with error_naming(RunError, "metrics.jsonl"):
        run(folder, resume=True)


def test_lines_beyond_the_checkpoint_are_removed(whole: tuple[Path, int], tmp_path: Path, interrupted: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(interrupted, folder)
    (folder / "checksums.json").unlink()
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"time": 3, "cycle": 7}\n{"time": 4, "name": "\xc3')
    run(folder, resume=True)
    assert results(folder) == results(whole[0])


def test_a_full_disk_leaves_the_older_checkpoint(
    whole: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    folder, sync, written = tmp_path / "run", os.fsync, []

    def full(handle: int) -> None:
        if "checkpoints" in os.readlink(f"/proc/self/fd/{handle}"):
            written.append(handle)
            # each checkpoint is two files and two folders
            if len(written) > 9:
                raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with error_naming(RunError, folder / "checkpoints", "No space left on device"):
        run(folder)
    assert json.loads((folder / "summary.json").read_text())["status"] == "failed"
    assert all(name.endswith((".json", ".safetensors")) for name in checkpoints(folder))
    monkeypatch.setattr(os, "fsync", sync)
    run(folder, resume=True)
    assert results(folder) == results(whole[0])


CAPTURED = {"physical.compile": "auto"}


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory, whole: tuple[Path, int]) -> Path:
    """Return a run whose physics was captured, stopped in its middle."""
    folder = tmp_path_factory.mktemp("captured")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stopped(folder / "run", whole[1] // 2, changes=CAPTURED)
    return folder / "run"


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make every step worth compiling, and let compiling only record the batch size."""
    sizes: list[int] = []

    def compiled(graph: Any, state: Any, parameters: Any) -> Any:
        sizes.append(len(state))
        return graph

    monkeypatch.setattr("hyco_engine.physics.capture.compiled", compiled)
    monkeypatch.setattr("hyco_engine.physics.capture.worth_compiling", lambda *args: (True, "it pays"))
    return sizes


def test_a_resumed_run_keeps_how_its_physics_ran(tmp_path: Path, captured: Path, compiling: list[int]) -> None:
    """Begun as a graph, though now it would be compiled."""
    folder = tmp_path / "run"
    shutil.copytree(captured, folder)
    summary = run(folder, resume=True, changes=CAPTURED).summary
    # the simulations of the data alone
    assert compiling == [4]
    assert summary["physics"]["compile"] == "graph"
    assert summary["physics"]["reason"].endswith("; as when the run began, though it pays")
    assert not [warning for warning in summary["warnings"] if "the physics ran as" in warning]


def test_where_a_resumed_run_cannot_be_compiled_any_more_it_says_so(
    tmp_path: Path, whole: tuple[Path, int], compiling: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped(tmp_path / "run", whole[1] // 2, changes=CAPTURED)
    assert 8 in compiling

    def failing(*args: Any) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr("hyco_engine.physics.capture.compiled", failing)
    summary = run(folder, resume=True, changes=CAPTURED).summary
    assert summary["physics"]["compile"] == "graph"
    (told,) = [warning for warning in summary["warnings"] if "the physics ran as" in warning]
    assert told.startswith("the physics ran as 'inductor' when the checkpoint was written, and runs as 'graph' now (")
    assert "not compiled: inductor failed: RuntimeError: no compiler" in told


def test_what_is_no_run_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with error_naming(SpecError, tmp_path / "mine", "spec.toml", key="--run-dir"):
        run(tmp_path / "mine", resume=True)
    with error_naming(SpecError, "hyco-engine runs list", key="--run-dir"):
        hyco.Engine(copy.deepcopy(SPEC)).run(resume=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_changed_data_is_noticed(tmp_path: Path, interrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyco_engine.data.manager import DataManager

    folder = tmp_path / "run"
    shutil.copytree(interrupted, folder)
    heldout = DataManager.heldout

    def changed(self: DataManager, split: Any) -> Any:
        found = heldout(self, split)
        found[0].dynamic[-1, 0, 3] += 1e-6
        return found

    monkeypatch.setattr(DataManager, "heldout", changed)
    with error_naming(RunError, "data", "new run folder"):
        run(folder, resume=True)


class Failing(Tracker):
    def __init__(self, event: str) -> None:
        self.events: list[str] = []
        self.event = event

    def __getattribute__(self, name: str) -> Any:
        if name in ("started", "metrics", "phase_ended", "finished"):
            self.events.append(name)
            if name == self.event:
                raise KeyError("no connection")
        return super().__getattribute__(name)


@pytest.mark.parametrize(
    "event", ["metrics", *(pytest.param(event, marks=pytest.mark.slow) for event in ("started", "finished"))]
)
def test_a_plugins_tracker_that_fails_is_named_and_left_out(
    event: str, whole: tuple[Path, int], tmp_path: Path
) -> None:
    from test_engine import registry_with

    tracker = Failing(event)
    registry = registry_with("hyco_trackers", tracker)
    spec = {**copy.deepcopy(SPEC), "trackers": {"foreign": {}}}
    summary = hyco.Engine(spec, registry=registry).run(tmp_path / "run").summary
    assert tracker.events.count(event) == 1
    assert tracker.events[-1] == event
    found = {**results(tmp_path / "run"), "summary": None}
    assert found == {**results(whole[0]), "summary": None}
    told = [warning for warning in summary["warnings"] if "tracker" in warning]
    if event != "finished":
        assert told == [
            "the tracker 'foreign' of plugin 'foreign-plugin' (foreign-plugin 1.2) failed in "
            f"{event}, and is left out from here on: KeyError: 'no connection'"
        ]
