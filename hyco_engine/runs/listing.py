"""The status of the runs in a folder, from their files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyco_engine.errors import DataError
from hyco_engine.runs.lock import LOCK, is_held
from hyco_engine.runs.metrics import find_metrics, find_summary
from hyco_engine.runs.reading import SPEC, RunFiles
from hyco_engine.runs.resuming import resume_command

SHOWN = ("train/loss", "val/nrmse", "val/loss")


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """Return one record a run folder, by name. Raise DataError where there is no such folder.

    `status` is "running", "completed", "failed", "interrupted", "killed" (it ended without a summary), or "damaged",
    with the reason as `error`; `cycle` is the number of cycles begun so far, of `cycles`; `last` holds the last values
    of a few metrics, by model and name; `resume` is the command that resumes it, or None.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    found = [path for path in folder.iterdir() if path.is_dir() and RunFiles(path).has(SPEC)]
    return [_described(path) for path in sorted(found, key=_order)]


def _order(path: Path) -> tuple[str, int, str]:
    name, _, number = path.name.rpartition("-")
    return (name, int(number), "") if number.isdecimal() and number.isascii() else (path.name, 0, "")


def _described(path: Path) -> dict[str, Any]:
    try:
        return _sound(path)
    except DataError as error:
        return {
            "run": str(path),
            "status": "damaged",
            "cycle": 0,
            "cycles": None,
            "last": {},
            "error": str(error).splitlines()[0],
            "resume": resume_command(path),
        }


def _sound(path: Path) -> dict[str, Any]:
    running = is_held(path / LOCK)
    summary = None if running else find_summary(path)
    status = "running" if running else "killed" if summary is None else str(summary.get("status"))
    lines = find_metrics(path) or []
    last: dict[str, Any] = {}
    for line in lines:
        player = str(line.get("phase")).removeprefix("train_")
        last |= {f"{player} {name}": line[name] for name in SHOWN if name in line}
    error = (summary or {}).get("error")
    return {
        "run": str(path),
        "status": status,
        "cycle": max((line["cycle"] + 1 for line in lines if isinstance(line.get("cycle"), int)), default=0),
        "cycles": _cycles(path),
        "last": last,
        "error": None if error is None else next(iter(str(error).splitlines()), ""),
        "resume": None if status in ("running", "completed") else resume_command(path),
    }


def _cycles(path: Path) -> int | None:
    run = (RunFiles(path).toml(SPEC) or {}).get("run")
    cycles = run.get("cycles") if isinstance(run, Mapping) else None
    return cycles if isinstance(cycles, int) else None
