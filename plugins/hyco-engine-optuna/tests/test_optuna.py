"""A search: which values it may try, what it runs, that it goes on after a kill as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hyco_engine_optuna import Search, parse_space
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hyco_engine.errors import DataError, SpecError
from hyco_engine.sweeping import results

SPEC = Path(__file__).parents[1] / "optuna.toml"
LR = "training.physical.lr=1e-3:1e-1:log"


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    # a run is a new process, which finds the engine where this one does
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "hyco_engine_optuna", *map(str, arguments)]


def told(*arguments: str | Path, code: int = 0) -> list[str]:
    ended = subprocess.run(command(*arguments), capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return (ended.stdout + ended.stderr).splitlines()


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a.lr=1e-4:1e-2:log", FloatDistribution(1e-4, 1e-2, log=True)),
        ("a.b=0.0:1", FloatDistribution(0.0, 1.0)),
        ("a.n=-1:8", IntDistribution(-1, 8)),
        ("a.n=1:64:log", IntDistribution(1, 64, log=True)),
        ("synthetic.kind=unet,resnet", CategoricalDistribution(["unet", "resnet"])),
        ("a.b=true,false", CategoricalDistribution([True, False])),
    ],
)
def test_values_are_a_range_or_a_list(text: str, values: object) -> None:
    assert parse_space([text]) == {text.partition("=")[0]: values}


@pytest.mark.parametrize("text", ["a", "a=", "a=2:1", "a=-1.0:1.0:log"])
def test_what_is_no_values_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_space([text])
    with pytest.raises(SpecError, match="a search needs values"):
        parse_space([])


def test_a_search_finds_the_best_member_of_its_sweep() -> None:
    search = Search.create(SPEC, parse_space([LR]), objective="metrics.physical.val.nrmse", out=Path("found"))
    ended = [(member.name, status, value) for member, status, value in search.run(2)]
    assert [(name, status) for name, status, _ in ended] == [(f"{k:03}", "completed") for k in range(2)]
    rows = results(search.sweep)["members"]
    for (_, _, value), row, trial in zip(ended, rows, search.study.get_trials(), strict=True):
        summary = json.loads((Path(row["run"]) / "summary.json").read_text())
        assert value == trial.value == summary["metrics"]["physical"]["val"]["nrmse"]
        assert row["values"] == trial.params
    assert search.study.best_trial.value == min(value for _, _, value in ended if value is not None)
    assert results(search.sweep)["best"]["physical"] == f"{search.study.best_trial.number:03}"
    # more trials may follow at any time
    lines = told("found", "--resume", "--trials", "3")
    assert [line.split()[0] for line in lines] == ["002", "least", "training.physical.lr"]


def test_a_member_that_fails_is_no_trial_to_learn_from() -> None:
    lines = told(SPEC, "--search", "data.truth.kappa=1e9,2e9", "--trials", "1", "--out", "found", code=1)
    assert lines[0].endswith("failed")
    assert "no trial has a number under metrics.synthetic.val.nrmse" in lines[1]


def test_a_key_that_cannot_have_its_values_is_told_before_anything_is_written() -> None:
    for text in ("training.physical.lr=-1.0:1.0", "training.physical.rl=0.1:1.0", "synthetic.kind=resnet,renset"):
        with pytest.raises(SpecError, match=r"lr|rl|renset"):
            Search.create(SPEC, parse_space([text]), out=Path("found"))
    assert not Path("found").exists()


def test_a_folder_without_a_search_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sweep folder"):
        Search.open(tmp_path)


@pytest.mark.slow
def test_a_search_that_was_killed_ends_as_an_undisturbed_one() -> None:
    arguments = [SPEC, "--search", LR, "--trials", "2"]
    told(*arguments, "--out", "whole")
    killed = subprocess.Popen(command(*arguments, "--out", "parts"), start_new_session=True)
    while not Path("parts/runs/001").is_dir():
        assert killed.poll() is None
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    told("parts", "--resume", "--trials", "2")
    one, other = (Search.open(Path(name)).study.get_trials() for name in ("whole", "parts"))
    assert [(trial.params, trial.value) for trial in other] == [(trial.params, trial.value) for trial in one]
