"""The parameters of new simulations: each simulation's own ones are identified, with all else as a run found it."""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from hyco_engine.assembly import Assembler
from hyco_engine.data.fields import StateLayout
from hyco_engine.data.statistics import Statistics
from hyco_engine.engine import Engine
from hyco_engine.errors import DataError
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import PhysicalModel, TrajectorySource
from hyco_engine.runs.loading import LoadedRun
from hyco_engine.spec.dumping import dump_spec


def identify(
    run_dir: Path | str,
    data: Path | str | None = None,
    *,
    frames: int | None = None,
    registry: Registry | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Identify, for each simulation in the file `data`, the parameters in which the simulations of a run differ.

    These are the parameters that the run took from its data (`from`) or found for each group (`scope`). All others keep
    the values that the run found. The file is read as `[data]` of the run's spec says; `overrides` change its keys,
    such as `data.variables.u = "velocity"`; noise and masks of the spec are left out. With `frames`, at least 2, only
    the first frames count. A window is as long as the run's, or as the shortest series, all of whose frames then train:
    what is found is few numbers, which no held-out frame has to choose.

    Returns `run`, `simulations`, `parameters` (for each name a list with `value`, `standard_error` and `interval` of
    each simulation) and `warnings`. Raises DataError where the run has no such parameter, or no physics.
    """
    registry = registry or Registry.installed()
    run = LoadedRun(run_dir, registry, overrides=overrides)
    model, weights = run.model_and_weights("physical", "final")
    physics = cast("PhysicalModel", model)
    own = (*physics.learnables.given, *physics.learnables.index)
    if not own:
        raise DataError(
            f"in the run {run_dir} all simulations share their parameters, so a new one has none of its own: "
            'give a parameter from = "..." or scope = "simulation" in [physical.parameters]'
        )
    with tempfile.TemporaryDirectory() as folder:
        table = tomllib.loads(dump_spec(run.spec))
        table["physical"]["parameters"] = _parameters(physics, weights.layout, weights.statistics, Path(folder))
        for name in own:
            table["physical"]["parameters"][name] |= _kept(run, name)
        _only_the_physics(table, Path(folder), data, frames)
        table["data"]["num_predict_steps"] = _steps(table, registry, run.spec.data.num_predict_steps)
        result = Engine(table, registry=registry).run(Path(folder) / "run")
    found = result.summary["parameters"]
    return {
        "run": str(run_dir),
        "simulations": result.summary["data"]["simulations"],
        "parameters": {
            name: [{key: each[key] for key in ("value", "standard_error", "interval")} for each in found[name]["own"]]
            for name in own
        },
        "warnings": result.summary["warnings"],
    }


def _parameters(
    physics: PhysicalModel, layout: StateLayout | None, statistics: Statistics | None, folder: Path
) -> dict[str, dict[str, Any]]:
    """Return settings of all parameters: those of each simulation are learned, all others keep their values."""
    assert layout is not None  # a physics steps fields
    assert statistics is not None
    table: dict[str, dict[str, Any]] = {}
    for name, value in physics.learnables.values().items():
        if name in physics.learnables.index:
            table[name] = {"scope": "simulation", "init": float(value.detach().mean())}
        else:
            table[name] = {"learn": False, **_start(name, value.detach(), folder)}
    for name, source in physics.learnables.given.items():
        channel = layout.channels(source).start
        if layout.field(source).sampling != "uniform":
            raise DataError(f"{name} is a field of the data in this run, and only numbers are identified")
        table[name] = {"scope": "simulation", "init": float(statistics.mean[channel])}
    return table


def _start(name: str, value: Tensor, folder: Path) -> dict[str, Any]:
    if value.ndim == 0:
        return {"init": float(value)}
    path = folder / f"{name}.npy"
    np.save(path, value.cpu().numpy(), allow_pickle=False)
    return {"init": {"file": str(path)}, "field": True}


def _kept(run: LoadedRun, name: str) -> dict[str, Any]:
    """Return the bounds and the transform that the run's spec sets for a parameter."""
    assert run.spec.physical is not None
    setting = run.spec.physical.parameters.get(name)
    kept: dict[str, Any] = {}
    if setting is not None and setting.bounds is not None:
        kept["bounds"] = list(setting.bounds)
    if setting is not None and setting.transform != "auto":
        kept["transform"] = setting.transform
    return kept


def _only_the_physics(table: dict[str, Any], folder: Path, data: Path | str | None, frames: int | None) -> None:
    """Change a spec so that the physics alone trains, once, on all of the new data, with settings that suit it."""
    for name in ("synthetic", "augmentation", "cache", "trackers"):
        table.pop(name, None)
    table["run"] |= {"name": "identify", "cycles": 1}
    table["paths"] |= {"runs": str(folder), "cache": str(folder / "cache")}
    table.setdefault("data", {})["split"] = {"by": "time"}
    table["data"].pop("scalars", None)
    table["data"].get("fields", {}).pop("scalars", None)
    if data is not None:
        table["data"]["path"] = str(Path(data).absolute())
        _as_observed(table["data"])
        table["data"].pop("table", None)  # it told of the simulations of the run
    if frames is not None:
        table["data"]["num_frames"] = frames
    training = table.get("training", {})
    training.pop("synthetic", None)
    for key in ("horizon", "stride", "initial_states", "epochs_per_cycle"):
        training.get("physical", {}).pop(key, None)


def _steps(table: dict[str, Any], registry: Registry, asked: int) -> int:
    """Return the steps of a window: those of the run, or as many as the shortest of the new series has."""
    engine = Engine({**table, "data": {**table["data"], "num_predict_steps": 1}}, registry=registry)
    source = cast("TrajectorySource", Assembler(engine.spec, engine.registry).source())
    data = engine.spec.data
    known = [count for index in range(source.num_simulations) if (count := source.frames(index)) is not None]
    steps = [-(-count // data.every) - 1 for count in known]
    return max(1, min([asked, *steps, *([] if data.num_frames is None else [data.num_frames - 1])]))


def _as_observed(data: dict[str, Any]) -> None:
    """Take what the engine adds to data and hides of it out of `[data]`; a mark of missing values stays."""
    observe = data.pop("observe", {})
    if (mark := (observe.get("mask") or {}).get("value")) is not None:
        data["observe"] = {"mask": {"value": mark}}
