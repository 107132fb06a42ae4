"""Does cooperation pay? Each strategy beside its models alone, at equal compute, on the product's own physics.

    python tests/benchmarks/cooperation.py [--json] [--case NAME]... [--strategy NAME]... [--seeds 3] [--quick]

Burgers in one dimension (W1): 128 cells, periodic, a field of viscosity nu(x) = sin^2(pi x / L) to be found from 1;
frames 0-39 train, 40-49 of the same simulations validate, four other simulations test: rollouts of 49 steps, free of
noise, of the true physics. Strategies see nothing of the latter. w3 is Burgers in two dimensions with one simulation of
20 frames, heat_quarter the published case of HYCO with sensors in a quarter of the domain (`--data`).

Equal compute: each model alone trains on as many samples as in the strategy's own run, generated ones included
(`hyco_engine.comparing`), so beside `two-arms` on those of all arms; a physics stops once it has converged.

Metrics: `D`, relative L2 error of nu; `physical`, `synthetic`, `third` (the model `corrected`): relative L2 error of
the test rollouts; heat: `e_s` of the physics' field, `e_p` of its parameters. The last line is one JSON object; a run
of everything writes the table of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import math
import statistics
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from phi.field import Field
from phiml.math import sin
from published import DATA, GHOSTS, HEAT_STRATEGIES, cell, heat
from torch import Tensor, nn

import hyco_engine as hyco
from hyco_engine.assembly import Assembler
from hyco_engine.builtin.models.burgers import Burgers
from hyco_engine.builtin.models.options_physical import BurgersOptions
from hyco_engine.comparing import NAMES, baseline
from hyco_engine.data.fields import StateLayout
from hyco_engine.interfaces import Player
from hyco_engine.physics import FlowModel
from hyco_engine.runs.summary import relative_error
from hyco_engine.spec.loading import dump_spec
from hyco_engine.training.evaluation import model_rollout

ALPHA = 1.0
CYCLES = 6
SURROGATE_EPOCHS = 12
WARMUP = 150
ITERATIONS = 25
TRAIN, FRAMES = 40, 50
LENGTH = 100.0
DIVERGED = 99.0
NU = {"init": 1.0, "field": True, "bounds": [-0.3, 3.0]}
"""Open at both ends beyond the truth: a bound at 0 would hold back the search, and far below it nothing is stable."""
MARKERS = ("<!-- cooperation -->", "<!-- /cooperation -->")
Metrics = dict[str, float]


# --- Burgers, one dimension -----------------------------------------------------------------------------------------


class PeriodicBurgers(Burgers):
    """The simulator of the data, from random sums of the first twelve waves, of amplitude exp(-k^2 / 32), of rms 1."""

    kind = "periodic-burgers"

    def initial_states(self, layout: StateLayout, count: int, generator: torch.Generator) -> Tensor:
        if layout.n_axes > 1:
            return super().initial_states(layout, count, generator)
        k = torch.arange(1.0, 13.0)
        angle = 2 * math.pi * k[:, None] * torch.tensor(layout.grid.centers("x")).float() / LENGTH
        parts = torch.randn(2, count, 12, generator=generator) * torch.exp(-(k**2) / 32)
        u = parts[0] @ torch.cos(angle) + parts[1] @ torch.sin(angle)
        return (u / u.square().mean(-1, keepdim=True).sqrt())[:, None]


class DraggedBurgers(PeriodicBurgers):
    """The physics that the model lacks: u_t = ... - 0.05 u + 0.05 sin(4 pi x / L)."""

    kind = "dragged-burgers"

    def step(self, fields: Mapping[str, Field], parameters: Mapping[str, Any], dt: float) -> dict[str, Field]:
        u = super().step(fields, parameters, dt)["u"]
        force = 0.05 * sin(u.points.vector["x"] * (4 * math.pi / LENGTH))
        return {"u": u.with_values(u.values + dt * (force - 0.05 * fields["u"].values))}


def registry() -> hyco.Registry:
    found = hyco.Registry.discover()
    for physics in (PeriodicBurgers, DraggedBurgers):
        record = hyco.ModelRecord(
            kind=physics.kind,
            role="physical",
            summary="makes the data",
            options=BurgersOptions,
            factory=lambda options, context, physics=physics: FlowModel(physics(options), context),
        )
        found.register(record, distribution="benchmark", version="1")
    return found


def w1(
    simulations: int = 2,
    kind: str = "periodic-burgers",
    observe: Mapping[str, Any] | None = None,
    horizon: int = 3,
    **data: Any,
) -> dict[str, Any]:
    """Return a spec of Burgers in one dimension; the surrogate has 10,000 weights."""
    physics = {"scheme": "semi-lagrangian", "dt": 0.1}
    return {
        "data": {
            "kind": "simulate",
            "physics": {"kind": kind, **physics},
            "truth": {"nu": {"profile": "sin-squared"}},
            "num_simulations": simulations,
            "num_frames": FRAMES,
            "resolution": {"x": 128},
            "bounds": {"x": [0.0, LENGTH]},
            "dt": 0.1,
            "num_predict_steps": horizon,
            "split": {"by": "time", "train": f"0:{TRAIN}", "val": f"{TRAIN}:{FRAMES}"},
            **({} if observe is None else {"observe": dict(observe)}),
            **data,
        },
        "physical": {"kind": "burgers", **physics, "compile": "graph", "parameters": {"nu": NU}},
        "synthetic": {"kind": "resnet", "width": 16, "blocks": 2, "positions": True},
        "training": {
            "physical": {"optimizer": "lbfgs", "epochs_per_cycle": ITERATIONS, "batch_size": 256},
            "synthetic": {"epochs_per_cycle": SURROGATE_EPOCHS * 4 // simulations, "batch_size": 16, "lr": 4e-3},
        },
    }


def w3() -> dict[str, Any]:
    """Burgers in two dimensions; one simulation, whose last frames validate."""
    spec = w1(1)
    spec["data"] |= {
        "resolution": {"x": 64, "y": 64},
        "bounds": {"x": [0.0, LENGTH], "y": [0.0, LENGTH]},
        "num_frames": 20,
        "split": {"by": "time", "train": "0:16", "val": "16:20"},
    }
    spec["synthetic"] = {"kind": "unet", "levels": 2, "width": 8, "positions": True}
    spec["training"]["physical"] |= {"batch_size": 16, "epochs_per_cycle": 5}
    spec["training"]["synthetic"] |= {"epochs_per_cycle": 5, "batch_size": 8}
    return spec


HALF = {"mask": {"region": {"x": [0.0, LENGTH / 2]}, "first_frame": True}}
HEAT = "heat_quarter"
CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "clean1": lambda: w1(1),
    "clean4": lambda: w1(4),
    "every5": lambda: w1(2, observe={"mask": {"every": 5}}, horizon=5),
    "half_hidden": lambda: w1(2, observe=HALF, horizon=39),
    "wrong_physics": lambda: w1(2, kind="dragged-burgers"),
    "noise5": lambda: w1(2, observe={"noise": {"level": 0.05, "relative": False}}, horizon=10),
    "w3": w3,
}
NAMES_OF_CASES = (*CASES, HEAT)


# --- strategies -----------------------------------------------------------------------------------------------------


def augmented(kind: str, **options: Any) -> Callable[[dict[str, Any]], None]:
    def apply(spec: dict[str, Any]) -> None:
        spec["augmentation"] = {"alpha": ALPHA, "kind": kind, **options}

    return apply


def corrected(spec: dict[str, Any]) -> None:
    """Physics and source are learned together; trust decides who teaches whom."""
    spec["synthetic"] = {"kind": "corrected"}
    # as many samples as trust may use for a surrogate of the usual kind
    epochs = int((1 + ALPHA) * spec["training"]["synthetic"]["epochs_per_cycle"])
    spec["training"]["synthetic"] |= {"optimizer": "adam", "lr": 3e-2, "epochs_per_cycle": epochs}
    augmented("trust", warmup=WARMUP)(spec)


def two_arms(spec: dict[str, Any]) -> None:
    """Physics first, or cooperation first and a polish; with sensors physics alone, or two weights of cooperation."""
    if spec["data"]["kind"] == "points":
        arms = [{"kind": "count", "alpha": 0.0}]
        arms += [{"kind": "interaction", **options} for options in HEAT_STRATEGIES["quarter"].values()]
    else:
        arms = [{"kind": "trust", "warmup": WARMUP}]
        arms += [{"kind": "interaction", "cooperate": spec["run"]["cycles"] * 2 // 3, **GHOSTS}]
    augmented("two-arms", arms=arms)(spec)


STRATEGIES: dict[str, Callable[[dict[str, Any]], None]] = {
    # as the design documents have it
    "count": augmented("count", alpha=0.1),
    "interaction": augmented("interaction", **GHOSTS),
    "trust": augmented("trust", warmup=WARMUP),
    "two-arms": two_arms,
    "corrected": corrected,
}
WITH_SENSORS = ("interaction", "two-arms")
"""What can be done where the surrogate is a function of position and time."""


def shorten(spec: dict[str, Any]) -> None:
    """Half the cycles, warm-up and cooperation."""
    spec["run"]["cycles"] //= 2
    augmentation = spec.get("augmentation", {})
    for table in (augmentation, *augmentation.get("arms", ())):
        for key in {"warmup", "cooperate"} & set(table):
            table[key] //= 2


def fits(case: str, strategy: str) -> bool:
    return case != HEAT or strategy in WITH_SENSORS


# --- one run --------------------------------------------------------------------------------------------------------


def run(
    case: str, seed: int, strategies: Sequence[str], folder: Path, data: Path, quick: bool
) -> tuple[dict[str, Metrics], float]:
    """Return ({strategy: metrics}, seconds) of one case; "beside <strategy>" holds the metrics of the models alone.

    They see as many samples as in that strategy's run; the physics stops once it has converged.
    """
    torch.set_num_threads(1)
    begun = time.perf_counter()
    own = folder / f"{case}-{seed}"
    own.mkdir()
    problem = heat("quarter", data, own, seed) if case == HEAT else None
    nominal = CASES[case]() if problem is None else problem.spec
    nominal["run"] = {"cycles": CYCLES, **nominal.get("run", {}), "seed": seed, "device": "cpu"}
    nominal["paths"] = {"runs": str(own), "cache": str(own / "cache")}

    def measured(result: hyco.RunResult) -> Metrics:
        if problem is None:
            return errors(case, result, seed)
        return {"e_s" if name == "physical" else name: value for name, value in problem.measured(result).items()}

    found = registry()
    metrics: dict[str, Metrics] = {}
    samples: dict[str, dict[Player, int]] = {}
    for strategy in strategies:
        spec = copy.deepcopy(nominal)
        STRATEGIES[strategy](spec)
        if quick:
            shorten(spec)
        result = hyco.run(spec, registry=found)
        metrics[strategy] = measured(result)
        n_real = result.summary["balance"][0]["n_real"]
        samples[strategy] = {player: result.summary["trained"][player]["samples"] for player in NAMES}
        if strategy == "corrected":
            # the third model, with the parameters that it found
            metrics[strategy]["third"] = metrics[strategy].pop("synthetic")
            viscosity = result.synthetic.physics.learnables.values()["nu"].detach()
            truth = np.load(result.folder / "parameters" / "nu-truth.npy")
            metrics[strategy]["D"] = relative_error(viscosity, torch.from_numpy(truth))
    if quick:
        shorten(nominal)
    tables = tomllib.loads(dump_spec(hyco.Engine(nominal, registry=found).spec))

    @functools.cache
    def alone(player: Player, count: int) -> Metrics:
        counted = {"balance": [{"n_real": n_real}], "trained": {player: {"samples": count}}}
        return measured(hyco.run(baseline(tables, player, counted), registry=found))

    beside = {
        name: alone("physical", counts["physical"]) | alone("synthetic", counts["synthetic"])
        for name, counts in samples.items()
    }
    return {**metrics, **{f"beside {name}": found for name, found in beside.items()}}, time.perf_counter() - begun


def errors(case: str, result: hyco.RunResult, seed: int) -> Metrics:
    """Return the errors of the viscosity field, and of rollouts of the run's models."""
    found: Metrics = {}
    if result.physical is not None:
        found["D"] = float(result.summary["parameters"]["nu"]["relative_error"])
    tests = test_trajectories(case, seed)
    for player in ("physical", "synthetic"):
        if (model := getattr(result, player)) is not None:
            found[player] = rollout_error(model, tests)
    return found


