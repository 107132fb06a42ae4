"""`hyco-engine compare`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import click

from hyco_engine.cli.options import PATH, json_option, print_json, set_option
from hyco_engine.cli.plugins import disable_option, discover, load
from hyco_engine.errors import DataError


@click.command()
@click.argument("targets", type=PATH, nargs=-1, required=True, metavar="SPEC | RUN...")
@set_option
@click.option("--out", type=PATH, help="HTML file to write; default: <first run>-compared.html beside the first run.")
@click.option(
    "--costs",
    "with_costs",
    is_flag=True,
    help="Measure what rollouts of each run with both models cost, and after how many its surrogate has paid.",
)
@disable_option
@json_option
def compare(
    targets: tuple[Path, ...],
    overrides: tuple[str, ...],
    out: Path | None,
    with_costs: bool,
    disable_plugin: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run SPEC, then each of its models alone at equal compute; or compare the finished runs RUN.

    The command prints a table. It also writes an HTML page that shows how each run predicts the same held-out
    simulation; a browser opens the page without a network.
    """
    if out is not None and not out.parent.is_dir():
        raise DataError(f"cannot write {out.name}: there is no folder {out.parent}")
    if all(target.is_dir() for target in targets):
        if overrides:
            raise click.UsageError(
                "--set changes a spec, and the targets are finished runs: leave it out, or give a spec"
            )
        from hyco_engine.comparing import compare_runs

        found = compare_runs(targets)
    elif len(targets) > 1:
        raise click.UsageError("give either one spec, to compare with its baselines, or several run folders")
    else:
        found = _run(targets[0], overrides, disable_plugin)
    if with_costs:
        _measure_costs(found, disable_plugin)
    from hyco_engine.report.compare_page import write_comparison

    page = write_comparison(found, out)
    if as_json:
        print_json({**found, "page": str(page)})
    else:
        click.echo("\n".join([*comparison_lines(found), "", f"wrote {page}: open it in a browser"]))


def _run(spec: Path, overrides: tuple[str, ...], disable_plugin: tuple[str, ...]) -> dict[str, Any]:
    loaded, registry = load(spec, overrides, disable_plugin)

    from hyco_engine.cli.terminal import Terminal, library_warnings
    from hyco_engine.comparing import compare_spec

    terminal = Terminal(results=False)
    with library_warnings(terminal):
        try:
            return compare_spec(loaded, registry=registry, callbacks=[terminal])
        finally:
            terminal.close()


def _measure_costs(found: dict[str, Any], disable_plugin: tuple[str, ...]) -> None:
    """Measure the costs of all runs with both models, and put them into their rows."""
    from hyco_engine.paying import keep_costs

    registry = discover(disable_plugin)
    for row in found["runs"]:
        models = {name.split()[0] for name in row["errors"]}
        if {"physical", "synthetic"} <= models:
            split: Literal["val", "test"] = "test" if "synthetic test" in row["errors"] else "val"
            row["costs"] = keep_costs(Path(row["run"]), split, registry=registry)


def comparison_lines(found: Mapping[str, Any]) -> list[str]:
    """Return the table, a row a run with errors, samples and time, then the reasons why runs are not comparable."""
    from hyco_engine.cli.layout import PLAYERS, number, table
    from hyco_engine.report.numbers import seconds

    rows = found["runs"]
    errors = list(dict.fromkeys(name for row in rows for name in row["errors"]))
    parameters = list(dict.fromkeys(name for row in rows for name in row["parameters"]))
    samples = list(dict.fromkeys(name for row in rows for name in row["samples"]))
    head = [
        "run",
        *(" ".join(PLAYERS.get(word, word) for word in name.split()) for name in errors),
        *(f"{name} off by" for name in parameters),
        *(f"{PLAYERS[player]} samples" for player in samples),
        "time",
    ]
    body = [
        [
            row["name"],
            *(number(row["errors"].get(name)) for name in errors),
            *(_percent(row["parameters"].get(name)) for name in parameters),
            *(number(row["samples"].get(name)) for name in samples),
            seconds(row["seconds"] or 0.0),
        ]
        for row in rows
    ]
    pays = [f"{row['name']}: {text}" for row in rows for text in (row.get("costs") or {}).get("sentences", ())]
    return [*table([head, *body]), *found["notes"], *pays]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2g} %"
