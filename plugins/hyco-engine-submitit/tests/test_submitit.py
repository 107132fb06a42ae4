"""Members of a sweep as jobs: what is submitted, how members end, and what a job does when its time is over."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hyco_engine_submitit import MemberJob, submit
from submitit import LocalExecutor

from hyco_engine.errors import DataError
from hyco_engine.sweeping import open_sweep

SPEC = Path(__file__).parents[1] / "submitit.toml"


def hyco(*arguments: str | Path) -> str:
    told = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300
    )
    return told.stdout + told.stderr


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    # a job is a new process, which finds the plugin where this one does
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))


def test_members_run_as_jobs_and_what_failed_is_told() -> None:
    hyco("hyco_engine", "sweep", SPEC, "--over", "data.truth.kappa=0.1,1e9", "--out", "swept", "--jobs", "0")
    told = hyco("hyco_engine_submitit", "swept", "--cluster", "local", "--wait").splitlines()
    assert told[2] == "2 of 2 members submitted"
    assert told[3:] == ["000  truth.kappa=0.1  completed", "001  truth.kappa=1000000000.0  failed"]
    # the results are those of the sweep, and only what is left is submitted again
    found = json.loads(hyco("hyco_engine", "sweep", "swept", "--resume", "--jobs", "0", "--json"))
    assert [row["status"] for row in found["members"]] == ["completed", "failed"]
    again = hyco("hyco_engine_submitit", "swept", "--cluster", "local").splitlines()
    assert again[0].startswith("001  truth.kappa=1000000000.0  job ")
    assert again[1] == "1 of 2 members submitted"


def test_a_job_whose_time_is_over_ends_with_a_checkpoint_and_the_next_one_goes_on() -> None:
    hyco(
        *("hyco_engine", "sweep", SPEC, "--over", "run.seed=3", "--out", "swept", "--jobs", "0"),
        *("--set", "training.synthetic.epochs_per_cycle=100000"),
    )
    sweep = open_sweep(Path("swept"))
    (member,) = sweep.members
    job, codes = MemberJob("swept"), list[int]()
    running = threading.Thread(target=lambda: codes.append(job(0)))
    running.start()
    while not (sweep.run_folder(member) / "metrics.jsonl").is_file():
        assert running.is_alive()
        time.sleep(0.05)
    again = job.checkpoint(0)
    running.join()
    assert codes == [130]
    assert sweep.status(member) == "interrupted"
    assert list(sweep.run_folder(member).glob("checkpoints/*.json"))
    assert (again.function.folder, again.args) == ("swept", (0,))


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no sweep folder"):
        submit(tmp_path, LocalExecutor(tmp_path / "jobs"))
    assert "error: . is no sweep folder" in hyco("hyco_engine_submitit", ".", "--cluster", "local")
