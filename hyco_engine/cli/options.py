"""Options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

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
    """Print strict JSON to stdout."""
    from hyco_engine.runs.files import dump_json

    click.echo(dump_json(value))


@contextmanager
def stdout_for_json(as_json: bool) -> Iterator[None]:
    """Send everything else that is printed to stderr with `--json`, so that stdout holds one object."""
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        yield


def which_option(command: F) -> F:
    """Add `--which`; the command takes `which: Literal["best", "final"]`."""
    return click.option(
        "--which",
        type=click.Choice(["final", "best"]),
        default="final",
        show_default=True,
        help="Weights: those that the run reports, or those with the smallest validation error.",
    )(command)
