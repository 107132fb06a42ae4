"""The tracker `tensorboard`: the contract of trackers, what TensorBoard reads, runs that go on, failures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import hyco_engine_tensorboard
import pytest
from hyco_engine_tensorboard import TensorBoardOptions
from hyco_engine_tensorboard.tracker import TensorBoardTracker, final_values
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import hyco_engine as hyco
from hyco_engine import Engine, Registry
from hyco_engine.errors import SpecError
from hyco_engine.interfaces import Tracker
from hyco_engine.runs.metrics import read_metrics
from hyco_engine.testing.specs import RunSpec, merged
from hyco_engine.testing.trackers import ENDS, METRICS, SPEC, TrackerContract

pytest_plugins = ["hyco_engine.testing.fixtures"]


class TestContract(TrackerContract):
    def make(self) -> Tracker:
        return TensorBoardTracker("tensorboard")


def events(path: Path) -> EventAccumulator:
    read = EventAccumulator(str(path))
    read.Reload()
    return read


def scalars(path: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of one model: (step, value) by name."""
    read = events(path)
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def texts(path: Path) -> dict[str, list[str]]:
    read = events(path)
    found = {}
    for tag in read.Tags()["tensors"]:
        values = [event.tensor_proto.string_val[0].decode() for event in read.Tensors(tag)]
        found[tag.removesuffix("/text_summary")] = values
    return found


def test_what_it_is_told_is_what_tensorboard_shows(tmp_path: Path) -> None:
    tracker = TensorBoardTracker("events")
    tracker.started({"name": "tracked", "folder": tmp_path, "spec": SPEC})
    for record in METRICS:
        tracker.metrics(record)
    tracker.metrics({"cycle": 0, "phase": "train_physical", "step": 2, "train/loss": float("nan"), "note": None})
    tracker.warned("a warning")
    tracker.warned("another")
    Image.new("RGB", (4, 3), (255, 0, 0)).save(tmp_path / "history.png")
    tracker.artifact(tmp_path / "history.png")
    tracker.artifact(tmp_path / "summary.json")
    tracker.finished(ENDS["completed"])
    folder = tmp_path / "events"
    assert scalars(folder / "synthetic") == {
        "train/loss": [(4, 0.5), (8, 0.25)],
        "train/loss/u": [(4, 0.5)],
        "val/nrmse": [(8, 0.5)],
    }
    physical = scalars(folder / "physical")
    assert list(physical) == ["train/loss"]
    assert physical["train/loss"][0][0] == 2
    whole = scalars(folder)
    assert whole.pop("standard_error/nu") == [(8, pytest.approx(1e-3))]
    assert whole == {
        "final/param/nu": [(1, pytest.approx(0.02))],
        "final/val/synthetic/nrmse": [(1, 0.5)],
    }
    image = events(folder).Images("figures/history")[0]
    assert (image.width, image.height) == (4, 3)
    found = texts(folder)
    assert found["warnings"] == ["a warning", "another"]
    assert found["status"] == ["**completed**"]
    assert found["spec"] == ["".join(f"    {line}\n" for line in SPEC.splitlines())]
    assert '"final": 0.02' in found["results"][0]


def test_a_run_that_failed_says_why(tmp_path: Path) -> None:
    tracker = TensorBoardTracker("events")
    tracker.started({"name": "tracked", "folder": tmp_path, "spec": SPEC})
    tracker.finished(ENDS["failed"])
    assert texts(tmp_path / "events")["status"] == ["**failed**\n\n'u' is not finite"]


