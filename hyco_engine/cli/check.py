"""`hyco-engine check`."""

from __future__ import annotations

from pathlib import Path

import click

from hyco_engine.cli.options import PATH, json_option, print_json, set_option
from hyco_engine.cli.plugins import disable_option, load


@click.command()
@click.argument("spec", type=PATH)
@set_option
@disable_option
@json_option
def check(spec: Path, overrides: tuple[str, ...], disable_plugin: tuple[str, ...], as_json: bool) -> None:
    """Show the plan of SPEC without training: its parts, data, generated samples, cache and phases."""
    loaded, registry = load(spec, overrides, disable_plugin)

    from hyco_engine.engine import Engine

    plan = Engine(loaded, registry=registry).plan()
    if as_json:
        print_json(plan)
        return
    from hyco_engine.cli.layout import plan_lines

    click.echo("\n".join(plan_lines(plan)))
