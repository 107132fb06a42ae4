"""Resuming of runs: the state that an earlier process left, and a check that the spec is still the same."""

from __future__ import annotations

import hashlib
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from hyco_engine.errors import DataError, Problem, RunError, SpecError
from hyco_engine.runs.checkpoint import Checkpoints
from hyco_engine.runs.environment import plugin_files, plugin_options
from hyco_engine.runs.files import is_temporary
from hyco_engine.runs.lock import GUARD, LOCK
from hyco_engine.runs.metrics import METRICS, read_metrics, read_summary
from hyco_engine.runs.reading import SPEC, RunFiles
from hyco_engine.spec.classes import Spec
from hyco_engine.spec.loading import dump_spec
from hyco_engine.spec.places import key_text
from hyco_engine.spec.resolving import replaced
from hyco_engine.training.settings import CHOSEN
from hyco_engine.untrusted import open_regular, parse_toml

CHECKPOINTS = "checkpoints"
HARMLESS = (
    "run.name",
    "run.cycles",
    "run.device",
    "run.threads",
    "run.checkpoint_minutes",
    "paths.data",
    "paths.cache",
    "paths.runs",
    "augmentation.cache.directory",
    "trackers",
)
"""Keys that may change when a run is resumed. Another device or number of threads may change the last digits, and a
warning says so."""


@attrs.frozen(kw_only=True)
class Earlier:
    """The state that a run resumes from: the content of a checkpoint, and the metrics up to there.

    Both are None or empty where the run starts from its beginning, in a folder that holds remains of it or is `empty`.
    `notes` say what was found and do not enter the results; `warnings` do.
    """

    checkpoint: Mapping[str, Any] | None = None
    records: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    empty: bool = False

    @property
    def metrics_bytes(self) -> int:
        """Return how many bytes of metrics.jsonl stay."""
        return 0 if self.checkpoint is None else int(self.checkpoint["metrics"]["bytes"])


def resume_command(folder: Path) -> str:
    """Return the command that resumes the run of a folder."""
    spec, own = shlex.quote(str(folder / SPEC)), shlex.quote(str(folder))
    return f"hyco-engine run {spec} --run-dir {own} --resume{plugin_options(plugin_files(folder))}"


def is_run_folder(folder: Path) -> bool:
    """Return True if a run may have made the content of `folder`, which may be as little as a line of its log."""
    # a process that is killed while it writes a file leaves a temporary one
    names = {entry.name for entry in folder.iterdir() if not is_temporary(entry)}
    return SPEC in names or names <= {"log.txt", LOCK, GUARD}


def completed(folder: Path) -> dict[str, Any] | None:
    """Return the summary of a completed run, or None; the resumed run replaces a damaged one."""
    try:
        summary = read_summary(folder)
    except DataError:
        return None
    return summary if summary.get("status") == "completed" else None


