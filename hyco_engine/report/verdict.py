"""The result of a run in a sentence or two, from its summary alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyco_engine.report.numbers import is_number, significant

SHOWN = {"physical": "the physics", "synthetic": "the surrogate"}
NOTHING = "“nothing changes”"
GOOD = 0.1
"""Share of persistence's error; a model that has learned the dynamics stays below it."""
FAR = 5.0
"""Number of standard errors between estimate and truth from which on noise does not explain the difference."""


def verdict(summary: Mapping[str, Any]) -> str:
    """Compare parameters with truth or start and models with persistence; begin with what is wrong."""
    parts = [_ending(summary), _parameters(summary.get("parameters") or {}), _models(summary.get("metrics") or {})]
    return " ".join(part for part in parts if part) or "This run trained and measured no model."


def tested_split(metrics: Mapping[str, Any]) -> str:
    """Return the split whose results are reported: test where it was measured, else val."""
    return "test" if any((found or {}).get("test") for found in metrics.values()) else "val"


def against_persistence(metrics: Mapping[str, Any], model: str, split: str) -> float | None:
    """Return a model's error over that of "nothing changes"; None where one of them is not known.

    The error is vrmse, which stays the same if a constant is added to a field, or nrmse where the truth has no spread.
    """
    found, floors = ((metrics.get(name) or {}).get(split) or {} for name in (model, "persistence"))
    measure = "vrmse" if is_number(floors.get("vrmse")) else "nrmse"
    error, floor = found.get(measure), floors.get(measure)
    return error / floor if is_number(error) and is_number(floor) and floor > 0 else None


def _ending(summary: Mapping[str, Any]) -> str:
    status = summary.get("status") or "unfinished"
    if status == "completed":
        return ""
    cycles = summary.get("cycles") or 0
    told = f"This run {'is' if status == 'unfinished' else 'was' if status == 'interrupted' else 'has'} {status}"
    whole = f"{cycles} whole {'cycle' if cycles == 1 else 'cycles'}"
    return f"{told} after {whole}; the results are those that it had reached by then."


def _parameters(parameters: Mapping[str, Mapping[str, Any]]) -> str:
    learned = {name: entry for name, entry in parameters.items() if entry.get("moved")}
    if parameters and not learned:
        return (
            f"{_listed(list(parameters))} did not move from {'its start' if len(parameters) == 1 else 'their starts'}."
        )
    known = {name: e["relative_error"] for name, e in learned.items() if is_number(e.get("relative_error"))}
    if known:
        worst = max(known, key=lambda name: known[name])
        off = f"{significant(100 * known[worst], 2)} %"
        if len(known) == 1:
            return f"{worst} was found to within {off} of its true value{_beyond(learned[worst])}."
        many = "Both" if len(known) == 2 else f"All {len(known)}"
        return f"{many} parameters were found to within {off} of their true values ({worst} is furthest off)."
    found = [f"{name} = {text}" for name, e in list(learned.items())[:3] if (text := found_text(e))]
    return f"Found: {', '.join(found)}{', ...' if len(learned) > 3 else ''}." if found else ""


def found_text(entry: Mapping[str, Any]) -> str:
    """Return text such as `0.0200 ± 0.0001 m^2/s`, or a field's range and mean; empty where it is not known."""
    value = entry.get("final")
    unit = entry.get("unit") or "1"
    suffix = "" if unit == "1" else f" {unit}"
    if isinstance(value, Mapping):
        low, mean, high = (significant(value.get(key), 4) for key in ("min", "mean", "max"))
        return f"a field, {low} to {high}, mean {mean}{suffix}"
    error = entry.get("standard_error")
    if not is_number(value):
        return ""
    return significant(value, 4) + (f" ± {significant(error, 2)}" if is_number(error) else "") + suffix


def _beyond(entry: Mapping[str, Any]) -> str:
    value, truth, error = (entry.get(key) for key in ("final", "truth", "standard_error"))
    if not (is_number(value) and is_number(truth) and is_number(error) and error > 0):
        return ""
    distance = abs(value - truth) / error
    if distance <= FAR:
        return ""
    return f", which is {significant(distance, 2)} standard errors: more than noise explains"


def _models(metrics: Mapping[str, Any]) -> str:
    split = tested_split(metrics)
    ratios = {
        model: against_persistence(metrics, model, split) for model in SHOWN if (metrics.get(model) or {}).get(split)
    }
    if not ratios:
        return ""
    good, poor, bad = [], [], []
    for model, ratio in ratios.items():
        if ratio is None and "nrmse" not in metrics[model][split]:
            continue
        if ratio is None:
            bad.append(f"{SHOWN[model]} diverges on {split} data")
        elif ratio >= 1:
            times = f"{significant(ratio, 2)} times as much as {NOTHING}"
            bad.append(f"{SHOWN[model]} has learned nothing of use: it errs {times} on {split} data")
        elif ratio > GOOD:
            share = f"{significant(100 * ratio, 2)} % of its error on {split} data"
            poor.append(f"{SHOWN[model]} does little better than {NOTHING}: {share}")
        else:
            good.append(f"{SHOWN[model]} errs {significant(1 / ratio, 2)} times less than {NOTHING}")
    if len(good) == 2:
        good[1] = good[1].removesuffix(f" than {NOTHING}")
    told = [f"on {split} data {', '.join(good)}"] if good else []
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in (*bad, *poor, *told))


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
