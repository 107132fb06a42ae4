"""Steady inverse problems: hybrid runs beside the physics alone.

    python tests/benchmarks/steady.py [--seeds 3] [--solves] [--json]

`helmholtz`: the wave number in lap u + k2 u + f = 0 from six noisy maps (2 %), which numpy makes in Fourier space; the
surrogate is a resnet that `trust` lets the physics teach. `darcy`: a conductivity with two parameters in
div(kappa grad u) + 1 = 0 from 80 sensors without a time, 1 % noise, made by finite volumes on 96 x 96 cells; the
surrogate is a coordinate-mlp, with `interaction`. Reported are relative errors of the parameters.

`--solves` instead times solves with the matrix of div(kappa grad u) - 2 u + f = 0, where kappa varies by a factor of
19: the matrix itself, its factors and a solve with them, the hierarchy of multigrid and a solve with it (as far as the
former are allowed, and with at most 40 million entries).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.interpolate import RegularGridInterpolator
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import splu, spsolve

import hyco_engine as hyco
from hyco_engine.builtin.models.options_physical import EquationOptions
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import BuildContext
from hyco_engine.physics.multigrid import Multigrid

GRIDS = ((64, 64), (128, 128), (256, 256), (512, 512), (16, 16, 16), (20, 20, 20), (32, 32, 32), (48, 48, 48))
KAPPA = {"base": 0.5, "bump": 0.4}


def helmholtz(folder: Path, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    k = 2 * np.pi * np.fft.fftfreq(24, 1 / 24)
    square = k[:, None] ** 2 + k[None] ** 2
    drawn = np.fft.fft2(rng.normal(size=(8, 24, 24))) * np.exp(-square / 300)
    u = np.fft.ifft2(drawn / (square - 47.0)).real
    np.savez(folder / "u.npz", f=np.fft.ifft2(drawn).real, u=u + 0.02 * u.std() * rng.normal(size=u.shape))
    return {
        "data": {
            "kind": "arrays",
            "path": str(folder / "u.npz"),
            "axes": "sxy",
            "steady": True,
            "variables": {"u": "u", "f": {"static": True}},
            "bounds": {"x": [0.0, 1.0], "y": [0.0, 1.0]},
            "boundary": "periodic",
            "points": "cells",
            "truth": {"k2": 47.0},
            "num_predict_steps": 1,
            "split": {"train": "0:6", "val": "6:7", "test": "7:8"},
        },
        "physical": {
            "kind": "equation",
            "steady": {"u": "lap(u) + k2*u + f"},
            "parameters": {"k2": {"init": 44.0, "bounds": [0.0, 100.0]}},
        },
        "synthetic": {"kind": "resnet", "width": 8, "blocks": 1},
        "augmentation": {"alpha": 1.0},
        "training": {"synthetic": {"epochs_per_cycle": 10}},
    }


def darcy(folder: Path, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    points = rng.uniform(0.06, 0.94, (80, 2))
    values = _darcy_state()(points)
    values += 0.01 * values.std() * rng.normal(size=len(values))
    np.savetxt(folder / "u.csv", np.c_[points, values], delimiter=",", header="x,y,u", comments="")
    bump = "exp(-((x - 0.35)**2 + (y - 0.6)**2)/0.06)"
    return {
        "data": {
            "kind": "points",
            "path": str(folder / "u.csv"),
            "steady": True,
            "split": {"by": "sensor"},
            "resolution": {"x": 23, "y": 23},
            "bounds": {"x": [0.5 / 24, 1 - 0.5 / 24], "y": [0.5 / 24, 1 - 0.5 / 24]},
            "boundary": 0.0,
            "truth": KAPPA,
            "num_predict_steps": 1,
        },
        "physical": {
            "kind": "equation",
            "steady": {"u": f"div((base + bump*{bump})*grad(u)) + 1"},
            "parameters": {name: {"init": 2 * value, "bounds": [0.01, 10.0]} for name, value in KAPPA.items()},
        },
        "synthetic": {"kind": "coordinate-mlp", "duration": 1.0, "width": 32, "depth": 2},
        "augmentation": {"kind": "interaction", "alpha": 0.1},
        "training": {"synthetic": {"epochs_per_cycle": 200, "lr": 1e-2}},
    }


def _darcy_state(n: int = 96) -> RegularGridInterpolator:
    """Solve div(kappa grad u) + 1 = 0 with u = 0 at the walls, by finite volumes of second order."""
    centers = (np.arange(n) + 0.5) / n
    rows, columns, entries = [], [], []
    for i in range(n):
        for j in range(n):
            total = 0.0
            for di, dj in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                x, y = (i + 0.5 + di / 2) / n, (j + 0.5 + dj / 2) / n
                kappa = KAPPA["base"] + KAPPA["bump"] * np.exp(-((x - 0.35) ** 2 + (y - 0.6) ** 2) / 0.06)
                inside = 0 <= i + di < n and 0 <= j + dj < n
                total += kappa * n**2 * (1 if inside else 2)
                if inside:
                    rows.append(i * n + j)
                    columns.append((i + di) * n + j + dj)
                    entries.append(-kappa * n**2)
            rows.append(i * n + j)
            columns.append(i * n + j)
            entries.append(total)
    matrix = csr_matrix((entries, (rows, columns)), shape=(n * n, n * n))
    return RegularGridInterpolator((centers, centers), spsolve(matrix, np.ones(n * n)).reshape(n, n), method="cubic")


def errors(spec: dict[str, Any], folder: Path, seed: int) -> dict[str, float]:
    """Return the relative error of each parameter."""
    spec = {"run": {"name": folder.name, "seed": seed, "cycles": 2}, "paths": {"cache": str(folder / "cache")}, **spec}
    hyco.run(spec, run_dir=folder / f"run-{'hybrid' if 'synthetic' in spec else 'alone'}")
    name = f"run-{'hybrid' if 'synthetic' in spec else 'alone'}"
    summary = json.loads((folder / name / "summary.json").read_text())
    return {name: entry["relative_error"] for name, entry in summary["parameters"].items()}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    return work(), time.perf_counter() - begun


def solves(registry: Registry, resolution: tuple[int, ...]) -> dict[str, float]:
    """Return durations in seconds."""
    axes = ("x", "y", "z")[: len(resolution)]
    layout = StateLayout(
        grid=Grid(axes=axes, resolution=resolution, lower=(0.0,) * len(axes), upper=(1.0,) * len(axes)),
        dynamic=(FieldInfo(name="u", boundary=Boundary.parse(0.0, axes)),),
    )
    options = EquationOptions(steady={"u": "div((1 + 0.9*sin(7*x)*cos(5*y))*grad(u)) - 2*u + 1"})
    context = BuildContext(seed=0, registry=registry, dtype=torch.float64, layout=layout, dt=1.0)
    physics: Any = registry.build("hyco_models", "equation", options, context).physics
    stencil = physics.stencil
    zero = torch.zeros(1, *resolution, dtype=torch.float64)
    found: dict[str, float] = {"unknowns": zero.numel()}
    matrix, found["matrix"] = timed(lambda: stencil.jacobian(lambda u: physics.residual(u[None], {}, {})[0], zero))
    right = np.random.default_rng(0).normal(size=(zero.numel(), 1))
    grids, found["hierarchy"] = timed(lambda: Multigrid(matrix, stencil.resolution, stencil.periodic))
    iterated, found["solve_by_multigrid"] = timed(lambda: grids.solve(right, "N"))
    if stencil.entries < 4e7:
        factors, found["factors"] = timed(lambda: splu(matrix))
        direct, found["solve_by_factors"] = timed(lambda: factors.solve(right))
        found |= {"entries": factors.nnz, "difference": float(np.abs(iterated - direct).max() / np.abs(direct).max())}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--solves", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.solves:
        torch.set_num_threads(1)
        registry = hyco.Registry.discover()
        solves(registry, GRIDS[0])  # the first one waits for imports
        for grid in GRIDS:
            print(
                json.dumps({"grid": grid} | {name: float(f"{own:.3g}") for name, own in solves(registry, grid).items()})
            )
        return
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for name, case in {"helmholtz": helmholtz, "darcy": darcy}.items():
        found[name] = {"alone": [], "hybrid": []}
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as place:
                spec = case(Path(place), seed)
                alone = {key: table for key, table in spec.items() if key in ("data", "physical")}
                found[name]["alone"].append(errors(alone, Path(place), seed))
                found[name]["hybrid"].append(errors(spec, Path(place), seed))
        if not options.json:
            for way, runs in found[name].items():
                for parameter in runs[0]:
                    print(f"{name:<10} {way:<7} {parameter:<5}", *(f"{run[parameter]:.2e}" for run in runs))
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
