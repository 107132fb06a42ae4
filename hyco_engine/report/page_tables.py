"""The tables of a report as text: parameters, errors, balance, cooperation, cache, phases, environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyco_engine.equations.writing import steps_text
from hyco_engine.report.numbers import is_number, percent, seconds, significant, size
from hyco_engine.report.verdict import against_persistence, budgets, tested_split, total_error

MODELS = {"physical": "physics", "synthetic": "surrogate", "persistence": "nothing changes"}
_ROWS_OF_BALANCE = 200


def parameter_rows(parameters: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return one row a parameter, `name`, `unit`, `start`, `found`, `truth`, `off`; an unknown value is empty."""
    rows = []
    for name, entry in parameters.items():
        error, off = total_error(entry), entry.get("relative_error")
        found = _level(entry.get("final")) + (f" ± {significant(error, 2)}" if is_number(error) else "")
        unit = entry.get("unit") or "1"
        rows.append(
            {
                "name": name,
                "unit": "" if unit == "1" else unit,
                "start": _level(entry.get("initial")),
                "found": found if entry.get("moved", True) else f"{found}, not learned",
                "truth": _level(entry["truth"]) if entry.get("truth") is not None else "",
                "off": percent(off) if is_number(off) else "",
            }
        )
    return rows


def error_table(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the errors of the models by split and those of persistence; None where nothing was measured."""
    splits = [split for split in ("val", "test") if any((m or {}).get(split) for m in metrics.values())]
    if not splits:
        return None
    split = tested_split(metrics)
    rollouts = any("nrmse" in _of(m, split) for m in metrics.values())
    measure = "nrmse" if rollouts else "loss"
    by_field = list(dict.fromkeys(f for m in metrics.values() for f in (_of(m, split).get("nrmse_by_field") or {})))
    rows, columns = [], []
    for key, name in MODELS.items():
        found = metrics.get(key)
        if not found:
            continue
        cells = {f"{split} {measure}": _metric(_of(found, split), measure)}
        if rollouts:
            ratio = against_persistence(metrics, key, split)
            cells["vs “nothing changes”"] = "" if key == "persistence" else _times_better(ratio)
            if len(by_field) > 1:
                errors = _of(found, split).get("nrmse_by_field") or {}
                cells |= {f"{field} alone": _metric(errors, field) for field in by_field}
        cells |= {
            f"{other} {measure}": _metric(_of(found, other), measure) for other in reversed(splits) if other != split
        }
        if rollouts:
            cells[f"{split} vrmse"] = _metric(_of(found, split), "vrmse")
        rows.append({"key": key, "name": name, "cells": list(cells.values())})
        columns = list(cells)
    note = (
        "nrmse: root mean square error of whole rollouts over the root mean square of the truth; 0 is perfect. A "
        "prediction that is the mean field everywhere has a vrmse of 1."
        if rollouts
        else "The sum over loss terms, in units of their scales."
    )
    return {"caption": "Errors on held-out real data", "columns": columns, "rows": rows, "note": note}


def detail_tables(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tables that the run has: balance of real and generated samples, cache, cooperation, minima found."""
    tables: list[dict[str, Any]] = [
        *_equations_table(summary.get("physics") or {}),
        *_budget_table(summary.get("parameters") or {}),
    ]
    balance = summary.get("balance") or []
    if balance:
        note = "Ratio: generated samples times their weight, over real ones."
        if cache := summary.get("cache"):
            used = f", {size(cache['peak_bytes'])} at most" if is_number(cache.get("peak_bytes")) else ""
            note += f" Generated samples were held by the cache “{cache.get('kind')}”{used}: {cache.get('reason')}."
        columns = ["cycle", "phase", "real", "generated", "weight", "ratio", "meant", "ok"]
        rows = [
            [
                _count(entry.get("cycle"), 1),
                " ".join([_phase(entry.get("phase")), *([str(entry["arm"])] if entry.get("arm") else [])]),
                _count(entry.get("n_real")),
                _count(entry.get("n_generated")),
                _number(entry.get("weight")),
                _number(entry.get("actual_ratio")),
                _number(entry.get("expected_ratio")),
                "yes" if entry.get("ok") else "no",
            ]
            for entry in balance[:_ROWS_OF_BALANCE]
        ]
        tables.append({"title": "Balance and cache", "note": note, "columns": columns, "rows": rows})
    for name, entry in (summary.get("parameters") or {}).items():
        if own := entry.get("own"):
            tables.append({"title": f"{name} of each {entry.get('by')}", "note": "", **_table_of(own)})
    if cooperation := summary.get("cooperation"):
        tables.append({"title": "Cooperation", "note": "", **_table_of(cooperation)})
    identification = summary.get("identification") or {}
    starts = identification.get("starts")
    if starts and isinstance(starts, Mapping) and isinstance(minima := starts.get("minima"), list) and minima:
        tables.append({"title": "Minima found from several starts", "note": "", **_table_of(minima)})
    return tables


def _equations_table(physics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the table of the equations of the physics, where they are known."""
    equations, steps = physics.get("equations") or [], physics.get("steps") or {}
    if not equations:
        return []
    rows = [
        [
            str(one.get("unicode")),
            ", ".join(one.get("exact") or ()) or "–",
            ", ".join(one.get("other") or ()) or "–",
            str(one.get("latex")),
        ]
        for one in equations[:_ROWS_OF_BALANCE]
    ]
    told = [*(physics.get("statements") or ()), *([steps_text(steps)] if steps else [])]
    note = " ".join(f"{text[:1].upper()}{text[1:]}." for text in told)
    return [
        {
            "title": "Equations",
            "note": note,
            "columns": ["equation", "exact in time", "other terms", "LaTeX"],
            "rows": rows,
        }
    ]


def _budget_table(parameters: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the table of the error budgets; none where no parameter has one."""
    rows, reasons = [], []
    for name, budget in list(budgets(parameters).items())[:_ROWS_OF_BALANCE]:
        partner, interval = budget.get("correlation") or {}, budget.get("interval") or (None, None)
        rows.append(
            [
                name,
                _number(budget.get("statistical")),
                _number(budget.get("misfit")),
                _number(budget.get("discretisation")),
                _number(budget.get("total")),
                f"{_number(interval[0])} to {_number(interval[1])}",
                f"{significant(partner['value'], 2)} with {partner['with']}" if partner else "–",
                str(budget.get("verdict")),
            ]
        )
        reasons.append(budget.get("discretisation_reason"))
    if not rows:
        return []
    note = (
        "Statistical: the standard error from noise. Misfit: the standard error if windows err independently, whatever "
        "the noise is. Grid: how far the value is from that of a finer grid and shorter internal steps, at most. The "
        "interval holds the true value in 95 % of cases: it lies where a finer grid would put the value, if the data "
        "tell that they come from a finer one."
    )
    if told := list(dict.fromkeys(str(reason) for reason in reasons if reason)):
        note += f" Without the error of the grid: {'; '.join(told)}."
    columns = ["parameter", "statistical", "misfit", "grid", "total", "interval", "correlation", "verdict"]
    return [{"title": "Error budget", "note": note, "columns": columns, "rows": rows}]


def physics_test_text(test: Mapping[str, Any]) -> str:
    """Say what the test of the physics found."""
    parts = []
    for name, own in (test.get("fields") or {}).items():
        of = "noise" if own.get("noise") is not None else "expected error"
        failed = ", ".join(own.get("failed") or ()) or "nothing"
        parts.append(f"{name}: residuals of {significant(own.get('ratio'), 2)} times the {of}, and {failed} fails")
    told = "The physics explains the data." if test.get("explained") else f"Wrong: {test.get('verdict')}."
    lacks = [
        f"{entry.get('term')} in {entry.get('field')} (correlation {significant(entry.get('correlation'), 2)}, "
        f"coefficient {significant(entry.get('coefficient'), 2)})"
        for entry in test.get("missing") or ()
    ]
    text = f"{told} {'; '.join(parts)}."
    return text + (f" What is missing resembles {', '.join(lacks)}." if lacks else "")


def phase_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the time by phase, longest first: `name`, `time`, `percent`, `width`."""
    timings = summary.get("timings") or {}
    phases = {k: v for k, v in (timings.get("phases") or {}).items() if is_number(v) and v > 0}
    total = max(float(timings.get("total_s") or 0.0), sum(phases.values()), 1e-9)
    rest = total - sum(phases.values())
    found = sorted(phases.items(), key=lambda item: -item[1]) + ([("the rest", rest)] if rest > 0 else [])
    return [
        {
            "name": _phase(name),
            "time": seconds(value),
            "percent": f"{100 * value / total:.0f} %",
            "width": f"{100 * value / total:.1f}",
        }
        for name, value in (found if phases else [])
    ]


def time_text(summary: Mapping[str, Any]) -> str:
    """Describe the run's time and memory, and how the physics' step ran."""
    parts = []
    if is_number(total := (summary.get("timings") or {}).get("total_s")):
        parts.append(f"The run took {seconds(total)}")
    if is_number(peak := summary.get("peak_rss_bytes")):
        parts.append(f"used at most {size(peak)} of memory")
    text = " and ".join(parts) + "." if parts else ""
    physics = summary.get("physics") or {}
    if physics.get("compile"):
        text += f" The physics' step ran as “{physics['compile']}”: {physics.get('reason')}."
    if optimizer := (summary.get("identification") or {}).get("optimizer"):
        text += f" Parameters were found by {optimizer}."
    return text.strip()


def environment_rows(environment: Mapping[str, Any], summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return versions, device, threads and seed."""
    rows = [] if summary.get("seed") is None else [("seed", str(summary["seed"]))]
    for group in ("device", "threads", "python", "platform", "torch"):
        content = environment.get(group)
        if isinstance(content, Mapping):
            rows.append((group, ", ".join(f"{k} {v}" for k, v in content.items() if v not in (None, ""))))
    packages = environment.get("packages") or summary.get("versions") or {}
    rows.append(("packages", ", ".join(f"{name} {version}" for name, version in packages.items())))
    plugins = environment.get("plugins") or []
    others = [
        f"{p.get('distribution')} {p.get('version')} ({p.get('name')})" for p in plugins if isinstance(p, Mapping)
    ]
    rows.append(("plugins", ", ".join(others)))
    return [(name, text) for name, text in rows if text]


def _table_of(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    columns = list(dict.fromkeys(key for entry in entries for key in entry))
    rows = [[_cell(column, entry.get(column)) for column in columns] for entry in entries[:_ROWS_OF_BALANCE]]
    return {"columns": [column.replace("_", " ") for column in columns], "rows": rows}


def _cell(column: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column == "cycle":
        return _count(value, 1)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell('', inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_cell("", inner) for inner in value)
    return value if isinstance(value, str) else _number(value)


def _of(found: Mapping[str, Any] | None, split: str) -> Mapping[str, Any]:
    return (found or {}).get(split) or {}


def _metric(values: Mapping[str, Any], measure: str) -> str:
    return "diverged" if measure in values and values[measure] is None else _number(values.get(measure))


def _times_better(ratio: float | None) -> str:
    if ratio is None:
        return "–"
    return f"{significant(1 / ratio, 3)} × smaller" if ratio < 1 else f"{significant(ratio, 3)} × larger"


def _level(value: Any) -> str:
    if isinstance(value, Mapping):
        low, mean, high = (significant(value.get(key), 4) for key in ("min", "mean", "max"))
        return f"{mean} (mean of {low} to {high})"
    return significant(value, 4)


def _number(value: Any) -> str:
    return significant(value, 4)


def _count(value: Any, offset: int = 0) -> str:
    return f"{value + offset}" if isinstance(value, int) else "–"


def _phase(name: Any) -> str:
    return str(name).replace("_", " ").replace("synthetic", "surrogate").replace("physical", "physics")
