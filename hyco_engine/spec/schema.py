"""The JSON schema (draft 2020-12) of the specs that the installed plugins allow, for editors and generators."""

from __future__ import annotations

import math
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import attrs

from hyco_engine.data.settings import BoundarySetting
from hyco_engine.errors import PluginError
from hyco_engine.settings import Choice, key_of
from hyco_engine.spec.choices import TrackerChoice
from hyco_engine.spec.classes import Spec
from hyco_engine.spec.dumping import plain
from hyco_engine.spec.structuring import Fields, Kinds, option_fields
from hyco_engine.spec.values import has_keys, is_mapping, members

Schema = dict[str, Any]

_SCALARS: Mapping[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string"}
_KEYWORDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def json_schema(registry: Kinds) -> Schema:
    """Return the schema, with one definition per class of keys. Kinds whose options cannot be used are left out."""
    walk = _Walk(registry)
    root = walk.table(Spec)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hyco-engine spec",
        **root,
        "$defs": dict(sorted(walk.definitions.items())),
    }


class _Walk:
    def __init__(self, registry: Kinds) -> None:
        self.definitions: dict[str, Schema] = {}
        self._names: dict[type, str] = {}
        self._registry = registry

    def table(self, cls: type) -> Schema:
        fields = option_fields(cls)
        return _object(_summary(cls), self._properties(fields), _required(fields))

    def _choice(self, cls: type[Choice]) -> Schema:
        variants = []
        for kind, summary, fields in self._kinds(cls):
            properties = {"kind": {"const": kind}, **self._properties(fields)}
            named = [] if kind == cls.default_kind else ["kind"]
            variants.append(_object(summary, properties, [*named, *_required(fields)]))
        return {"description": _summary(cls), "anyOf": variants}

    def _trackers(self) -> Schema:
        kinds = {
            kind: _object(summary, self._properties(fields), _required(fields))
            for kind, summary, fields in self._kinds(TrackerChoice)
        }
        return _object(_summary(TrackerChoice), kinds, [])

    def _kinds(self, cls: type[Choice]) -> Iterable[tuple[str, str, Fields]]:
        """Yield (kind, summary, the keys besides kind)."""
        core = option_fields(cls)
        if cls.core_kind is not None:
            yield cls.core_kind, "chosen by the engine", core
        for kind in self._registry.kinds(cls.hook, cls.role):
            try:
                record = self._registry.get(cls.hook, kind, cls.role)
                yield kind, record.summary, (*core, *option_fields(record.options))
            except PluginError:
                continue

    def _properties(self, fields: Fields) -> Schema:
        return {key_of(field): self._property(field) for field in fields}

    def _property(self, field: attrs.Attribute[Any]) -> Schema:
        unit = field.metadata.get("unit")
        limits = {_KEYWORDS[name]: bound for name, bound in field.metadata.get("bounds", {}).items()}
        schema = {
            "description": field.metadata.get("help", "") + (f" [{unit}]" if unit else ""),
            **self._type(field.type, limits),
        }
        default: Any = field.default
        if isinstance(default, bool | int | str | tuple | Path) or (
            isinstance(default, float) and math.isfinite(default)
        ):
            schema["default"] = plain(default)
        return schema

    def _type(self, tp: Any, limits: Schema) -> Schema:
        if tp in _SCALARS:
            return {"type": _SCALARS[tp], **(limits if tp in (int, float) else {})}
        if tp is BoundarySetting:
            return {"type": ["string", "number", "array", "object"]}
        if has_keys(tp):
            return self._reference(tp)
        if tp == Mapping[str, TrackerChoice]:
            return self._trackers()
        if is_mapping(tp):
            return {"type": "object", "additionalProperties": self._type(get_args(tp)[1], limits)}
        if get_origin(tp) is Literal:
            return {"enum": list(get_args(tp))}
        if get_origin(tp) is tuple:
            entries = get_args(tp)
            if entries[1:] == (...,):
                return {"type": "array", "items": self._type(entries[0], limits)}
            prefix = [self._type(entry, limits) for entry in entries]
            return {"type": "array", "prefixItems": prefix, "items": False, "minItems": len(prefix)}
        # TOML has no null: None means that the key is left out
        alternatives = [self._type(member, limits) for member in members(tp) if member is not types.NoneType]
        return alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}

    def _reference(self, cls: type) -> Schema:
        if cls not in self._names:
            taken = cls.__qualname__ in self._names.values()
            name = f"{cls.__module__}.{cls.__qualname__}" if taken else cls.__qualname__
            self._names[cls] = name
            self.definitions[name] = self._choice(cls) if issubclass(cls, Choice) else self.table(cls)
        return {"$ref": f"#/$defs/{self._names[cls]}"}


def _object(description: str, properties: Schema, required: list[str]) -> Schema:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _required(fields: Fields) -> list[str]:
    return [key_of(field) for field in fields if field.default is attrs.NOTHING]


def _summary(cls: type) -> str:
    return (cls.__doc__ or "").partition("\n")[0]
