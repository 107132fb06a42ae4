"""`hyco-engine design`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import click

from hyco_engine.cli.options import PATH, json_option, print_json, set_option
from hyco_engine.cli.plugins import disable_option, discover


@click.command()
@click.argument("run", type=PATH)
@click.option("--number", type=click.IntRange(1), default=5, show_default=True, help="Number of measurements.")
@click.option(
    "--unit",
    type=click.Choice(["reading", "sensor", "frame"]),
    default="reading",
    show_default=True,
    help="A reading of one field at a place and a time, a sensor (a place at all times), or a frame (all places).",
)
@click.option(
    "--criterion",
    type=click.Choice(["d", "a"]),
    default="d",
    show_default=True,
    help="What shrinks most: the volume of the confidence region (d), or the mean variance (a).",
)
@click.option("--field", "fields", multiple=True, metavar="NAME", help="Field that can be measured; default: all.")
@click.option(
    "--simulation",
    "simulations",
    multiple=True,
    metavar="N",
    type=int,
    help="Simulation of the data whose start can be made again; default: all. Repeatable.",
)
@click.option(
    "--every",
    type=click.IntRange(1),
    help="Sensors may stand at every so many cells; default: as dense as time allows.",
)
@click.option("--until", type=float, metavar="TIME", help="Last time of a measurement; default: the end of the data.")
@click.option(
    "--noise",
    multiple=True,
    metavar="FIELD=NUMBER",
    help="Standard deviation of a reading, if it is better known than from the run: u=0.01. Repeatable.",
)
@click.option("--out", type=PATH, help="Folder for design.json, design.csv and design.png; default: the run folder.")
@set_option
@disable_option
@json_option
def design(
    run: Path,
    number: int,
    unit: Literal["reading", "sensor", "frame"],
    criterion: Literal["d", "a"],
    fields: tuple[str, ...],
    simulations: tuple[int, ...],
    every: int | None,
    until: float | None,
    noise: tuple[str, ...],
    out: Path | None,
    overrides: tuple[str, ...],
    disable_plugin: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say where and when to measure next, so that the intervals of the parameters in the run folder RUN shrink most.

    What the data of the run say is the starting point; a new reading counts by the derivatives of the physics at the
    parameters that were found, and by its noise.
    """
    known = dict(_noise(text) for text in noise)
    registry = discover(disable_plugin)
    from hyco_engine.designing import Wanted, write_design
    from hyco_engine.designing import design as choose

    wanted = Wanted(
        number=number,
        unit=unit,
        criterion=criterion,
        fields=fields,
        simulations=simulations,
        every=every,
        until=until,
        noise=known,
    )
    found = choose(run, wanted, registry=registry, overrides=overrides)
    paths = write_design(found, out or run)
    if as_json:
        print_json({**found, "files": [str(path) for path in paths]})
        return
    for text in found["notes"]:
        click.echo(f"note: {text}", err=True)
    click.echo("\n".join([*design_lines(found), f"wrote {paths[1]} and {paths[2]}"]))


def design_lines(found: Mapping[str, Any]) -> list[str]:
    """Return the table of what to measure, in order, and a sentence for each parameter."""
    from hyco_engine.cli.layout import number, table
    from hyco_engine.report.numbers import significant

    names = list(found["parameters"])
    chosen = found["chosen"]
    columns = [
        ("simulation", [str(entry["simulation"]) for entry in chosen]),
        ("t", [number(entry["time"]) for entry in chosen]),
        *((axis, [number((e["position"] or {}).get(axis)) for e in chosen]) for axis in found["map"]["axes"]),
        ("field", [number(entry["field"]) for entry in chosen]),
        *((f"± {n}", [significant(e["standard_error"][n], 3) for e in chosen]) for n in names[:8]),
    ]
    # what every measurement has the same, or lacks, needs no column
    shown = [(title, cells) for title, cells in columns if any(cell != "-" for cell in cells)]
    rows = [[str(entry["rank"]), *(cells[k] for _, cells in shown)] for k, entry in enumerate(chosen)]
    noise = ", ".join(f"{name} ± {significant(level, 2)}" for name, level in found["noise"].items())
    lines = [f"{found['unit']}s to take next, of {found['possible']}; a reading errs by {noise}"]
    lines += table([["", *(title for title, _ in shown)], *rows])
    for name, told in found["parameters"].items():
        lines.append(
            f"{name} {significant(told['value'], 4)}: ± {significant(told['standard_error'], 3)} -> "
            f"± {significant(told['expected_error'], 3)}, {told['narrower']:.3g} times narrower "
            f"(as many at random: {told['narrower_at_random']:.3g} times)"
            if told["standard_error"] is not None
            else f"{name} {significant(told['value'], 4)}: unknown so far -> ± {significant(told['expected_error'], 3)}"
        )
    return lines


def _noise(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not name.strip() or not (math.isfinite(value) and value > 0):
        raise click.BadParameter(f"{text!r} is no FIELD=NUMBER above 0, such as u=0.01", param_hint="--noise")
    return name.strip(), value
