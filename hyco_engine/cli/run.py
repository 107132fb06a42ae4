"""`hyco-engine run`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyco_engine.cli.options import PATH, json_option, print_json, set_option
from hyco_engine.cli.plugins import disable_option, load
from hyco_engine.errors import HycoError

if TYPE_CHECKING:
    from hyco_engine.hooks.registry import Registry
    from hyco_engine.ranks.runtime import Runtime
    from hyco_engine.report.result import RunResult
    from hyco_engine.spec.loading import LoadedSpec


@click.command()
@click.argument("spec", type=PATH)
@set_option
@click.option("--run-dir", type=PATH, help="Folder of the run, new or empty, in place of <runs>/<name>-<n>.")
@click.option("--resume", is_flag=True, help="Continue the run in --run-dir as if it had never stopped.")
@disable_option
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print only warnings and the last line.")
def run(
    spec: Path,
    overrides: tuple[str, ...],
    run_dir: Path | None,
    resume: bool,
    disable_plugin: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Train the models of SPEC: a physical model and a surrogate together, or one of them alone.

    Ctrl-C, SIGTERM and SIGUSR1 end the run after the present step, with a checkpoint. A second Ctrl-C ends it at once.

    Under torchrun, srun or mpirun, all processes make one run, and the first of them writes and prints.
    """
    from hyco_engine.ranks.environment import place, runtime_at

    here = place(os.environ)
    with silent() if here is not None and here.rank else nullcontext():
        loaded, registry = load(spec, overrides, disable_plugin, run_dir)
        with runtime_at(here) as runtime:
            result = _run(loaded, registry, runtime, run_dir, resume=resume, quiet=quiet, results=not as_json)
    if runtime.rank:
        return
    if result.resumed_completed:
        click.echo(f"the run in {result.folder} was completed before: there is nothing left to do", err=True)
    if as_json:
        print_json({"run_dir": str(result.folder), **result.summary})


@contextmanager
def silent() -> Iterator[None]:
    """Print nothing of a process that is not the first of its run; an error ends it with the exit code alone."""
    from hyco_engine.ranks.runtime import RankFailed, exit_code_of

    try:
        with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
            yield
    except BaseException as error:
        if isinstance(error, RankFailed) and error.untold:
            raise  # there is nobody else who could tell it
        raise SystemExit(exit_code_of(error)) from error


def _run(
    spec: LoadedSpec,
    registry: Registry,
    runtime: Runtime,
    run_dir: Path | None,
    *,
    resume: bool,
    quiet: bool,
    results: bool,
) -> RunResult:
    from hyco_engine.cli.errors import Logged
    from hyco_engine.cli.terminal import Terminal, library_warnings
    from hyco_engine.engine import Engine
    from hyco_engine.runs.signals import stop_on_signals

    terminal = Terminal(quiet=quiet, results=results)
    with library_warnings(terminal), stop_on_signals(tells=runtime.rank == 0) as stop:
        try:
            engine = Engine(spec, registry=registry, callbacks=[terminal], runtime=runtime)
            return engine.run(run_dir, resume=resume, stop=stop)
        except (HycoError, OSError, MemoryError):
            raise
        except Exception as error:
            if (log := terminal.record(error)) is not None:
                raise Logged(log) from error
            raise
        finally:
            terminal.close()
