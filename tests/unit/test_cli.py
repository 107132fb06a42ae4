"""The command line: what it imports, says, prints and exits with. The engine behind it is a fake here."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import click
import pytest
from click.testing import CliRunner, Result

import hyco_engine.cli as package
from hyco_engine.cli import COMMANDS, cli
from hyco_engine.cli.layout import metrics_lines
from hyco_engine.errors import DataError, PluginError, Problem, RunError, SpecError
from hyco_engine.testing.distributions import Site

ROOT = Path(package.__file__).parents[2]
SUMMARY = {
    "status": "completed",
    "parameters": {"nu": {"initial": 0.05, "final": 0.0101, "truth": 0.01, "relative_error": 0.01, "unit": "m^2/s"}},
    "metrics": {
        "synthetic": {
            "val": {"nrmse": 0.02, "vrmse": 0.03, "nrmse_by_field": {"u": 0.02}, "nrmse_by_step": [0.01, 0.04]}
        },
        "physical": {"val": {"nrmse": 0.001, "vrmse": 0.002, "nrmse_by_field": {"u": 0.001}}},
        "persistence": {"val": {"nrmse": 0.5, "vrmse": 0.6}},
    },
    "timings": {"total_s": 75.0, "phases": {"train_physical": 40.0, "train_synthetic": 30.0}},
    "peak_rss_bytes": 812_000_000,
}
PLAN = {
    "n_real": 20,
    "n_generated": 2,
    "cache": {"kind": "memory", "reason": "2.5 kB are below half of 2 GB", "estimated_bytes": 2500},
    "parts": {
        "physical": {"kind": "burgers", "distribution": "hyco-engine", "version": "0.1.0"},
        "synthetic": {"kind": "unet", "distribution": "other-plugin", "version": "2"},
    },
    "data": {"simulations": 4, "frames": 11, "grid": [32], "windows": {"train": 20, "val": 5}},
    "phases": [
        {"cycle": cycle, "phase": phase, "epochs": 5, "n_real": 20, "n_generated": 2}
        for cycle in range(3)
        for phase in ("train_synthetic", "train_physical")
    ],
    "notes": ["width was dropped"],
}


class FakeEngine:
    """Behaves as `hyco_engine.engine.Engine` does, or raises `raises` inside of the run."""

    raises: BaseException | None = None
    prints: str = ""

    def __init__(
        self,
        spec: Any,
        *,
        registry: Any = None,
        callbacks: Sequence[Any] = (),
        overrides: Any = (),
        disabled: Any = (),
        runtime: Any = None,
    ) -> None:
        self.callbacks = callbacks

    def plan(self) -> dict[str, Any]:
        if self.raises is not None:
            raise self.raises
        return PLAN

    def run(self, run_dir: Path | None = None, *, resume: bool = False, stop: Any = None) -> Any:
        from hyco_engine.runs.folder import RunFolder

        folder = RunFolder.create(Path("runs"), "quick", run_dir)
        told = (folder, *self.callbacks)
        status = "completed"
        try:
            for tracker in told:
                tracker.started({"name": "quick", "folder": folder.path, "spec": "[run]\ncycles = 3\n"})
            print(self.prints, end="")
            if self.raises is not None:
                raise self.raises
            for tracker in told:
                tracker.phase_ended({"cycle": 0, "phase": "train_synthetic", "seconds": 1.0})
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except Exception:
            status = "failed"
            raise
        finally:
            for tracker in told:
                tracker.finished(SUMMARY | {"status": status})
        return types.SimpleNamespace(folder=folder.path, summary=SUMMARY, resumed_completed=False)


@attrs.define
class World:
    """A working directory with a spec that the fakes take for good."""

    spec_error: SpecError | None = None
    engine: type[FakeEngine] = FakeEngine

    def __call__(self, *args: str) -> Result:
        return CliRunner().invoke(cli, [str(arg) for arg in args])


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    class Engine(FakeEngine):
        pass

    world = World(engine=Engine)

    def load_spec(path: Path, registry: Any, overrides: Any = ()) -> Any:
        if world.spec_error is not None:
            raise world.spec_error

    def fake(name: str, **content: Any) -> None:
        for key, value in content.items():
            monkeypatch.setattr(f"{name}.{key}", value)

    fake("hyco_engine.spec.loading", load_spec=load_spec)
    fake("hyco_engine.engine", Engine=Engine)
    fake(
        "hyco_engine.runs.loading",
        evaluate=lambda run, split, registry, which, overrides: {
            "split": split,
            "weights": which,
            "changed": list(overrides),
            "metrics": SUMMARY["metrics"],
        },
    )
    fake(
        "hyco_engine.runs.predicting",
        predict=lambda run, source, out, steps, model, registry, which, parameters: {
            "out": str(out),
            "steps": steps,
            "dt": 0.02,
            "model": model,
            "weights": which,
        },
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return world


# --- start ----------------------------------------------------------------------------------------------------------


def python(code: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


PROBE = """
import sys
sys.argv = ["hyco-engine", *{args!r}]
from hyco_engine.cli import main
try:
    main()
