"""The built-in trackers keep the public contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from hyco_engine.builtin.trackers import hyco_trackers
from hyco_engine.builtin.trackers.csv import CsvTracker
from hyco_engine.interfaces import Tracker
from hyco_engine.testing.trackers import TrackerContract


class TestCsv(TrackerContract):
    def make(self) -> Tracker:
        return CsvTracker("metrics.csv")


class TestTracker(TrackerContract):
    """One that leaves out every method."""

    def make(self) -> Tracker:
        return Tracker()


def test_every_built_in_tracker_is_here() -> None:
    assert {record.kind for record in hyco_trackers()} == {"csv"}


class Folderless(Tracker):
    def started(self, info: Mapping[str, Any]) -> None:
        info["folder"] / "lines.txt"


class Popping(Tracker):
    def metrics(self, record: Mapping[str, Any]) -> None:
        record.pop("cycle")  # type: ignore[attr-defined]


class Drawing(Tracker):
    def phase_started(self, record: Mapping[str, Any]) -> None:
        np.random.rand(1)  # noqa: NPY002


class Seeding(Tracker):
    def metrics(self, record: Mapping[str, Any]) -> None:
        torch.manual_seed(0)


BROKEN: list[tuple[type[Tracker], str, type[Exception], str]] = [
    (Folderless, "a_run_without_a_folder", TypeError, "NoneType"),
    (Popping, "it_takes", AssertionError, r"metrics\(\) changes its record, which other trackers receive too"),
    (Drawing, "it_takes", AssertionError, r"phase_started\(\) draws from numpy.random"),
    (Seeding, "a_run_is_the_same", AssertionError, "a run with the tracker draws from torch's global generator"),
]


@pytest.mark.parametrize(("tracker", "test", "error", "message"), BROKEN, ids=[case[0].__name__ for case in BROKEN])
def test_the_contract_notices(tracker: type[Tracker], test: str, error: type[Exception], message: str) -> None:
    contract = type("Broken", (TrackerContract,), {"make": lambda self: tracker()})()
    (name,) = [name for name in dir(contract) if name.startswith(f"test_{test}")]
    with pytest.raises(error, match=message):
        getattr(contract, name)()
