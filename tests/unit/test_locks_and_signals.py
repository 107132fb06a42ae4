"""One writer a run folder, what became of runs, and signals that ask one to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from messages import error_naming

from hyco_engine.cli import cli
from hyco_engine.errors import DataError, RunError
from hyco_engine.runs.listing import list_runs
from hyco_engine.runs.lock import Holder, RunLock, is_held, read_holder
from hyco_engine.runs.metrics import read_metrics
from hyco_engine.runs.signals import stop_on_signals

HOLD = """
import sys, time
from pathlib import Path
from hyco_engine.runs.lock import RunLock
RunLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_writer_is_refused_and_a_killed_one_is_none(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as process:
        with pytest.raises(RunError) as caught:
            RunLock(tmp_path).acquire()
        assert str(caught.value) == (
            f"process {process.pid} is writing to {tmp_path}: wait for its end, or name another run folder"
        )
        assert is_held(tmp_path / "run.lock")
    assert not is_held(tmp_path / "run.lock")
    with RunLock(tmp_path) as lock:
        assert lock.acquire() == f"process {process.pid}, which was writing to {tmp_path}, is gone"
        assert read_holder(lock.path) == Holder(pid=os.getpid(), started=psutil.Process().create_time())
        with error_naming(RunError, f"process {os.getpid()}"):
            RunLock(tmp_path).acquire()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_was_given_the_same_id_is_another_one(tmp_path: Path) -> None:
    mine = Holder(pid=os.getpid(), started=psutil.Process().create_time())
    assert mine.alive
    assert not Holder(pid=mine.pid, started=mine.started - 3600).alive
    assert not Holder(pid=2**22 + 1, started=mine.started).alive


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x", "started": 1}', "\0" * 100, '{"pid": null}'])
def test_a_damaged_lock_file_is_nobodys(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_text(content)
    with RunLock(tmp_path) as lock:
        assert lock.acquire() is None


@pytest.fixture
def before() -> Iterator[dict[signal.Signals, Any]]:
    """The handlers of this process, which are set again afterwards."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield handlers
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_without_a_signal_the_handlers_are_what_they_were(before: dict[signal.Signals, Any]) -> None:
    with stop_on_signals() as stop:
        assert stop() is None
    assert {number: signal.getsignal(number) for number in before} == before


def test_signals_ask_and_a_second_interrupt_ends(before: dict[signal.Signals, Any]) -> None:
    for number in before:
        with stop_on_signals() as stop:
            assert stop() is None
            os.kill(os.getpid(), number)
            assert stop() == number.name
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop() == number.name
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        # the process is ending: what asks again is ignored, a person's interrupt is not
        assert signal.getsignal(signal.SIGINT) == before[signal.SIGINT]
        assert {signal.getsignal(other) for other in before if other != signal.SIGINT} == {signal.SIG_IGN}


def run_folder(path: Path, status: str | None, lines: str = "") -> None:
    path.mkdir(parents=True)
    (path / "spec.toml").write_text("[run]\ncycles = 3\n")
    (path / "metrics.jsonl").write_text(lines)
    if status is not None:
        (path / "summary.json").write_text(json.dumps({"status": status, "error": None}))


LINE = '{"time": 1, "cycle": 1, "phase": "train_physical", "epoch": 2, "train/loss": 0.25}\n'


def test_the_list_says_what_became_of_each_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = Path("runs")
    run_folder(runs / "a-2", "completed", LINE)
    run_folder(runs / "a-10", "interrupted", LINE)
    run_folder(runs / "b-1", None, LINE + '{"cut')
    run_folder(runs / "c-1", "failed")
    (runs / "c-1" / "summary.json").write_text('{"status": "failed", "error": "diverged\\nand more"}')
    run_folder(runs / "d-1", None)
    (runs / "d-1" / "summary.json").write_text("{")
    run_folder(runs / "e-1", None)
    (runs / "notes").mkdir()
    with held_elsewhere(runs / "e-1"):
        found = list_runs(runs)
    told = {Path(run["run"]).name: (run["status"], run["cycle"]) for run in found}
    assert list(told) == ["a-2", "a-10", "b-1", "c-1", "d-1", "e-1"]
    assert told == {
        "a-2": ("completed", 2),
        "a-10": ("interrupted", 2),
        "b-1": ("killed", 2),
        "c-1": ("failed", 0),
        "d-1": ("damaged", 0),
        "e-1": ("running", 0),
    }
    assert [run["resume"] is None for run in found] == [True, False, False, False, False, True]
    assert found[2]["last"] == {"physical train/loss": 0.25}
    told_lines = CliRunner().invoke(cli, ["runs", "list"]).stdout.splitlines()
    assert told_lines[1].split() == ["runs/a-2", "completed", "2/3", "physical", "train/loss", "0.25"]
    assert told_lines[4].split() == ["runs/c-1", "failed", "0/3", "diverged"]
    assert "  hyco-engine run runs/b-1/spec.toml --run-dir runs/b-1 --resume" in told_lines
    assert json.loads(CliRunner().invoke(cli, ["runs", "list", "--json"]).stdout)["runs"][0]["cycles"] == 3
    assert CliRunner().invoke(cli, ["runs", "list", "nowhere"]).stderr == "error: there is no folder nowhere\n"


def test_metrics_that_were_cut_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes((LINE + '{"name": "ν"}').encode()[:-3])
    assert len(read_metrics(tmp_path)) == 1
    for damaged in (b"{\n", b"3\n", b'{"nonfinite": 3}\n', b'{"nonfinite": {"a": "much"}}\n', b'{"a": "\xff"}\n'):
        path.write_bytes(LINE.encode() + damaged)
        with error_naming(DataError, "metrics.jsonl:2"):
            read_metrics(tmp_path)


SPEC = """
[run]
name = "long"
cycles = 50
[data]
kind = "simulate"
truth = {nu = 0.02}
num_simulations = 4
num_frames = 8
resolution = {x = 16}
dt = 0.02
split = {train = "0:2", val = "2:3", test = "3:4"}
[physical]
kind = "equation"
compile = "eager"
rates.u = "nu*lap(u)"
parameters.nu.init = 0.05
[synthetic]
kind = "resnet"
width = 4
blocks = 1
"""


def test_the_command_ends_after_its_step_and_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(SPEC)
    command = [sys.executable, "-m", "hyco_engine", "run", "spec.toml", "--run-dir", "my run", "--quiet"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("my run/checkpoints/*.json")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[0] == "SIGUSR1: ending after this step; Ctrl-C (again) ends at once"
    assert "to resume it: hyco-engine run 'my run/spec.toml' --run-dir 'my run' --resume" in err
    assert err.splitlines()[-1] == "error: interrupted by SIGUSR1"
    assert json.loads((tmp_path / "my run" / "summary.json").read_text())["status"] == "interrupted"


def test_a_signal_that_does_not_cease_changes_no_exit_code(tmp_path: Path) -> None:
    """It comes until the process has ended, as from an impatient scheduler."""
    (tmp_path / "spec.toml").write_text(SPEC)
    command = [sys.executable, "-m", "hyco_engine", "run", "spec.toml", "--run-dir", "r", "--quiet"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("r/checkpoints/*.json")) and process.poll() is None:
        time.sleep(0.05)
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.002)
    assert process.returncode == 130
