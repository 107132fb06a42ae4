"""Options that several commands share."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

# click does not check that the path exists, since the reader's message is better
PATH = click.Path(path_type=Path)


def json_option(command: F) -> F:
    """Add `--json`; the command takes `as_json: bool`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")(command)


def set_option(command: F) -> F:
    """Add `--set`; the command takes `overrides: tuple[str, ...]`."""
    return click.option(
        "--set",
        "overrides",
        metavar="KEY=VALUE",
        multiple=True,
        help="Override a key of the spec by a line of TOML: --set run.cycles=2. Repeatable.",
    )(command)


def print_json(value: object) -> None:
    """Print strict JSON to the stream that `stdout_for_json` keeps for it."""
    from hyco_engine.runs.files import dump_json

    click.echo(dump_json(value), file=click.get_current_context().obj)


@contextmanager
def stdout_for_json(as_json: bool) -> Iterator[TextIO]:
    """Yield stdout; with `--json`, everything else that is printed goes to stderr, so that stdout holds one object."""
    stdout = sys.stdout
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        yield stdout


def claim_stdout() -> None:
    """Send to stderr what this process writes to file descriptor 1 past `sys.stdout`, as libraries in C may do."""
    if sys.stdout is None or sys.stderr is None:  # closed by who started the process
        return
    sys.stdout.flush()
    try:
        number, other = sys.stdout.fileno(), sys.stderr.fileno()
    except OSError:  # they are no files, and nothing is written past them
        return
    own = os.dup(number)
    os.dup2(other, number)
    form = {name: getattr(sys.stdout, name) for name in ("encoding", "errors", "line_buffering", "write_through")}
    sys.stdout = io.TextIOWrapper(os.fdopen(own, "wb"), **form)


def which_option(command: F) -> F:
    """Add `--which`; the command takes `which: Literal["best", "final"]`."""
    return click.option(
        "--which",
        type=click.Choice(["final", "best"]),
        default="final",
        show_default=True,
        help="Weights: those that the run reports, or those with the smallest validation error.",
    )(command)
