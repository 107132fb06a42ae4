"""The result of a comparison, in a sentence for each model and each parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hyco_engine.report.drawing import NAMES
from hyco_engine.report.numbers import is_number, percent, significant
from hyco_engine.report.side import Side

ALIKE = 1.02
"""Errors within this factor count as equal."""


def sentences(sides: Sequence[Side], split: str) -> list[str]:
    """Say which run's surrogate, physics and parameters are best, and by how much, where two runs or more have them."""
    told = []
    where = "validation" if split == "val" else split
    for player in ("synthetic", "physical"):
        errors = {side.name: side.errors(split)[player] for side in sides if player in side.errors(split)}
        diverged = [name for name, error in errors.items() if not is_number(error)]
        told += _ranked(
            f"The {NAMES[player]} has the smallest error on {where} data in", errors, lambda v: significant(v, 3)
        )
        told += [f"The {NAMES[player]} of {name} diverges." for name in diverged]
    names = list(dict.fromkeys(name for side in sides for name in side.parameters))
    for name in names:
        off = {
            side.name: side.parameters[name].get("relative_error")
            for side in sides
            if name in side.parameters and side.parameters[name].get("moved")
        }
        told += _ranked(f"{name} is closest to the truth in", off, lambda v: f"{percent(v)} off")
    told += [f"{side.name}: {text}" for side in sides for text in (side.run.costs or {}).get("sentences", ())]
    return told


def _ranked(beginning: str, found: Mapping[str, object], text: Callable[[float], str]) -> list[str]:
    values = sorted((value, name) for name, value in found.items() if is_number(value))
    if len(values) < 2:
        return []
    (best, first), (last, _) = values[0], values[-1]
    if last <= ALIKE * best:
        return [f"{beginning} {first}, but the runs hardly differ ({text(best)} to {text(last)})."]
    rest = [f"{text(value)} in {name}{_times(value, best)}" for value, name in values[1:4]]
    return [f"{beginning} {first}: {text(best)}, against {', '.join(rest)}{', ...' if len(values) > 4 else ''}."]


def _times(value: float, best: float) -> str:
    if best <= 0:
        return ""
    ratio = value / best
    return f" ({significant(ratio, 2)} times)" if ratio >= 2 else f" ({percent(ratio - 1)} more)"
