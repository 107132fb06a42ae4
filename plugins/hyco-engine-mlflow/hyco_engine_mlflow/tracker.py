"""The tracker `mlflow`."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyco_engine.interfaces import Tracker, TrackerContext
from hyco_engine_mlflow.values import LONGEST, final_values, name, settings

# set before the import, which reads it: no usage reports are sent unless the user asks for them
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

if TYPE_CHECKING:
    from hyco_engine_mlflow import MlflowOptions

SQLITE = "sqlite:///"
NOTE = "mlflow.json"
"""The file in the run folder that names the run of MLflow."""
EVERY_SECONDS = 2.0
MOST = 100
"""Largest number of parameters or metrics in one request."""

POSITION = ("time", "cycle", "phase", "epoch", "step")
STATUS = {"completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class MlflowTracker(Tracker):
    """Logs one run of the engine as one run in MLflow, every few seconds and at the end of each phase.

    A resumed run continues the same run in MLflow. MLflow cannot delete metrics: of repeated ones the tracker sends
    only those that differ from the logged ones, and of two values for one step the later one counts.
    """

    def __init__(self, options: MlflowOptions) -> None:
        self.options = options
        # resolved now, since a program that embeds the engine may change the working directory later
        self._uri, self._artifact_root = located(options.tracking_uri)
        self._client: MlflowClient | None = None
        self._run: str | None = None
        self._folder: Path | None = None
        self._waiting: list[Metric] = []
        self._sent = 0.0
        self._there: set[tuple[str, int, str]] = set()
        self._begin = 0.0

    # --- events -------------------------------------------------------------------------------------------------------

    def started(self, info: Mapping[str, Any]) -> None:
        self._folder = info.get("folder")
        self._waiting, self._there = [], set()
        records: Sequence[Mapping[str, Any]] = info.get("records") or ()
        self._begin = time.time() - (records[-1].get("time", 0.0) if records else 0.0)
        with _quiet():
            self._client = MlflowClient(tracking_uri=self._uri)
            known = None if info.get("records") is None else self._known()
            run = self._new(info) if known is None else known
        self._run = run.info.run_id
        if known is not None:
            self._client.update_run(self._run, status="RUNNING")
            self._there = {
                (point.key, point.step, _comparable(point.value))
                for key in known.data.metrics
                for point in self._client.get_metric_history(self._run, key)
            }
        if info.get("spec") is not None:
            self._send_settings(info["spec"], run.data.params)
        if info.get("notes"):
            self._tag("hyco_engine.resumed", "; ".join(info["notes"]))
        for record in records:
            self.metrics(record)

    def metrics(self, record: Mapping[str, Any]) -> None:
        phase = str(record.get("phase", ""))
        model = f"{phase.removeprefix('train_')}/" if phase.startswith("train_") else ""
        # each candidate has models of its own, which count the same steps
        model += f"{record['arm']}/" if "arm" in record else ""
        when = int(1000 * (self._begin + record["time"] if "time" in record else time.time()))
        step = int(record.get("step") or 0)
        for key, value in record.items():
            if key in POSITION or not isinstance(value, int | float):
                continue
            metric = Metric(name(f"{model}{key}"), float(value), when, step)
            if (metric.key, step, _comparable(metric.value)) not in self._there:
                self._waiting.append(metric)
        if time.monotonic() - self._sent > EVERY_SECONDS:
            self._send()

    def phase_ended(self, record: Mapping[str, Any]) -> None:
        self._send()

    def artifact(self, path: Path) -> None:
        if self.options.artifacts:
            inside = self._folder is not None and path.is_relative_to(self._folder)
            below = str(path.parent.relative_to(self._folder)) if inside and self._folder is not None else "."
            self._open.log_artifact(self._id, str(path), None if below == "." else below)

    def finished(self, summary: Mapping[str, Any]) -> None:
        when = int(1000 * time.time())
        self._waiting += [Metric(key, value, when, 0) for key, value in final_values(summary).items()]
        self._send()
        if summary.get("error"):
            self._tag("hyco_engine.error", str(summary["error"]))
        self._open.set_terminated(self._id, STATUS.get(str(summary.get("status")), "FAILED"))

    # --- MLflow -------------------------------------------------------------------------------------------------------

    @property
    def _open(self) -> MlflowClient:
        assert self._client is not None, "told of a run that has not started"
        return self._client

    @property
    def _id(self) -> str:
        assert self._run is not None, "told of a run that has not started"
        return self._run

    def _new(self, info: Mapping[str, Any]) -> Run:
        client = self._open
        experiment = client.get_experiment_by_name(self.options.experiment)
        if experiment is None:
            number = client.create_experiment(self.options.experiment, self._artifact_root)
        else:
            number = experiment.experiment_id
        title = info["name"] if self._folder is None else self._folder.name
        tags = {} if self._folder is None else {"hyco_engine.folder": str(self._folder.resolve())}
        run = client.create_run(number, run_name=title, tags=tags)
        if self._folder is not None:
            note = {"tracking_uri": self._uri, "run_id": run.info.run_id}
            (self._folder / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
        return run

    def _known(self) -> Run | None:
        """Return the MLflow run from before the interruption; None where it cannot be found."""
        if self._folder is None:
            return None
        try:
            note = json.loads((self._folder / NOTE).read_text(encoding="utf-8"))
            run = self._open.get_run(str(note["run_id"]))
        except (OSError, ValueError, KeyError, TypeError, MlflowException):
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _send(self) -> None:
        self._sent = time.monotonic()
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), MOST):
            self._open.log_batch(self._id, metrics=waiting[start : start + MOST])

    def _send_settings(self, spec: str, there: Mapping[str, str]) -> None:
        """Send the settings that MLflow lacks, since a parameter cannot change there, and the spec as a file."""
        params = [Param(key, value) for key, value in settings(spec).items() if key not in there]
        for start in range(0, len(params), MOST):
            self._open.log_batch(self._id, params=params[start : start + MOST])
        if self.options.artifacts:
            self._open.log_text(self._id, spec, "spec.toml")

    def _tag(self, key: str, text: str) -> None:
        self._open.log_batch(self._id, tags=[RunTag(key, text[:LONGEST])])


def located(uri: str) -> tuple[str, str | None]:
    """Return a file's URI with its absolute path, and the folder beside it for the runs' files; a server decides both.

    MLflow keeps one connection a URI in a process, and would keep using the file of another working directory.
    """
    if not uri.startswith(SQLITE):
        return uri, None
    path = Path(uri.removeprefix(SQLITE)).resolve()
    return f"{SQLITE}{path}", (path.parent / "mlruns").as_uri()


def _comparable(value: float) -> str:
    """Return text that is equal for a sent value and for what MLflow returns; databases store infinity as a number."""
    if math.isinf(value):
        value = math.copysign(1.7976931348623157e308, value)
    return repr(value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence MLflow, which logs a hundred lines when it makes a database."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def build(options: MlflowOptions, context: TrackerContext) -> MlflowTracker:
    """Build the tracker `mlflow`."""
    return MlflowTracker(options)
