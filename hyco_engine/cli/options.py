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

from hyco_engine.variables import FILES_VARIABLE

F = TypeVar("F", bound=Callable[..., Any])

_PLUGIN = "plugin_files"

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


def with_plugin_option(command: click.Command) -> click.Command:
    """Give a command, or each command of a group, the option `--plugin`: the files stand in the environment's variable.

    So every registry that the command makes has them, and every process that it starts.
    """
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            with_plugin_option(inner)
    elif not any(parameter.name == _PLUGIN for parameter in command.params):
        help = (
            f"Load this file of Python code as a plugin. Repeatable; {FILES_VARIABLE}={os.pathsep.join('ab')} does the "
            "same."
        )
        option = click.Option(
            ["--plugin", _PLUGIN],
            metavar="FILE",
            multiple=True,
            expose_value=False,
            is_eager=True,
            callback=_keep_files,
            help=help,
        )
        command.params.append(option)
    return command


def _keep_files(ctx: click.Context, parameter: click.Parameter, files: tuple[str, ...]) -> None:
    if not files:
        return
    if inside := [name for name in files if os.pathsep in name]:
        raise click.BadParameter(f"{inside[0]!r} holds {os.pathsep!r}, which separates files: rename it")
    before = os.environ.get(FILES_VARIABLE)

    def restore() -> None:
        del os.environ[FILES_VARIABLE]
        if before is not None:
            os.environ[FILES_VARIABLE] = before

    os.environ[FILES_VARIABLE] = os.pathsep.join([*files, *([before] if before else [])])
    ctx.call_on_close(restore)


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
