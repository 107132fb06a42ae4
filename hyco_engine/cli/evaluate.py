"""`hyco-engine evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import click

from hyco_engine.cli.options import PATH, json_option, print_json, stdout_for_json
from hyco_engine.cli.plugins import disable_option, discover


@click.command()
@click.argument("run", type=PATH)
@click.option("--split", type=click.Choice(["val", "test"]), default="val", show_default=True, help="Which real data.")
@disable_option
@json_option
def evaluate(run: Path, split: Literal["val", "test"], disable_plugin: tuple[str, ...], as_json: bool) -> None:
    """Measure the models of the run folder RUN on its real data, by rollouts over the full length."""
    registry = discover(disable_plugin)

    with stdout_for_json(as_json):
        from hyco_engine.runs.loading import evaluate as measure

        result = measure(run, split, registry)
    if as_json:
        print_json(result)
        return
    from hyco_engine.cli.layout import metrics_lines

    if (status := result.get("status", "completed")) != "completed":
        click.echo(f"note: the run {run} is {status}: these are the weights it had then", err=True)
    found: Mapping[str, Any] = result.get("metrics", result)
    click.echo("\n".join(metrics_lines(found, split)))
