"""Do the total intervals of parameters cover the truth, and does a run say so where they cannot be trusted?

    python tests/benchmarks/coverage.py [--json] [--only CASE,CASE] [--draws 20] [--keep FILE]

Each case draws data sets of a known truth, each with its own start states and noise, runs the engine on them, and
counts in how many draws the 95 % total interval of each parameter has the truth in it (`covered`), in how many the run
says that it does not trust the interval (`flagged`), and in how many one of both is so (`honest`). `width_ratio` is the
median of the interval's width over that of the Cramer-Rao bound for these data, noise and unknown start states; it is
null where noise is not all that is wrong. `budget_over_identification` is the time of the error budget over that of the
identification. With --json the last line is one JSON object. With --keep each draw is written to a file as soon as it
is done, one JSON object a line; what the file has already is not done again, so that 20 draws can go on from 3.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.engine import Engine
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import BuildContext, PhysicalModel
from hyco_engine.physics.initial import noise_field
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.rollout import rollout

FINER = 9
"""Cells of the reference in place of one, where the data come from a finer grid: their centres coincide."""


@attrs.frozen(kw_only=True)
class Case:
    """A physics, the truth of its parameters, and what the data are."""

    kind: str = "burgers"
    rates: str | None = None
    """The equation of the truth, if it is another one than that of the physics."""
    truth: Mapping[str, float] = {"nu": 0.02}
    known: Mapping[str, float] = {}
    """Values of the parameters of the truth that the physics lacks."""
    start: Mapping[str, Any] = {"nu": {"init": 0.05, "bounds": [1e-4, 1.0]}}
    cells: int = 24
    finer: int = 1
    dt: float = 0.02
    frames: int = 9
    simulations: int = 5
    boundary: Any = "periodic"
    scale: float = 0.2
    """The length over which start states vary."""
    noise: float = 0.0
    correlated: int = 0
    """Cells and frames over which the noise is averaged."""
    spec: Mapping[str, Any] = {}
    bound: bool = False
    """Whether the Cramer-Rao bound holds: white noise on a right physics."""


WIDE = {"nu": {"init": 0.1, "bounds": [1e-4, 1.0]}}
SMOOTH: dict[str, Any] = {"truth": {"nu": 0.05}, "start": WIDE, "finer": FINER, "cells": 16, "scale": 0.5, "frames": 7}
"""A physics that 16 cells resolve."""
LINEAR: dict[str, Any] = {
    "kind": "heat",
    "truth": {"kappa": 0.02},
    "start": {"kappa": {"init": 0.05, "bounds": [1e-4, 1.0]}},
    "finer": FINER,
    "cells": 16,
    "dt": 0.05,
    "scale": 0.5,
    "bound": True,
}
"""Heat, of which hardly any error is one of the grid."""
CASES = {
    "clean": Case(),
    "noise-1": Case(**LINEAR, noise=0.01),
    "noise-5": Case(**LINEAR, noise=0.05),
    "noise-20": Case(**LINEAR, noise=0.2),
    "noise-grid": Case(**SMOOTH, noise=0.05, bound=True),
    "shock": Case(truth={"nu": 0.003}, finer=FINER, frames=31, cells=48, scale=0.3, simulations=3),
    "shock-noise": Case(truth={"nu": 0.003}, finer=FINER, frames=31, cells=48, scale=0.3, simulations=3, noise=0.02),
    "coarse": Case(finer=FINER, cells=16),
    "coarse-noise": Case(finer=FINER, cells=16, noise=0.02),
    "walls": Case(finer=FINER, cells=24, boundary=0.0),
    "drag": Case(rates="nu*dx(u, 2) - u*dx(u) - drag*u", known={"drag": 0.5}),
    "drag-noise": Case(rates="nu*dx(u, 2) - u*dx(u) - drag*u", known={"drag": 1.0}, noise=0.05),
    "force": Case(rates="nu*dx(u, 2) - u*dx(u) + force*sin(4*pi*x)", known={"force": 1.0}),
    "force-noise": Case(rates="nu*dx(u, 2) - u*dx(u) + force*sin(4*pi*x)", known={"force": 2.0}, noise=0.05),
    "correlated-noise": Case(**SMOOTH, noise=0.05, correlated=3),
    "two": Case(
        truth={"nu": 0.05, "advection": 1.0},
        start={**WIDE, "advection": {"init": 0.7, "learn": True}},
        cells=16,
        scale=0.5,
        frames=7,
        finer=FINER,
        noise=0.05,
        bound=True,
    ),
    "bound": Case(start={"nu": {"init": 0.01, "bounds": [1e-4, 0.015]}}, noise=0.05),
    "weak": Case(truth={"nu": 0.002}, start={"nu": {"init": 0.01, "bounds": [0.0, 1.0]}}, noise=0.1, frames=5),
    "observed": Case(**SMOOTH, noise=0.05, spec={"training": {"physical": {"initial_states": "observed"}}}),
}


def grid_of(case: Case, finer: int) -> Grid:
    more = 0 if case.boundary == "periodic" else (finer - 1) // 2
    dx = 1.0 / case.cells / finer
    # a constant value lies at the centre of the cell beyond the boundary, on every grid
    return Grid(axes=("x",), resolution=(finer * case.cells + 2 * more,), lower=(-more * dx,), upper=(1.0 + more * dx,))


def model_of(case: Case, finer: int, registry: Registry) -> PhysicalModel:
    """Return the physics of the truth on a grid that is so many times as fine."""
    field = FieldInfo(name="u", boundary=Boundary.parse(case.boundary, ("x",)))
    layout = StateLayout(grid=grid_of(case, finer), dynamic=(field,))
    kind = case.kind if case.rates is None else "equation"
    record = registry.get("hyco_models", kind)
    settings = {name: ParameterSetting(init=value, learn=True) for name, value in {**case.truth, **case.known}.items()}
    context = BuildContext(
        seed=0, registry=registry, layout=layout, dt=case.dt, dtype=torch.float64, parameters=settings
    )
    options = record.options(rates={"u": case.rates}) if case.rates else record.options()
    model = registry.build("hyco_models", kind, options, context)
    assert isinstance(model, PhysicalModel)
    return model


def data_of(case: Case, model: PhysicalModel, seed: int) -> tuple[Tensor, Tensor, float]:
    """Return (data, data without noise) `[s, t, x]` on the grid of the physics, and the noise's standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    layout = model.layout
    states = noise_field(
        layout.dynamic[0], layout.grid, layout.spatial, case.simulations + 1, generator, scale=case.scale, amplitude=1.0
    ).double()
    with torch.no_grad():
        path = torch.cat([states[:, None], rollout(model, states, case.frames - 1)], dim=1)[:, :, 0]
    more = (layout.grid.resolution[0] - case.finer * case.cells) // 2
    clean = path[..., more + (case.finer - 1) // 2 :: case.finer][..., : case.cells]
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    if case.correlated:
        width = case.correlated
        for axis in (1, 2):
            noise = sum((noise.roll(k, axis) for k in range(width)), torch.zeros_like(noise)) / math.sqrt(width)
    size = case.noise * float(clean.std())
    return clean + size * noise, clean, size


def spec_of(case: Case, path: Path) -> dict[str, Any]:
    grid = grid_of(case, 1)
    spec: dict[str, Any] = {
        "run": {"name": "coverage", "cycles": 1, "precision": "float64"},
        "paths": {"cache": str(path.parent / "cache"), "runs": str(path.parent / "runs")},
        "data": {
            "kind": "arrays",
            "path": str(path),
            "axes": "stx",
            "dt": case.dt,
            "bounds": {"x": [grid.lower[0], grid.upper[0]]},
            "boundary": case.boundary,
            "split": {"train": f"0:{case.simulations}", "val": f"{case.simulations}:"},
        },
        "physical": {"kind": case.kind, "parameters": {name: dict(own) for name, own in case.start.items()}},
        "training": {"physical": {"epochs_per_cycle": 20}},
    }
    for table, more in case.spec.items():
        for name, own in more.items():
            spec[table][name] = {**spec[table].get(name, {}), **own}
    return spec


def bound(case: Case, model: PhysicalModel, clean: Tensor, size: float) -> dict[str, float]:
    """Return the standard errors of the Cramer-Rao bound, with unknown start states, by differences."""
    names = list(case.truth)

    def predicted(values: Mapping[str, float], states: Tensor) -> Tensor:
        for name, value in values.items():
            model.learnables.set_(name, value)
        with torch.no_grad():
            return torch.cat([states[:, None, 0], rollout(model, states, case.frames - 1)[:, :, 0]], dim=1).flatten(1)

    total = torch.zeros(len(names), len(names), dtype=torch.float64)
    h = 1e-5
    unit = torch.eye(case.cells, dtype=torch.float64)
    for start in clean[: case.simulations, 0]:
        states = start[None, None]
        columns = []
        for name, value in case.truth.items():
            ends = [predicted({**case.truth, name: value * (1 + sign * h)}, states)[0] for sign in (1, -1)]
            columns.append((ends[0] - ends[1]) / (2 * h * value))
        by_start = [predicted(case.truth, states + sign * h * unit[:, None]) for sign in (1, -1)]
        starts = (by_start[0] - by_start[1]).T / (2 * h)
        jacobian = torch.stack(columns, dim=1)
        projected = jacobian - starts @ torch.linalg.lstsq(starts, jacobian).solution
        total += projected.T @ projected
    covariance = torch.linalg.inv(total) * size**2
    return dict(zip(names, covariance.diagonal().sqrt().tolist(), strict=True))


def drawn(case: Case, seed: int, registry: Registry) -> list[dict[str, Any]]:
    """Run one draw of a case, and return what it says about each parameter."""
    values, clean, size = data_of(case, model_of(case, case.finer, registry), seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, u=values.numpy())
        start = time.perf_counter()
        summary = Engine(spec_of(case, path), registry=registry, draw=lambda *_: ()).run().summary
        seconds = time.perf_counter() - start
    errors = bound(case, model_of(case, 1, registry), clean, size) if case.bound else {}
    rows = []
    for name, truth in case.truth.items():
        entry = summary["parameters"][name]
        budget = entry["budget"] or {}
        interval = budget.get("interval")
        width = None if interval is None else interval[1] - interval[0]
        rows.append(
            {
                "draw": seed,
                "name": name,
                "final": entry["final"],
                "interval": interval,
                "covered": interval is not None and interval[0] <= truth <= interval[1],
                "flagged": budget.get("trusted") is False,
                "ratio": width / (2 * 1.96 * errors[name]) if width is not None and name in errors else None,
                "verdict": budget.get("verdict"),
                "budget_s": summary["timings"]["phases"]["error_budget"],
                "identification_s": summary["timings"]["phases"]["train_physical"],
                "seconds": seconds,
                "off": (entry["final"] - truth) / truth,
                "reason": budget.get("discretisation_reason"),
                "total": budget.get("total"),
                "statistical": budget.get("statistical"),
                "misfit": budget.get("misfit"),
                "discretisation": budget.get("discretisation"),
                "shift": budget.get("discretisation_shift"),
            }
        )
    return rows


def told(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the rows of all draws of one case say together."""
    ratios = [row["ratio"] for row in rows if row["ratio"] is not None]
    return {
        "draws": len({row["draw"] for row in rows}),
        "covered": sum(row["covered"] for row in rows) / len(rows),
        "flagged": sum(row["flagged"] for row in rows) / len(rows),
        "honest": sum(row["covered"] or row["flagged"] for row in rows) / len(rows),
        "width_ratio": statistics.median(ratios) if ratios else None,
        "budget_over_identification": statistics.median(row["budget_s"] / row["identification_s"] for row in rows),
        "seconds": statistics.median(row["seconds"] for row in rows),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--only", default="", help="cases, separated by commas")
    parser.add_argument("--draws", type=int, default=20, help="data sets of each case")
    parser.add_argument("--rows", action="store_true", help="print every draw")
    parser.add_argument("--keep", type=Path, help="a file that keeps every draw, and from which a later run goes on")
    options = parser.parse_args()
    registry = Registry.installed()
    chosen = [name for name in options.only.split(",") if name] or list(CASES)
    kept: dict[tuple[str, int], list[dict[str, Any]]] = {}
    if options.keep is not None and options.keep.exists():
        for line in options.keep.read_text().splitlines():
            entry = json.loads(line)
            kept[entry["case"], entry["draw"]] = entry["rows"]
    found = {}
    print(f"{'case':18}{'covered':>9}{'flagged':>9}{'honest':>9}{'width':>8}{'cost':>7}{'s':>6}")
    for name in chosen:
        rows = []
        for seed in range(options.draws):
            if (name, seed) not in kept:
                kept[name, seed] = drawn(CASES[name], seed, registry)
                if options.keep is not None:
                    with options.keep.open("a") as file:
                        print(json.dumps({"case": name, "draw": seed, "rows": kept[name, seed]}), file=file)
            rows += kept[name, seed]
        found[name] = result = told(rows)
        width = "" if result["width_ratio"] is None else f"{result['width_ratio']:.2f}"
        shares = "".join(f"{100 * result[key]:7.0f} %" for key in ("covered", "flagged", "honest"))
        print(
            f"{name:18}{shares}{width:>8}{result['budget_over_identification']:7.2f}{result['seconds']:6.1f}",
            flush=True,
        )
        for row in rows if options.rows else ():
            print("   ", json.dumps(row), flush=True)
    if options.json:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
