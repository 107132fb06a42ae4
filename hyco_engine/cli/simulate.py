"""`hyco-engine simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from hyco_engine.cli.options import PATH, json_option, print_json, set_option
from hyco_engine.cli.plugins import disable_option, load


@click.command()
@click.argument("spec", type=PATH)
@click.option("--out", type=PATH, required=True, help="New folder for the simulations.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["scene", "well", "csv"]),
    default="scene",
    show_default=True,
    help="Format: PhiFlow's Scene folders, HDF5 files in the layout of The Well, or a table if there is no space.",
)
@set_option
@disable_option
@json_option
def simulate(
    spec: Path,
    out: Path,
    form: Literal["scene", "well", "csv"],
    overrides: tuple[str, ...],
    disable_plugin: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write the simulations of the table [data] of SPEC as files, without its noise and masks."""
    loaded, registry = load(spec, overrides, disable_plugin)

    from hyco_engine.engine import Engine

    written = Engine(loaded, registry=registry).simulate(out, form)
    if as_json:
        print_json(written)
        return
    count = written["simulations"]
    click.echo(f"wrote {count} simulation{'' if count == 1 else 's'} of {', '.join(written['fields'])} to {out}")
    kind = f'kind = "{form}", path = "{out}"' + (f", dt = {written['dt']:g}" if form == "scene" else "")
    if form == "csv":
        kind = f'kind = "arrays", path = "{written["files"][0]}", time = "t"'
    click.echo(f"read them with [data] {kind}")
