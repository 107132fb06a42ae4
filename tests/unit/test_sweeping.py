"""Sweeps: what is asked for, which members run, what survives, and what the results say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from messages import error_naming
from tiny_specs import heat_on_disk

from hyco_engine.cli import cli
from hyco_engine.cli.sweep import sweep_lines
from hyco_engine.errors import DataError, SpecError
from hyco_engine.hooks.registry import Registry
from hyco_engine.runs.lock import RunLock
from hyco_engine.spec.loading import load_spec
from hyco_engine.sweeping import (
    Sweep,
    add_member,
    combinations,
    create,
    create_open,
    open_sweep,
    parse_over,
    results,
    run_members,
)

pytestmark = pytest.mark.usefixtures("measured")

KAPPA = "physical.parameters.kappa.init"


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "spec.toml"
    path.write_text(heat_on_disk(cycles=1, epochs=1))
    return path


def registry() -> Registry:
    return Registry.discover()


# --- what is asked for ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("run.seed=0:3", [0, 1, 2]),
        ("run.seed=-1:1", [-1, 0]),
        ("run.seed=7", [7]),
        ("a.b = 0.1, 1e-3", [0.1, 1e-3]),
        ("synthetic.kind=unet,resnet", ["unet", "resnet"]),
        ('synthetic.kind="unet"', ["unet"]),
        ("a.b=[1, 2],[3]", [[1, 2], [3]]),
        ("a.b=true,false", [True, False]),
    ],
)
def test_values_are_toml_words_or_a_range(text: str, values: list[Any]) -> None:
    assert list(parse_over([text]).values()) == [values]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("run.seed", "key=value"),
        ("=1", "key=value"),
        ("run.seed=", "no value"),
        ("run.seed=3:3", "3:3"),
        ("run.seed=a b", "'a b'"),
        ("run.seed={a = 1}", "table"),
    ],
)
def test_what_lists_no_values_is_refused(text: str, named: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_over([text])
    assert named in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        parse_over(["a=", "b=1", "b=2", "c"])
    assert [problem.key for problem in caught.value.problems] == ["a", "b", "c"]


def test_each_combination_is_a_member_and_the_last_key_changes_fastest() -> None:
    members = combinations({KAPPA: [0.2, 0.05], "run.seed": [0, 1]})
    assert [(member.name, member.label) for member in members] == [
        ("000", "kappa.init=0.2 run.seed=0"),
        ("001", "kappa.init=0.2 run.seed=1"),
        ("002", "kappa.init=0.05 run.seed=0"),
        ("003", "kappa.init=0.05 run.seed=1"),
    ]


def test_a_sweep_of_nothing_or_of_too_much_is_refused() -> None:
    with error_naming(SpecError, "run.seed=0:4", key="--over"):
        combinations({})
    with error_naming(SpecError, "10100", "10000", key="--over"):
        combinations({"a": list(range(101)), "b": list(range(100))})


def test_a_sweep_folder_holds_a_complete_spec_of_each_member(spec: Path) -> None:
    made = create(spec, registry(), ["run.cycles=3"], {KAPPA: [0.2, 0.05], "run.seed": [4]}, None)
    assert made.folder == Path("runs/run-sweep-1")
    assert open_sweep(made.folder) == made
    for member, init in zip(made.members, (0.2, 0.05), strict=True):
        found = load_spec(made.spec_file(member), registry()).spec
        assert (found.run.seed, found.run.cycles) == (4, 3)
        assert found.physical is not None
        assert found.physical.parameters["kappa"].init == init
        assert made.status(member) == "waiting"


def test_a_sweep_may_grow_member_by_member(spec: Path) -> None:
    begun = create_open(spec, registry(), ["run.cycles=3"], [KAPPA], Path("out"))
    assert open_sweep(Path("out")) == begun
    assert begun.members == ()
    grown = begun
    for number, init in ((0, 0.2), (2, 0.05)):
        grown = add_member(grown, registry(), number, {KAPPA: init})
    assert [(member.name, member.values) for member in grown.members] == [("000", {KAPPA: 0.2}), ("002", {KAPPA: 0.05})]
    assert open_sweep(Path("out")) == grown
    found = load_spec(grown.spec_file(grown.members[1]), registry()).spec
    assert found.run.cycles == 3
    assert found.physical is not None
    assert found.physical.parameters["kappa"].init == 0.05
    # what is wrong is told, and the sweep stays as it was
    with pytest.raises(SpecError, match="kappa"):
        add_member(grown, registry(), 3, {KAPPA: "large"})
    assert open_sweep(Path("out")) == grown


def test_nothing_is_written_for_a_spec_that_is_wrong(spec: Path) -> None:
    with pytest.raises(SpecError, match=r"run\.cycle\b"):
        create(spec, registry(), [], {"run.cycle": [1, 2]}, Path("out"))
    assert sorted(path.name for path in spec.parent.iterdir()) == ["spec.toml"]


def test_a_folder_with_content_is_left_as_it_is(spec: Path) -> None:
    with error_naming(SpecError, spec.parent, key="--out"):
        create(spec, registry(), [], {"run.seed": [0]}, spec.parent)
    assert list(spec.parent.iterdir()) == [spec]


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"members": []}', '{"members": [{"name": "../x", "values": {}}]}', '{"members": 3}']
)
def test_a_damaged_sweep_is_told_with_its_file(content: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with error_naming(DataError, str(tmp_path / "sweep.json")):
        open_sweep(tmp_path)


# --- which members run ----------------------------------------------------------------------------------------------


class Process:
    """Stands for the process of a run that ends when it is told to."""

    def __init__(self, end: Callable[[], None]) -> None:
        self.end, self.polls, self.terminated = end, 0, False
        self.returncode: int | None = None

    def poll(self) -> int | None:
        self.polls += 1
        if self.returncode is None and (self.polls > 2 or self.terminated):
            self.end()
            self.returncode = 0
        return self.returncode

    def terminate(self) -> None:
        self.terminated = True


def finish(swept: Sweep, number: int, status: str = "completed", **summary: Any) -> None:
    folder = swept.run_folder(swept.members[number])
    folder.mkdir(exist_ok=True)
    (folder / "summary.json").write_text(json.dumps({"status": status, **summary}))


@pytest.fixture
def swept(spec: Path) -> Sweep:
    return create(spec, registry(), [], {KAPPA: [0.2, 0.1], "run.seed": [0, 1]}, Path("swept"))


def ran(swept: Sweep, jobs: int = 1, stop: Callable[[], str | None] = lambda: None, status: str = "completed") -> Any:
    """Run the members by processes that only write a summary; return (begun at the same time, ended)."""
    begun: list[tuple[str, int]] = []
    alive: list[Process] = []

    def begin(member: Any) -> Any:
        process = Process(lambda: finish(swept, int(member.name), "interrupted" if process.terminated else status))
        alive.append(process)
        begun.append((member.name, sum(each.returncode is None for each in alive)))
        return process

    return begun, list(run_members(swept, swept.members, jobs, begin, stop))


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_so_many_runs_as_are_asked_for_run_beside_one_another(jobs: int, swept: Sweep) -> None:
    begun, ended = ran(swept, jobs)
    assert [name for name, _ in begun] == ["000", "001", "002", "003"]
    assert max(beside for _, beside in begun) == min(jobs, 4)
    assert sorted(member.name for member, _ in ended) == ["000", "001", "002", "003"]
    assert {status for _, status in ended} == {"completed"}


def test_what_is_completed_does_not_run_again_and_what_failed_does(swept: Sweep) -> None:
    finish(swept, 0)
    finish(swept, 1, "failed")
    begun, _ = ran(swept)
    assert [name for name, _ in begun] == ["001", "002", "003"]


def test_a_run_that_fails_ends_no_other(swept: Sweep) -> None:
    _, ended = ran(swept, status="failed")
    assert [status for _, status in ended] == ["failed"] * 4


def test_a_member_that_another_process_runs_is_waited_for(swept: Sweep) -> None:
    folder = swept.run_folder(swept.members[0])
    folder.mkdir()
    lock = RunLock(folder)
    lock.acquire()
    asked = iter(range(1000))

    def stop() -> None:
        if next(asked) == 30:  # the other process ends, long after the rest has run
            finish(swept, 0)
            lock.release()

    begun, ended = ran(swept, 2, stop)
    assert [name for name, _ in begun] == ["001", "002", "003"]
    assert ended[-1][0].name == "000"


def test_a_signal_ends_what_runs_and_begins_nothing_more(swept: Sweep) -> None:
    asked = iter(range(1000))
    begun, ended = ran(swept, 2, lambda: "SIGTERM" if next(asked) > 0 else None)
    assert [name for name, _ in begun] == ["000", "001"]
    assert [(member.name, status) for member, status in ended] == [("000", "interrupted"), ("001", "interrupted")]


# --- results --------------------------------------------------------------------------------------------------------


def test_seeds_are_grouped_and_the_best_named(swept: Sweep) -> None:
    for number, (error, found) in enumerate([(0.4, 0.11), (0.2, 0.13), (0.3, 0.1)]):
        metrics = {"synthetic": {"val": {"nrmse": error}}, "persistence": {"val": {"nrmse": 1.0}}}
        parameters = {"kappa": {"final": found, "truth": 0.1, "relative_error": 0.1}}
        finish(swept, number, metrics=metrics, parameters=parameters, timings={"total_s": 2.0})
    swept.log(swept.members[3]).write_text("a note\nerror: it broke\n  the rest\n")
    told = results(swept)
    assert [row["status"] for row in told["members"]] == ["completed"] * 3 + ["failed"]
    assert told["members"][3]["error"] == "error: it broke"
    assert told["best"] == {"synthetic": "001"}
    first, second = told["groups"]
    assert (first["label"], first["count"], second["count"]) == ("kappa.init=0.2", 2, 1)
    assert first["errors"]["synthetic val"] == pytest.approx({"median": 0.3, "least": 0.2, "largest": 0.4})
    assert first["parameters"]["kappa"] == pytest.approx({"median": 0.12, "least": 0.11, "largest": 0.13})
    lines = sweep_lines(told)
    assert lines[0].split() == ["run", "values", "status", "surrogate", "val", "persistence", "val", "kappa", "time"]
    assert lines[2].split() == ["001", "kappa.init=0.2", "run.seed=1", "completed", "0.2", "1", "0.13", "2.0", "s"]
    assert "003: error: it broke" in lines
    assert lines[-1] == "smallest validation error: surrogate 001"


# --- the command ----------------------------------------------------------------------------------------------------


def told(*args: str) -> Any:
    return CliRunner().invoke(cli, ["sweep", *args])


def test_a_dry_run_lists_the_members_and_writes_nothing(spec: Path) -> None:
    shown = told(str(spec), "--over", f"{KAPPA}=0.2,0.1", "--over", "run.seed=0:2", "--dry-run")
    assert shown.stdout.splitlines() == [
        "000  kappa.init=0.2 run.seed=0",
        "001  kappa.init=0.2 run.seed=1",
        "002  kappa.init=0.1 run.seed=0",
        "003  kappa.init=0.1 run.seed=1",
        "4 runs",
    ]
    assert list(spec.parent.iterdir()) == [spec]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["swept", "--resume", "--set", "run.cycles=2"], "leave out --over, --set"),
        (["swept", "--resume", "--member", "4"], "the members of swept are 0 to 3"),
        (["spec.toml"], "a sweep needs values"),
        ([".", "--resume"], ". is no sweep folder: it has no sweep.json"),
    ],
)
def test_what_the_command_cannot_do_is_a_mistake_of_usage(args: list[str], words: str, swept: Sweep) -> None:
    shown = told(*args)
    assert shown.exit_code == 2
    assert words in shown.stderr


def test_a_sweep_runs_what_it_can_and_tells_what_failed(spec: Path) -> None:
    shown = told(str(spec), "--over", "data.truth.kappa=0.1,1e9", "--out", "out", "--jobs", "2")
    assert shown.exit_code == 1
    assert "001  truth.kappa=1000000000.0  failed" in shown.stderr
    found = results(open_sweep(Path("out")))
    assert [row["status"] for row in found["members"]] == ["completed", "failed"]
    assert "internal steps" in found["members"][1]["error"]
    assert "to go on: hyco-engine sweep out --resume" in shown.stdout
    # nothing is left to do for the first
    assert told("out", "--resume", "--member", "0").exit_code == 0


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_sweep_whose_process_is_killed_ends_as_an_undisturbed_one(spec: Path) -> None:
    spec.write_text(heat_on_disk(cycles=4, epochs=3))
    over = ["--over", f"{KAPPA}=0.2,0.05", "--over", "run.seed=0:2", "--jobs", "2"]
    command = [sys.executable, "-m", "hyco_engine", "sweep"]
    subprocess.run([*command, "spec.toml", *over, "--out", "whole"], check=True)
    killed = subprocess.Popen([*command, "spec.toml", *over, "--out", "parts"], start_new_session=True)
    while not list(Path("parts").glob("runs/*/checkpoints/*.json")):
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    subprocess.run([*command, "parts", "--resume", "--jobs", "2"], check=True)
    one, other = (results(open_sweep(Path(name))) for name in ("whole", "parts"))
    for mine, theirs in zip(one["members"], other["members"], strict=True):
        assert mine["status"] == "completed"
        assert {key: theirs[key] for key in ("values", "status", "errors", "parameters")} == {
            key: mine[key] for key in ("values", "status", "errors", "parameters")
        }
    assert one["groups"] == other["groups"]
    assert one["best"] == other["best"]
