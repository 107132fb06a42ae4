"""`hyco-engine schema`."""

from __future__ import annotations

import click

from hyco_engine.cli.options import print_json
from hyco_engine.cli.plugins import disable_option, discover


@click.command()
@disable_option
@click.option("--json", is_flag=True, expose_value=False, help="No effect, because the schema is JSON.")
def schema(disable_plugin: tuple[str, ...]) -> None:
    """Print the JSON schema of a spec, with the kinds of the installed plugins, for editors."""
    from hyco_engine.spec.schema import json_schema

    print_json(json_schema(discover(disable_plugin)))
