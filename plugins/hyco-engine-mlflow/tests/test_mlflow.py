"""The tracker `mlflow`: the contract of trackers, what MLflow keeps, runs that go on, failures."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hyco_engine_mlflow
import pytest
from hyco_engine_mlflow import MlflowOptions
from hyco_engine_mlflow.tracker import NOTE, MlflowTracker, _quiet
from hyco_engine_mlflow.values import final_values, name, settings
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

import hyco_engine as hyco
from hyco_engine import Engine, Registry
from hyco_engine.interfaces import Tracker
from hyco_engine.runs.metrics import read_metrics
from hyco_engine.testing.specs import RunSpec, merged
from hyco_engine.testing.trackers import ENDS, METRICS, SPEC, TrackerContract

pytest_plugins = ["hyco_engine.testing.fixtures"]

pytestmark = [
    # of MLflow's own tables, with SQLAlchemy 2.1
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    # of connections that MLflow leaves to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that MLflow has set up, which takes it seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    with _quiet():
        MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def _store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database of the test's own in its working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")


class TestContract(TrackerContract):
    def make(self) -> Tracker:
        return MlflowTracker(MlflowOptions())


def client() -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{Path('mlflow.db').resolve()}")


def runs() -> list[Run]:
    experiment = client().get_experiment_by_name("hyco-engine")
    return [] if experiment is None else list(client().search_runs([experiment.experiment_id]))


def history(run: Run, key: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client().get_metric_history(run.info.run_id, key)]


def artifacts(run: Run, path: str | None = None) -> list[str]:
    found = client().list_artifacts(run.info.run_id, path)
    return sorted(file.path for file in found)


def told(folder: Path | None, end: str | None, **earlier: Any) -> MlflowTracker:
    tracker = MlflowTracker(MlflowOptions())
    tracker.started({"name": "tracked", "folder": folder, "spec": SPEC, **earlier})
    for record in METRICS[len(earlier.get("records", ())) :]:
        tracker.metrics(record)
    tracker.phase_ended({"cycle": 0, "phase": "train_synthetic", "seconds": 1.0})
    if end is not None:
        tracker.finished(ENDS[end])
    return tracker


def test_what_it_is_told_is_what_mlflow_keeps(tmp_path: Path) -> None:
    folder = tmp_path / "tracked-1"
    (folder / "figures").mkdir(parents=True)
    tracker = told(folder, None)
    for file in ("summary.json", "figures/history.png"):
        (folder / file).write_text("{}")
        tracker.artifact(folder / file)
    assert [run.info.status for run in runs()] == ["RUNNING"]
    tracker.finished(ENDS["completed"])
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "tracked-1"
    assert run.data.tags["hyco_engine.folder"] == str(folder)
    assert run.data.params == {"run.name": "tracked", "synthetic.kind": "resnet"}
    assert history(run, "synthetic/train/loss") == [(4, 0.5), (8, 0.25)]
    assert run.data.metrics == {
        "synthetic/train/loss": 0.25,
        "synthetic/train/loss/u": 0.5,
        "synthetic/val/nrmse": 0.5,
        "standard_error/nu": 1e-3,
        "final/param/nu": 0.02,
        "final/val/synthetic/nrmse": 0.5,
    }
    assert artifacts(run) == ["figures", "spec.toml", "summary.json"]
    assert artifacts(run, "figures") == ["figures/history.png"]


@pytest.mark.parametrize(("end", "status"), [("failed", "FAILED"), ("interrupted", "KILLED")])
def test_the_end_is_told(tmp_path: Path, end: str, status: str) -> None:
    told(tmp_path, end)
    (run,) = runs()
    assert run.info.status == status
    assert run.data.tags.get("hyco_engine.error") == ENDS[end]["error"]


def test_files_are_kept_only_if_wanted(tmp_path: Path) -> None:
    tracker = MlflowTracker(MlflowOptions(artifacts=False))
    tracker.started({"name": "tracked", "folder": tmp_path, "spec": SPEC})
    (tmp_path / "summary.json").write_text("{}")
    tracker.artifact(tmp_path / "summary.json")
    tracker.finished(ENDS["completed"])
    assert artifacts(runs()[0]) == []


def test_a_run_that_goes_on_is_the_same_run_and_tells_nothing_twice(tmp_path: Path) -> None:
    told(tmp_path, None)
    records = [{**METRICS[0], "time": 1.5}]
    told(tmp_path, "completed", records=records, notes=["goes on from cycle 0"])
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert history(run, "synthetic/train/loss") == [(4, 0.5), (8, 0.25)]
    assert run.data.tags["hyco_engine.resumed"] == "goes on from cycle 0"


def test_of_two_values_for_one_step_the_later_one_counts(tmp_path: Path) -> None:
    told(tmp_path, None)
    tracker = MlflowTracker(MlflowOptions())
    tracker.started({"name": "tracked", "folder": tmp_path, "spec": SPEC, "records": METRICS[:1], "notes": ()})
    tracker.metrics({**METRICS[1], "train/loss": 0.125})
    tracker.finished(ENDS["completed"])
    (run,) = runs()
    assert sorted(history(run, "synthetic/train/loss")) == [(4, 0.5), (8, 0.125), (8, 0.25)]
    assert run.data.metrics["synthetic/train/loss"] == 0.125


@pytest.mark.parametrize("lost", ["note", "run", "damaged"])
def test_a_run_that_is_not_found_again_is_told_anew(tmp_path: Path, lost: str) -> None:
    told(tmp_path, None)
    (first,) = runs()
    if lost == "note":
        (tmp_path / NOTE).unlink()
    elif lost == "run":
        client().delete_run(first.info.run_id)
    else:
        (tmp_path / NOTE).write_text("[")
    told(tmp_path, "completed", records=METRICS[:2], notes=())
    (new,) = [run for run in runs() if run.info.run_id != first.info.run_id]
    assert new.info.status == "FINISHED"
    assert history(new, "synthetic/train/loss") == [(4, 0.5), (8, 0.25)]


def test_what_is_not_finite_is_kept_and_told_once(tmp_path: Path) -> None:
    odd: Mapping[str, Any] = {"phase": "train_physical", "step": 1, "train/loss": float("nan"), "a": float("inf")}
    for records in (None, [odd]):
        tracker = MlflowTracker(MlflowOptions())
        more = {} if records is None else {"records": records}
        tracker.started({"name": "tracked", "folder": tmp_path, "spec": SPEC, **more})
        if records is None:
            tracker.metrics(odd)
        tracker.phase_ended({})
    (run,) = runs()
    ((step, value),) = history(run, "physical/train/loss")
    assert step == 1
    assert value != value
    assert len(history(run, "physical/a")) == 1


def test_files_are_kept_beside_the_database_wherever_the_process_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = MlflowTracker(MlflowOptions())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    tracker.started({"name": "tracked", "folder": None, "spec": SPEC})
    tracker.finished(ENDS["completed"])
    assert list(elsewhere.iterdir()) == []
    assert len(list((tmp_path / "mlruns").rglob("spec.toml"))) == 1


def test_names_and_settings_are_what_mlflow_takes() -> None:
    assert name("train/loss/u(x) [K]") == "train/loss/u_x_ _K_"
    spec = '[run]\nname = "a"\nseed = 1\n[data]\nsplit = { train = "0:4" }\n[trackers.mlflow]\ntracking_uri = "x"\n'
    assert settings(spec) == {"run.name": "a", "run.seed": "1", "data.split.train": "0:4"}
    assert settings(f'a = "{"b" * 9000}"')["a"] == "b" * 500
    assert final_values(ENDS["failed"]) == {}


def test_options_must_not_be_empty() -> None:
    with pytest.raises(ValueError, match="experiment must not be empty"):
        MlflowOptions(experiment=" ")


# --- as a plugin ------------------------------------------------------------------------------------------------------


@pytest.fixture
def registry(builtin_registry: Registry) -> Registry:
    builtin_registry.register(hyco_engine_mlflow, distribution="hyco-engine-mlflow", version="0.1.0")
    return builtin_registry


def test_a_run_that_was_interrupted_is_one_run_in_mlflow(registry: Registry) -> None:
    spec = merged({"synthetic": None, "trackers": {"mlflow": {}}, "run": {"cycles": 1}})
    spec["training"]["physical"]["epochs_per_cycle"] = 6
    asked = iter(range(1000))
    with pytest.raises(KeyboardInterrupt):
        Engine(spec, registry=registry).run("run", stop=lambda: "enough" if next(asked) > 20 else None)
    (run,) = runs()
    assert run.info.status == "KILLED"
    assert 0 < len(history(run, "physical/train/loss")) < 6
    result = hyco.run(spec, registry=registry, run_dir="run", resume=True)
    (again,) = runs()
    assert again.info.run_id == run.info.run_id
    assert again.info.status == "FINISHED"
    records = [record for record in read_metrics(result.folder) if "train/loss" in record]
    assert history(again, "physical/train/loss") == [(record["step"], record["train/loss"]) for record in records]
    assert "weights" in artifacts(again)


def test_a_server_that_is_not_there_does_not_end_the_run(
    run_spec: RunSpec, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tables = {
        "synthetic": None,
        "run": {"cycles": 1},
        "trackers": {"mlflow": {"tracking_uri": "http://127.0.0.1:9"}},
    }
    summary = run_spec(tables, registry=registry).summary
    assert summary["status"] == "completed"
    (warning,) = summary["warnings"]
    assert warning.startswith(
        "the tracker 'mlflow' of plugin 'hyco-engine-mlflow' (hyco-engine-mlflow 0.1.0) failed in started, and is left "
        "out from here on: "
    )


def test_the_hook_module_is_light() -> None:
    code = (
        "import sys, hyco_engine_mlflow; hyco_engine_mlflow.hyco_trackers(); "
        "assert not {'torch', 'phi', 'mlflow', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_arms_have_curves_of_their_own(tmp_path: Path) -> None:
    tracker = MlflowTracker(MlflowOptions())
    tracker.started({"name": "tracked", "folder": tmp_path})
    for arm, loss in (("trust", 0.5), ("interaction", 0.25)):
        tracker.metrics({"cycle": 0, "phase": "train_synthetic", "arm": arm, "step": 4, "train/loss": loss})
    tracker.finished({})
    (run,) = runs()
    assert history(run, "synthetic/trust/train/loss") == [(4, 0.5)]
    assert history(run, "synthetic/interaction/train/loss") == [(4, 0.25)]
