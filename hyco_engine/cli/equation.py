"""`hyco-engine equation`."""

from __future__ import annotations

from pathlib import Path

import click

from hyco_engine.cli.options import PATH, json_option, print_json, set_option
from hyco_engine.cli.plugins import disable_option, load
from hyco_engine.errors import SpecError


@click.command()
@click.argument("spec", type=PATH)
@set_option
@disable_option
@json_option
def equation(spec: Path, overrides: tuple[str, ...], disable_plugin: tuple[str, ...], as_json: bool) -> None:
    """Show how the engine reads the equations of SPEC, in Unicode and LaTeX, and how it solves them in which steps."""
    loaded, registry = load(spec, overrides, disable_plugin)
    physical = loaded.spec.physical
    if physical is None or physical.kind != "equation":
        kind = "no physics" if physical is None else f"the kind {physical.kind!r}, whose equation docs/models.md shows"
        raise SpecError(f'{spec} has {kind}; an equation is written with kind = "equation"', key="physical.kind")

    from hyco_engine.engine import Engine
    from hyco_engine.equations.writing import steps_text

    found = Engine(loaded, registry=registry).equations()
    if as_json:
        print_json(found)
        return
    for one in found["equations"]:
        click.echo(one["unicode"])
        click.echo(f"  LaTeX  {one['latex']}")
        for name in ("exact", "other"):
            for term in one[name]:
                click.echo(f"  {name:<5}  {term}")
    for text in found["statements"]:
        click.echo(text)
    click.echo(steps_text(found["steps"]))
