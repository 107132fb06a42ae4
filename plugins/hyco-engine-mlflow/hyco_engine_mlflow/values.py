"""Conversion to what MLflow accepts: flat names with few characters, texts of limited length."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST = 500
"""Number of characters of a parameter or tag that every server accepts."""

_STRANGE = re.compile(r"[^\w\-. :/]")


def name(text: str) -> str:
    """Return a name with "_" in place of the characters that MLflow does not allow."""
    return _STRANGE.sub("_", text)


def settings(spec: str) -> dict[str, str]:
    """Return settings such as `{"training.synthetic.lr": "0.001"}` of a spec, without those of the trackers."""
    tables = {key: value for key, value in tomllib.loads(spec).items() if key != "trackers"}
    return {name(key): str(value)[:LONGEST] for key, value in _flat(tables)}


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def final_values(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return finite results such as `{"final/param/nu": 0.02, "final/test/physical/nrmse": 0.1}`."""
    found: dict[str, Any] = {}
    for parameter, entry in (summary.get("parameters") or {}).items():
        found |= {f"param/{parameter}": entry.get("final")}
        found |= {f"param/{parameter}/relative_error": entry.get("relative_error")}
    for model, splits in (summary.get("metrics") or {}).items():
        for split, values in splits.items():
            found |= {f"{split}/{model}/{metric}": value for metric, value in values.items()}
    numbers = {n: v for n, v in found.items() if isinstance(v, int | float) and math.isfinite(v)}
    return {name(f"final/{n}"): float(v) for n, v in numbers.items()}
