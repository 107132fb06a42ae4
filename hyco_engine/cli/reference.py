"""Generates `docs/cli.md` from click: every command with its arguments and options.

python -m hyco_engine.cli.reference docs/cli.md
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from hyco_engine.cli import cli
from hyco_engine.spec.reference import markdown_table

COMMAND = "python -m hyco_engine.cli.reference docs/cli.md"
_HEAD = f"""# The commands, option by option

<!-- Generated: {COMMAND} -->

This page shows what `--help` prints. [Commands](commands.md) says what each command is for and what the exit codes
mean."""


def reference() -> str:
    """Return the page as Markdown."""
    top = click.Context(cli, info_name=cli.name)
    return "\n".join([_HEAD, *_section(cli, top)]) + "\n"


def _section(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield a heading, the usage, the help and the options of a command, and those of a group's commands."""
    usage = " ".join(command.collect_usage_pieces(context))
    yield from ("", f"## `{context.command_path}`", "", f"    {context.command_path} {usage}")
    # \b keeps click from wrapping a paragraph; in Markdown a code block does that
    for paragraph in inspect.cleandoc(command.help or "").replace("\f", "").split("\n\n"):
        lines = paragraph.splitlines()
        yield ""
        yield from (f"    {line}" for line in lines[1:]) if lines[:1] == ["\b"] else lines
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    rows = [record for option in options if (record := option.get_help_record(context))]
    if rows:
        yield ""
        yield from markdown_table(("option", "meaning"), [(f"`{names}`", meaning) for names, meaning in rows])
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _section(inner, click.Context(inner, info_name=name, parent=context))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {COMMAND}")
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
