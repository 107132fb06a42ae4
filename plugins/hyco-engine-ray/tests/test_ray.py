"""Sweeps and runs on Ray: how members end, and that lost workers and their number change no bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SPEC = Path(__file__).parents[1] / "ray.toml"


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    # a task is a new process, which finds the plugin where this one does
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))
    # Ray would keep a token in the home folder
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    # on a busy machine Ray's workers would wait for everybody else
    monkeypatch.setenv("RAY_worker_niceness", "0")


def started(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def hyco(*arguments: str | Path, code: int = 0) -> list[str]:
    """Run a command to its end; return the lines that it printed, those of an error if it fails."""
    process = started(*arguments)
    told, errors = process.communicate(timeout=500)
    assert process.returncode == code, told + errors
    return (errors if code else told).splitlines()


def weights(run: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(run, "weights").iterdir())}


def test_members_run_as_tasks_and_what_failed_is_told() -> None:
    hyco("hyco_engine", "sweep", SPEC, "--over", "data.truth.kappa=0.1,1e9", "--out", "swept", "--jobs", "0")
    process = started("hyco_engine_ray", "sweep", "swept")
    told = process.communicate(timeout=500)[0].splitlines()
    assert process.returncode == 1
    assert sorted(told[:2]) == ["000  truth.kappa=0.1  completed", "001  truth.kappa=1000000000.0  failed"]
    assert told[2:] == ["2 of 2 members run, 1 not completed"]
    # the results are those of the sweep
    found = json.loads("".join(hyco("hyco_engine", "sweep", "swept", "--resume", "--jobs", "0", "--json")))
    assert [row["status"] for row in found["members"]] == ["completed", "failed"]


def test_a_lost_worker_changes_nothing() -> None:
    longer = ("--set", "training.synthetic.epochs_per_cycle=20", "--set", "run.cycles=4")
    hyco("hyco_engine", "run", SPEC, "--run-dir", "alone", "--set", "run.shards=8", *longer)
    process = started("hyco_engine_ray", "run", SPEC, "--run-dir", "shared", "--workers", "1:2", *longer)
    while not list(Path("shared").glob("checkpoints/*.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    below = psutil.Process(process.pid).children(recursive=True)
    workers = [own.pid for own in below if "RayTrainWorker" in "".join(own.cmdline())]
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    told, errors = process.communicate(timeout=500)
    assert process.returncode == 0, told + errors
    assert told.splitlines()[-1] == "completed: shared"
    assert weights("shared") == weights("alone")
    assert "resuming from" in Path("shared", "log.txt").read_text()
    assert sorted(path.name for path in Path().iterdir()) == ["alone", "cache", "shared"]


def test_mistakes_are_told_before_workers_start() -> None:
    assert hyco("hyco_engine_ray", "run", SPEC, "--run-dir", "run", "--set", "run.cycles=-1", code=2)[0].startswith(
        "error: "
    )
    assert "no sweep folder" in hyco("hyco_engine_ray", "sweep", ".", code=2)[-1]
    assert "'4:2' is no number of workers" in hyco("hyco_engine_ray", "run", SPEC, "--workers", "4:2", code=2)[-1]
