"""The conversion of raw tables into the classes of the spec, which reports every mistake and not just the first."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import attrs

from hyco_engine.errors import HycoError, PluginError, SpecError
from hyco_engine.hooks.checking import did_you_mean
from hyco_engine.hooks.records import Record
from hyco_engine.settings import Choice, key_of
from hyco_engine.spec.choices import TrackerChoice
from hyco_engine.spec.values import (
    Mistake,
    Mistakes,
    describe,
    has_keys,
    members,
    mismatch,
    strict_converter,
    structure_each,
)

T = TypeVar("T")
Fields: TypeAlias = "tuple[attrs.Attribute[Any], ...]"


class Kinds(Protocol):
    """The part of a `hyco_engine.hooks.registry.Registry` that is used here."""

    def get(self, hook: str, kind: str, role: Literal["physical", "synthetic"] | None = None) -> Record:
        """Return the record of a kind. Raises SpecError if it is unknown, PluginError if it cannot be used."""

    def kinds(self, hook: str, role: Literal["physical", "synthetic"] | None = None) -> tuple[str, ...]:
        """Return the usable kinds."""


class ChangedKind(dict[str, Any]):
    """A table of a spec file whose kind an override has changed.

    Keys that the new kind does not know are dropped, unless an override set them, too (`also_set`).
    """

    def __init__(self, table: Mapping[str, Any], *, key: str, old_kind: object, also_set: Collection[str]) -> None:
        super().__init__(table)
        self.key = key
        self.old_kind = old_kind
        self.also_set = also_set


class Structurer:
    """Structures one spec. `notes` says which keys were dropped."""

    def __init__(self, registry: Kinds) -> None:
        self.notes: list[str] = []
        self._registry = registry
        self._converter = strict_converter(self._table)
        self._converter.register_structure_hook_func(lambda tp: tp == Mapping[str, TrackerChoice], self._trackers)

    def structure(self, raw: object, cls: type[T]) -> T:
        """Return `raw` as an instance of `cls`. Raises Mistakes."""
        result: T = self._table(raw, cls)
        return result

    def _table(self, raw: object, cls: Any, base: Any = None) -> Any:
        """Build `cls` from its keys; missing keys take the value of `base`, or else the default of `cls`."""
        if not isinstance(raw, Mapping):
            raise mismatch(raw, cls)
        if issubclass(cls, Choice):
            return self._choice(raw, cls, base)
        mistakes: list[Mistake] = []
        fields = option_fields(cls)
        values = self._fields(raw, fields, base, mistakes)
        mistakes += _unknown(raw, [key_of(field) for field in fields])
        return _build(cls, values, mistakes)

    def _choice(self, raw: Mapping[str, Any], cls: type[Choice], base: Choice | None, name: str | None = None) -> Any:
        """Build a kind with its options; `name` is the kind if it is not written in the table."""
        mistakes: list[Mistake] = []
        fields = option_fields(cls)
        core = [key_of(field) for field in fields]
        kind: object = name
        if name is None:
            core.insert(0, "kind")
            kind = raw.get("kind", cls.default_kind if base is None else base.kind)
        values = self._fields(raw, fields, base, mistakes)
        try:
            options_class, option_keys = self._options_class(cls, kind)
        except Mistakes as found:
            raise Mistakes([*(found.found if name is not None else found.below("kind")), *mistakes]) from None
        known = [*core, *(key_of(field) for field in option_keys)]
        if isinstance(raw, ChangedKind) and kind != (raw.old_kind or cls.default_kind):
            raw = self._without_leftovers(raw, known)
        mistakes += _unknown(raw, known, f"unknown key for {kind!r}")
        options = None
        if options_class:
            defaults = base.options if base is not None and base.kind == kind else None
            own_mistakes: list[Mistake] = []
            given = self._fields(raw, option_keys, defaults, own_mistakes)
            try:
                options = _build(options_class, given, own_mistakes)
            except Mistakes as found:
                mistakes += found.found
        return _build(cls, {"kind": kind, "options": options, **values}, mistakes)

    def _options_class(self, cls: type[Choice], kind: object) -> tuple[type | None, Fields]:
        if kind is None:
            installed = ", ".join(self._registry.kinds(cls.hook, cls.role)) or "none"
            raise Mistakes(f"required but missing; installed: {installed}")
        if not isinstance(kind, str):
            raise mismatch(kind, str)
        if kind == cls.core_kind:
            return None, ()
        try:
            options_class = self._registry.get(cls.hook, kind, cls.role).options
            return options_class, option_fields(options_class)
        except (SpecError, PluginError) as error:
            own = f"; or {cls.core_kind!r}" if cls.core_kind else ""
            at_plugin = isinstance(error, PluginError)
            raise Mistakes(Mistake(problem.message + own, plugin=at_plugin) for problem in error.problems) from None

    def _without_leftovers(self, raw: ChangedKind, known: Collection[str]) -> dict[str, Any]:
        dropped = sorted(key for key in raw if key not in known and key not in raw.also_set)
        if dropped:
            self.notes.append(
                f"{raw.key} is now {raw['kind']!r}, which has no {', '.join(dropped)}: dropped from the spec"
            )
        return {key: value for key, value in raw.items() if key not in dropped}

    def _trackers(self, raw: object, tp: Any) -> dict[str, TrackerChoice]:
        if not isinstance(raw, Mapping):
            raise mismatch(raw, tp)

        def tracker(item: tuple[str, Any], cls: type[TrackerChoice]) -> Any:
            name, table = item
            if not isinstance(table, Mapping):
                raise mismatch(table, cls)
            return self._choice(table, cls, None, name)

        return dict(structure_each(((item[0], item, TrackerChoice) for item in raw.items()), tracker))

    def _fields(self, raw: Mapping[str, Any], fields: Fields, base: Any, mistakes: list[Mistake]) -> dict[str, Any]:
        """Return the correct values of the fields, and add the mistakes in the others to `mistakes`."""
        values: dict[str, Any] = {}
        before = len(mistakes)
        for field in fields:
            default = _default(field) if base is None else getattr(base, field.name)
            try:
                if key_of(field) in raw:
                    values[field.name] = self._value(raw[key_of(field)], field.type, default)
                elif default is not attrs.NOTHING:
                    values[field.name] = self._filled(default)
                elif inspect.isclass(field.type) and issubclass(field.type, Choice):
                    # its mistake lists the kinds that exist
                    values[field.name] = self._table({}, field.type)
                else:
                    raise Mistakes(f"required but missing ({field.metadata.get('help', 'no help')})")
            except Mistakes as found:
                mistakes += found.below(key_of(field))
        seen = SimpleNamespace(**values)
        for field in fields:
            if field.validator is None or field.name not in values:
                continue
            try:
                field.validator(seen, field, values[field.name])
            except (ValueError, TypeError) as error:
                mistakes.append(Mistake(_text(error), (key_of(field),)))
            except Exception as error:
                # a check may read another field that is wrong, and then its failure is not its fault
                if len(mistakes) == before:
                    message = f"the plugin's check of this key failed: {type(error).__name__}: {error}"
                    mistakes.append(Mistake(message, (key_of(field),), plugin=True))
        return values

    def _value(self, raw: object, tp: Any, default: Any) -> Any:
        """Structure a value; a partial table takes the rest from the field's default, not from that of its class."""
        tables = [member for member in members(tp) if has_keys(member)]
        if isinstance(raw, Mapping) and len(tables) == 1 and isinstance(default, tables[0]):
            return self._table(raw, tables[0], default)
        return self._converter.structure(raw, tp)

    def _filled(self, default: Any) -> Any:
        """Return a default with the options of its choices."""
        return self._table({}, type(default), default) if has_keys(type(default)) else default


