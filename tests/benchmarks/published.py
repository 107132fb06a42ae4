"""Published cases, each beside its models alone, at equal compute: heat with moving sensors, Gray-Scott from points.

    python tests/benchmarks/published.py [--json] [--case NAME]... [--seeds 3] [--quick] [--data DIR]

The cases of HYCO (arXiv 2509.14123) whose data lie in DIR. `heat_full`, `heat_half`, `heat_quarter`: 60 moving sensors
train, which see all, half or a quarter of the domain; six numbers of a conductivity are to be found. `gray_scott`: 5000
random points of both fields; two diffusivities are to be found. With `_noise` 10 % noise is on what trains and
validates, with `_half_sensors` there are half as many observations. `heat_quarter_fine` has 36 instead of 18 nodes
along each axis: what a finer grid gives to each of them.

Cooperation is a spec run by `hyco.run` with the strategy `interaction` and a coordinate-mlp; the models alone train on
as many samples (`hyco_engine.comparing`). Metrics: `e_p`, for heat the relative L2 error of the heights plus that
of the centres, for Gray-Scott the larger relative error of both diffusivities; `physical` and `synthetic`, the relative
L2 errors of both models' fields over all of space and time after the start, for heat on the inner 16 x 16 of 18 x 18
nodes (`physical` is e_s). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import hyco_engine as hyco
from hyco_engine.comparing import NAMES, baseline
from hyco_engine.data.points import Sensors
from hyco_engine.report.result import RunResult
from hyco_engine.spec.loading import dump_spec
from hyco_engine.training.evaluation import model_rollout

DATA = Path(__file__).parents[3] / "shared" / "data"
NOISE = 0.1
PUBLISHED = {
    "heat_full": {"physical": 0.0176},
    "heat_half": {"physical": 0.0357},
    "heat_quarter": {"physical": 0.0478, "e_p": 0.576},
    "gray_scott": {"physical": 0.0063, "synthetic": 0.138, "e_p": 0.0049},
}
"""Of HYCO; where the authors stored several runs, of the better one."""
Metrics = dict[str, float]
METRICS = ("e_p", "physical", "synthetic")


DIVERGED = 99.0
PARTS = {"points_per_sample": 64, "batch_size": 8}
"""Of a surrogate: 512 points a step."""
HEAT_CYCLES = 30
QUARTER_CYCLES, QUARTER_STEPS = 100, 15
"""Where the misfit has several minima both players take Adam's steps in short turns: a search that converges within a
turn ends in the nearest one, whatever it was taught."""
HEAT_STEPS = 99
HEAT_TRUTH = {"A1": 3.0, "A2": 2.5, "x1": 1.0, "y1": 1.0, "x2": -2.0, "y2": -2.0}
HEAT_START = {"A1": 1.0, "A2": 1.0, "x1": 1.4, "y1": -1.3, "x2": -1.8, "y2": -1.1}
GRAY_SCOTT_CYCLES = 3
GHOSTS = {"alpha": 0.1, "points": 64}
"""Of `interaction`, where nothing else is said."""
POLISHED = {"interaction, polished": {**GHOSTS, "cooperate": 20}}
QUARTER_GHOSTS = {"points": 256, "cooperate": QUARTER_CYCLES // 10}
HEAT_STRATEGIES = {"quarter": {f"interaction, polished, alpha {a}": {"alpha": a, **QUARTER_GHOSTS} for a in (0.1, 0.3)}}
GRAY_SCOTT_STRATEGIES = {"interaction, one way": {"alpha": 1.0, "points": 64, "teach": "synthetic"}}


@attrs.frozen
class Problem:
    """A spec of both models, without a strategy; the truth `[T, N, fields]` after the start at positions `[N, 2]`."""

    spec: dict[str, Any]
    strategies: Mapping[str, Mapping[str, Any]]
    truth: Tensor
    position: Tensor
    parameter_error: Callable[[Mapping[str, float]], float]

    def measured(self, result: RunResult) -> Metrics:
        """Return the errors of the models that the run has."""
        found: Metrics = {}
        steps, count = self.truth.shape[:2]
        frame = torch.arange(1.0, steps + 1).repeat_interleave(count)
        position = self.position.repeat(steps, 1)
        if (physics := result.physical) is not None:
            found["e_p"] = self.parameter_error({k: float(v.detach()) for k, v in physics.learnables.values().items()})
            found["physical"] = self._error(self._read(physics, frame[None], position[None])[0])
        if (surrogate := result.synthetic) is not None:
            with torch.no_grad():
                values = surrogate({"position": position, "time": frame * self.spec["data"]["dt"]})
            found["synthetic"] = self._error(torch.stack([values[name] for name in self._fields], dim=1))
        return found

    @property
    def _fields(self) -> list[str]:
        return list(self.spec["data"]["initial"])

    def _read(self, physics: nn.Module, frame: Tensor, position: Tensor) -> Tensor:
        files = [self.spec["data"]["initial"][name]["file"] for name in self._fields]
        start = torch.stack([torch.from_numpy(np.load(file)).float() for file in files])[None]
        path = torch.cat([start[None], model_rollout(physics)(start, len(self.truth))], dim=1)
        return Sensors(physics.layout)(path, frame, position)

    def _error(self, predicted: Tensor) -> float:
        truth = self.truth.flatten(0, 1)
        error = float((predicted - truth).norm() / truth.norm())
        return error if math.isfinite(error) else DIVERGED


# --- heat -----------------------------------------------------------------------------------------------------------


def heat(
    region: str, folder: Path, scratch: Path, seed: int, *, noise: float = 0.0, share: float = 1.0, cells: int = 16
) -> Problem:
    """`cells + 2` nodes along each axis, whose outermost are held at 0; sensors at 100 times from t = 0."""
    table = np.load(folder / "hyco_heat" / f"data_{region}.npy")
    chosen = np.loadtxt(folder / "hyco_heat" / f"train_sensors_{region}.csv", skiprows=1, dtype=int)
    held = np.setdiff1d(np.arange(table.shape[1]), chosen)
    kept = np.random.default_rng(seed).permutation(chosen)[: round(share * len(chosen))] if share < 1 else chosen
    spacing = 6.0 / (cells + 1)
    edge = 3.0 - spacing / 2
    x = -3.0 + spacing * (1 + np.arange(cells))
    first, second = ((x[:, None] - c) ** 2 + (x[None, :] - c) ** 2 for c in (1.0, -1.0))
    initial = {"u": {"file": _saved(scratch / "u.npy", np.exp(-first) - np.exp(-second))}}
    bounds = {"A": [1e-3, 10.0], "x": [-3.0, 3.0], "y": [-3.0, 3.0]}
    spec = {
        "run": {"cycles": HEAT_CYCLES},
        "data": {
            "kind": "points",
            "path": _saved(scratch / "sensors.npy", table[:, [*kept, *held]]),
            "columns": ["x", "y", "u"],
            "interval": 1 / HEAT_STEPS,
            "train_sensors": _saved(scratch / "train.npy", np.arange(len(kept))),
            "split": {"by": "sensor"},
            "resolution": {"x": cells, "y": cells},
            "bounds": {"x": [-edge, edge], "y": [-edge, edge]},
            "boundary": 0.0,
            "dt": 1 / HEAT_STEPS,
            "initial": initial,
            "num_predict_steps": HEAT_STEPS,
            "truth": HEAT_TRUTH,
            **({"observe": {"noise": {"level": noise}}} if noise else {}),
        },
        "physical": {
            "kind": "heat",
            "form": "non-conservative",
            "conductivity": "bumps",
            "order": 2,
            # at most 0.69 of 4 kappa dt / dx^2 / 2, with kappa up to 2.5
            "dt": 1 / HEAT_STEPS / math.ceil(5.0 / HEAT_STEPS / spacing**2 / 0.69),
            "compile": "inductor",
            "parameters": {
                name: {"init": start, "bounds": bounds[name[0]], "transform": "linear"}
                for name, start in HEAT_START.items()
            },
        },
        "synthetic": {"kind": "coordinate-mlp", "duration": 1.0},
        "training": {
            "physical": {"optimizer": "lbfgs", "epochs_per_cycle": 3},
            "synthetic": {"epochs_per_cycle": 5, "lr": 4e-3, **PARTS},
        },
    }
    if region == "quarter":
        spec["run"]["cycles"] = QUARTER_CYCLES
        adam = {"optimizer": "adam", "lr": 0.03, "schedule": "cosine", "epochs_per_cycle": QUARTER_STEPS}
        spec["training"] = {"physical": adam, "synthetic": {"epochs_per_cycle": 1, "lr": 4e-3, **PARTS}}
    stored = torch.from_numpy(np.load(folder / "hyco_heat" / "phys.npy")).float()
    nodes = functional.interpolate(stored[:, None], size=(18, 18), mode="bilinear", align_corners=True)[:, 0]
    truth = nodes[-HEAT_STEPS:, 1:-1, 1:-1].flatten(1)[..., None]
    inner = torch.linspace(-3.0, 3.0, 18)[1:-1]
    strategies = HEAT_STRATEGIES.get(region, POLISHED)
    return Problem(spec, strategies, truth, torch.cartesian_prod(inner, inner), heat_parameters)


def heat_parameters(values: Mapping[str, float]) -> float:
    """Relative L2 error of the heights plus that of the centres."""
    parts = []
    for letters in ("A", "xy"):
        names = [name for name in HEAT_TRUTH if name[0] in letters]
        off = math.hypot(*(values[name] - HEAT_TRUTH[name] for name in names))
        parts.append(off / math.hypot(*(HEAT_TRUTH[name] for name in names)))
    return sum(parts)


# --- Gray-Scott -----------------------------------------------------------------------------------------------------

POINTS, HELD_OUT = 5000, 500
SPACING = 100.0 / 63
GRAY_SCOTT_TRUTH = {"Du": 0.20, "Dv": 0.08}


def gray_scott(folder: Path, scratch: Path, seed: int, *, noise: float = 0.0, share: float = 1.0) -> Problem:
    """Random nodes of random snapshots after the first, which is known; `HELD_OUT` more of them validate."""
    stored = [np.load(folder / "hyco_grayscott" / f"{name}_timeseries.npy") for name in "UV"]
    # row = y, column = x, and a field is [x, y]
    frames = np.stack(stored, axis=1).transpose(0, 1, 3, 2)
    steps, cells = len(frames) - 1, frames.shape[-1]
    count = round(share * POINTS)
    drawn = np.random.default_rng(seed).choice(steps * cells**2, count + HELD_OUT, replace=False)
    frame, i, j = np.unravel_index(drawn, (steps, cells, cells))
    rows = [40.0 * (frame + 1), (i + 0.5) * SPACING, (j + 0.5) * SPACING, *frames[frame + 1, :, i, j].T]
    rows.append(np.arange(len(drawn)))  # each point in space and time is a sensor of its own
    files = {name: {"file": _saved(scratch / f"{name}.npy", frames[0, k])} for k, name in enumerate("uv")}
    spec = {
        "run": {"cycles": GRAY_SCOTT_CYCLES},
        "data": {
            "kind": "points",
            "path": _saved(scratch / "points.npy", np.stack(rows, axis=1)),
            "columns": ["t", "x", "y", "u", "v", "sensor"],
            "train_sensors": _saved(scratch / "train.npy", np.arange(count)),
            "split": {"by": "sensor"},
            "resolution": {"x": cells, "y": cells},
            "bounds": {"x": [0.0, cells * SPACING], "y": [0.0, cells * SPACING]},
            "boundary": "periodic",
            "dt": 40.0,
            "initial": files,
            "num_predict_steps": steps,
            "truth": GRAY_SCOTT_TRUTH,
            **({"observe": {"noise": {"level": noise}}} if noise else {}),
        },
        "physical": {
            "kind": "gray-scott",
            "dt": 0.4,
            "compile": "inductor",
            "parameters": {
                "Du": {"init": 0.10},
                "Dv": {"init": 0.05},
                "f": {"init": 0.018, "learn": False},
                "k": {"init": 0.051, "learn": False},
            },
        },
        "synthetic": {"kind": "coordinate-mlp", "duration": 40.0 * steps},
        "training": {
            "physical": {"epochs_per_cycle": 40},
            "synthetic": {"epochs_per_cycle": 600, "lr": 4e-3, **PARTS},
        },
    }
    truth = torch.from_numpy(frames[1:]).flatten(2).transpose(1, 2)
    x = SPACING * (torch.arange(cells) + 0.5)
    return Problem(spec, GRAY_SCOTT_STRATEGIES, truth, torch.cartesian_prod(x, x), gray_scott_parameters)


def gray_scott_parameters(values: Mapping[str, float]) -> float:
    """Return the larger relative error."""
    return max(abs(values[name] / true - 1) for name, true in GRAY_SCOTT_TRUTH.items())


def _saved(path: Path, values: Any) -> str:
    np.save(path, values)
    return str(path)


# --- runs and tables ------------------------------------------------------------------------------------------------

BASES: dict[str, Callable[..., Problem]] = {
    **{f"heat_{region}": partial(heat, region) for region in ("quarter", "half", "full")},
    "gray_scott": gray_scott,
}
VARIANTS: dict[str, dict[str, float]] = {"": {}, "_noise": {"noise": NOISE}, "_half_sensors": {"share": 0.5}}
CASES = {base + variant: partial(BASES[base], **more) for variant, more in VARIANTS.items() for base in BASES}
CASES["heat_quarter_fine"] = partial(heat, "quarter", cells=34)


def run(case: str, seed: int, folder: Path) -> dict[str, Metrics]:
    """Return the errors of one seed by strategy."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        problem = CASES[case](folder, scratch, seed)
        nominal = {**problem.spec, "paths": {"runs": f"{name}/runs", "cache": f"{name}/cache"}}
        nominal["run"] = {**problem.spec["run"], "name": "own", "seed": seed, "device": "cpu"}
        found = {}
        trained: Mapping[str, Any] = {}
        for strategy, options in problem.strategies.items():
            begun = time.perf_counter()
            result = hyco.run({**nominal, "augmentation": {"kind": "interaction", **options}})
            found[strategy] = problem.measured(result)
            _print(case, seed, strategy, found, result, begun)
            # all of them train on as many samples
            trained = result.summary
        tables = tomllib.loads(dump_spec(hyco.Engine(nominal).spec))
        for player, strategy in NAMES.items():
            begun = time.perf_counter()
            alone = hyco.run(baseline(tables, player, trained))
            found[strategy] = problem.measured(alone)
            _print(case, seed, strategy, found, alone, begun)
    return found


