"""`hyco-engine evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import click

from hyco_engine.cli.options import PATH, json_option, print_json, set_option, which_option
from hyco_engine.cli.plugins import disable_option, discover


@click.command()
@click.argument("run", type=PATH)
@click.option(
    "--split", type=click.Choice(["val", "test"]), default="val", show_default=True, help="Split of the real data."
)
@which_option
@set_option
@click.option(
    "--csv", "table", type=PATH, help="CSV file that also receives all metrics, by model, field and lead time."
)
@click.option(
    "--costs",
    "with_costs",
    is_flag=True,
    help="Measure also what rollouts cost, and after how many the surrogate has paid for its training.",
)
@disable_option
@json_option
def evaluate(
    run: Path,
    split: Literal["val", "test"],
    which: Literal["best", "final"],
    overrides: tuple[str, ...],
    table: Path | None,
    with_costs: bool,
    disable_plugin: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure the models of the run folder RUN on real data, by rollouts over the full length.

    The command takes the data of the run, or other data that you name: --set 'data.path="other.npz"'.
    """
    registry = discover(disable_plugin)

    from hyco_engine.runs.loading import evaluate as measure

    result = measure(run, split, registry, which=which, overrides=overrides)
    if with_costs:
        from hyco_engine.paying import costs, keep_costs

        # costs on other data, or of other weights, are not those of the run
        own = which == "final" and not overrides
        result["costs"] = (
            keep_costs(run, split, registry=registry)
            if own
            else costs(run, split, which=which, registry=registry, overrides=overrides)
        )
    if table is not None:
        from hyco_engine.runs.metrics_table import write_table

        write_table(result, table)
    if as_json:
        from hyco_engine.report.verdict import models_verdict

        print_json({**result, "verdict": models_verdict(result["metrics"], result.get("dt"))})
        return
    from hyco_engine.cli.layout import metrics_lines

    if (status := result.get("status", "completed")) != "completed":
        click.echo(f"note: the run {run} is {status}; its last weights are evaluated", err=True)
    found: Mapping[str, Any] = result["metrics"]
    click.echo("\n".join(metrics_lines(found, split)))
    if with_costs:
        click.echo("\n".join(["", *cost_lines(result["costs"])]))
    if table is not None:
        click.echo(f"wrote {table}")


def cost_lines(found: Mapping[str, Any]) -> list[str]:
    """Return a row for the surrogate and for the physics on each grid, then whether the surrogate pays."""
    from hyco_engine.cli.layout import number, table

    def row(name: str, cells: str, steps: str, told: Mapping[str, Any]) -> list[str]:
        times = [f"{1000 * told[key]:.3g} ms" for key in ("seconds", "seconds_in_batch")]
        return [name, cells, steps, number(told["error"]), *times]

    head = ["model", "cells", "internal steps", found["measure"], "a rollout", f"in batches of {found['batch']}"]
    rows = [row("surrogate", "", "", found["surrogate"])]
    rows += [
        row("physics", " x ".join(map(str, told["resolution"])), str(told["internal_steps"]), told)
        for told in found["physics"]
    ]
    return [*table([head, *rows]), "", *found["sentences"]]
