"""Overrides such as `--set a.b=0.2`: keys given outside the spec file, each as a line of TOML."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from hyco_engine.errors import Problem
from hyco_engine.spec.places import Key, key_text
from hyco_engine.spec.structuring import ChangedKind

Overrides = Sequence[str] | Mapping[str, Any]

# words for TOML values in other languages
_WORDS = {"True": "true", "False": "false", "yes": "true", "no": "false", "on": "true", "off": "false"}
_END = "end of the key"


@attrs.frozen
class Override:
    """One key and its value."""

    key: Key
    value: Any


def overrider(overrides: Overrides) -> Path:
    """Return the name that messages use in place of the file."""
    return Path("overrides" if isinstance(overrides, Mapping) else "--set")


def parse_overrides(overrides: Overrides) -> tuple[list[Override], list[Problem]]:
    """Read texts `key=value`, or a mapping of dotted keys to values; also return the problems."""
    found: list[Override] = []
    problems: list[Problem] = []
    texts = (overrides,) if isinstance(overrides, str) else overrides
    for text in texts:
        try:
            if isinstance(overrides, Mapping):
                found.append(Override(_parse_key(str(text)), overrides[text]))
            else:
                found.append(_parse_line(text))
        except ValueError as error:
            problems.append(
                Problem(message=str(error), file=overrider(overrides), key=str(text).partition("=")[0].strip())
            )
    return found, problems


def _parse_line(text: str) -> Override:
    # a quoted key may hold "=" itself
    heads = [text[: match.start()] for match in re.finditer("=", text)]
    if not heads:
        raise ValueError("has no value; write key=value")
    for head in heads:
        try:
            key = _parse_key(head)
        except ValueError:
            continue
        return Override(key, _parse_value(key, text[len(head) + 1 :].strip()))
    raise ValueError(f"{heads[0].strip()!r} is not a key; write a.b=value")


def _parse_key(text: str) -> Key:
    try:
        table: Any = tomllib.loads(f"{text.strip()} = '{_END}'")
    except (ValueError, RecursionError):
        table = None
    key = []
    while isinstance(table, dict) and len(table) == 1:
        name, table = next(iter(table.items()))
        key.append(name)
    if table != _END or "\n" in text:
        raise ValueError(f"{text!r} is not a key; write it like a.b")
    return tuple(key)


def _parse_value(key: Key, text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except RecursionError:
        raise ValueError("its value is nested too deeply") from None
    except ValueError:
        table = {}
    if table.keys() == {"value"}:
        return table["value"]
    if text in _WORDS:
        hint = f"did you mean {_WORDS[text]}?"
    elif text.lower() in ("none", "null", "nil", ""):
        hint = "TOML has no empty value: leave the key out"
    elif re.fullmatch(r"[^\"'\[\]{}\n]+", text):
        hint = f"quote strings: {key_text(key)}='\"{text}\"'"
    else:
        hint = "arrays are [1, 2], tables {a = 1}, strings '\"text\"'"
    raise ValueError(f"{text!r} is not a TOML value; {hint}")


def apply_overrides(
    data: Mapping[str, Any], overrides: Sequence[Override], place: Path
) -> tuple[dict[str, Any], list[Problem]]:
    """Return a copy of the tables with the overridden keys, and the problems; later overrides win."""
    merged = _copied(data)
    problems = []
    for override in overrides:
        table = merged
        for depth, name in enumerate(override.key[:-1], start=1):
            inner = table.setdefault(name, {})
            if not isinstance(inner, dict):
                message = f"{key_text(override.key[:depth])} is not a table, so it has no keys to set"
                problems.append(Problem(message=message, file=place, key=key_text(override.key)))
                break
            table = inner
        else:
            table[override.key[-1]] = _copied(override.value)
    for override in overrides:
        if override.key[-1] == "kind" and len(override.key) > 1:
            _mark_changed_kind(merged, data, override.key[:-1], overrides)
    return merged, problems


def _mark_changed_kind(
    merged: dict[str, Any], data: Mapping[str, Any], key: Key, overrides: Sequence[Override]
) -> None:
    """Turn the table at `key` into a ChangedKind, unless nothing of it is from the file."""
    old, outer = _at(data, key), _at(merged, key[:-1])
    whole = any(override.key == key[: len(override.key)] for override in overrides)
    if whole or not isinstance(old, Mapping) or not isinstance(outer, dict):
        return
    outer[key[-1]] = ChangedKind(
        outer[key[-1]],
        key=key_text(key),
        old_kind=old.get("kind"),
        also_set={override.key[len(key)] for override in overrides if override.key[: len(key)] == key},
    )


def _at(tables: Any, key: Key) -> Any:
    for name in key:
        tables = tables.get(name) if isinstance(tables, Mapping) else None
    return tables


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(entry) for key, entry in value.items()}
    return value