except SystemExit as end:
    code = end.code
heavy = sorted({{"torch", "phi", "phiml", "rich", "cattrs", "numpy", "matplotlib", *{also!r}}} & set(sys.modules))
print(code, heavy, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("args", "code", "also", "needed"),
    [
        (["--help"], 0, ["pluggy", "tomllib"], []),
        (["--version"], 0, ["pluggy"], []),
        (["run", "--help"], 0, [], []),
        (["init"], 0, ["pluggy"], []),
        (["plugins", "list"], 0, [], ["rich"]),  # it lays out the table
        (["plugins", "list", "--json"], 0, [], []),
        (["rnu"], 2, ["pluggy"], []),
    ],
)
def test_starts_light(args: list[str], code: int, also: list[str], needed: list[str]) -> None:
    done = python(PROBE.format(args=args, also=also))
    assert done.stderr.splitlines()[-1] == f"{code} {needed}"


def test_a_bad_spec_is_told_without_torch(tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text("[run]\ncycles = -1\n")
    code = PROBE.format(args=["check", str(spec)], also=[]).replace('"cattrs", "numpy", ', "")
    done = python(code)
    assert done.stderr.splitlines()[-1] == "2 []", done.stderr


def test_help_lists_every_command() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    for name, (_, summary) in COMMANDS.items():
        assert f"  {name} " in result.stdout
        assert summary in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.help


def test_version() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert result.stdout.startswith("hyco-engine")


def test_nothing_asked() -> None:
    result = CliRunner().invoke(cli, [])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: hyco-engine [OPTIONS] COMMAND")


# --- errors ---------------------------------------------------------------------------------------------------------

TEN = SpecError(
    [
        Problem(message="unknown key; did you mean 'seed'?", file=Path("s.toml"), line=3, key="run.sed"),
        Problem(message="-1.0 is out of range: must be > 0", file=Path("s.toml"), line=9, key="training.physical.lr"),
        Problem(message="two\nlines", key="--set x"),
    ]
)


def test_one_problem(world: World) -> None:
    world.spec_error = SpecError([TEN.problems[0]])
    result = world("check", "s.toml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: s.toml:3: run.sed: unknown key; did you mean 'seed'?\n"


def test_several_problems(world: World) -> None:
    world.spec_error = TEN
    result = world("run", "s.toml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "error: 3 problems\n"
        "  s.toml:3: run.sed: unknown key; did you mean 'seed'?\n"
        "  s.toml:9: training.physical.lr: -1.0 is out of range: must be > 0\n"
        "  --set x: two\n"
        "    lines\n"
    )


@pytest.mark.parametrize("command", ["check", "run"])
def test_problems_as_json(world: World, command: str) -> None:
    world.spec_error = TEN
    result = world(command, "s.toml", "--json")
    assert (result.exit_code, result.stderr) == (2, "")
    assert json.loads(result.stdout) == {
        "errors": [
            {"file": "s.toml", "line": 3, "key": "run.sed", "message": "unknown key; did you mean 'seed'?"},
            {
                "file": "s.toml",
                "line": 9,
                "key": "training.physical.lr",
                "message": "-1.0 is out of range: must be > 0",
            },
            {"file": None, "line": None, "key": "--set x", "message": "two\nlines"},
        ]
    }


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (SpecError("wrong", key="run.name"), 2, "error: run.name: wrong"),
        (DataError("no such file"), 2, "error: no such file"),
        (PluginError("broken"), 3, "error: broken"),
        (RunError("diverged"), 1, "error: diverged"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (MemoryError(), 1, "error: out of memory; use smaller batches, fewer windows or "),
        (RuntimeError("can't allocate memory"), 1, "error: out of memory (can't allocate memory); use smaller batches"),
        (PermissionError(13, "Permission denied", "/data/u.npy"), 1, "error: /data/u.npy: Permission denied"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "xxx"), 2, "error: xxx: File name too long"),
    ],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_exit_codes(world: World, command: str, error: BaseException, code: int, told: str) -> None:
    world.engine.raises = error
    result = world(command, "s.toml")
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1].startswith(told)
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback(world: World) -> None:
    world.engine.raises = RunError("diverged")
    for args in (("--debug", "run", "s.toml"), ("run", "s.toml", "--debug")):
        result = world(*args)
        assert result.exit_code == 1
        assert "Traceback (most recent call last):" in result.stderr
        assert result.stderr.endswith("error: diverged\n")