def test_trajectories(case: str, seed: int) -> Tensor:
    """`[4, 50, 1, 128]`: simulations of the true physics, fully observed, from states that no run has seen."""
    spec = CASES[case]()
    spec["data"] |= {"num_simulations": 4}
    spec["run"] = {"seed": 1000 + seed, "device": "cpu"}
    engine = hyco.Engine(spec, registry=registry())
    source = Assembler(engine.spec, engine.registry).source()
    return torch.stack([source.load(i).dynamic for i in range(4)]).float()


def rollout_error(model: nn.Module, frames: Tensor) -> float:
    """Relative L2 error of rollouts from the first frame over all others."""
    predicted = model_rollout(model)(frames[:, 0], frames.shape[1] - 1)
    error = float((predicted - frames[:, 1:]).norm() / frames[:, 1:].norm())
    return min(error, DIVERGED) if math.isfinite(error) else DIVERGED


# --- tables ---------------------------------------------------------------------------------------------------------

ALONE = {
    "physics_only": {"D": "D", "physical": "physical", "third": "physical", "e_s": "e_s", "e_p": "e_p"},
    "surrogate_only": {"synthetic": "synthetic", "third": "synthetic"},
}
"""Which metric of a model alone stands beside a metric of a strategy."""
Runs = Mapping[tuple[str, int], Mapping[str, Metrics]]


