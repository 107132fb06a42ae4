"""The command `hyco-engine`. Starting it imports neither torch nor phi nor rich: each command imports what it needs."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from hyco_engine.cli.errors import INTERRUPTED, Ended
from hyco_engine.cli.errors import report as tell  # `report` is also the name of a command's module
from hyco_engine.cli.options import claim_stdout, stdout_for_json, with_plugin_option
from hyco_engine.threads import let_waiting_threads_sleep

# name -> (where the command is defined, its line in the list of commands)
COMMANDS = {
    "init": ("hyco_engine.cli.init:init", "Write a commented spec to start from."),
    "check": ("hyco_engine.cli.check:check", "Show the plan of a spec without running it."),
    "equation": ("hyco_engine.cli.equation:equation", "Show how the equations of a spec are read and solved."),
    "run": ("hyco_engine.cli.run:run", "Train as a spec says."),
    "compare": ("hyco_engine.cli.compare:compare", "Compare a spec with its baselines, or compare runs."),
    "sweep": ("hyco_engine.cli.sweep:sweep", "Run a spec with many values of its keys."),
    "evaluate": ("hyco_engine.cli.evaluate:evaluate", "Measure a run's models on real data."),
    "simulate": ("hyco_engine.cli.simulate:simulate", "Write a spec's simulations as files."),
    "report": ("hyco_engine.cli.report:report", "Write a run's results as one HTML page."),
    "predict": ("hyco_engine.cli.predict:predict", "Predict from a state in a file with a model of a run."),
    "identify": ("hyco_engine.cli.identify:identify", "Identify the own parameters of new simulations."),
    "design": ("hyco_engine.cli.design:design", "Say where and when to measure next."),
    "export": ("hyco_engine.cli.export:export", "Write a run's surrogate and parameters for use elsewhere."),
    "inspect": ("hyco_engine.cli.inspect:inspect", "Describe a data file and print the spec that reads it."),
    "runs": ("hyco_engine.cli.runs:runs", "List runs and the commands that resume them."),
    "plugins": ("hyco_engine.cli.plugins:plugins", "List and check the installed plugins."),
    "doctor": ("hyco_engine.cli.doctor:doctor", "Check that this machine is ready."),
    "schema": ("hyco_engine.cli.schema:schema", "Print the JSON schema of a spec."),
}


class LazyGroup(click.Group):
    """Imports a command when it is called, and prints every error as one readable block."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return with_plugin_option(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the commands are {', '.join(COMMANDS)}"
            ctx.fail(f"there is no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except BaseException as error:
            # click would handle some of these itself, such as interrupts and broken pipes
            raise Ended(error) from error

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        given = list(sys.argv[1:] if args is None else args)
        own = given[: given.index("--")] if "--" in given else given
        debug = "--debug" in own
        # --debug is removed here, so that it may stand anywhere, after any command
        rest = [arg for arg in own if arg != "--debug"] + given[len(own) :]
        as_json = "--json" in own
        if isinstance(sys.stdout, io.TextIOWrapper):
            # the name of a file need not be UTF-8, and what cannot be printed must not end a command
            sys.stdout.reconfigure(errors="backslashreplace")
        with stdout_for_json(as_json) as stdout:
            extra |= {"standalone_mode": False, "obj": stdout}
            try:
                code = super().main(rest, prog_name or self.name, **extra)
                stdout.flush()
            except Ended as ended:
                code = tell(ended.error, stdout, as_json=as_json, debug=debug)
            except (click.ClickException, click.Abort, BrokenPipeError) as error:
                code = tell(error, stdout, as_json=as_json, debug=debug)
        sys.exit(code if isinstance(code, int) else 0)


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"hyco-engine {version('hyco-engine')}")
        except PackageNotFoundError:
            click.echo("hyco-engine, run from a checkout that is not installed")
        ctx.exit()


@click.group(
    "hyco-engine",
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 the run failed, 2 usage or spec, 3 plugin defect, 130 interrupted.",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Print the version."
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors; works after any command.")
def cli() -> None:
    """Hybrid-cooperative training: a differentiable physical model and a neural surrogate teach each other.

    Start with: hyco-engine init quickstart --out spec.toml && hyco-engine run spec.toml
    """


def main() -> None:
    """Run the command line; the entry point of the distribution, to which the process belongs."""
    claim_stdout()
    let_waiting_threads_sleep()
    try:
        cli.main()
    except KeyboardInterrupt:  # one that came after the command had told its end
        sys.exit(INTERRUPTED)
    finally:
        # what is left is the interpreter's exit: an interrupt ends it without a traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # and what libraries print then is no part of a result
        sys.stdout = sys.stderr
