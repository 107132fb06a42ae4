"""A run computes with the threads that pay for its sizes, keeps them when it goes on, and leaves the host's alone."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_specs import HEAT_HYBRID

import hyco_engine as hyco
from hyco_engine.interfaces import Tracker
from hyco_engine.runs.keeper import Interrupted
from hyco_engine.threads import SPINNING, let_waiting_threads_sleep, threads_for

pytestmark = pytest.mark.usefixtures("measured")

SPEC = HEAT_HYBRID | {
    "run": {"cycles": 1},
    "physical": {"kind": "heat", "compile": "eager", "parameters": {"kappa": {"init": 0.2}}},
    "augmentation": {"kind": "count", "alpha": 0.5},
}


@pytest.fixture(autouse=True)
def _four_threads_of_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


class Watch(Tracker):
    """Keeps the numbers of threads that the phases of a run had."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def phase_ended(self, record: Mapping[str, Any]) -> None:
        self.threads.add(torch.get_num_threads())


def run(folder: str, changes: Mapping[str, Any] | None = None, stop: Any = lambda: None, resume: bool = False) -> Any:
    watch = Watch()
    engine = hyco.Engine(copy.deepcopy(SPEC), overrides=changes or {}, callbacks=[watch])
    try:
        result = engine.run(folder, stop=stop, resume=resume)
    finally:
        assert torch.get_num_threads() == 4  # the host's, whatever happened
    return result, watch.threads


def resolved(folder: str) -> int:
    return int(tomllib.loads(Path(folder, "spec.toml").read_text())["run"]["threads"])


@pytest.mark.parametrize(
    ("cells", "samples", "threads"), [(64, 10**6, 1), (64**2, 4, 1), (64**2, 300, 2), (64**3, 1, 4), (512**2, 300, 4)]
)
def test_more_threads_than_one_are_for_large_batches(cells: int, samples: int, threads: int) -> None:
    assert threads_for(cells, samples) == threads


def test_a_small_run_computes_with_one_thread_and_gives_the_host_its_number_back() -> None:
    result, used = run("run")
    assert (used, resolved("run")) == ({1}, 1)
    assert '"torch": 1' in (result.folder / "environment.json").read_text()
    assert hyco.Engine(copy.deepcopy(SPEC)).plan()["threads"] == 1


def test_a_number_that_the_user_names_is_kept_when_the_run_goes_on() -> None:
    asked = iter(range(10**6))
    with pytest.raises(Interrupted):
        run("run", {"run.threads": 3}, stop=lambda: "SIGTERM" if next(asked) > 8 else None)
    result, used = run("run", resume=True)
    assert (used, resolved("run")) == ({3}, 3)
    assert result.summary["warnings"] == []
    again, used = run("run", {"run.threads": 2, "run.cycles": 2, "training.synthetic.schedule": "cosine"}, resume=True)
    assert (used, resolved("run")) == ({2}, 2)
    told = "resumed with another number of threads (3 -> 2): results may differ in their last digits"
    assert told in again.summary["warnings"]


@pytest.mark.parametrize("name", [None, *SPINNING])
def test_waiting_threads_sleep_unless_the_user_says_how_they_wait(
    monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    for variable in SPINNING:
        monkeypatch.delenv(variable, raising=False)
    if name is not None:
        monkeypatch.setenv(name, "ACTIVE")
    let_waiting_threads_sleep()
    found = {variable: os.environ[variable] for variable in SPINNING if variable in os.environ}
    assert found == ({"OMP_WAIT_POLICY": "passive"} if name is None else {name: "ACTIVE"})
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)


def test_the_command_says_so_before_torch_is_loaded_and_a_host_is_not_touched() -> None:
    code = (
        "import os, sys\nimport hyco_engine.cli, hyco_engine.threads\n"
        "print(os.environ.get('OMP_WAIT_POLICY'), file=sys.stderr)\nsys.argv = ['hyco-engine', '--version']\n"
        "try: hyco_engine.cli.main()\n"
        "finally: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules, file=sys.stderr)"
    )
    clean = {name: value for name, value in os.environ.items() if name not in SPINNING}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["None", "passive", "False"]
