"""The layout of plans, metrics and summaries as lines of text."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyco_engine.report.numbers import seconds, size
from hyco_engine.report.verdict import budgets, total_error
from hyco_engine.runs.environment import plugin_files, plugin_options

PLAYERS = {"synthetic": "surrogate", "physical": "physics", "persistence": "persistence"}


def number(value: Any) -> str:
    """Write a number with four digits, and an unknown value as a dash."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out left-aligned columns, which have the same width in a terminal, a pipe or a file."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(*([""] * len(rows[0])), padding=(0, 2))
    for column in grid.columns:
        column.no_wrap = True
    for row in rows:
        grid.add_row(*map(Text, row))
    console = Console(file=io.StringIO(), width=1_000_000, color_system=None, force_jupyter=False)
    with console.capture() as shown:
        console.print(grid)
    return [line.rstrip() for line in shown.get().splitlines()]


# --- check --------------------------------------------------------------------------------------------------------


PLANNED = ("parts", "n_real", "n_generated", "data", "cache", "memory", "processes", "training", "phases", "notes")
"""What `check` prints in a way of its own."""


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """Return the lines that `check` prints."""
    sections: list[tuple[str, list[str]]] = []
    if parts := plan.get("parts"):
        rows = [(n, p.get("kind", "-"), f"{p.get('distribution')} {p.get('version')}") for n, p in parts.items()]
        sections.append(("parts", table(rows)))
    windows = f"{plan.get('n_real')} real windows, {plan.get('n_generated')} generated for each phase"
    data = plan.get("data")
    sections.append(("data", [windows, *_inline(data)] if isinstance(data, Mapping) else [windows]))
    if cache := plan.get("cache"):
        sections.append(("cache", [f"{cache['kind']} ({size(cache['estimated_bytes'] or 0)}): {cache['reason']}"]))
    if memory := plan.get("memory"):
        sections.append(("memory", [f"{size(memory['most_bytes'])} {memory['reason']}"]))
    if processes := plan.get("processes"):
        sections.append(("processes", [processes["reason"]]))
    if training := plan.get("training"):
        sections.append(("chosen", [f"{key} = {json.dumps(value)}" for key, value in training.items()]))
    if phases := plan.get("phases"):
        sections.append(("phases", _phase_lines(phases)))
    for key, value in plan.items():
        if key not in PLANNED:
            sections.append((key, _inline(value) if isinstance(value, Mapping) else [_short(value)]))
    if notes := plan.get("notes"):
        sections.append(("notes", [str(note) for note in notes]))
    return [line for title, lines in sections for line in _titled(title, lines)]


def _phase_lines(phases: Sequence[Any]) -> list[str]:
    """Return a line for each phase; cycles that do the same share their lines."""
    cycles: dict[Any, list[str]] = {}
    for phase in phases:
        if isinstance(phase, Mapping):
            rest = [f"{k} {_short(v)}" for k, v in phase.items() if k not in ("cycle", "phase") and v is not None]
            text = ", ".join([str(phase.get("phase", "")).replace("_", " "), *rest])
            cycles.setdefault(phase.get("cycle"), []).append(text)
        else:
            cycles.setdefault(None, []).append(str(phase))
    runs: list[tuple[list[Any], list[str]]] = []
    for cycle, lines in cycles.items():
        if runs and cycle is not None and runs[-1][1] == lines:
            runs[-1][0].append(cycle)
        else:
            runs.append(([cycle], lines))
    shown: list[str] = []
    for numbers, lines in runs:
        first, last = numbers[0], numbers[-1]
        head = "" if first is None else f"cycle {first + 1}" if first == last else f"cycles {first + 1} to {last + 1}"
        shown += [f"{head}: {line}" if head else line for line in lines[:1]]
        shown += [f"{' ' * len(head)}  {line}" if head else line for line in lines[1:]]
    return shown


def _inline(data: Mapping[str, Any]) -> list[str]:
    given = {key: value for key, value in data.items() if value not in ([], ())}
    plain = [f"{key} {_short(value)}" for key, value in given.items() if not isinstance(value, Mapping)]
    nested = [f"{key}: {', '.join(_inline(value))}" for key, value in data.items() if isinstance(value, Mapping)]
    return ([", ".join(plain)] if plain else []) + nested


def _short(value: Any) -> str:
    return ", ".join(map(_short, value)) if isinstance(value, list | tuple) else number(value)


def _titled(title: str, lines: Iterable[str]) -> list[str]:
    return [f"{title if i == 0 else '':<10}{line}" for i, line in enumerate(lines)]


# --- evaluate -----------------------------------------------------------------------------------------------------


def metrics_lines(metrics: Mapping[str, Any], split: str) -> list[str]:
    """Return a row for each model: nrmse, vrmse, nrmse of each field and of the last step; then all other metrics."""
    found = {name: m for name in PLAYERS if (m := _of_split(metrics, name, split))}
    if not found:
        return [f"there is nothing to measure in the {split} split"]
    rows = {name: _columns(m) for name, m in found.items()}
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    body = [[PLAYERS[name], *(number(row.get(column)) for column in columns)] for name, row in rows.items()]
    lines = table([["model", *columns], *body])
    details = [_detail_lines(found, field) for field in next(iter(found.values())).get("by_field") or ()]
    return lines + [line for part in details for line in ["", *part]]


