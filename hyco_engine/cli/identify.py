"""`hyco-engine identify`."""

from __future__ import annotations

from pathlib import Path

import click

from hyco_engine.cli.options import PATH, json_option, print_json, set_option
from hyco_engine.cli.plugins import disable_option, discover


@click.command()
@click.argument("run", type=PATH)
@click.option("--data", type=PATH, help="File or folder with the new simulations, read as the run's data was.")
@click.option("--frames", type=click.IntRange(min=2), help="Number of first frames to use of each simulation.")
@set_option
@disable_option
@json_option
def identify(
    run: Path,
    data: Path | None,
    frames: int | None,
    overrides: tuple[str, ...],
    disable_plugin: tuple[str, ...],
    as_json: bool,
) -> None:
    """Identify the parameters of new simulations, with all that simulations share as the run in RUN found it.

    The parameters are those with from or scope in [physical.parameters] of the run's spec.
    """
    registry = discover(disable_plugin)
    from hyco_engine.identifying import identify as find

    found = find(run, data, frames=frames, registry=registry, overrides=overrides)
    if as_json:
        print_json(found)
        return
    from hyco_engine.cli.layout import table
    from hyco_engine.report.numbers import significant

    names = list(found["parameters"])
    rows = []
    for index in range(found["simulations"]):
        cells = [str(index)]
        for name in names:
            each = found["parameters"][name][index]
            error = each["standard_error"]
            cells.append(significant(each["value"], 4) + ("" if error is None else f" ± {significant(error, 2)}"))
        rows.append(cells)
    click.echo("\n".join(table([["simulation", *names], *rows])))
    for warning in found["warnings"]:
        click.echo(f"warning: {warning}", err=True)
