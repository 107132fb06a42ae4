"""Where memory ends, the phase and the limit are named."""

from __future__ import annotations

import copy
import json
import re
import resource
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from test_resuming import SPEC, results

import hyco_engine as hyco
from hyco_engine.errors import RunError
from hyco_engine.interfaces import Tracker
from hyco_engine.training.evaluation import HeldOutRollouts
from hyco_engine.training.reporter import Reporter, clock

pytestmark = pytest.mark.usefixtures("measured")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
    ],
)
def test_the_phase_is_named(error: Exception) -> None:
    reporter = Reporter(trackers=())
    with pytest.raises(RunError) as caught, clock(reporter.seconds, "train_physical", 3):
        raise error
    text = r"out of memory in train_physical of cycle 3; [0-9.]+ GB of [0-9.]+ GB free.*\. Take smaller batches "
    assert re.match(text, str(caught.value))
    assert caught.value.__cause__ is error
    assert "train_physical" in reporter.seconds


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^another$"), Reporter(trackers=()).timed("compile"):
        raise RuntimeError("another")


def test_under_a_real_limit() -> None:
    script = """
        import resource, torch
        from hyco_engine.training.reporter import clock
        resource.setrlimit(resource.RLIMIT_AS, (20 * 10**9, resource.RLIM_INFINITY))
        with clock({}, "generate_physical", 0):
            torch.empty(10**10)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert "RunError: out of memory in generate_physical of cycle 0; " in ended.stderr
    assert "GB of 20.0 GB free (limited by ulimit -v)" in ended.stderr


# --- whole runs -----------------------------------------------------------------------------------------------------


class Greedy(Tracker):
    """Takes more than the limit in the middle of a phase."""

    def __init__(self, phase: str = "") -> None:
        self.wanted, self.now = phase, ""

    def phase_started(self, record: Mapping[str, Any]) -> None:
        self.now = record["phase"]

    def progress(self, record: Mapping[str, Any]) -> None:
        self.take()

    def take(self) -> None:
        if self.now == self.wanted:
            torch.empty(10**10)


@pytest.fixture
def limit() -> Iterator[None]:
    """20 GB of address space more than there are."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 20 * 10**9, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def run(folder: Path, phase: str = "", resume: bool = False) -> None:
    changes = {"run.cycles": 1, "physical.compile": "eager", "training.physical.epochs_per_cycle": 1}
    greedy, measure = Greedy(phase), HeldOutRollouts.measure

    def measured(self: HeldOutRollouts, model: torch.nn.Module) -> dict[str, Any]:
        greedy.take()
        return measure(self, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HeldOutRollouts, "measure", measured)
        hyco.Engine(copy.deepcopy(SPEC), overrides=changes, callbacks=[greedy]).run(folder, resume=resume)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(folder / "run")
    return results(folder / "run")


@pytest.mark.parametrize(
    "phase",
    ["prepare_data", "generate_physical", "train_synthetic", "generate_synthetic", "train_physical", "evaluate"],
)
def test_memory_ends_in_a_run(
    phase: str, limit: None, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    with pytest.raises(RunError, match=rf"out of memory in {phase}.*; [0-9.]+ GB of [0-9.]+ GB free.*Take smaller"):
        run(folder, phase)
    assert json.loads((folder / "summary.json").read_text())["status"] == "failed"
    run(folder, resume=True)
    assert results(folder) == whole