@pytest.mark.parametrize(
    ("args", "told", "hint"),
    [
        (["rnu", "x"], "there is no command 'rnu'; did you mean 'run'?", "try: hyco-engine --help"),
        (
            ["frobnicate"],
            f"there is no command 'frobnicate'; the commands are {', '.join(COMMANDS)}",
            "try: hyco-engine --help",
        ),
        (["run"], "Missing argument 'SPEC'.", "try: hyco-engine run --help"),
        (["predict", "r", "--input", "a", "--out", "b", "--steps", "0"], None, "try: hyco-engine predict --help"),
    ],
)
def test_usage(world: World, args: list[str], told: str | None, hint: str) -> None:
    result = world(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    told = told or "Invalid value for '--steps': 0 is not in the range x>=1."
    assert result.stderr == f"error: {told}\n{hint}\n"
    result = world(*args, "--json")
    assert (result.exit_code, result.stderr) == (2, "")
    assert json.loads(result.stdout) == {"errors": [{"file": None, "line": None, "key": None, "message": told}]}


class TestBugs:
    def test_in_the_engine(self, world: World, tmp_path: Path) -> None:
        world.engine.raises = ZeroDivisionError("division by zero")
        result = world("check", "s.toml")
        (log,) = tmp_path.glob("hyco-engine-error-*.txt")
        assert result.exit_code == 1
        first, second = result.stderr.splitlines()
        assert first == "error: ZeroDivisionError: division by zero"
        assert second.startswith("  this is a bug in hyco-engine ")
        assert f"check.py:{line_of('check', 'plan = Engine')}; " in second
        assert second.endswith(f"the traceback is in {log}: please report it with that file")
        assert "ZeroDivisionError" in log.read_text()

    def test_in_a_run_goes_to_its_log(self, world: World, tmp_path: Path) -> None:
        world.engine.raises = ZeroDivisionError("division by zero")
        result = world("run", "s.toml", "--run-dir", "here", "--json")
        assert result.exit_code == 1
        (error,) = json.loads(result.stdout)["errors"]
        assert error["message"].endswith("the traceback is in here/log.txt: please report it with that file")
        assert "Traceback (most recent call last):" in (tmp_path / "here" / "log.txt").read_text()
        assert not list(tmp_path.glob("hyco-engine-error-*"))

    def test_in_a_plugin(self, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "their_plugin.py").write_text("def boom(*_):\n    raise LookupError('oh')\n")
        info = tmp_path / "hyco_engine_theirs-2.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hyco-engine-theirs\nVersion: 2.1\n")
        (info / "entry_points.txt").write_text("[hyco_engine]\ntheirs = their_plugin\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        import their_plugin  # type: ignore[import-not-found]

        monkeypatch.setattr(world.engine, "plan", their_plugin.boom)
        result = world("check", "s.toml")
        assert result.exit_code == 3
        assert f"this is a bug in the plugin hyco-engine-theirs 2.1, at {tmp_path}/their_plugin.py:2; " in result.stderr


def line_of(command: str, text: str) -> int:
    lines = (ROOT / "hyco_engine" / "cli" / f"{command}.py").read_text().splitlines()
    return next(number for number, line in enumerate(lines, start=1) if text in line)


def test_a_reader_that_leaves_is_no_error() -> None:
    code = "import sys; sys.argv[1:] = ['plugins', 'list', '--json']; from hyco_engine.cli import main; main()"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


LOUD = """
import atexit, os, sys
from hyco_engine.hooks import hookimpl

def shout():
    os.write(1, b"raw\\n")
    print("printed")
    sys.__stdout__.write("past sys.stdout\\n")
    sys.__stdout__.flush()

shout()
atexit.register(shout)

@hookimpl
def hyco_caches():
    shout()
    return []
"""


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["plugins", "list", "--json"], 0),
        (["plugins", "check", "loud", "--json"], 0),
        (["check", "nowhere.toml", "--json"], 2),
        (["schema"], 0),
    ],
)
def test_whatever_a_plugin_writes_stdout_holds_one_object(args: list[str], code: int, tmp_path: Path) -> None:
    Site(tmp_path).install("loud", modules={"loud": LOUD}, entry_points={"loud": "loud"})
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "hyco_engine", *args]
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == code
    assert json.loads(done.stdout)
    for text in ("raw", "printed", "past sys.stdout"):
        assert done.stderr.count(f"{text}\n") == 3  # at its import, in its hook, at the end of the process