def find_earlier(folder: Path, spec: Spec, facts: Mapping[str, Any]) -> Earlier:
    """Return the state in `folder` from which a run of `spec` resumes, in the environment that `facts` describes.

    Raise SpecError where the spec differs, RunError where no checkpoint can be used.
    """
    found = Checkpoints(folder / CHECKPOINTS).newest(lambda content: _metrics_differ(folder, content.get("metrics")))
    if found is None:
        if (stored := RunFiles(folder).toml(SPEC)) is not None:
            _compare(stored, with_choices(spec, stored), None)
        return Earlier(notes=(f"{folder} holds no checkpoint yet: the run starts from its beginning",))
    try:
        run, training = found.content["run"], found.content["training"]
        cycles = training["history"]["cycles"] + (training["next"] > 0 or training["marks"] is not None)
        stored = parse_toml(run["spec"])
        _compare(stored, with_choices(spec, stored), cycles)
        return Earlier(
            checkpoint=found.content,
            records=tuple(_kept(folder, found.content["metrics"]["lines"])),
            notes=(*found.notes, f"resuming from {found.path}"),
            warnings=tuple(_differences(run, facts, spec)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"the checkpoint {found.path} does not hold the state of a run ({type(error).__name__}: {error}): start "
            "again with a new run folder"
        ) from error


def with_choices(spec: Spec, tables: Mapping[str, Any]) -> Spec:
    """Return the spec with what a run chose, by the tables of its resolved spec, where the spec says "auto"."""
    stored, now = _flat(tables), _flat(tomllib.loads(dump_spec(spec)))
    left = {f"training.{player}.{name}" for player in ("physical", "synthetic") for name in CHOSEN} | {
        "run.precision",
        "run.shards",
        "run.threads",
    }
    open_ = [key for key, value in now.items() if value == "auto" and (key in left or key.startswith("synthetic."))]
    return replaced(spec, {key: _tuples(stored[key]) for key in open_ if key in stored})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _metrics_differ(folder: Path, position: Any) -> str | None:
    """Return None if metrics.jsonl begins as it did when a checkpoint was written, else the reason for a message."""
    if not isinstance(position, Mapping) or not isinstance(position.get("bytes"), int):
        return "it does not say how long metrics.jsonl was"
    path, left = folder / METRICS, int(position["bytes"])
    digest = hashlib.sha256()
    if RunFiles(folder).has(METRICS):
        try:
            with open_regular(path, links=False) as file:
                while left > 0 and (part := file.read(min(left, 2**20))):
                    digest.update(part)
                    left -= len(part)
        except (OSError, ValueError) as error:
            return f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
    return (
        None
        if digest.hexdigest() == position.get("sha256")
        else f"{path} does not begin as it did when the checkpoint was written"
    )


def _kept(folder: Path, lines: int) -> Iterator[dict[str, Any]]:
    records = read_metrics(folder)[:lines] if lines else []
    for record in records:
        record.pop("time", None)
        yield record


def _compare(stored: Mapping[str, Any], spec: Spec, cycles: int | None) -> None:
    """Raise SpecError with each key that differs, but for the harmless ones. `cycles` have begun so far."""
    before, now = _flat(stored), _flat(tomllib.loads(dump_spec(spec)))
    problems = []
    for key in dict.fromkeys([*before, *now]):
        if before.get(key) == now.get(key) or any(key == name or key.startswith(f"{name}.") for name in HARMLESS):
            continue
        if now.get(key) == "auto" and (key.startswith("training.") or key == "run.shards"):
            continue  # left to the engine, which has chosen
        was, is_ = (repr(values[key]) if key in values else "not set" for values in (before, now))
        problems.append(Problem(message=f"was {was} when the run began, and is {is_} now", key=key))
    if cycles is not None and spec.run.cycles < cycles:
        problems.append(
            Problem(message=f"is {spec.run.cycles}, and the run has already begun cycle {cycles}", key="run.cycles")
        )
    if problems:
        told = "a run resumes only with the spec that it began with; set the key back, or name a new run folder"
        problems[-1] = attrs.evolve(problems[-1], message=f"{problems[-1].message}; {told}")
        raise SpecError(problems)


def _differences(run: Mapping[str, Any], facts: Mapping[str, Any], spec: Spec) -> Iterator[str]:
    """Yield the reasons why the rest of a run may differ from that of an uninterrupted one."""
    named = {"threads": "number of threads", "device": "device", "versions": "package", "plugins": "plugin"}
    for name, what in named.items():
        before, now = run[name], facts[name]
        if name == "device":
            # it does not matter which of several GPUs it is
            before, now = (device.partition(":")[0] for device in (before, now))
        if isinstance(now, Mapping):
            changed = _changed(before, now)
        else:
            # what is left open stays as it was
            changed = [] if now in (before, "auto") else [f"{before} -> {now}"]
        if changed:
            yield f"resumed with another {what} ({', '.join(changed)}): results may differ in their last digits"
    if changed := _changed(run.get("files", {}), facts["files"]):
        yield f"resumed with other files as plugins ({', '.join(changed)}): from here on the run follows these"
    cycles = tomllib.loads(run["spec"])["run"]["cycles"]
    players = [p for p in ("physical", "synthetic") if getattr(spec, p) is not None]
    cosine = [p for p in players if getattr(spec.training, p).schedule == "cosine"]
    if cycles != spec.run.cycles and cosine:
        yield (
            f"run.cycles was {cycles} and is {spec.run.cycles}: from here on the cosine schedule of "
            f"{' and '.join(f'training.{p}' for p in cosine)} falls over {spec.run.cycles} cycles, so this is not the "
            f"run that {spec.run.cycles} cycles would have been from its beginning"
        )


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [f"{k} {before.get(k)} -> {now.get(k)}" for k in {**before, **now} if before.get(k) != now.get(k)]


def _flat(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, (*path, name)) if isinstance(value, Mapping) else {key_text((*path, name)): value}
    return flat
