"""`hyco-engine plugins`: the installed plugins, their distributions, and their faults."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import chdir, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import indent
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs
import click

from hyco_engine.cli.layout import table
from hyco_engine.cli.options import json_option, print_json
from hyco_engine.errors import PluginError, SpecError
from hyco_engine.hooks.checking import HOOKS, did_you_mean
from hyco_engine.hooks.loading import PluginInfo, normalise
from hyco_engine.hooks.records import ModelRecord, Record
from hyco_engine.hooks.registry import Registry
from hyco_engine.settings import key_of
from hyco_engine.variables import DISABLE_VARIABLE

if TYPE_CHECKING:
    from hyco_engine.spec.loading import LoadedSpec
    from hyco_engine.testing.checks import Finding

F = TypeVar("F", bound=Callable[..., Any])

Findings = Mapping[tuple[str, str], "Sequence[Finding]"]
"""By hook and kind."""
HOOK_NAMES = ("strategy", "model", "normalizer", "cache", "source", "tracker")
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def disable_option(command: F) -> F:
    """Add `--disable-plugin`; the command takes `disable_plugin: tuple[str, ...]`."""
    help = f"Do not load this entry point or distribution. Repeatable; {DISABLE_VARIABLE}=a,b does the same."
    return click.option("--disable-plugin", metavar="NAME", multiple=True, help=help)(command)


def discover(disable_plugin: Sequence[str]) -> Registry:
    """Return the registry for a command: `--disable-plugin` and the environment variable apply.

    What plugins print while they load goes to stderr, since stdout may be JSON.
    """
    with redirect_stdout(sys.stderr):
        registry = Registry.installed(disable_plugin)
    for name in registry.unmatched:
        click.echo(f"note: {name!r} is not disabled, since no plugin or distribution has that name", err=True)
    return registry


def load(
    spec: Path, overrides: Sequence[str], disable_plugin: Sequence[str], run_dir: Path | None = None
) -> tuple[LoadedSpec, Registry]:
    """Return the spec of a command, and the registry for it; `run_dir` is the folder of its run, if that is elsewhere.

    A command calls it before it imports torch, which takes seconds, so that a wrong spec is told at once.
    """
    from hyco_engine.runs.environment import asking_for_files
    from hyco_engine.spec.loading import load_spec

    registry = discover(disable_plugin)
    with asking_for_files(run_dir or spec.parent, registry):
        return load_spec(spec, registry, overrides), registry


@click.group()
def plugins() -> None:
    """List and check the installed plugins, or start a new one."""


@plugins.command("list")
@json_option
@disable_option
def list_plugins(as_json: bool, disable_plugin: tuple[str, ...]) -> None:
    """List every kind with its plugin, and the plugins that are disabled or have failed."""
    registry = discover(disable_plugin)
    kinds = {hook: list(_usable(registry, hook)) for hook in HOOKS}
    if as_json:
        shown = {
            hook: [_record_data(record) | _origin_data(info) for info, record in found] for hook, found in kinds.items()
        }
        print_json({"plugins": [_plugin_data(info) for info in registry.plugins], "kinds": shown})
        return
    rows = [
        (record.kind, _place(hook, record), f"{info.distribution} {info.version}", record.summary)
        for hook, found in kinds.items()
        for info, record in found
    ]
    click.echo("\n".join(table([("KIND", "HOOK", "DISTRIBUTION", "SUMMARY"), *rows])))
    for info in registry.plugins:
        if info.status != "ok":
            click.echo(f"{info.status}: {info}: {info.reason}")
        for warning in info.warnings:
            click.echo(f"warning: {info}: {warning}")


@plugins.command("check")
@click.argument("name", required=False)
@json_option
@disable_option
@click.pass_context
def check_plugins(ctx: click.Context, name: str | None, as_json: bool, disable_plugin: tuple[str, ...]) -> None:
    """Check the plugin or distribution NAME, or all plugins: status, kinds, options and warnings.

    With NAME, the command also builds its kinds with their default options and runs the contracts of their hooks, which
    takes some seconds. The exit code is 3 if a check failed.
    """
    registry = discover(disable_plugin)
    chosen = [info for info in registry.plugins if name is None or info.answers_to({normalise(name)})]
    if not chosen:
        known = {known for info in registry.plugins for known in (info.name, info.distribution)}
        if name is None:
            raise PluginError("no plugin is installed, not even the built-in ones; reinstall hyco-engine")
        raise SpecError(
            f"no plugin or distribution {name!r} is installed{did_you_mean(name, known)}; "
            f"installed: {', '.join(sorted(known)) or 'none'}"
        )
    found = {} if name is None else _findings(registry, chosen)
    if as_json:
        print_json({"plugins": [_plugin_data(info) | {"records": _records_data(info, found)} for info in chosen]})
    else:
        for info in chosen:
            _print_plugin(info, found)
    failed = any(finding.status == "failed" for findings in found.values() for finding in findings)
    if failed or any(info.status == "failed" for info in chosen):
        ctx.exit(3)


def _findings(registry: Registry, chosen: Iterable[PluginInfo]) -> Findings:
    """Return the findings of the contracts on the kinds that serve."""
    wanted = [(hook, r) for info in chosen if info.status == "ok" for hook, rs in info.records.items() for r in rs]
    if not wanted:
        return {}
    from hyco_engine.testing.checks import check_record

    # plugins write files with relative paths into a temporary folder instead of the user's; such a file may still be
    # open at the end
    with TemporaryDirectory(ignore_cleanup_errors=True) as scratch, chdir(scratch):
        return {(hook, record.kind): list(check_record(hook, record, registry)) for hook, record in wanted}


@plugins.command("new")
@click.argument("name")
@click.option("--hook", type=click.Choice(HOOK_NAMES), required=True, help="Kind of part that the plugin offers.")
@click.option("--role", type=click.Choice(["physical", "synthetic"]), help="Role of a model; default: synthetic.")
def new_plugin(name: str, hook: str, role: str | None) -> None:
    """Write a working plugin with tests into the new folder NAME; its kind is NAME without 'hyco-engine-'."""
    from hyco_engine.cli.scaffold import write_plugin

    if role is not None and hook != "model":
        raise SpecError(f"only a model has a role, a {hook} has none: leave out --role", key="--role")
    what = hook if hook != "model" else "physics" if role == "physical" else "surrogate"
    written = write_plugin(name, what, Path(), discover(()))
    for path in written:
        click.echo(f"wrote {path}")
    click.echo(f'next: cd {name} && pip install -e ".[test]" && hyco-engine plugins check {name} && pytest')


def _usable(registry: Registry, hook: str) -> Iterable[tuple[PluginInfo, Record]]:
    for kind in registry.kinds(hook):
        yield registry.origin(hook, kind), registry.get(hook, kind)


def _place(hook: str, record: Record) -> str:
    return f"{hook} ({record.role})" if isinstance(record, ModelRecord) else hook


def _print_plugin(info: PluginInfo, found: Findings) -> None:
    click.echo(f"{info}: {info.status}{f': {info.reason}' if info.reason else ''}")
    for warning in info.warnings:
        click.echo(f"  warning: {warning}")
    for hook, records in info.records.items():
        for record in records:
            click.echo(f"\n  {record.kind} - {_place(hook, record)}: {record.summary}")
            rows = [
                (
                    option["name"],
                    option["type"],
                    "required" if option["required"] else str(option["default"]),
                    option["unit"],
                    ", ".join(f"{_SIGNS[name]} {bound:g}" for name, bound in option["bounds"].items()),
                    option["help"],
                )
                for option in _options_data(record)
            ]
            if rows:
                lines = table([("OPTION", "TYPE", "DEFAULT", "UNIT", "BOUNDS", "HELP"), *rows])
                click.echo(indent("\n".join(lines), "    "))
            _print_findings(found.get((hook, record.kind), ()))
    click.echo()


def _print_findings(findings: Sequence[Finding]) -> None:
    passed = sum(finding.status == "passed" for finding in findings)
    if passed:
        click.echo(f"    passed: {passed} {'check' if passed == 1 else 'checks'}")
    failed: dict[str, list[str]] = {}
    for finding in findings:
        if finding.status == "failed":
            failed.setdefault(finding.message, []).append(finding.check)
    for message, checks in failed.items():
        more = f" (and {len(checks) - 1} more)" if len(checks) > 1 else ""
        click.echo(f"    FAILED: {checks[0]}{more}: {message}")
    for finding in findings:
        if finding.status in ("not checked", "deprecated"):
            click.echo(f"    {finding.status}: {finding.message}")


def _plugin_data(info: PluginInfo) -> dict[str, Any]:
    names = ("name", "distribution", "version", "status", "reason", "warnings", "kinds")
    return {name: getattr(info, name) for name in names}


def _origin_data(info: PluginInfo) -> dict[str, str]:
    return {"distribution": info.distribution, "version": info.version}


def _record_data(record: Record) -> dict[str, Any]:
    data = {"kind": record.kind, "summary": record.summary}
    return data | {"role": record.role} if isinstance(record, ModelRecord) else data


def _records_data(info: PluginInfo, found: Findings) -> dict[str, list[dict[str, Any]]]:
    return {
        hook: [
            _record_data(record)
            | {"options": list(_options_data(record))}
            | ({"checks": list(map(attrs.asdict, found[hook, record.kind]))} if (hook, record.kind) in found else {})
            for record in records
        ]
        for hook, records in info.records.items()
    }


def _options_data(record: Record) -> Iterator[dict[str, Any]]:
    try:
        types = get_type_hints(record.options)
    except Exception:  # an annotation may have a name that only type checkers see
        types = {}
    for field in attrs.fields(record.options):
        required = field.default is attrs.NOTHING
        yield {
            "name": key_of(field),
            "type": _type_name(types.get(field.name, field.type)),
            "required": required,
            "default": None if required else _plain_default(field.default),
            "help": field.metadata.get("help", ""),
            "unit": field.metadata.get("unit", ""),
            "bounds": dict(field.metadata.get("bounds", {})),
        }


def _plain_default(default: Any) -> Any:
    """Return the default as JSON can hold it; as text where it cannot."""
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        try:
            default = default.factory()
        except Exception:  # the factory takes the instance, or needs something that is missing here
            return "computed"
    if attrs.has(type(default)):
        default = attrs.asdict(default)
    try:
        return json.loads(json.dumps(default, default=str, allow_nan=False))
    except ValueError:  # NaN and infinities
        return str(default)


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    if origin in (Union, UnionType):
        return " | ".join(map(_type_name, arguments))
    if annotation is type(None):
        return "None"
    if annotation is ...:
        return "..."
    name = getattr(annotation, "__name__", str(annotation))
    return f"{name}[{', '.join(map(_type_name, arguments))}]" if arguments else name
