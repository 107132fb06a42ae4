"""The generator of `docs/spec.md`: every table and key of a spec with the built-in kinds, from the option classes.

python -m hyco_engine.spec.reference docs/spec.md
"""

from __future__ import annotations

import json
import math
import re
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import attrs

from hyco_engine.errors import HycoError
from hyco_engine.hooks.registry import Registry
from hyco_engine.physics.settings import ArrayFile, Profile
from hyco_engine.settings import Choice, key_of
from hyco_engine.spec.choices import TrackerChoice
from hyco_engine.spec.classes import Spec
from hyco_engine.spec.structuring import Fields, option_fields
from hyco_engine.spec.values import describe, has_keys, is_mapping, members

if TYPE_CHECKING:
    from hyco_engine.physics.parameters import ParameterDeclaration

COMMAND = "python -m hyco_engine.spec.reference docs/spec.md"

_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_SHARED = {
    ArrayFile: "An array in a file",
    Profile: "A field by formula",
}
_HEAD = f"""# The spec, key by key

<!-- Generated: {COMMAND} -->

This page lists all tables and keys with their defaults, and all kinds that come with the engine. `hyco-engine plugins
check` prints the same for the installed kinds, and `hyco-engine schema` prints it as a JSON schema for editors.
[Writing a spec](writing-a-spec.md) says which page explains which table.

The default *none* means that the key is left out, because TOML has no empty value. A default in italics is a table
whose keys have their own defaults.
"""


def builtin_registry() -> Registry:
    """Return a registry of the kinds that come with the engine, whatever else is installed."""
    own = metadata.distribution("hyco-engine").entry_points
    return Registry.discover(entry_points=own.select(group="hyco_engine"))


def reference(registry: Registry) -> str:
    """Return the page as Markdown."""
    page = _Page(registry)
    for field in option_fields(Spec):
        page.table(key_of(field), _own_class(field), _default(field))
    for cls, title in _SHARED.items():
        page.shared(cls, title)
    return "\n".join([_HEAD.rstrip(), *page.lines]) + "\n"


