"""Comparisons of runs: a spec with its baselines at equal compute, or finished runs."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyco_engine.engine import Engine
from hyco_engine.errors import DataError, SpecError
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import Player, Tracker
from hyco_engine.runs.costs import read_costs
from hyco_engine.runs.metrics import read_summary
from hyco_engine.runs.reading import SPEC, RunFiles
from hyco_engine.runs.structure import check
from hyco_engine.spec.loading import LoadedSpec, dump_spec

NAMES: dict[Player, str] = {"physical": "physics-only", "synthetic": "surrogate-only"}


def compare_spec(
    spec: Path | str | Mapping[str, Any] | LoadedSpec,
    *,
    registry: Registry | None = None,
    callbacks: Sequence[Tracker] = (),
) -> dict[str, Any]:
    """Run a spec with both models, then each model alone on as many samples; return {"runs", "notes", "comparable"}.

    A sample, real or generated, counts once in every epoch. Equal counts mean equal numbers of steps with one batch
    size, or of evaluations of a full-batch optimizer, which may end earlier once it has converged.
    """
    engine = Engine(spec, registry=registry, callbacks=callbacks)
    if engine.spec.physical is None or engine.spec.synthetic is None:
        raise SpecError("the baselines of a spec are its two models alone, so it needs both [physical] and [synthetic]")
    result = engine.run()
    done = [(engine.spec.run.name, result)]
    notes: list[str] = []
    for player, name in NAMES.items():
        tables = tomllib.loads(dump_spec(engine.spec))
        if player == "synthetic" and tables["synthetic"]["kind"] == "corrected":
            notes.append("there is no surrogate-only run, since this surrogate contains the physics")
            continue
        if "samples" not in result.summary["trained"].get(player, {}):
            notes.append(f"there is no {name} run, since the {player} model has nothing to learn")
            continue
        alone = baseline(tables, player, result.summary)
        found = Engine(alone, registry=registry, callbacks=callbacks).run()
        done.append((name, found))
    return {"runs": [run_row(name, r.folder, r.summary) for name, r in done], "notes": notes, "comparable": True}


def baseline(tables: Mapping[str, Any], player: Player, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of a resolved spec in which `player` alone trains on as many samples as in `summary`'s run."""
    other: Player = "synthetic" if player == "physical" else "physical"
    alone = {name: dict(table) for name, table in tables.items() if name != other}
    run, data = alone["run"], alone["data"]
    run["name"] = f"{run['name']}-{NAMES[player]}"
    if other == "physical" and data["kind"] == "simulate" and "physics" not in data:
        # what makes the data stays
        physics = dict(tables["physical"])
        settings = physics.get("parameters", {})
        known = {name: setting for name, setting in settings.items() if not setting.get("learn", True)}
        data["physics"] = {**physics, "parameters": known}
    n_real = summary["balance"][0]["n_real"]
    cycles = max(run["cycles"], 1)
    epochs = math.ceil(summary["trained"][player]["samples"] / (n_real * cycles))
    training = {name: dict(table) for name, table in alone["training"].items()}
    training[player]["epochs_per_cycle"] = epochs
    return {**alone, "training": training}


def compare_runs(folders: Sequence[Path]) -> dict[str, Any]:
    """Compare finished runs in the form of `compare_spec`; `notes` name all differences beside the results.

    `comparable` is true if there are no such notes. Raise DataError for a run that is not finished.
    """
    rows, seen = [], []
    names = _names(folders)
    for name, folder in zip(names, folders, strict=True):
        summary = read_summary(folder)
        if summary.get("status") != "completed":
            raise DataError(
                f"the run {folder} is {summary.get('status')}, and only completed runs can be compared: resume it first"
            )
        rows.append(run_row(name, folder, summary))
        seen.append(_data_of(folder))
    notes = []
    for row, data in zip(rows[1:], seen[1:], strict=True):
        changed = sorted(key for key in {*data, *seen[0]} if data.get(key) != seen[0].get(key))
        if changed:
            notes.append(
                f"{row['name']} is not comparable to {rows[0]['name']}: their data differ ({', '.join(changed)})"
            )
        for player, counts in row["samples"].items():
            first = rows[0]["samples"].get(player)
            # more samples would not change a model that has converged
            fewer = row if first is None or counts < first else rows[0]
            if first is not None and abs(counts - first) > 0.02 * first and player not in fewer["converged"]:
                notes.append(
                    f"the {player} models of {row['name']} and {rows[0]['name']} are not comparable: they trained on "
                    f"{counts} and {first} samples"
                )
    return {"runs": rows, "notes": notes, "comparable": not notes}


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the folders' names, or their paths if two have the same name."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _data_of(folder: Path) -> dict[str, Any]:
    """Return the spec keys that determine the data, with their values."""
    files = RunFiles(folder)
    tables = files.toml(SPEC) or {}
    try:
        check(tables, {"run": {}, "data": {"physics": {}}, "physical": {}})
    except ValueError as error:
        raise files.damaged(SPEC, error) from error
    data, run = tables.get("data", {}), tables.get("run", {})
    found = {f"data.{key}": value for key, value in data.items() if key not in ("name", "physics")}
    found |= {f"run.{key}": run.get(key) for key in ("seed", "precision")}
    if data.get("kind") == "simulate":
        made = data.get("physics") or tables.get("physical", {})
        found["data.physics"] = {key: value for key, value in made.items() if key not in ("parameters", "compile")}
    return found


def run_row(name: str, folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a table of runs says of one: errors by model and split, parameters, samples and seconds."""
    errors = {
        f"{model} {split}": values.get("nrmse", values.get("loss"))
        for model, splits in (summary.get("metrics") or {}).items()
        for split, values in splits.items()
    }
    trained = {player: told for player, told in (summary.get("trained") or {}).items() if told.get("samples")}
    return {
        "name": name,
        "run": str(folder),
        "errors": errors,
        "parameters": {name: p.get("relative_error") for name, p in (summary.get("parameters") or {}).items()},
        "samples": {player: told["samples"] for player, told in trained.items()},
        "converged": [player for player, told in trained.items() if told.get("converged")],
        "seconds": (summary.get("timings") or {}).get("total_s"),
        "costs": read_costs(folder),
    }