def test_a_run_without_a_folder_writes_nothing_and_says_so(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    tracker = TensorBoardTracker("events")
    tracker.started({"name": "tracked", "folder": None, "spec": None})
    tracker.metrics(METRICS[0])
    tracker.finished(ENDS["completed"])
    assert [record.getMessage() for record in caplog.records] == [
        "tracker tensorboard: the run has no folder, so nothing is written"
    ]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    with pytest.raises(SpecError) as error:
        TensorBoardTracker("events").started({"name": "tracked", "folder": tmp_path, "spec": SPEC})
    assert [(problem.key, problem.message) for problem in error.value.problems] == [
        ("trackers.tensorboard.folder", f"{tmp_path / 'events'} exists already; give another name")
    ]


@pytest.mark.parametrize("folder", ["", ".", "..", "a/b", "a\\b", "a\nb"])
def test_the_folder_is_a_plain_name(folder: str) -> None:
    with pytest.raises(ValueError, match="must be the plain name of a folder in the run folder"):
        TensorBoardOptions(folder=folder)


def test_final_values_are_the_finite_numbers_of_a_summary() -> None:
    summary = {
        "parameters": {"nu": {"final": 0.02, "relative_error": None}, "q": {"final": {"mean": 1.0}}},
        "metrics": {"physical": {"test": {"nrmse": 0.1, "vrmse": float("inf"), "nrmse_by_step": [0.1]}}},
    }
    assert final_values(summary) == {"param/nu": 0.02, "test/physical/nrmse": 0.1}
    assert final_values(ENDS["failed"]) == {}


# --- as a plugin ------------------------------------------------------------------------------------------------------


@pytest.fixture
def registry(builtin_registry: Registry) -> Registry:
    builtin_registry.register(hyco_engine_tensorboard, distribution="hyco-engine-tensorboard", version="0.1.0")
    return builtin_registry


def test_a_run_that_was_interrupted_goes_on_without_what_is_void(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = merged({"synthetic": None, "trackers": {"tensorboard": {}}, "run": {"cycles": 1}})
    spec["training"]["physical"]["epochs_per_cycle"] = 6
    asked = iter(range(1000))
    with pytest.raises(KeyboardInterrupt):
        Engine(spec, registry=registry).run("run", stop=lambda: "enough" if next(asked) > 20 else None)
    before = scalars(Path("run/tensorboard/physical"))["train/loss"]
    assert 0 < len(before) < 6
    # told, and void: the run goes on from before it
    late = TensorBoardTracker("tensorboard")
    late.started({"name": "tiny", "folder": Path("run"), "spec": SPEC, "records": read_metrics(Path("run"))})
    late.metrics({"cycle": 0, "phase": "train_physical", "step": 999, "train/loss": 77.0})
    late.phase_ended({})
    result = hyco.run(spec, registry=registry, run_dir="run", resume=True)
    records = [record for record in read_metrics(result.folder) if "train/loss" in record]
    found = scalars(Path("run/tensorboard/physical"))["train/loss"]
    assert found == [(record["step"], pytest.approx(record["train/loss"], rel=1e-6)) for record in records]
    assert found[: len(before)] == before
    assert texts(Path("run/tensorboard"))["notes"]


def test_a_failure_does_not_end_the_run(run_spec: RunSpec, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TensorBoardTracker, "metrics", fail)
    tables = {"synthetic": None, "run": {"cycles": 1}, "trackers": {"tensorboard": {}}}
    summary = run_spec(tables, registry=registry).summary
    assert summary["status"] == "completed"
    assert summary["warnings"] == [
        "the tracker 'tensorboard' of plugin 'hyco-engine-tensorboard' (hyco-engine-tensorboard 0.1.0) failed in "
        "metrics, and is left out from here on: OSError: [Errno 28] No space left on device"
    ]


def test_a_run_that_never_began_leaves_no_folder(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor an error in the thread that writes, which pytest would tell of."""
    monkeypatch.chdir(tmp_path)
    spec = merged({"data": {"truth": {"nonsense": 1.0}}, "trackers": {"tensorboard": {}}})
    with pytest.raises(SpecError, match="the physics has no parameter 'nonsense'"):
        hyco.run(spec, registry=registry)
    assert list(Path("runs").iterdir()) == []


def test_the_hook_module_is_light() -> None:
    code = (
        "import sys, hyco_engine_tensorboard; hyco_engine_tensorboard.hyco_trackers(); assert not "
        "{'torch', 'phi', 'tensorboard', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_arms_have_curves_of_their_own(tmp_path: Path) -> None:
    tracker = TensorBoardTracker("events")
    tracker.started({"name": "tracked", "folder": tmp_path})
    for arm, loss in (("trust", 0.5), ("of ../mine", 0.25)):
        tracker.metrics({"cycle": 0, "phase": "train_synthetic", "arm": arm, "step": 4, "train/loss": loss})
    tracker.finished(ENDS["completed"])
    assert scalars(tmp_path / "events" / "synthetic-trust") == {"train/loss": [(4, 0.5)]}
    assert scalars(tmp_path / "events" / "synthetic-of____mine") == {"train/loss": [(4, 0.25)]}