class _Page:
    def __init__(self, registry: Registry) -> None:
        self.lines: list[str] = []
        self._registry = registry

    def table(self, path: str, cls: type, base: Any, depth: int = 2) -> None:
        """Write a section for a table and for the tables in it; `base` holds the defaults, if it is given."""
        self._head(depth, f"`[{path}]`")
        if cls is TrackerChoice:
            self._say("Each tracker has one table, whose name is the kind. Without any table, nothing is tracked.")
        elif about := _about(cls):
            self._say(about)
        fields = option_fields(cls)
        if issubclass(cls, Choice):
            self._kind_row(cls, fields, base)
        else:
            self._rows(fields, base)
        for field in fields:
            self._inner(f"{path}.{key_of(field)}", field, _value(field, base), depth + 1)
        if issubclass(cls, Choice):
            self._kinds(path, cls, depth + 1)

    def shared(self, cls: type, title: str) -> None:
        """Write a section for a table that can replace a number."""
        self._head(2, title)
        self._say(_summary(cls))
        self._rows(option_fields(cls), None)

    def _inner(self, path: str, field: attrs.Attribute[Any], value: Any, depth: int) -> None:
        entry = get_args(field.type)[1] if is_mapping(field.type) else field.type
        place = f"{path}.<name>" if is_mapping(field.type) else path
        for member in members(entry):
            if not has_keys(member) or member in _SHARED:
                continue
            if issubclass(member, Choice) and value is None:
                # such as the physics of another true system: its keys are described where they belong
                continue
            self.table(place, member, value if isinstance(value, member) else None, depth)

    def _kinds(self, path: str, cls: type[Choice], depth: int) -> None:
        for kind in self._registry.kinds(cls.hook, cls.role):
            record = self._registry.get(cls.hook, kind, cls.role)
            fields = option_fields(record.options)
            name = f"`[{path}.{kind}]`" if cls is TrackerChoice else f"`{path}.kind = {json.dumps(kind)}`"
            self._head(depth, name)
            self._say(_sentence(record.summary))
            if fields:
                self._rows(fields, None)
                for field in fields:
                    self._inner(f"{path}.{key_of(field)}", field, None, depth + 1)
            else:
                self._say("This kind has no keys of its own.")
            if cls.role == "physical":
                self._parameters(kind)

    def _parameters(self, kind: str) -> None:
        if (found := parameter_rows(self._registry, kind)) is not None:
            axes, rows = found
            where = f" (with the defaults, in {len(axes)} dimension{'s' if len(axes) > 1 else ''})"
            self._say(f"Parameters for `[physical.parameters.<name>]`{where}:")
            self._markdown(PARAMETER_COLUMNS, rows)

    def _kind_row(self, cls: type[Choice], fields: Fields, base: Any) -> None:
        if cls is not TrackerChoice:
            kinds = [*([cls.core_kind] if cls.core_kind else []), *self._registry.kinds(cls.hook, cls.role)]
            default = f"`{json.dumps(cls.default_kind)}`" if cls.default_kind else "required"
            named = ", ".join(f"`{json.dumps(kind)}`" for kind in kinds)
            row = ["`kind`", named, default, "the kind; the keys of each kind are below"]
            self._markdown(["key", "value", "default", "meaning"], [row, *(_row(field, base) for field in fields)])

    def _rows(self, fields: Fields, base: Any) -> None:
        self._markdown(["key", "value", "default", "meaning"], [_row(field, base) for field in fields])

    def _head(self, depth: int, title: str) -> None:
        self.lines += ["", f"{'#' * min(depth, 5)} {title}"]

    def _say(self, text: str) -> None:
        self.lines += ["", text]

    def _markdown(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        self.lines += ["", *markdown_table(head, rows)]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table that shows its cells as they are."""
    table = [head, ["---"] * len(head), *([_escaped(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(row)} |" for row in table]


PARAMETER_COLUMNS = ("parameter", "unit", "start", "between", "may be a field", "meaning")


def parameter_rows(registry: Registry, kind: str) -> tuple[str, list[list[str]]] | None:
    """Return the axes and the `PARAMETER_COLUMNS` of each parameter of a physics with default options, if it builds."""
    found = _declarations(registry, kind)
    if found is None:
        return None
    axes, declarations = found
    return axes, [
        [
            f"`{one.name}`",
            one.unit,
            f"{one.init:g}",
            "any" if one.bounds == (-math.inf, math.inf) else "{:g} to {:g}".format(*one.bounds),
            "yes" if one.may_be_field else "no",
            one.help + ("; optional" if one.optional else ""),
        ]
        for one in declarations
    ]


def _escaped(cell: str) -> str:
    """Escape text that Markdown would change outside of code."""
    parts = re.split(r"(`[^`]*`)", cell.replace("|", "\\|"))
    return "".join(part if part.startswith("`") else part.replace("<", "\\<") for part in parts)


def _row(field: attrs.Attribute[Any], base: Any) -> list[str]:
    unit = field.metadata.get("unit")
    meaning = field.metadata.get("help", "") + (f" [{unit}]" if unit else "")
    return [f"`{key_of(field)}`", _type(field), _default_text(_value(field, base)), meaning]


def _type(field: attrs.Attribute[Any]) -> str:
    parts = [_one_type(member) for member in members(field.type) if member is not types.NoneType]
    bounds = " and ".join(f"{_SIGNS[name]} {bound:g}" for name, bound in field.metadata.get("bounds", {}).items())
    return " or ".join(dict.fromkeys(parts)) + (f", {bounds}" if bounds else "")


def _one_type(tp: Any) -> str:
    if get_origin(tp) is Literal:
        return ", ".join(f"`{json.dumps(choice)}`" for choice in get_args(tp))
    if tp in _SHARED:
        return f"[{_SHARED[tp][:1].lower()}{_SHARED[tp][1:]}](#{_anchor(_SHARED[tp])})"
    if is_mapping(tp):
        inner = [_one_type(member) for member in members(get_args(tp)[1]) if member is not types.NoneType]
        return f"a table, each entry {' or '.join(dict.fromkeys(inner))}"
    return describe(tp)


def _default_text(value: Any) -> str:
    if value is attrs.NOTHING:
        return "required"
    if value is None:
        return "none"
    if isinstance(value, Mapping) and not value:
        return "none"
    if has_keys(type(value)):
        return f"*{json.dumps(value.kind)}*" if isinstance(value, Choice) else "*table*"
    if isinstance(value, tuple):
        return f"`{json.dumps(list(value))}`"
    return f"`{json.dumps(str(value) if isinstance(value, Path) else value)}`"


def _value(field: attrs.Attribute[Any], base: Any) -> Any:
    """Return the default of a key: that of the instance `base`, or else that of the class."""
    return _default(field) if base is None else getattr(base, field.name)


def _default(field: attrs.Attribute[Any]) -> Any:
    default: Any = field.default
    made = default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]
    return None if made is attrs.NOTHING and has_keys(field.type) else made


def _own_class(field: attrs.Attribute[Any]) -> type:
    entry = get_args(field.type)[1] if is_mapping(field.type) else field.type
    found: type = next(member for member in members(entry) if member is not types.NoneType)
    return found


def _summary(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split())


def _about(cls: type) -> str:
    """Return the class's docstring without the name of the table, which the heading gives."""
    text = re.sub(r"^(`\[[^`]*`(, | and )?)+[:;.]?\s*", "", _summary(cls))
    return _sentence(text) if text else ""


def _sentence(text: str) -> str:
    """Add a capital, unless the text begins with code, and a full stop."""
    first = text.split(maxsplit=1)[0]
    start = text[:1].upper() if first.strip(",;:").isalpha() else text[:1]
    return f"{start}{text[1:].rstrip('.')}."


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _declarations(registry: Registry, kind: str) -> tuple[str, Sequence[ParameterDeclaration]] | None:
    """Return the parameters of a physics with default options, in the fewest dimensions in which it builds."""
    from hyco_engine.data.fields import Grid
    from hyco_engine.interfaces import PhysicsContext

    record = registry.get("hyco_models", kind, "physical")
    if any(field.default is attrs.NOTHING for field in attrs.fields(record.options)):
        return None  # its parameters are those of what the user writes
    for axes in ("x", "xy", "xyz"):
        n = len(axes)
        grid = Grid(axes=tuple(axes), resolution=(16,) * n, lower=(0.0,) * n, upper=(1.0,) * n)
        context = PhysicsContext(seed=0, registry=registry, grid=grid, dt=1e-3)
        try:
            model = registry.build("hyco_models", kind, record.options(), context)
        except HycoError:
            continue
        return axes, list(model.learnables.declarations.values())
    return None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {COMMAND}")
    Path(sys.argv[1]).write_text(reference(builtin_registry()), encoding="utf-8")
