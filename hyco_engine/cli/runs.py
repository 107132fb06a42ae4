"""`hyco-engine runs`: the status of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hyco_engine.cli.options import PATH, json_option, print_json


@click.group()
def runs() -> None:
    """List run folders."""


@runs.command("list")
@click.argument("folder", type=PATH, default=Path("runs"), metavar="[DIR]")
@json_option
def list_runs(folder: Path, as_json: bool) -> None:
    """Show the status of each run in DIR (default: runs) and the command that resumes it.

    A run is running, completed, failed, interrupted, killed or damaged.
    """
    from hyco_engine.runs.listing import list_runs

    found = list_runs(folder)
    if as_json:
        print_json({"runs": found})
        return
    if not found:
        click.echo(f"there are no runs in {folder}")
        return
    from hyco_engine.cli.layout import table

    click.echo("\n".join(table([("RUN", "STATUS", "CYCLE", "LAST"), *map(_row, found)])))
    for run in found:
        if run["resume"] is not None:
            click.echo(f"\nto resume {run['run']}:\n  {run['resume']}")


def _row(run: dict[str, Any]) -> tuple[str, str, str, str]:
    from hyco_engine.cli.layout import number

    done = "-" if run["cycle"] is None else f"{run['cycle']}/{run['cycles'] if run['cycles'] is not None else '?'}"
    last = ", ".join(f"{name} {number(value)}" for name, value in run["last"].items())
    return run["run"], run["status"], done, run["error"] or last or "-"
