"""`hyco-engine sweep`: many runs of one spec."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyco_engine.cli.options import PATH, json_option, print_json, set_option
from hyco_engine.cli.plugins import disable_option, discover

if TYPE_CHECKING:
    from hyco_engine.sweeping import Member, Sweep


FAILED = ("failed", "killed", "damaged")


@click.command()
@click.argument("target", type=PATH, metavar="SPEC | SWEEP")
@click.option(
    "--over",
    metavar="KEY=VALUES",
    multiple=True,
    help="Values of a key: --over run.seed=0:8 --over physical.parameters.nu.init=0.01,0.1. Repeatable.",
)
@set_option
@click.option(
    "--jobs", type=click.IntRange(0), default=1, show_default=True, help="Runs beside one another; 0 starts none."
)
@click.option("--out", type=PATH, help="Sweep folder, new or empty, in place of <runs>/<name>-sweep-<n>.")
@click.option("--resume", is_flag=True, help="Go on with the sweep folder SWEEP: run what is not completed.")
@click.option(
    "--member", "only", metavar="N", multiple=True, type=click.IntRange(0), help="Run this member alone. Repeatable."
)
@click.option("--dry-run", is_flag=True, help="Check the specs of all members, list them, and write nothing.")
@disable_option
@json_option
def sweep(
    target: Path,
    over: tuple[str, ...],
    overrides: tuple[str, ...],
    jobs: int,
    out: Path | None,
    resume: bool,
    only: tuple[int, ...],
    dry_run: bool,
    disable_plugin: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run SPEC with every combination of the values that --over lists, and compare the results.

    A run that fails does not end the others. Ctrl-C and SIGTERM end the present runs with checkpoints; --resume goes on
    with them, also after the command itself was killed. With --jobs 0 the command writes the sweep folder, and a
    scheduler may start the members: hyco-engine sweep SWEEP --resume --member N.
    """
    from hyco_engine.sweeping import open_sweep, results, write_page

    if resume:
        if over or overrides or out is not None or dry_run:
            raise click.UsageError("--resume goes on with a sweep as it is: leave out --over, --set, --out, --dry-run")
        swept = open_sweep(target)
    elif dry_run:
        _tell_plan(target, over, overrides, disable_plugin, as_json=as_json)
        return
    else:
        swept = _new(target, over, overrides, out, disable_plugin)
    options = [text for name in disable_plugin for text in ("--disable-plugin", name)]
    failed = bool(jobs) and _run(swept, _chosen(swept, only), jobs, options)
    told = results(swept)
    # a member that a scheduler started leaves the page to whoever looks at the whole
    page = None if only else write_page(swept)
    if as_json:
        print_json({**told, "page": None if page is None else str(page)})
    else:
        click.echo("\n".join(["", *sweep_lines(told)]))
        if page is not None:
            click.echo(f"wrote {page}: open it in a browser")
        if any(row["status"] != "completed" for row in told["members"]):
            click.echo(f"to go on: {resume_command(swept)}")
    if failed:
        click.get_current_context().exit(1)


def resume_command(swept: Sweep) -> str:
    """Return the command that goes on with a sweep."""
    return f"hyco-engine sweep {shlex.quote(str(swept.folder))} --resume"


def _new(
    spec: Path, over: Sequence[str], overrides: Sequence[str], out: Path | None, disable_plugin: Sequence[str]
) -> Sweep:
    from hyco_engine.sweeping import create, parse_over

    values = parse_over(over)
    return create(spec, discover(disable_plugin), overrides, values, out)


def _tell_plan(
    spec: Path, over: Sequence[str], overrides: Sequence[str], disable_plugin: Sequence[str], *, as_json: bool
) -> None:
    from hyco_engine.sweeping import combinations, parse_over, spec_text

    members = combinations(parse_over(over))
    registry = discover(disable_plugin)
    for member in members:
        spec_text(spec, registry, overrides, member)
    if as_json:
        print_json({"members": [{"name": member.name, "values": dict(member.values)} for member in members]})
    else:
        click.echo("\n".join([*(f"{member.name}  {member.label}" for member in members), f"{len(members)} runs"]))


def _chosen(swept: Sweep, only: Sequence[int]) -> Sequence[Member]:
    if wrong := [number for number in only if number >= len(swept.members)]:
        raise click.UsageError(f"--member {wrong[0]}: the members of {swept.folder} are 0 to {len(swept.members) - 1}")
    return [swept.members[number] for number in only] or swept.members


def _run(swept: Sweep, members: Sequence[Member], jobs: int, options: Sequence[str]) -> bool:
    """Run the members and tell how each one ends; return whether one failed. Raise KeyboardInterrupt after a signal."""
    from hyco_engine.report.numbers import seconds
    from hyco_engine.runs.signals import stop_on_signals
    from hyco_engine.sweeping import run_members, start, threads_for

    click.echo(f"{len(swept.members)} runs in {swept.folder}", err=True)
    threads, statuses, begun = threads_for(jobs), [], time.monotonic()
    with stop_on_signals() as stop:
        for member, status in run_members(
            swept, members, jobs, lambda member: start(swept, member, options, threads), stop
        ):
            statuses.append(status)
            where = f": see {swept.log(member)}" if status in FAILED else ""
            after = f"after {seconds(time.monotonic() - begun)}"
            click.echo(f"{member.name}  {member.label}  {status} {after}{where}", err=True)
    if stop() is not None:
        raise KeyboardInterrupt(f"interrupted; to go on: {resume_command(swept)}")
    return any(status in FAILED for status in statuses)


def sweep_lines(told: Mapping[str, Any]) -> list[str]:
    """Return the table of the members, then that of the groups over seeds, then the best members."""
    from hyco_engine.cli.layout import PLAYERS, number, table
    from hyco_engine.report.numbers import seconds

    rows = told["members"]
    errors = list(dict.fromkeys(name for row in rows for name in row["errors"]))
    parameters = list(dict.fromkeys(name for row in rows for name in row["parameters"]))
    named = [" ".join(PLAYERS.get(word, word) for word in name.split()) for name in errors]
    body = [
        [
            row["name"],
            row["label"],
            row["status"],
            *(number(row["errors"].get(name)) for name in errors),
            *(number(row["parameters"].get(name)) for name in parameters),
            "-" if row["seconds"] is None else seconds(row["seconds"]),
        ]
        for row in rows
    ]
    lines = table([["run", "values", "status", *named, *parameters, "time"], *body])
    lines += [f"{row['name']}: {row['error']}" for row in rows if row["error"]]
    if groups := told["groups"]:
        grouped = [
            [
                group["label"] or "all",
                str(group["count"]),
                *(_spread(group["errors"].get(name)) for name in errors),
                *(_spread(group["parameters"].get(name)) for name in parameters),
            ]
            for group in groups
        ]
        lines += ["", "medians over seeds, with the least and the largest"]
        lines += table([["values", "seeds", *named, *parameters], *grouped])
    if best := told["best"]:
        words = ", ".join(f"{PLAYERS[model]} {name}" for model, name in best.items())
        lines += ["", f"smallest validation error: {words}"]
    return lines


def _spread(found: Mapping[str, float] | None) -> str:
    from hyco_engine.cli.layout import number

    if found is None:
        return "-"
    return f"{number(found['median'])} ({number(found['least'])} to {number(found['largest'])})"
