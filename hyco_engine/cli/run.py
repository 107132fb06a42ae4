"""`hyco-engine run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyco_engine.cli.options import PATH, json_option, print_json, set_option, stdout_for_json
from hyco_engine.cli.plugins import disable_option, discover
from hyco_engine.errors import HycoError

if TYPE_CHECKING:
    from hyco_engine.execution import RunResult
    from hyco_engine.hooks.registry import Registry


@click.command()
@click.argument("spec", type=PATH)
@set_option
@click.option("--run-dir", type=PATH, help="Put the run here instead of <runs>/<name>-<n>; must be new or empty.")
@disable_option
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print warnings and the last line only.")
def run(
    spec: Path,
    overrides: tuple[str, ...],
    run_dir: Path | None,
    disable_plugin: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Train as SPEC says: a physical model and a surrogate, together or one alone."""
    from hyco_engine.spec.loading import load_spec

    registry = discover(disable_plugin)
    # a wrong spec is told before torch is imported
    load_spec(spec, registry, overrides)

    with stdout_for_json(as_json):
        result = _run(spec, registry, overrides, run_dir, quiet=quiet, results=not as_json)
    if as_json:
        print_json({"run_dir": str(result.folder), **result.summary})


def _run(
    spec: Path, registry: Registry, overrides: tuple[str, ...], run_dir: Path | None, *, quiet: bool, results: bool
) -> RunResult:
    from hyco_engine.cli.errors import Logged
    from hyco_engine.cli.terminal import Terminal, library_warnings
    from hyco_engine.engine import Engine

    terminal = Terminal(quiet=quiet, results=results)
    with library_warnings(terminal):
        try:
            engine = Engine(spec, registry=registry, callbacks=[terminal], overrides=overrides)
            return engine.run(run_dir)
        except (HycoError, OSError, MemoryError):
            raise
        except Exception as error:
            if (log := terminal.record(error)) is not None:
                raise Logged(log) from error
            raise
        finally:
            terminal.close()