def collect(runs: Runs) -> dict[str, Any]:
    """{case: {strategy: {metric: {value, baseline: {physics_only, surrogate_only}, runs}}}}; values are medians.

    The models alone stand there as strategies too, as they were beside `trust`, or beside the first strategy there is.
    """
    table: dict[str, Any] = {}
    for case in dict.fromkeys(case for case, _ in runs):
        found = [metrics for (name, _), metrics in runs.items() if name == case]
        strategies = [name for name in STRATEGIES if name in found[0]]
        reference = "trust" if "trust" in strategies else strategies[0]
        table[case] = {}
        for name in ("physics_only", "surrogate_only"):
            own = [metric for metric in ALONE[name] if metric != "third" and metric in found[0][f"beside {reference}"]]
            table[case][name.replace("_", "-")] = {m: _entry(m, f"beside {reference}", reference, found) for m in own}
        for name in strategies:
            table[case][name] = {metric: _entry(metric, name, name, found) for metric in found[0][name]}
    return table


def _entry(metric: str, column: str, strategy: str, found: Sequence[Mapping[str, Metrics]]) -> dict[str, Any]:
    values = [metrics[column][metric] for metrics in found]
    beside = [metrics[f"beside {strategy}"] for metrics in found]
    baselines = {
        name: statistics.median(alone[same[metric]] for alone in beside) if same.get(metric) in beside[0] else None
        for name, same in ALONE.items()
    }
    return {"value": statistics.median(values), "baseline": baselines, "runs": values}


