"""`hyco-engine report`."""

from __future__ import annotations

from pathlib import Path

import click

from hyco_engine.cli.options import PATH, json_option, print_json


@click.command()
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, help="File to write; default: report.html in the run folder.")
@json_option
def report(run: Path, out: Path | None, as_json: bool) -> None:
    """Write the results in the run folder RUN as one HTML page, which opens without a network."""
    from hyco_engine.report.page import write_report

    path = write_report(run, out)
    if as_json:
        print_json({"run": str(run), "report": str(path), "bytes": path.stat().st_size})
    else:
        click.echo(f"wrote {path}: open it in a browser")
