"""Plugins that are files: named on the command line or in the environment, recorded in runs, asked for by name."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny_specs import HEAT_DATA

from hyco_engine.cli import cli
from hyco_engine.cli.layout import summary_lines
from hyco_engine.engine import Engine
from hyco_engine.errors import SpecError
from hyco_engine.hooks.registry import Registry
from hyco_engine.runs.resuming import resume_command
from hyco_engine.variables import FILES_VARIABLE

pytestmark = pytest.mark.usefixtures("measured")

TRACKER = '''
import hyco_engine as hyco
from hyco_engine.interfaces import Tracker


@hyco.options
class Options:
    """None."""


class Silent(Tracker):
    """Hears all and tells nothing."""


@hyco.hookimpl
def hyco_trackers():
    return [hyco.Record(kind="silent", summary="hears all", options=Options, factory=lambda options, context: Silent())]
'''


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(FILES_VARIABLE, raising=False)
    path = tmp_path / "my tracker.py"
    path.write_text(TRACKER)
    return path


def spec() -> dict[str, Any]:
    return {
        "run": {"name": "with-file", "cycles": 2},
        "data": copy.deepcopy(HEAT_DATA),
        "physical": {"kind": "heat", "compile": "eager"},
        "training": {"physical": {"epochs_per_cycle": 1, "optimizer": "adam"}},
        "trackers": {"silent": {}},
    }


def command(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words))


class TestLoading:
    def test_a_file_is_a_plugin_with_its_digest_as_version(self, tracker: Path) -> None:
        registry = Registry.discover(entry_points=[], files=[tracker])
        (info,) = registry.plugins
        assert (info.name, info.distribution, info.status) == ("my tracker.py", "file my tracker.py", "ok")
        assert len(info.version) == 12
        assert str(info) == f"plugin (file my tracker.py {info.version})"
        assert registry.kinds("hyco_trackers") == ("silent",)
        tracker.write_text(f"{TRACKER}\n")
        (changed,) = Registry.discover(entry_points=[], files=[tracker]).plugins
        assert changed.version != info.version

    def test_no_compiled_copy_is_left_and_one_content_runs_once(self, tracker: Path) -> None:
        first, second = (Registry.discover(entry_points=[], files=[tracker]) for _ in range(2))
        assert first.get("hyco_trackers", "silent").options is second.get("hyco_trackers", "silent").options
        assert [entry.name for entry in tracker.parent.iterdir()] == [tracker.name]

    def test_a_file_that_fails_is_listed_with_the_line(self, tracker: Path) -> None:
        tracker.write_text("x = 1\nx.nothing\n")
        before = set(sys.modules)
        (info,) = Registry.discover(entry_points=[], files=[tracker]).plugins
        assert info.status == "failed"
        assert info.reason == (
            f"importing it failed: AttributeError: 'int' object has no attribute 'nothing' ({tracker}:2)"
        )
        assert not {name for name in set(sys.modules) - before if name.startswith("my_tracker")}

    def test_a_file_can_be_disabled(self, tracker: Path) -> None:
        tracker.write_text("raise SystemExit\n")
        (info,) = Registry.discover(["my tracker.py"], entry_points=[], files=[tracker]).plugins
        assert info.status == "disabled"

    def test_a_missing_file_and_two_of_one_name_are_refused(self, tracker: Path) -> None:
        with pytest.raises(SpecError) as caught:
            Registry.discover(entry_points=[], files=["none.py"])
        assert str(caught.value) == (
            "--plugin: none.py: No such file or directory; name a file of Python code with hooks, as "
            "`hyco-engine init own-physics` writes one"
        )
        other = tracker.parent / "other" / tracker.name
        other.parent.mkdir()
        other.write_text(TRACKER)
        with pytest.raises(SpecError, match="have one name, by which runs know a plugin: rename one of them"):
            Registry.discover(entry_points=[], files=[tracker, other])
        # the same file twice, by two ways to it
        assert len(Registry.discover(entry_points=[], files=[tracker, other.parent / ".." / tracker.name]).plugins) == 1


class TestCommands:
    def test_every_command_has_the_option(self) -> None:
        for words in (["run"], ["evaluate"], ["inspect"], ["runs", "list"], ["plugins", "check"], ["doctor"], ["init"]):
            assert "--plugin FILE" in command(*words, "--help").stdout

    def test_it_lists_the_file(self, tracker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (line,) = [x for x in command("plugins", "list", "--plugin", str(tracker)).stdout.splitlines() if "silent" in x]
        assert line.split()[:5] == ["silent", "hyco_trackers", "file", "my", "tracker.py"]
        assert "silent" not in command("plugins", "list").stdout
        monkeypatch.setenv(FILES_VARIABLE, str(tracker))
        assert "silent" in command("plugins", "list").stdout

    def test_own_physics_is_written_with_its_file(self, tracker: Path) -> None:
        result = command("init", "own-physics", "--out", "mine.toml")
        assert result.stdout.splitlines() == [
            "wrote mine.toml, own_physics.py, and hyco-engine.schema.json for editors",
            "next: hyco-engine check mine.toml --plugin own_physics.py, "
            "then hyco-engine run mine.toml --plugin own_physics.py",
        ]
        assert "my-physics" in Path("hyco-engine.schema.json").read_text()
        plan = json.loads(command("check", "mine.toml", "--plugin", "own_physics.py", "--json").stdout)
        assert plan["parts"]["physical"]["distribution"] == "file own_physics.py"
        assert command("check", "mine.toml").stderr.startswith(
            "error: mine.toml:25: physical.kind: unknown physical model 'my-physics'"
        )
        again = command("init", "own-physics", "--out", "other.toml")
        assert again.stderr == (
            "error: --out: own_physics.py exists and is not overwritten; name another file with --out\n"
        )


def test_a_run_records_its_file_and_asks_for_it(tracker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = iter([None] * 6)
    registry = Registry.discover(files=[tracker.name])
    version = registry.origin("hyco_trackers", "silent").version
    with pytest.raises(KeyboardInterrupt):
        Engine(spec(), registry=registry).run("run", stop=lambda: next(steps, "enough"))
    folder = Path("run")
    (kept,) = [info for info in json.loads((folder / "environment.json").read_text())["plugins"] if "file" in info]
    named = {"name": "my tracker.py", "distribution": "file my tracker.py", "version": version, "status": "ok"}
    assert kept == {**named, "file": "my tracker.py"}

    # what is printed to go on works as it is
    assert resume_command(folder) == "hyco-engine run run/spec.toml --run-dir run --resume --plugin 'my tracker.py'"
    (following,) = [line for line in summary_lines({"metrics": {"physical": {"val": {}}}}, folder) if "export" in line]
    assert "hyco-engine evaluate run --split val --plugin 'my tracker.py'" in following
    assert following.endswith("hyco-engine export run --out parameters.toml --plugin 'my tracker.py'")

    # without the file, a command says which one is missing
    told = "--plugin: run is a run with the plugin my tracker.py: add --plugin 'my tracker.py'"
    for words in (
        ["evaluate", "run"],
        ["run", "run/spec.toml", "--run-dir", "run", "--resume"],
        ["check", "run/spec.toml"],
    ):
        result = command(*words)
        assert result.exit_code == 2
        assert "unknown tracker 'silent'" in result.stderr
        assert told in result.stderr

    # with another content, the resumed run says so
    tracker.write_text(f"{TRACKER}\n")
    changed = Registry.discover(files=[tracker.name])
    result = Engine(spec(), registry=changed).run("run", resume=True)
    now = changed.origin("hyco_trackers", "silent").version
    assert (
        f"resumed with other files as plugins (my tracker.py {version} -> {now}): from here on the run follows these"
    ) in result.summary["warnings"]
