"""Sweeps: one spec, run with every combination of the values that some of its keys are to have.

A sweep folder holds all that a sweep is, so any process can go on with it, on any machine that sees the folder:
SWEEP/sweep.json specs/<member>.toml runs/<member>/ logs/<member>.txt

`sweep.json` says which values each member has. A member's spec is complete, and its run folder is a run's as any other.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import tomli_w

from hyco_engine.errors import DataError, Problem, SpecError
from hyco_engine.resources import usable_cores
from hyco_engine.runs.files import dump_json, numbered_folder, write_atomic
from hyco_engine.runs.lock import LOCK, is_held
from hyco_engine.runs.metrics import find_summary, read_summary
from hyco_engine.runs.reading import RunFiles
from hyco_engine.spec.dumping import dump_spec
from hyco_engine.spec.loading import load_spec
from hyco_engine.spec.structuring import Kinds

SWEEP = "sweep.json"
MOST_MEMBERS = 10_000
SEED = "run.seed"
_RANGE = re.compile(r"(-?\d{1,9}):(-?\d{1,9})")
_WORD = re.compile(r"[A-Za-z][\w.-]*")
_PAUSE_S = 0.1

Values = Mapping[str, Any]
"""By key of the spec."""


@attrs.frozen(kw_only=True)
class Member:
    """One run of a sweep."""

    name: str
    values: Values

    @property
    def label(self) -> str:
        """The values as text, each under the last two parts of its key."""
        return _label(self.values)


@attrs.frozen(kw_only=True)
class Sweep:
    """A sweep folder and its members."""

    folder: Path
    members: tuple[Member, ...]

    def run_folder(self, member: Member) -> Path:
        return self.folder / "runs" / member.name

    def spec_file(self, member: Member) -> Path:
        return self.folder / "specs" / f"{member.name}.toml"

    def log(self, member: Member) -> Path:
        return self.folder / "logs" / f"{member.name}.txt"

    def status(self, member: Member) -> str:
        """Return "waiting", or the status of the member's run as `hyco-engine runs list` tells it."""
        folder, log = self.run_folder(member), self.log(member)
        if not folder.is_dir():
            # a run that could not begin leaves no folder
            return "failed" if log.is_file() and log.stat().st_size else "waiting"
        if is_held(folder / LOCK):
            return "running"
        try:
            summary = find_summary(folder)
        except DataError:
            return "damaged"
        return "killed" if summary is None else str(summary.get("status"))


# --- what is asked for ----------------------------------------------------------------------------------------------