def _print(case: str, seed: int, strategy: str, found: Mapping[str, Metrics], result: RunResult, begun: float) -> None:
    values = "  ".join(f"{metric} {value:.4g}" for metric, value in found[strategy].items())
    parameters = ", ".join(f"{name} {p['final']:.4g}" for name, p in result.summary["parameters"].items())
    print(f"{case} seed {seed} {strategy:21} {values}  ({time.perf_counter() - begun:.0f} s)  {parameters}", flush=True)


def collect(runs: Mapping[tuple[str, int], Mapping[str, Metrics]]) -> dict[str, Any]:
    """{case: {strategy: {metric: {value, runs}}}}; values are medians."""
    table: dict[str, Any] = {}
    for case in dict.fromkeys(case for case, _ in runs):
        seeds = [found for (own, _), found in runs.items() if own == case]
        table[case] = {
            strategy: {
                metric: {
                    "value": statistics.median(found[strategy][metric] for found in seeds),
                    "runs": [found[strategy][metric] for found in seeds],
                }
                for metric in seeds[0][strategy]
            }
            for strategy in seeds[0]
        }
    return table


def markdown(table: Mapping[str, Any]) -> str:
    """Medians, and every run in brackets."""
    lines = ["| case | strategy | e_p | physics | surrogate |", "|---|---|---|---|---|"]
    for case, strategies in table.items():
        for strategy, found in strategies.items():
            cells = [cell(found.get(metric)) for metric in METRICS]
            lines.append(f"| {case} | {strategy} | {' | '.join(cells)} |")
        if case in PUBLISHED:
            cells = [f"{PUBLISHED[case].get(metric, '')}" for metric in METRICS]
            lines.append(f"| | *published* | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(entry: Mapping[str, Any] | None) -> str:
    """Return the median, and every run in brackets, as text; empty where nothing was measured."""
    if entry is None:
        return ""
    runs = " ".join(f"{value:.2g}" for value in entry["runs"])
    return f"**{entry['value']:.3g}** ({runs})" if len(entry["runs"]) > 1 else f"{entry['value']:.3g}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The published cases, each beside its models alone.")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this case; repeatable")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the published data")
    given = parser.parse_args(arguments)
    missing = [name for name in ("hyco_heat", "hyco_grayscott") if not (given.data / name).is_dir()]
    if missing:
        parser.error(f"there is no {given.data / missing[0]}; give --data DIR")
    torch.set_num_threads(1)
    runs = {
        (case, seed): run(case, seed, given.data)
        for case in given.case or CASES
        for seed in range(given.first_seed, given.first_seed + (1 if given.quick else given.seeds))
    }
    table = collect(runs)
    print(markdown(table))
    if given.json:
        print(json.dumps(table))


if __name__ == "__main__":
    main()
