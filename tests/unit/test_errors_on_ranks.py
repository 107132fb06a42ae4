"""What one rank raises ends all of them, in every phase: told by rank 0 with the rank, the phase and the cause."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from test_runs_on_ranks import GAUSS_NEWTON, execute
from tiny_specs import heat_on_disk

from hyco_engine.builtin.caches.disk import Disk
from hyco_engine.ranks.runtime import Runtime
from hyco_engine.testing.ranks import on_ranks
from hyco_engine.training.reporter import PhaseWatch

FAST = ["prepare_data", "train_synthetic of cycle 0", "evaluate"]
"""Phases that stand for the others in every run of the tests."""
SLOW = [
    "compile",
    "generate_physical of cycle 0",
    "generate_synthetic of cycle 0",
    "train_physical of cycle 0",
    "error_budget",
]


def ends(folder: Path, changes: Mapping[str, Any] = GAUSS_NEWTON) -> list[str]:
    """Return how the run ends on each of two ranks: the message of the error."""

    def work(runtime: Runtime) -> str:
        try:
            return str(execute(runtime, folder, dict(changes)).summary["status"])
        except Exception as error:
            return str(error)

    return on_ranks(2, work)


def on_rank_1() -> bool:
    return threading.current_thread().name == "rank 1"


@pytest.mark.parametrize("place", [*FAST, *(pytest.param(place, marks=pytest.mark.slow) for place in SLOW)])
def test_rank_0_tells_in_which_phase_another_rank_failed(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = PhaseWatch.phase_started

    def phase_started(self: PhaseWatch, record: Mapping[str, Any]) -> None:
        plain(self, record)
        if on_rank_1() and self.place == place:
            raise ValueError("no more iron")

    monkeypatch.setattr(PhaseWatch, "phase_started", phase_started)
    cause = "no more iron"
    if place == "error_budget":
        # in one process this is no more than a warning
        cause += " (other ranks had no error there)"
    told = f"rank 1 failed in {place}: {cause}"
    assert ends(tmp_path / "run") == [told, cause]
    if place != "prepare_data":
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert (summary["status"], summary["error"]) == ("failed", told)
    assert not [path for path in (tmp_path / "cache").glob("generated/**/*") if path.is_file()]


def test_a_full_disk_of_another_rank_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Disk.hold

    def hold(self: Disk, *given: Any, **more: Any) -> Any:
        if on_rank_1():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "shard_00000.safetensors")
        return plain(self, *given, **more)

    monkeypatch.setattr(Disk, "hold", hold)
    mine, theirs = ends(tmp_path / "run")
    assert mine == f"rank 1 failed in generate_physical of cycle 0: {theirs}"
    assert "No space left on device" in theirs
    assert "shard_00000.safetensors" in theirs


def test_a_report_that_fails_is_a_warning_of_rank_0(tmp_path: Path) -> None:
    def draw(*given: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def work(runtime: Runtime) -> str:
        return str(execute(runtime, tmp_path / "run", GAUSS_NEWTON, draw=draw).summary["status"])

    assert on_ranks(2, work) == ["completed", "completed"]
    assert "the figures could not be drawn: OSError: " in (tmp_path / "run" / "log.txt").read_text()


# --- real processes -------------------------------------------------------------------------------------------------

SCRIPT = """
    import os, resource, signal, sys, time
    from hyco_engine.cli import main
    from hyco_engine.training.reporter import PhaseWatch

    plain = PhaseWatch.phase_started

    def phase_started(self, record):
        plain(self, record)
        if os.environ["RANK"] == "1" and self.place == {place!r}:
            {what}

    PhaseWatch.phase_started = phase_started
    sys.argv = ["hyco-engine", "run", "spec.toml", "--quiet", "--run-dir", "run"]
    main()
"""
FULL = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"


def run_processes(folder: Path, place: str, what: str, seconds: float) -> tuple[list[int], str]:
    """Run two processes; return their exit codes, and what rank 0 prints to stderr."""
    (folder / "spec.toml").write_text(heat_on_disk(cycles=1, epochs=2))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in ("0", "1"):
        given = {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        given |= {"HYCO_ENGINE_RANK_TIMEOUT_S": str(seconds), "OMP_NUM_THREADS": "1"}
        given |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT.format(place=place, what=what))]
        started.append(subprocess.Popen(command, cwd=folder, env=os.environ | given, stderr=subprocess.PIPE, text=True))
    told = [one.communicate(timeout=240)[1] for one in started]
    return [one.returncode for one in started], told[0]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limits")
@pytest.mark.parametrize(
    ("place", "what", "words"),
    [
        ("prepare_data", "raise ValueError('no more iron')", "rank 1 failed in prepare_data: no more iron"),
        (
            "train_synthetic of cycle 0",
            "raise ValueError('no more iron')",
            "rank 1 failed in train_synthetic of cycle 0: no more iron",
        ),
        ("generate_physical of cycle 0", FULL, "rank 1 failed in generate_physical of cycle 0:"),
        (
            "train_physical of cycle 0",
            "time.sleep(25)",
            "rank 1 did not answer within 8 s, the time that HYCO_ENGINE_RANK_TIMEOUT_S allows: look at what it does "
            "there, or allow more; this was in train_physical of cycle 0",
        ),
        (
            "evaluate",
            "os._exit(9)",
            "rank 1 ended without a word: it was killed, perhaps for memory, or its machine failed; this was in "
            "evaluate",
        ),
    ],
    ids=["prepare_data", "train_synthetic", "full disk", "silence", "death"],
)
def test_two_processes_end_with_one_message(place: str, what: str, words: str, tmp_path: Path) -> None:
    codes, told = run_processes(tmp_path, place, what, 8.0)
    assert codes[0] == 1
    assert codes[1] != 0
    assert words in told
    assert "Traceback" not in told
    if what == FULL:
        assert "File too large" in told
    assert not [path for path in (tmp_path / "cache").glob("generated/**/*") if path.is_file()] or codes[1] == 9