def parse_over(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Return the values of each key from texts such as `run.seed=0:8` and `physical.parameters.nu.init=0.01,0.1`.

    Values are TOML, separated by commas; words need no quotes, and `a:b` stands for the whole numbers from a to b - 1.
    Raise SpecError for all texts that say something else.
    """
    found: dict[str, list[Any]] = {}
    problems = []
    for text in texts:
        key, equals, values = (part.strip() for part in text.partition("="))
        try:
            if not (equals and key):
                raise ValueError("write key=value,value")
            if key in found:
                raise ValueError("is given twice; list all its values once")
            found[key] = _values(values)
        except ValueError as error:
            problems.append(Problem(message=str(error), file=Path("--over"), key=key))
    if problems:
        raise SpecError(problems)
    return found


def combinations(over: Mapping[str, Sequence[Any]]) -> tuple[Member, ...]:
    """Return a member for each combination of values; the last key changes fastest. Raise SpecError for none."""
    count = 1
    for values in over.values():
        count *= len(values)
    if not over or count > MOST_MEMBERS:
        many = f"these values make {count} runs, and a sweep has at most {MOST_MEMBERS}"
        raise SpecError("a sweep needs values: --over run.seed=0:4" if not over else many, key="--over")
    digits = max(3, len(str(count - 1)))
    every = itertools.product(*over.values())
    return tuple(Member(name=f"{n:0{digits}}", values=dict(zip(over, own, strict=True))) for n, own in enumerate(every))


def spec_text(spec: Path, registry: Kinds, overrides: Sequence[str], member: Member) -> str:
    """Return the text of a member's complete spec. Raise SpecError for all that is wrong with it."""
    own = [f"{key}={_toml(value)}" for key, value in member.values.items()]
    return dump_spec(load_spec(spec, registry, [*overrides, *own]).spec)


def create(
    spec: Path, registry: Kinds, overrides: Sequence[str], over: Mapping[str, Sequence[Any]], out: Path | None
) -> Sweep:
    """Write a new sweep folder, `out` or `<paths.runs>/<run.name>-sweep-<n>`, without running anything.

    Every member's spec is read before anything is written. Raise SpecError.
    """
    return _written(spec, registry, overrides, over, combinations(over), out)


def create_open(spec: Path, registry: Kinds, overrides: Sequence[str], keys: Sequence[str], out: Path | None) -> Sweep:
    """Write a sweep folder without members, which `add_member` adds one by one with values of these keys."""
    return _written(spec, registry, overrides, {key: () for key in keys}, (), out)


def _written(
    spec: Path,
    registry: Kinds,
    overrides: Sequence[str],
    over: Mapping[str, Sequence[Any]],
    members: tuple[Member, ...],
    out: Path | None,
) -> Sweep:
    loaded = load_spec(spec, registry, overrides).spec
    texts = [spec_text(spec, registry, overrides, member) for member in members]
    own = f"{loaded.run.name}-sweep"
    folder = numbered_folder(Path(loaded.paths.runs), own) if out is None else _own_folder(out)
    sweep = Sweep(folder=folder, members=members)
    for name in ("runs", "logs"):
        (folder / name).mkdir()
    for member, text in zip(members, texts, strict=True):
        write_atomic(sweep.spec_file(member), text)
    # what makes the folder a sweep is written last
    content = {
        "spec": str(spec.absolute()),
        "set": list(overrides),
        "over": {key: list(values) for key, values in over.items()},
        "members": [attrs.asdict(member) for member in members],
    }
    write_atomic(folder / SWEEP, dump_json(content) + "\n")
    return sweep


def add_member(sweep: Sweep, registry: Kinds, number: int, values: Values) -> Sweep:
    """Add a member of this number, with these values, to a sweep of `create_open`, and return the sweep with it.

    Raise SpecError for all that is wrong with its spec.
    """
    content = RunFiles(sweep.folder).json(SWEEP) or {}
    member = Member(name=f"{number:03}", values=dict(values))
    text = spec_text(Path(content["spec"]), registry, content["set"], member)
    write_atomic(sweep.spec_file(member), text)
    grown = attrs.evolve(sweep, members=(*sweep.members, member))
    content |= {"members": [attrs.asdict(own) for own in grown.members]}
    write_atomic(sweep.folder / SWEEP, dump_json(content) + "\n")
    return grown


def open_sweep(folder: Path) -> Sweep:
    """Return the sweep of a folder. Raise DataError where there is none, or where it is damaged."""
    files = RunFiles(folder)
    content = files.json(SWEEP)
    if content is None:
        raise DataError(f"{folder} is no sweep folder: it has no {SWEEP}")
    try:
        members = tuple(Member(name=str(own["name"]), values=dict(own["values"])) for own in content["members"])
        unfilled = "over" in content and not any(dict(content["over"]).values())
        if not (members or unfilled) or not all(re.fullmatch(r"\d{3,9}", member.name) for member in members):
            raise ValueError("its members have no names that a sweep gives")
    except (TypeError, KeyError, ValueError) as error:
        raise files.damaged(SWEEP, error) from error
    return Sweep(folder=folder, members=members)


# --- running --------------------------------------------------------------------------------------------------------


def start(sweep: Sweep, member: Member, options: Sequence[str], threads: int | None) -> subprocess.Popen[bytes]:
    """Start the process of a member's run, or of its resuming; what it prints goes to the member's log."""
    folder = sweep.run_folder(member)
    command = [sys.executable, "-m", "hyco_engine", "run", str(sweep.spec_file(member)), "--run-dir", str(folder)]
    command += ["--quiet", *options, *(["--resume"] if folder.is_dir() and any(folder.iterdir()) else [])]
    environment = dict(os.environ)
    if threads is not None:
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    with sweep.log(member).open("ab") as log:
        # in a session of its own, so that Ctrl-C in the terminal reaches the sweep alone, which passes it on
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def run_members(
    sweep: Sweep,
    members: Sequence[Member],
    jobs: int,
    begin: Callable[[Member], subprocess.Popen[bytes]],
    stop: Callable[[], str | None],
) -> Iterator[tuple[Member, str]]:
    """Run the members that are not completed, `jobs` at a time; yield each one with its status as its run ends.

    A member that another process runs is waited for. Once `stop` returns a signal, the runs are asked to end after
    their step, and no other begins.
    """
    waiting = [member for member in members if sweep.status(member) != "completed"]
    running: dict[str, tuple[Member, subprocess.Popen[bytes]]] = {}
    asked = False
    while waiting or running:
        if stop() is not None and not asked:
            asked = True
            waiting.clear()
            for _, process in running.values():
                process.terminate()
        for member in list(waiting):
            if len(running) >= jobs:
                break
            status = sweep.status(member)
            if status != "running":
                waiting.remove(member)
            if status == "completed":
                yield member, status
            elif status != "running":
                running[member.name] = (member, begin(member))
        time.sleep(_PAUSE_S)
        for member, process in list(running.values()):
            if process.poll() is None:
                continue
            del running[member.name]
            status = sweep.status(member)
            if status == "running" and not asked:  # another process was faster
                waiting.append(member)
            else:
                yield member, "failed" if status == "waiting" else status


def threads_for(jobs: int) -> int | None:
    """Return how many threads each of several runs beside one another takes; None leaves a single run alone."""
    return None if jobs == 1 else max(1, usable_cores() // jobs)


# --- results --------------------------------------------------------------------------------------------------------


def results(sweep: Sweep) -> dict[str, Any]:
    """Return what the sweep found so far: {"sweep", "members", "groups", "best"}.

    `members` has name, values, status, and for a completed run its errors, parameters and seconds. `groups` are the
    members that differ in nothing but their seed, with the median, the least and the largest of each number. `best`
    names, for each model, the member with the smallest validation error.
    """
    rows = [_row(sweep, member) for member in sweep.members]
    done = [row for row in rows if row["status"] == "completed"]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in done:
        own = {key: value for key, value in row["values"].items() if key != SEED}
        groups.setdefault(json.dumps(own, sort_keys=True), []).append(row)
    return {
        "sweep": str(sweep.folder),
        "members": rows,
        "groups": [_group(own) for own in groups.values()] if any(SEED in row["values"] for row in rows) else [],
        "best": _best(done),
    }


def _row(sweep: Sweep, member: Member) -> dict[str, Any]:
    from hyco_engine.comparing import run_row

    folder = sweep.run_folder(member)
    row: dict[str, Any] = {
        "name": member.name,
        "values": dict(member.values),
        "label": member.label,
        "run": str(folder),
    }
    row |= {"status": sweep.status(member), "errors": {}, "parameters": {}, "seconds": None, "error": None}
    if row["status"] == "completed":
        summary = read_summary(folder)
        told = run_row(member.label, folder, summary)
        found = {name: entry.get("final") for name, entry in (summary.get("parameters") or {}).items()}
        row |= {"errors": told["errors"], "seconds": told["seconds"]}
        row["parameters"] = {name: value for name, value in found.items() if isinstance(value, float | int)}
    elif row["status"] in ("failed", "killed", "damaged"):
        row["error"] = _last_line(sweep.log(member))
    return row


def _group(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = {key: value for key, value in rows[0]["values"].items() if key != SEED}
    found: dict[str, Any] = {"values": values, "label": _label(values), "count": len(rows)}
    for kind in ("errors", "parameters"):
        found[kind] = {}
        for name in rows[0][kind]:
            numbers = [row[kind][name] for row in rows if isinstance(row[kind].get(name), float | int)]
            if numbers:
                found[kind][name] = {
                    "median": statistics.median(numbers),
                    "least": min(numbers),
                    "largest": max(numbers),
                }
    return found


def _best(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    best = {}
    for model in ("physical", "synthetic"):
        errors = {row["name"]: row["errors"].get(f"{model} val") for row in rows}
        known = {name: error for name, error in errors.items() if isinstance(error, float | int)}
        if known:
            best[model] = min(known, key=lambda name: known[name])
    return best


def write_page(sweep: Sweep) -> Path | None:
    """Write the page that compares all completed members, `compared.html`; None if fewer than two have completed."""
    from hyco_engine.comparing import compare_runs
    from hyco_engine.report.compare_page import write_comparison

    done = [member for member in sweep.members if sweep.status(member) == "completed"]
    if len(done) < 2:
        return None
    found = compare_runs([sweep.run_folder(member) for member in done])
    for row, member in zip(found["runs"], done, strict=True):
        row["name"] = f"{member.name} {member.label}"
    return write_comparison(found, sweep.folder / "compared.html")


# --- texts ----------------------------------------------------------------------------------------------------------


def _values(text: str) -> list[Any]:
    if match := _RANGE.fullmatch(text):
        values: list[Any] = list(range(int(match[1]), int(match[2])))
        if not values:
            raise ValueError(f"{text} holds no number; a range ends before its second number")
        return values
    try:
        found = tomllib.loads(f"values = [{text}]")
    except (ValueError, RecursionError):
        words = [word.strip() for word in text.split(",")]
        if not all(_WORD.fullmatch(word) for word in words):
            raise ValueError(
                f'{text!r} is not a list of TOML values; write 0.1,0.2 or a range 0:4, and quote texts: \'"a b","c"\''
            ) from None
        return list(words)
    if found.keys() != {"values"} or not found["values"]:
        raise ValueError("has no value; write key=value,value")
    if any(isinstance(value, dict) for value in found["values"]):
        raise ValueError("has a table as a value; list the values of one key in it")
    return list(found["values"])


def _toml(value: Any) -> str:
    return str(tomli_w.dumps({"v": value})).partition("=")[2].strip()


def _label(values: Values) -> str:
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return " ".join(f"{'.'.join(key.split('.')[-2:])}={text}" for key, text in texts.items())


def _own_folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise SpecError(
                f"the folder {path} is not empty, and results are never overwritten; go on with its sweep by "
                f"--resume, or name a new folder",
                key="--out",
            )
    except OSError as error:
        raise SpecError(f"cannot make the sweep folder {path}: {error.strerror}", key="--out") from error
    return path


def _last_line(log: Path) -> str | None:
    try:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    except OSError:
        return None
    errors = [line for line in lines if line.startswith("error")]
    return next(reversed(errors or lines), None)
