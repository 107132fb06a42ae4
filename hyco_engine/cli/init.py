"""`hyco-engine init`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import click

from hyco_engine.cli.options import PATH
from hyco_engine.errors import SpecError

SCHEMA = "hyco-engine.schema.json"


def templates() -> dict[str, str]:
    """Return the text of each template by file name; its first line is a comment that says what it is for."""
    folder = files("hyco_engine.cli") / "templates"
    # a template that is a program ends in .txt, since it is no module of this package
    texts = {f.name.removesuffix(".txt"): f for f in folder.iterdir() if f.name.endswith((".toml", ".py.txt"))}
    found = {name: f.read_text("utf-8") for name, f in texts.items()}
    return dict(sorted(found.items()))


def _names(start: str) -> list[str]:
    return [name.rpartition(".")[0] for name in templates() if name.startswith(start)]


@click.command()
@click.argument("template", required=False, shell_complete=lambda ctx, param, start: _names(start))
@click.option(
    "--out", type=PATH, help='File to write; default: the name of the template, in this folder. "-" prints the spec.'
)
def init(template: str | None, out: Path | None) -> None:
    """Write a commented spec from TEMPLATE; without TEMPLATE, list the templates.

    The command also writes hyco-engine.schema.json beside the spec. Editors check and complete the spec by it.
    """
    known = {name.rpartition(".")[0]: name for name in templates()}
    if template is None:
        if out is not None:
            raise SpecError(f"--out needs the name of a template; there are {', '.join(known)}", key="TEMPLATE")
        width = max(map(len, known))
        for name, text in zip(known, templates().values(), strict=True):
            click.echo(f"{name:<{width}}  {text.splitlines()[0].lstrip('# ')}")
        click.echo("\nwrite one with: hyco-engine init TEMPLATE")
        return
    if template not in known:
        raise SpecError(f"there is no template {template!r}; there are {', '.join(known)}", key="TEMPLATE")
    name = known[template]
    text = templates()[name]
    is_spec = name.endswith(".toml")
    if is_spec:
        # editors read the place of the schema from the first line that begins like this
        text = f"#:schema ./{SCHEMA}\n{text}"
    if out == Path("-"):
        click.echo(text, nl=False)
        return
    path = out or Path(name)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        if is_spec:
            _write_schema(path.parent / SCHEMA)
    except FileExistsError:
        raise SpecError(f"{path} exists and is not overwritten; name another file with --out", key="--out") from None
    except OSError as error:
        raise SpecError(f"cannot write {path}: {error.strerror}", key="--out") from error
    if is_spec:
        click.echo(f"wrote {path}, and {SCHEMA} for editors")
        click.echo(f"next: hyco-engine check {path}, then hyco-engine run {path}")
    else:
        click.echo(f"wrote {path}; next: python {path}")


def _write_schema(path: Path) -> None:
    """Write the schema, new each time, since its keys depend on the plugins that are installed."""
    from hyco_engine.cli.plugins import discover
    from hyco_engine.runs.files import dump_json
    from hyco_engine.spec.schema import json_schema

    path.write_text(dump_json(json_schema(discover(()))) + "\n", encoding="utf-8")
