"""What commands rely on in the JSON files of a run folder, which somebody else may have written.

A key may be missing or null, and there may be more keys; a value of another type is damage.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

Shape = Any
"""A type, a tuple of types, a table of shapes by key, or one of the classes below."""


@attrs.frozen
class Each:
    """A table, whose entries all have one shape."""

    entry: Shape


@attrs.frozen
class Rows:
    """A list, whose entries all have one shape."""

    entry: Shape


@attrs.frozen
class Either:
    """One shape for a table, and another one for everything else."""

    table: Shape
    other: Shape


NUMBER = (int, float)
LEVEL = Either({"mean": NUMBER, "min": NUMBER, "max": NUMBER, "file": str}, NUMBER)
MEASURED = {
    "nrmse": NUMBER,
    "vrmse": NUMBER,
    "loss": NUMBER,
    "nrmse_by_field": Each(NUMBER),
    "nrmse_by_step": Rows(NUMBER),
    "vrmse_by_step": Rows(NUMBER),
    "lead_steps": Rows(int),
    "correlation_time": int,
}
_PARTS = ("statistical", "misfit", "discretisation", "discretisation_shift", "start_noise", "total")
BUDGET = {
    **dict.fromkeys(_PARTS, NUMBER),
    **dict.fromkeys(("profile", "interval"), Rows(NUMBER)),
    **dict.fromkeys(("discretisation_reason", "profile_reason"), str),
    "correlation": {"with": str, "value": NUMBER},
    "trusted": bool,
    "verdict": str,
}
FIELD_TEST = {"ratio": NUMBER, "noise": NUMBER, "failed": Rows(str), "by_lead": Rows(NUMBER)}
SUMMARY_SHAPE = {
    "status": str,
    "error": str,
    "cycles": int,
    "data": {"dt": NUMBER},
    "noise": Each({"level": NUMBER, "relative": NUMBER}),
    "parameters": Each(
        {
            **dict.fromkeys(("initial", "final", "best", "last", "truth"), LEVEL),
            "relative_error": NUMBER,
            "standard_error": NUMBER,
            "unit": str,
            "moved": bool,
            "along": str,
            "times": Rows(NUMBER),
            "budget": BUDGET,
            "own": Rows({"budget": BUDGET}),
        }
    ),
    "physics_test": {
        "explained": bool,
        "verdict": str,
        "fields": Each(FIELD_TEST),
        "missing": Rows({"field": str, "term": str, "correlation": NUMBER, "coefficient": NUMBER}),
        "rate": Each((list, *NUMBER)),  # a number where there is no space
    },
    "metrics": Each(Each(MEASURED)),
    "chaos": dict.fromkeys(("lyapunov_exponent", "standard_error", "lyapunov_time"), NUMBER),
    "balance": Rows({"phase": str, "arm": str}),
    "cooperation": Rows({"direction": str, "e_pupil": NUMBER}),
    "arms": Each({"kept": str}),
    "trained": Each({"samples": int, "converged": bool}),
    "ensemble": {"members": int, "bands": {"level": NUMBER}, "coverage": {"share": NUMBER}},
    "cache": {"kind": str, "reason": str},
    "timings": {"total_s": NUMBER, "phases": Each(NUMBER)},
    "physics": {
        "compile": str,
        "reason": str,
        "equations": Rows({"unicode": str, "latex": str, "exact": Rows(str), "other": Rows(str)}),
        "statements": Rows(str),
        "steps": Each(NUMBER),
    },
    "identification": {"optimizer": str, "starts": {"minima": Rows({})}},
    "warnings": Rows(str),
    "versions": {},
}
ENVIRONMENT_SHAPE = {"device": {}, "threads": {}, "packages": {}, "plugins": Rows({})}
LINE_SHAPE = {"phase": str, "cycle": int, "arm": str, "nonfinite": Each(str)}
SCALAR = (str, bool, *NUMBER)


def check(value: Any, shape: Shape, place: str = "") -> None:
    """Raise ValueError, with the place and what must be there, for the first value that has another shape."""
    match shape:
        case Either():
            check(value, shape.table if isinstance(value, dict) else shape.other, place)
        case Each() | dict():
            if not isinstance(value, dict):
                raise ValueError(f"{place} must be a table, not {_shown(value)}")
            for key in value if isinstance(shape, Each) else shape.keys() & value.keys():
                inner = f"{place}.{key}" if place else key
                if isinstance(shape, Each):
                    check(value[key], shape.entry, inner)
                elif value[key] is not None:
                    check(value[key], shape[key], inner)
        case Rows():
            if not isinstance(value, list):
                raise ValueError(f"{place} must be a list, not {_shown(value)}")
            for row in value:
                check(row, shape.entry, f"an entry of {place}")
        case _:
            types = shape if isinstance(shape, tuple) else (shape,)
            if value is None or (isinstance(value, types) and (bool in types or not isinstance(value, bool))):
                return
            raise ValueError(f"{place} must be {_named(types)}, not {_shown(value)}")


_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list"}


def _named(types: Iterable[type]) -> str:
    words = [_WORDS[kind] for kind in types if kind is not int or float not in types]
    return " or ".join(words)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
