"""The contract of trackers, as a test suite.

    class TestMine(TrackerContract):
        def make(self) -> Tracker:
            return Mine(file="mine.txt")

pytest collects the tests of the subclass. Each calls the tracker as the engine does, in the engine's order.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hyco_engine.interfaces import Tracker
from hyco_engine.testing.measuring import equal, global_generators
from hyco_engine.testing.problems import LinearSurrogate, decay_layout, decay_windows
from hyco_engine.training.hybrid import HybridTrainer
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer

SPEC = '[run]\nname = "tracked"\n\n[synthetic]\nkind = "resnet"\n'
METRICS: tuple[Mapping[str, Any], ...] = (
    {"cycle": 0, "phase": "train_synthetic", "epoch": 0, "step": 4, "train/loss": 0.5, "train/loss/u": 0.5},
    {"cycle": 0, "phase": "train_synthetic", "epoch": 1, "step": 8, "train/loss": 0.25, "val/nrmse": 0.5},
    {"cycle": 0, "phase": "evaluate", "epoch": 2, "step": 8, "standard_error/nu": 1e-3},
)
ENDS: Mapping[str, Mapping[str, Any]] = {
    "completed": {
        "status": "completed",
        "error": None,
        "cycles": 1,
        "parameters": {"nu": {"initial": 0.05, "final": 0.02, "truth": None, "unit": "m^2/s"}},
        "metrics": {"synthetic": {"val": {"nrmse": 0.5, "nrmse_by_field": {"u": 0.5}, "nrmse_by_step": [0.4, 0.6]}}},
        "warnings": ["a warning"],
        "timings": {"total_s": 1.5, "phases": {"train_synthetic": 1.0}},
        "seed": 0,
        "versions": {"hyco-engine": "0"},
    },
    "failed": {"status": "failed", "error": "'u' is not finite", "cycles": 0, "parameters": {}, "metrics": {}},
    "interrupted": {"status": "interrupted", "error": None, "cycles": 0, "parameters": {}, "metrics": {}},
}


class TrackerContract(ABC):
    """The tests of every tracker."""

    @abstractmethod
    def make(self) -> Tracker:
        """Return a new tracker; it writes to the run's folder, or to where the test tells it to write."""

    def test_it_takes_a_whole_run_whatever_its_end(self) -> None:
        for end in ENDS:
            with _folder() as folder:
                self._tell(self._made(), folder, end)

    def test_a_run_without_a_folder_is_taken(self) -> None:
        self._tell(self._made(), None, "completed")

    def test_a_run_that_goes_on_is_taken(self) -> None:
        with _folder() as folder:
            first = self._made()
            self._tell(first, folder, None, METRICS[:1])
            # the process was killed, and what came after the checkpoint is sent again
            earlier = {"records": [dict(METRICS[0])], "notes": ["goes on from the end of cycle 0"]}
            self._tell(self._made(), folder, "completed", METRICS[1:], earlier)

    def test_a_run_that_failed_before_it_trained_is_taken(self) -> None:
        with _folder() as folder:
            tracker = self._made()
            tracker.started({"name": "tracked", "folder": folder, "spec": SPEC})
            tracker.finished(copy.deepcopy(ENDS["failed"]))

    def test_a_run_that_left_no_folder_is_taken(self) -> None:
        with _folder() as parent:
            folder, tracker = parent / "run", self._made()
            folder.mkdir()
            tracker.started({"name": "tracked", "folder": folder, "spec": SPEC})
            # the data were refused, and the engine removes a new run's folder before it says so
            shutil.rmtree(folder)
            tracker.finished(copy.deepcopy(ENDS["failed"]))
            assert not folder.exists(), "finished() makes the folder of a discarded run again"

    def test_one_tracker_takes_two_runs(self) -> None:
        tracker = self._made()
        for _ in range(2):
            with _folder() as folder:
                self._tell(tracker, folder, "completed")

    def test_a_run_is_the_same_with_and_without_it(self) -> None:
        found = []
        for tracker in (None, self._made()):
            with _folder() as folder, global_generators("a run with the tracker", 11):
                model = LinearSurrogate()
                settings = TrainingSettings(epochs_per_cycle=2, batch_size=4, optimizer="adam")
                trainer = Trainer(model, player="synthetic", layout=decay_layout(), settings=settings)
                if tracker is not None:
                    tracker.started({"name": "tracked", "folder": folder, "spec": SPEC})
                HybridTrainer(synthetic=trainer, trackers=[tracker] if tracker else []).train(decay_windows(), cycles=2)
                if tracker is not None:
                    tracker.finished(copy.deepcopy(ENDS["completed"]))
            found.append(dict(model.state_dict()))
        assert equal(*found), "with the tracker, a run ends with other weights than without it"

    def _made(self) -> Tracker:
        tracker = self.make()
        assert isinstance(tracker, Tracker), f"the factory returns a {type(tracker).__name__}, not a Tracker"
        return tracker

    @staticmethod
    def _tell(
        tracker: Tracker,
        folder: Path | None,
        end: str | None,
        metrics: tuple[Mapping[str, Any], ...] = METRICS,
        earlier: Mapping[str, Any] | None = None,
    ) -> None:
        """Call the tracker as the engine does in a run; `end=None` means that the run is killed."""
        spec = None if folder is None else SPEC
        at = {"cycle": 0, "phase": "train_synthetic"}
        events: list[tuple[str, Any]] = [
            ("started", {"name": "tracked", "folder": folder, "spec": spec} | dict(earlier or {})),
            ("phase_started", {"cycle": None, "phase": "prepare_data", "total": None}),
            ("progress", {"cycle": None, "phase": "prepare_data", "done": 1, "total": 2}),
            ("phase_ended", {"cycle": None, "phase": "prepare_data", "seconds": 0.25}),
            ("warned", "a warning, with a\nsecond line"),
            ("phase_started", at | {"total": 2}),
            ("progress", at | {"done": 1, "total": 2}),
            *(("metrics", dict(record)) for record in metrics),
            ("phase_ended", at | {"seconds": 0.5}),
        ]
        if end is not None:
            if folder is not None:
                (folder / "summary.json").write_text("{}")
                events.append(("artifact", folder / "summary.json"))
            events.append(("finished", copy.deepcopy(dict(ENDS[end]))))
        for name, record in events:
            kept = copy.deepcopy(record)
            with global_generators(f"{name}()"):
                getattr(tracker, name)(record)
            assert record == kept, f"{name}() changes its record, which other trackers receive too"


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
