"""Values that the engine chose for keys that the spec leaves to it, such as `horizon = "auto"`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import attrs

T = TypeVar("T")


def replaced(table: T, chosen: Mapping[str, Any]) -> T:
    """Return a spec, or one of its tables, with the value of each key in `chosen`, such as "training.physical.lr"."""
    for key, value in chosen.items():
        if not hasattr(table, key.partition(".")[0]):
            # an option of the kind that the table names
            key = f"options.{key}"
        name, _, rest = key.partition(".")
        new = replaced(getattr(table, name), {rest: value}) if rest else value
        table = attrs.evolve(table, **{name: new})  # type: ignore[misc]
    return table