def _detail_lines(found: Mapping[str, Mapping[str, Any]], field: str) -> list[str]:
    """Return all metrics of one field: each metric has a row, each model a column."""
    by_model = {name: m["by_field"][field] for name, m in found.items() if field in (m.get("by_field") or {})}
    names = next(iter(by_model.values()))
    rows = [[name, *(number(values.get(name)) for values in by_model.values())] for name in names]
    return table([[field, *(PLAYERS[model] for model in by_model)], *rows])


def _columns(metrics: Mapping[str, Any]) -> dict[str, Any]:
    scalars = {name: value for name, value in metrics.items() if not isinstance(value, Mapping | list)}
    if "nrmse" not in metrics:
        return scalars
    columns: dict[str, Any] = {name: scalars[name] for name in ("nrmse", "vrmse") if name in scalars}
    columns |= {f"nrmse {field}": value for field, value in (metrics.get("nrmse_by_field") or {}).items()}
    return columns | ({"nrmse last step": steps[-1]} if (steps := metrics.get("nrmse_by_step")) else {})


def _of_split(metrics: Mapping[str, Any], name: str, split: str) -> Mapping[str, Any]:
    found = (metrics.get(name) or {}).get(split)
    return found if isinstance(found, Mapping) else {}


# --- run ----------------------------------------------------------------------------------------------------------


def summary_lines(summary: Mapping[str, Any], folder: Path | None) -> list[str]:
    """Return lines with the verdict, the learned parameters, errors, time, results, and next steps."""
    learned = [parameter_text(name, p) for name, p in (summary.get("parameters") or {}).items()]
    values = "; ".join(learned[:4]) + ("; ..." if len(learned) > 4 else "") or "the surrogate; no physics"
    lines = [
        *((("verdict" if k == 0 else ""), sentence) for k, sentence in enumerate(summary.get("verdict") or ())),
        ("learned", values + (f"; {_of_errors(summary)}" if "±" in values else "")),
        ("errors", _error_text(summary.get("metrics") or {})),
        ("time", _time_text(summary)),
    ]
    if folder is not None:
        report = folder / "report.html"
        figures = sorted(f"figures/{path.name}" for path in folder.glob("figures/*.png"))
        lines.append(("results", str(report) if report.is_file() else ", ".join([str(folder), *figures[:3]])))
        lines.append(("next", _next_text(summary, folder)))
    return [f"{title:<10}{text}" for title, text in lines]


def _of_errors(summary: Mapping[str, Any]) -> str:
    """Say what ± stands for."""
    known = budgets(summary.get("parameters") or {})
    whole = [budget for budget in known.values() if budget.get("total") is not None]
    if not whole:
        return "± is statistical only"
    grid = all(budget.get("discretisation") is not None for budget in whole)
    return "± is one standard error" + (", with the discretisation error" if grid else "")


def parameter_text(name: str, parameter: Mapping[str, Any]) -> str:
    """Describe a parameter, as in `nu 0.05 -> 0.0101 ± 0.0002 (truth 0.01, 1.2 % off)`."""
    unit = parameter.get("unit") or "1"
    text = f"{name} {_value(parameter.get('initial'))} -> {_value(parameter.get('final'))}"
    if (error := total_error(parameter)) is not None:
        text += f" ± {error:.2g}"
    text += "" if unit == "1" else f" {unit}"
    if parameter.get("truth") is None:
        return text
    error = parameter.get("relative_error")
    off = "" if error is None else f", {100 * error:.2g} % off"
    return f"{text} (truth {_value(parameter['truth'])}{off})"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"mean {number(value.get('mean'))} [{number(value.get('min'))}, {number(value.get('max'))}]"
    return number(value)


def _error_text(metrics: Mapping[str, Any]) -> str:
    split = "test" if any(_of_split(metrics, name, "test") for name in PLAYERS) else "val"
    found = {name: m for name in PLAYERS if (m := _of_split(metrics, name, split))}
    if not found:
        return "not measured: no validation data"
    measure = "nrmse" if any("nrmse" in m for m in found.values()) else "loss"
    return f"{split} {measure}: " + ", ".join(f"{PLAYERS[name]} {number(m.get(measure))}" for name, m in found.items())


def _time_text(summary: Mapping[str, Any]) -> str:
    timings = summary.get("timings") or {}
    phases = sorted((timings.get("phases") or {}).items(), key=lambda item: -(item[1] or 0))
    longest = ", ".join(f"{name.replace('_', ' ')} {seconds(s)}" for name, s in phases[:3] if s)
    memory = f"; at most {size(summary['peak_rss_bytes'])} of memory" if summary.get("peak_rss_bytes") else ""
    return f"{seconds(timings.get('total_s') or 0.0)}{f' ({longest})' if longest else ''}{memory}"


def _next_text(summary: Mapping[str, Any], folder: Path) -> str:
    models = summary.get("metrics") or {}
    split = "test" if any(_of_split(models, name, "test") for name in PLAYERS) else "val"
    steps = ["open that page in a browser"] if (folder / "report.html").is_file() else []
    plugins = plugin_options(plugin_files(folder))
    steps.append(f"hyco-engine evaluate {folder} --split {split}{plugins}")
    form = "--out surrogate.pt2" if "synthetic" in models else "--out parameters.toml"
    return ", or ".join([*steps, f"hyco-engine export {folder} {form}{plugins}"])
