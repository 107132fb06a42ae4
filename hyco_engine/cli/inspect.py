"""`hyco-engine inspect`."""

from __future__ import annotations

from pathlib import Path

import attrs
import click

from hyco_engine.cli.options import PATH, json_option, print_json


@click.command()
@click.argument("path", type=PATH)
@json_option
def inspect(path: Path, as_json: bool) -> None:
    """Describe the content of the file or folder PATH, and print the section of a spec that reads it."""
    from hyco_engine.inspection import describe

    found = describe(path)
    if as_json:
        print_json({"path": str(path), **attrs.asdict(found)})
        return
    click.echo(f"{path}: {found.what}")
    for line in found.contents:
        click.echo(f"  {line}")
    if found.spec:
        click.echo(f"\n{found.spec}\n\n{found.tried}")