def markdown(table: Mapping[str, Any]) -> str:
    """Medians by case and strategy, and every run in brackets."""
    metrics = sorted({metric for strategies in table.values() for found in strategies.values() for metric in found})
    lines = [f"| case | strategy | {' | '.join(metrics)} |", "|---|---|" + "---|" * len(metrics)]
    for case, strategies in table.items():
        for strategy, found in strategies.items():
            cells = [cell(found.get(metric)) for metric in metrics]
            lines.append(f"| {case} | {strategy} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_table(text: str, path: Path) -> bool:
    """Put the table between the markers of a page; False where it has none."""
    page = path.read_text()
    if not all(marker in page for marker in MARKERS):
        return False
    before, _, rest = page.partition(MARKERS[0])
    after = rest.partition(MARKERS[1])[2]
    path.write_text(f"{before}{MARKERS[0]}\n{text}\n{MARKERS[1]}{after}")
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Strategies of cooperation beside their models alone.")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--case", action="append", choices=NAMES_OF_CASES, help="only this case; repeatable")
    parser.add_argument("--strategy", action="append", choices=list(STRATEGIES), help="only this one; repeatable")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed, half as long")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the published data")
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[2] / "docs" / "benchmarks.md")
    given = parser.parse_args(arguments)
    seeds = range(1 if given.quick else given.seeds)
    wanted = given.strategy or list(STRATEGIES)
    jobs = [(case, seed) for case in given.case or NAMES_OF_CASES for seed in seeds]
    if not (given.data / "hyco_heat").is_dir():
        print(f"{HEAT} is left out: there is no {given.data / 'hyco_heat'}")
        jobs = [job for job in jobs if job[0] != HEAT]
    runs: dict[tuple[str, int], dict[str, Metrics]] = {}
    pool = ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn"))
    with tempfile.TemporaryDirectory() as folder, pool:
        # the last cases take longest: begun first, they do not end alone
        futures = {
            (case, seed): pool.submit(
                run, case, seed, [s for s in wanted if fits(case, s)], Path(folder), given.data, given.quick
            )
            for case, seed in reversed(jobs)
        }
        for job in jobs:
            runs[job], seconds = futures[job].result()
            print(f"{job[0]} seed {job[1]} ({seconds:.0f} s)")
            for name, found in runs[job].items():
                print(f"    {name:15} " + "  ".join(f"{metric} {value:.3g}" for metric, value in found.items()))
            sys.stdout.flush()
    table = collect(runs)
    print(markdown(table))
    if not given.case and not given.strategy:
        write_table(markdown(table), given.docs)
    if given.json:
        print(json.dumps(table))


if __name__ == "__main__":
    main()
