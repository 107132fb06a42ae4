"""`hyco-engine init`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import click

from hyco_engine.cli.options import PATH
from hyco_engine.errors import SpecError

SCHEMA = "hyco-engine.schema.json"


def templates() -> dict[str, str]:
    """Return the spec of each template by name; its first line is a comment that says what it is for."""
    return _texts(".toml")


def plugins() -> dict[str, str]:
    """Return the file of Python code that a template has beside its spec, by the template's name."""
    # it ends in .txt, since it is no module of this package
    return _texts(".py.txt")


def jobs() -> dict[str, str]:
    """Return the scripts for schedulers by name; the second line of each is a comment that says what it is for."""
    return _texts(".sbatch")


def _texts(suffix: str) -> dict[str, str]:
    folder = files("hyco_engine.cli") / "templates"
    found = (file for file in folder.iterdir() if file.name.endswith(suffix))
    return {file.name.removesuffix(suffix): file.read_text("utf-8") for file in sorted(found, key=lambda f: f.name)}


def _names(start: str) -> list[str]:
    return sorted(name for name in {**templates(), **jobs()} if name.startswith(start))


@click.command()
@click.argument("template", required=False, shell_complete=lambda ctx, param, start: _names(start))
@click.option(
    "--out", type=PATH, help='File to write; default: the name of the template, in this folder. "-" prints the spec.'
)
def init(template: str | None, out: Path | None) -> None:
    """Write a commented spec from TEMPLATE; without TEMPLATE, list the templates.

    The command also writes hyco-engine.schema.json beside the spec, by which editors check and complete the spec, and
    for the template own-physics a file of Python code, own_physics.py. The template slurm is no spec but the script of
    a job, which runs a spec on several processes.
    """
    known = dict(sorted({**templates(), **jobs()}.items()))
    if template is None:
        if out is not None:
            raise SpecError(f"--out needs the name of a template; there are {', '.join(known)}", key="TEMPLATE")
        width = max(map(len, known))
        for name, text in known.items():
            lines = (line.lstrip("# ") for line in text.splitlines() if not line.startswith("#!"))
            click.echo(f"{name:<{width}}  {next(lines)}")
        click.echo("\nwrite one with: hyco-engine init TEMPLATE")
        return
    if template not in known:
        raise SpecError(f"there is no template {template!r}; there are {', '.join(known)}", key="TEMPLATE")
    job = template in jobs()
    # editors read the place of the schema from the first line that begins like this
    text = known[template] if job else f"#:schema ./{SCHEMA}\n{known[template]}"
    if out == Path("-"):
        click.echo(text, nl=False)
        return
    path = out or Path(f"{template}.{'sbatch' if job else 'toml'}")
    texts = {path: text}
    if template in plugins():
        texts[path.with_name(f"{template.replace('-', '_')}.py")] = plugins()[template]
    for place in texts:
        if place.exists():
            raise SpecError(f"{place} exists and is not overwritten; name another file with --out", key="--out")
    own = list(texts)[1:]
    try:
        for place, content in texts.items():
            with place.open("x", encoding="utf-8") as file:
                file.write(content)
        if not job:
            _write_schema(path.parent / SCHEMA, own)
    except OSError as error:
        raise SpecError(f"cannot write {error.filename}: {error.strerror}", key="--out") from error
    if job:
        click.echo(f"wrote {path}\nnext: change the lines marked by <-, then sbatch {path} spec.toml")
        return
    click.echo("".join([f"wrote {path}", *(f", {place}" for place in own), f", and {SCHEMA} for editors"]))
    more = "".join(f" --plugin {place}" for place in own)
    click.echo(f"next: hyco-engine check {path}{more}, then hyco-engine run {path}{more}")


def _write_schema(path: Path, own: Sequence[Path]) -> None:
    """Write the schema, new each time, since its keys depend on the plugins, such as those written beside it."""
    from hyco_engine.hooks.registry import Registry, disabled_names, plugin_files
    from hyco_engine.runs.files import dump_json
    from hyco_engine.spec.schema import json_schema

    path.write_text(
        dump_json(json_schema(Registry.discover(disabled_names(), files=[*plugin_files(), *own]))) + "\n",
        encoding="utf-8",
    )