def option_fields(cls: type) -> Fields:
    """Return the spec keys of a class with resolved types. Raises PluginError for a type that a spec cannot hold."""
    try:
        attrs.resolve_types(cls)
        fields = tuple(field for field in attrs.fields(cls) if field.init)
        if issubclass(cls, Choice):
            fields = tuple(field for field in fields if field.name not in ("kind", "options"))
        for field in fields:
            describe(field.type)
            if getattr(field.default, "takes_self", False):
                raise TypeError(f"the default of {field.name} depends on other keys")
    except (NameError, TypeError) as error:
        raise PluginError(f"the option class {cls.__module__}.{cls.__qualname__} cannot be used: {error}") from error
    return fields


def _default(field: attrs.Attribute[Any]) -> Any:
    default: Any = field.default
    return default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]


def _unknown(raw: Mapping[str, Any], known: Collection[str], reason: str = "unknown key") -> list[Mistake]:
    allowed = ", ".join(known) or "none"
    return [
        Mistake(f"{reason}; allowed: {allowed}{did_you_mean(str(key), known)}", (str(key),))
        for key in raw
        if key not in known
    ]


def _build(cls: type, values: Mapping[str, Any], mistakes: Collection[Mistake]) -> Any:
    if mistakes:
        raise Mistakes(mistakes)
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise Mistakes(_text(error)) from None
    except HycoError as error:
        raise Mistakes(
            Mistake(problem.message, tuple(problem.key.split(".")) if problem.key else ()) for problem in error.problems
        ) from None


def _text(error: Exception) -> str:
    # attrs' own validators append the attribute and the value to the message
    return str(error.args[0]) if error.args else type(error).__name__