@pytest.mark.parametrize(
    "args",
    [
        ["run", "s.toml", "--run-dir", "x" * 300],
        ["inspect", "x" * 300],
        ["report", "x" * 300],
        ["runs", "list", "x" * 300],
    ],
)
def test_a_name_that_no_file_can_have_is_a_mistake_of_usage(args: list[str], world: World) -> None:
    result = world(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "File name too long" in result.stderr


# --- commands -------------------------------------------------------------------------------------------------------


class TestRun:
    def test_says_what_came_out(self, world: World) -> None:
        result = world("run", "s.toml")
        assert result.exit_code == 0
        assert result.stdout.splitlines() == [
            "completed in 1 min 15 s in runs/quick-1",
            "learned   nu 0.05 -> 0.0101 m^2/s (truth 0.01, 1 % off)",
            "errors    val nrmse: surrogate 0.02, physics 0.001, persistence 0.5",
            "time      1 min 15 s (train physical 40.0 s, train synthetic 30.0 s); at most 812 MB of memory",
            "results   runs/quick-1",
            "next      hyco-engine evaluate runs/quick-1 --split val, or hyco-engine export runs/quick-1 --out "
            "surrogate.pt2",
        ]
        assert result.stderr.splitlines() == ["run quick in runs/quick-1", "cycle 1/3  train synthetic  1.0 s"]

    def test_each_run_has_a_folder_of_its_own(self, world: World, tmp_path: Path) -> None:
        world("run", "s.toml")
        world("run", "s.toml")
        assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["quick-1", "quick-2"]

    def test_a_folder_with_something_in_it_is_refused(self, world: World) -> None:
        assert world("run", "s.toml", "--run-dir", "here").exit_code == 0
        result = world("run", "s.toml", "--run-dir", "here")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == (
            "error: --run-dir: the run folder here is not empty, and results are never overwritten; "
            "resume its run with --resume, name a new folder, or leave out --run-dir\n"
        )

    def test_json_is_alone_on_stdout(self, world: World) -> None:
        world.engine.prints = "some library has something to say\n"
        result = world("run", "s.toml", "--json")
        assert json.loads(result.stdout) == {"run_dir": "runs/quick-1", **SUMMARY}
        assert "some library" in result.stderr

    def test_quiet(self, world: World) -> None:
        result = world("run", "s.toml", "--quiet")
        assert (result.stdout, result.stderr) == ("completed in 1 min 15 s in runs/quick-1\n", "")

    def test_interrupted(self, world: World) -> None:
        world.engine.raises = KeyboardInterrupt()
        result = world("run", "s.toml")
        assert (result.exit_code, result.stdout) == (130, "")
        assert result.stderr.splitlines()[-2:] == [
            "interrupted after 1 min 15 s; the results so far are in runs/quick-1",
            "error: interrupted",
        ]


class TestCheck:
    def test_lines(self, world: World) -> None:
        result = world("check", "s.toml")
        assert result.exit_code == 0
        assert result.stdout.splitlines() == [
            "parts     physical   burgers  hyco-engine 0.1.0",
            "          synthetic  unet     other-plugin 2",
            "data      20 real windows, 2 generated for each phase",
            "          simulations 4, frames 11, grid 32",
            "          windows: train 20, val 5",
            "cache     memory (2.5 kB): 2.5 kB are below half of 2 GB",
            "phases    cycles 1 to 3: train synthetic, epochs 5, n_real 20, n_generated 2",
            "                         train physical, epochs 5, n_real 20, n_generated 2",
            "notes     width was dropped",
        ]

    def test_json(self, world: World) -> None:
        assert json.loads(world("check", "s.toml", "--json").stdout) == PLAN


class TestEvaluate:
    def test_table(self, world: World) -> None:
        assert world("evaluate", "runs/quick-1").stdout.splitlines() == [
            "model        nrmse  vrmse  nrmse u  nrmse last step",
            "surrogate    0.02   0.03   0.02     0.04",
            "physics      0.001  0.002  0.001    -",
            "persistence  0.5    0.6    -        -",
        ]

    def test_nothing_to_measure(self, world: World) -> None:
        result = world("evaluate", "runs/quick-1", "--split", "test")
        assert result.stdout == "there is nothing to measure in the test split\n"

    def test_json(self, world: World) -> None:
        args = ["--split", "test", "--which", "best", "--set", "data.dt=1.0", "--json"]
        result = world("evaluate", "runs/quick-1", *args)
        told = {"split": "test", "weights": "best", "changed": ["data.dt=1.0"], "metrics": SUMMARY["metrics"]}
        told["verdict"] = [
            "On val data the physics errs 300 times less than “nothing changes”, the surrogate errs 20 times less."
        ]
        assert json.loads(result.stdout) == told

    def test_all_metrics_of_each_field(self) -> None:
        one = {"nrmse": 0.5, "vrmse": 0.5, "nrmse_by_step": [0.5], "by_field": {"u": {"nrmse": 0.5, "mae": None}}}
        lines = metrics_lines({"synthetic": {"val": one}, "persistence": {"val": one}}, "val")
        assert lines[3:] == [
            "",
            "u      surrogate  persistence",
            "nrmse  0.5        0.5",
            "mae    -          -",
        ]


class TestPredict:
    def test_passes_all_on(self, world: World) -> None:
        args = ["predict", "runs/quick-1", "--input", "a.npy", "--out", "b.npy", "--steps", "7", "--model", "physical"]
        assert world(*args).stdout == "wrote b.npy: 7 steps of 0.02 by the physical model of runs/quick-1\n"
        result = world(*args, "--json")
        assert json.loads(result.stdout) == {
            "out": "b.npy",
            "steps": 7,
            "dt": 0.02,
            "model": "physical",
            "weights": None,
        }


class TestInit:
    def test_lists(self, world: World) -> None:
        lines = world("init").stdout.splitlines()
        assert [line.split()[0] for line in lines[:9]] == [
            "equation",
            "ode",
            "own-data",
            "own-physics",
            "quickstart",
            "sensors",
            "slurm",
            "steady",
            "surrogate",
        ]

    @pytest.mark.parametrize("template", ["quickstart", "own-data"])
    def test_writes(self, world: World, tmp_path: Path, template: str) -> None:
        result = world("init", template)
        assert result.stdout.splitlines() == [
            f"wrote {template}.toml, and hyco-engine.schema.json for editors",
            f"next: hyco-engine check {template}.toml, then hyco-engine run {template}.toml",
        ]
        text = (tmp_path / f"{template}.toml").read_text()
        assert text.startswith("#:schema ./hyco-engine.schema.json\n# ")
        assert text == world("init", template, "--out", "-").stdout
        schema = json.loads((tmp_path / "hyco-engine.schema.json").read_text())
        assert schema == json.loads(world("schema").stdout)

    def test_writes_a_job(self, world: World, tmp_path: Path) -> None:
        assert world("init", "slurm").stdout.splitlines() == [
            "wrote slurm.sbatch",
            "next: change the lines marked by <-, then sbatch slurm.sbatch spec.toml",
        ]
        assert not (tmp_path / "hyco-engine.schema.json").exists()
        assert subprocess.run(["bash", "-n", tmp_path / "slurm.sbatch"], check=False).returncode == 0

    @pytest.mark.parametrize(("code", "queued"), [(0, ""), (1, ""), (130, "requeue 77\n")])
    def test_a_job_that_was_interrupted_is_queued_again(
        self, world: World, tmp_path: Path, code: int, queued: str
    ) -> None:
        world("init", "slurm")
        for name, text in {"srun": f'echo "$@" > asked; exit {code}', "scontrol": 'echo "$@" > queued'}.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / name).chmod(0o755)
        (tmp_path / "queued").write_text("")
        given = {
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "SLURM_JOB_ID": "77",
            "SLURM_CPUS_PER_TASK": "1",
        }
        done = subprocess.run(["bash", "slurm.sbatch", "my.toml"], cwd=tmp_path, env=os.environ | given, check=False)
        assert (done.returncode, (tmp_path / "queued").read_text()) == (code, queued)
        assert (tmp_path / "asked").read_text().endswith("run my.toml --run-dir runs/job-77 --resume --quiet\n")

    def test_never_overwrites(self, world: World, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text("mine")
        result = world("init", "quickstart", "--out", "mine.toml")
        assert result.exit_code == 2
        assert result.stderr == "error: --out: mine.toml exists and is not overwritten; name another file with --out\n"
        assert (tmp_path / "mine.toml").read_text() == "mine"

    def test_unknown(self, world: World) -> None:
        result = world("init", "quickstrat")
        assert result.exit_code == 2
        names = "equation, ode, own-data, own-physics, quickstart, sensors, slurm, steady, surrogate"
        assert result.stderr == f"error: TEMPLATE: there is no template 'quickstrat'; there are {names}\n"


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("equation", {"physical", "synthetic"}),
        ("quickstart", {"physical", "synthetic"}),
        ("own-data", {"physical", "synthetic"}),
        ("sensors", {"physical"}),
        ("steady", {"physical", "synthetic"}),
        ("surrogate", {"synthetic"}),
    ],
)
def test_templates_load(template: str, parts: set[str], tmp_path: Path) -> None:
    from hyco_engine.cli.init import templates
    from hyco_engine.hooks.registry import Registry
    from hyco_engine.spec.loading import load_spec

    path = tmp_path / "spec.toml"
    path.write_text(templates()[template])
    loaded = load_spec(path, Registry.discover())
    assert loaded.notes == ()
    assert loaded.spec.run.name == template
    assert {part for part in ("physical", "synthetic") if getattr(loaded.spec, part) is not None} == parts


def test_names_are_completed() -> None:
    def complete(words: str, at: int) -> list[str]:
        told = {"_HYCO_ENGINE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        done = subprocess.run(
            [sys.executable, "-m", "hyco_engine"], capture_output=True, text=True, env=os.environ | told, check=False
        )
        return [line.partition(",")[2] for line in done.stdout.split()]

    assert complete("hyco-engine ex", 1) == ["export"]
    assert complete("hyco-engine init s", 2) == ["sensors", "slurm", "steady", "surrogate"]
