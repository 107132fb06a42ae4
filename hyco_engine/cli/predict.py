"""`hyco-engine predict`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import click

from hyco_engine.cli.options import PATH, json_option, print_json
from hyco_engine.cli.plugins import disable_option, discover


@click.command()
@click.argument("run", type=PATH, metavar="RUN | FILE")
@click.option("--input", "source", type=PATH, required=True, help="File with the state to start from.")
@click.option("--out", type=PATH, required=True, help="File to write the predicted states to.")
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    required=True,
    help="Number of steps to predict; each takes the dt of the data.",
)
@click.option(
    "--model",
    type=click.Choice(["physical", "synthetic"]),
    default=None,
    help="Model of the run; default: the surrogate, or the physics if there is no surrogate.",
)
@click.option(
    "--which",
    type=click.Choice(["final", "best"]),
    help="Weights: those that the run reports (default), or those with the smallest validation error.",
)
@click.option(
    "--parameters",
    multiple=True,
    metavar="NAME=NUMBER",
    help="Scalar of the simulation that the model takes, such as nu=0.03. Repeatable.",
)
@disable_option
@json_option
def predict(
    run: Path,
    source: Path,
    out: Path,
    steps: int,
    model: Literal["physical", "synthetic"] | None,
    which: Literal["best", "final"] | None,
    parameters: tuple[str, ...],
    disable_plugin: tuple[str, ...],
    as_json: bool,
) -> None:
    """Predict from the state in a file, with a model of the run folder RUN or the surrogate in an exported FILE.

    FILE comes from hyco-engine export --format safetensors. A state is a .npy file with all channels in one array, or a
    .npz file with an array for each field.
    """
    scalars = dict(_number(text) for text in parameters)
    registry = discover(disable_plugin)
    from hyco_engine.runs.predicting import predict as roll_out

    result = roll_out(run, source, out, steps, model, registry, which, scalars)
    if as_json:
        print_json(result)
    else:
        click.echo(f"wrote {out}: {steps} steps of {result['dt']:.6g} by the {result['model']} model of {run}")


def _number(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not name.strip() or not math.isfinite(value):
        raise click.BadParameter(f"{text!r} is no NAME=NUMBER, such as nu=0.03", param_hint="--parameters")
    return name.strip(), value
