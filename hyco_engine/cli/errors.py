"""Errors as people and programs read them: one block on stderr, or one JSON object on stdout."""

from __future__ import annotations

import errno
import json
import os
import traceback
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TextIO

import click

from hyco_engine.errors import HycoError, Problem

ENGINE = "hyco-engine"
INTERRUPTED = 130


class Ended(Exception):
    """Carries what a command raised past click."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Logged(Exception):
    """Stands for an unexpected error, its cause, whose traceback is in `log`."""

    def __init__(self, log: Path) -> None:
        self.log = log


def report(error: BaseException, stdout: TextIO, *, as_json: bool, debug: bool) -> int:
    """Print the error for the user, with `as_json` to `stdout`; return the exit code."""
    log: Path | None = None
    if isinstance(error, Logged) and error.__cause__ is not None:
        log, error = error.log, error.__cause__
    if isinstance(error, BrokenPipeError):
        # the reader of the pipe ended; without this Python reports an error when it flushes at exit
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        return 1
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return error.exit_code
    if debug and not isinstance(error, click.ClickException):
        traceback.print_exception(error)
    problems, code, hint = _explain(error, log)
    if as_json:
        errors = {"errors": [_data(problem) for problem in problems]}
        click.echo(json.dumps(errors, indent=2, ensure_ascii=False), file=stdout)
    else:
        click.echo(block(problems, hint), err=True)
    return code


def block(problems: tuple[Problem, ...], hint: str = "") -> str:
    """Return the problems for people, with places as compilers print them, which editors can follow."""
    if len(problems) == 1:
        text = f"error: {_indented(str(problems[0]), '  ')}"
    else:
        lines = (f"  {_indented(str(problem), '    ')}" for problem in problems)
        text = "\n".join([f"error: {len(problems)} problems", *lines])
    return f"{text}\n{hint}" if hint else text


def _explain(error: BaseException, log: Path | None) -> tuple[tuple[Problem, ...], int, str]:
    """Return the problems, the exit code, and a line for people only."""
    if isinstance(error, HycoError):
        return error.problems, error.exit_code, ""
    if isinstance(error, click.ClickException):
        usage = isinstance(error, click.UsageError) and error.ctx is not None
        hint = f"try: {error.ctx.command_path} --help" if usage and error.ctx else ""  # type: ignore[attr-defined]
        return (Problem(message=error.format_message()),), error.exit_code, hint
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return (Problem(message=str(error) or "interrupted"),), INTERRUPTED, ""
    from hyco_engine.hooks.attribution import out_of_memory

    if out_of_memory(error):
        text = f"out of memory ({error})" if str(error) else "out of memory"
        advice = "use smaller batches, fewer windows or augmentation.cache.kind = 'disk'"
        return (Problem(message=f"{text}; {advice}"),), 1, ""
    if isinstance(error, OSError) and error.filename is not None:
        # a name that the system cannot have is a mistake of whoever wrote it
        code = 2 if error.errno in (errno.ENAMETOOLONG, errno.ELOOP) else 1
        return (Problem(message=f"{error.filename}: {error.strerror}"),), code, ""
    return _explain_bug(error, log)


def _explain_bug(error: BaseException, log: Path | None) -> tuple[tuple[Problem, ...], int, str]:
    from hyco_engine.hooks.checking import describe

    owner, version, place = _culprit(error.__traceback__)
    log = log or _write_traceback(error)
    whose = f"hyco-engine {version}" if owner == ENGINE else f"the plugin {owner} {version}"
    where = f", at {place}" if place else ""
    written = f"the traceback is in {log}: please report it with that file" if log else "--debug shows the traceback"
    message = f"{describe(error)}\nthis is a bug in {whose}{where}; {written}"
    return (Problem(message=message),), 1 if owner == ENGINE else 3, ""


def _culprit(trace: TracebackType | None) -> tuple[str, str, str]:
    """Return (distribution, version, file:line) of the innermost code that belongs to the engine or a plugin."""
    owners = {ENGINE.replace("-", "_"): ENGINE}
    for entry_point in metadata.entry_points(group="hyco_engine"):
        if entry_point.dist is not None:
            owners.setdefault(entry_point.module.partition(".")[0], entry_point.dist.name)
    owner, place, file = ENGINE, "", None
    for frame, line in traceback.walk_tb(trace):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        # a file that is a plugin has a loader that says so
        given = getattr(frame.f_globals.get("__loader__"), "plugin", None)
        if given is not None or package in owners:
            owner, place, file = owners.get(package, ""), f"{frame.f_code.co_filename}:{line}", given
    if file is not None:
        return file.distribution, file.version, place
    try:
        return owner, metadata.version(owner), place
    except metadata.PackageNotFoundError:
        return owner, "(not installed)", place


def _write_traceback(error: BaseException) -> Path | None:
    import tempfile

    try:
        handle, name = tempfile.mkstemp(prefix="hyco-engine-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return None
    return Path(name)


def _data(problem: Problem) -> dict[str, str | int | None]:
    file = None if problem.file is None else str(problem.file)
    return {"file": file, "line": problem.line, "key": problem.key, "message": problem.message}


def _indented(text: str, indent: str) -> str:
    return text.replace("\n", f"\n{indent}")
