"""The resolved spec as TOML: every key is written, so that loading gives an equal spec."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import tomli_w

from hyco_engine.data.settings import BoundarySetting
from hyco_engine.errors import SpecError
from hyco_engine.settings import Choice, key_of
from hyco_engine.spec.choices import TrackerChoice
from hyco_engine.spec.classes import Spec
from hyco_engine.spec.places import key_text


def dump_spec(spec: Spec) -> str:
    """Return TOML text in the order of the classes; keys whose value is None are left out.

    Raises SpecError if the default of such a key is another value, because loading would then give that default.
    """
    return str(tomli_w.dumps(plain(spec)))


def plain(value: Any, path: tuple[str, ...] = ()) -> Any:
    """Convert a value into the types of TOML; `path` is its place, for messages."""
    if isinstance(value, BoundarySetting):
        return value.to_data()
    if attrs.has(type(value)):
        return _table(value, path)
    if isinstance(value, Mapping):
        tables = {name: plain(entry, (*path, name)) for name, entry in value.items()}
        for name, entry in value.items():
            if isinstance(entry, TrackerChoice):
                del tables[name]["kind"]
        return tables
    if isinstance(value, tuple):
        return [plain(entry, path) for entry in value]
    return _text(str(value), path) if isinstance(value, Path | str) else value


def _text(text: str, path: tuple[str, ...]) -> str:
    """Return the text. Raise SpecError if TOML cannot hold it, as the name of a file whose bytes are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = text.encode("utf-8", "backslashreplace").decode()
        raise SpecError(
            f"{shown} has bytes that are not UTF-8, which a spec cannot hold: rename the file or folder, or make a "
            f"link to it with another name (ln -s)",
            key=key_text(path),
        ) from None
    return text


def _table(value: Any, path: tuple[str, ...]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for field in attrs.fields(type(value)):
        entry = getattr(value, field.name)
        if isinstance(value, Choice) and field.name == "options":
            continue
        if entry is not None:
            table[key_of(field)] = plain(entry, (*path, key_of(field)))
        elif field.default is not None:
            raise SpecError(
                f"is none, which TOML cannot write, and without the key the default is {field.default!r}",
                key=key_text((*path, key_of(field))),
            )
    if isinstance(value, Choice) and value.options is not None:
        table |= _table(value.options, path)
    return table
