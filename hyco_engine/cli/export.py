"""`hyco-engine export`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from hyco_engine.cli.options import PATH, json_option, print_json, which_option
from hyco_engine.cli.plugins import disable_option, discover


@click.command()
@click.argument("run", type=PATH)
@click.option(
    "--format",
    "form",
    type=click.Choice(["torch-export", "safetensors", "toml"]),
    help="torch-export: a program that needs only torch; safetensors: weights for load_surrogate and predict; toml: "
    "only the description and the parameters. Default: by the suffix of FILE (.pt2, .safetensors, .toml), or "
    "torch-export.",
)
@click.option(
    "--out", type=PATH, required=True, metavar="FILE", help="File to write; its description goes beside it, as .toml."
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of steps that one call of the program rolls out.",
)
@which_option
@disable_option
@json_option
def export(
    run: Path,
    form: Literal["torch-export", "safetensors", "toml"] | None,
    out: Path,
    steps: int,
    which: Literal["best", "final"],
    disable_plugin: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write the surrogate of the run folder RUN with its normalisation, and the identified parameters.

    An exported program needs only torch: torch.export.load(FILE).module()(state).
    """
    registry = discover(disable_plugin)
    from hyco_engine.runs.export import export as write

    result = write(run, out, form, steps=steps, which=which, registry=registry)
    if as_json:
        print_json(result)
        return
    click.echo(f"wrote {' and '.join(result['files'])}")
    if result["difference"] is not None:
        off = result["difference"]
        told = f"differs from the original by {off:.1g} of the largest value" if off else "equals the original"
        click.echo(f"the file was read back: its surrogate {told}")
    form = result["format"]
    if form == "torch-export":
        click.echo(f'use it with torch alone: torch.export.load("{out}").module()(state)')
    elif form == "safetensors":
        click.echo(f'use it: hyco_engine.load_surrogate("{out}"), or hyco-engine predict {out} --help')
