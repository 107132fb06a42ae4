"""`hyco-engine init`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import click

from hyco_engine.cli.options import PATH
from hyco_engine.errors import SpecError


def templates() -> dict[str, str]:
    """The text of each template; its first line is a comment that says what it is for."""
    folder = files("hyco_engine.cli") / "templates"
    found = {f.name.removesuffix(".toml"): f.read_text("utf-8") for f in folder.iterdir() if f.name.endswith(".toml")}
    return dict(sorted(found.items()))


@click.command()
@click.argument("template", required=False)
@click.option("--out", type=PATH, help='File to write; default: <TEMPLATE>.toml here. "-": print it.')
def init(template: str | None, out: Path | None) -> None:
    """Write a commented spec from TEMPLATE; without one, list the templates."""
    known = templates()
    if template is None:
        if out is not None:
            raise SpecError(f"which template is to be written? There are {', '.join(known)}", key="TEMPLATE")
        width = max(map(len, known))
        for name, text in known.items():
            click.echo(f"{name:<{width}}  {text.splitlines()[0].lstrip('# ')}")
        click.echo("\nwrite one with: hyco-engine init TEMPLATE --out spec.toml")
        return
    if template not in known:
        raise SpecError(f"no template {template!r}; there are {', '.join(known)}", key="TEMPLATE")
    if out == Path("-"):
        click.echo(known[template], nl=False)
        return
    path = out or Path(f"{template}.toml")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(known[template])
    except FileExistsError:
        raise SpecError(f"{path} exists and is not overwritten; name another file with --out", key="--out") from None
    except OSError as error:
        raise SpecError(f"cannot write {path}: {error.strerror}", key="--out") from error
    click.echo(f"wrote {path}; next: hyco-engine check {path}, then hyco-engine run {path}")
