"""The engine on a GPU beside one core of the CPU: the same work, seconds of clock, and their ratio.

    python tests/benchmarks/on_cuda.py [--json] [--quick]

`physics`: ten steps from 32 states, forward, and with the gradient of the mean square by the parameter, as the graph
of the step ("graph") and compiled ("inductor"). `surrogate`: steps of training with Adam over three frames, 32 samples
each, from the first epoch of a trainer to the last, data loading and metrics included; the networks have their default
sizes, and on the GPU also products in bfloat16. The CPU is left out for 256 x 256 cells. Each figure is a median, after
a call that warms up, and the GPU has done its work before a clock is read. `equal` is the largest difference between
results of GPU and CPU, relative to the largest value. `waits` counts how often a step of the surrogate's training waits
for the GPU. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.statistics import Statistics
from hyco_engine.data.windows import WindowDataset
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import BuildContext, Trajectory
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.rollout import rollout
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer

BATCH, HORIZON, FRAMES, STEPS = 32, 10, 3, 4
GPU, CPU = torch.device("cuda"), torch.device("cpu")
CASES: Mapping[str, Mapping[str, Any]] = {
    "burgers, 128": {"kind": "burgers", "cells": 128, "dims": 1, "length": 100.0, "dt": 0.1, "nu": 0.3},
    "burgers, 64 x 64": {"kind": "burgers", "cells": 64, "dims": 2, "length": 64.0, "dt": 0.1, "nu": 0.3},
    "burgers, 256 x 256": {"kind": "burgers", "cells": 256, "dims": 2, "length": 256.0, "dt": 0.1, "nu": 0.3},
    "navier-stokes, 64 x 64": {"kind": "navier-stokes", "cells": 64, "dims": 2, "length": 1.0, "dt": 0.01, "nu": 0.01},
    "navier-stokes, 256 x 256": {
        "kind": "navier-stokes", "cells": 256, "dims": 2, "length": 1.0, "dt": 0.002, "nu": 0.01,
    },
}  # fmt: skip
NETS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "resnet, 128": ("burgers, 128", {"kind": "resnet"}),
    "resnet, 64 x 64": ("burgers, 64 x 64", {"kind": "resnet"}),
    "unet, 64 x 64": ("burgers, 64 x 64", {"kind": "unet"}),
    "resnet, 256 x 256": ("burgers, 256 x 256", {"kind": "resnet"}),
}


class Case:
    """One equation and what is built for it on either device."""

    def __init__(self, case: Mapping[str, Any]) -> None:
        self.case = case
        self.registry = Registry.discover()
        dims, cells = case["dims"], case["cells"]
        axes = ("x", "y")[:dims]
        self.grid = Grid(axes=axes, resolution=(cells,) * dims, lower=(0.0,) * dims, upper=(case["length"],) * dims)
        field = FieldInfo(name="u", components=axes if dims > 1 else (), boundary=Boundary.parse("periodic", axes))
        self.layout = StateLayout(grid=self.grid, dynamic=(field,))

    def build(self, kind: str, device: torch.device, options: Mapping[str, Any] | None = None, **more: Any) -> Any:
        record = self.registry.get("hyco_models", kind)
        context = BuildContext(
            seed=0, registry=self.registry, layout=self.layout, dt=self.case["dt"], device=device, **more
        )
        return record.factory(record.options(**(options or {})), context)

    def physics(self, device: torch.device, compile: str) -> Any:
        own = {"nu": ParameterSetting(init=self.case["nu"])}
        return self.build(self.case["kind"], device, inner_dt=self.case["dt"], compile=compile, parameters=own)

    def states(self, count: int) -> torch.Tensor:
        made: torch.Tensor = self.physics(CPU, "eager").initial_states(count, torch.Generator().manual_seed(0))
        return made


def timed(run: Callable[[], Any], seconds: float) -> float:
    """Return the median seconds of a call, when the GPU has done its work."""
    times: list[float] = []
    run()
    while sum(times) < seconds:
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def physics(name: str, seconds: float) -> dict[str, Any]:
    case = Case(CASES[name])
    state = case.states(BATCH)
    found: dict[str, Any] = {}
    results: dict[str, torch.Tensor] = {}
    spectral = case.case["kind"] == "navier-stokes"
    ways = [(GPU, "graph"), *([] if spectral else [(GPU, "inductor")]), *([] if "256" in name else [(CPU, "graph")])]
    for device, compile in ways:
        model, start = case.physics(device, compile), state.to(device)

        def forward(model: Any = model, start: torch.Tensor = start) -> torch.Tensor:
            with torch.no_grad():
                return rollout(model, start, HORIZON)

        def gradient(model: Any = model, start: torch.Tensor = start) -> None:
            model.zero_grad(set_to_none=True)
            rollout(model, start, HORIZON).square().mean().backward()

        way = f"{device.type} {compile}"
        results[way] = forward().cpu()
        found[way] = {"forward": timed(forward, seconds), "gradient": timed(gradient, seconds)}
    base = results[way]
    worst = max(float((one - base).abs().max() / base.abs().max()) for one in results.values())
    if device is GPU:
        return {**found, "equal": worst}
    best = {part: min(found[one][part] for one in found if one != way) for part in ("forward", "gradient")}
    return {**found, "equal": worst, "ratio": {part: found[way][part] / best[part] for part in best}}


def surrogate(name: str, seconds: float) -> dict[str, Any]:
    of, options = NETS[name]
    case = Case(CASES[of])
    kind, own = options["kind"], {key: value for key, value in options.items() if key != "kind"}
    with torch.no_grad():
        states = case.states(4)
        rolled = rollout(case.physics(CPU, "graph"), states, STEPS * BATCH // 4 + FRAMES - 1)
    frames = torch.cat([states[:, None], rolled], dim=1)
    trajectories = [Trajectory(dynamic=one, static=frames.new_zeros(0, *frames.shape[3:])) for one in frames]
    windows = WindowDataset(trajectories, horizon=FRAMES, complete=True)
    steps = -(-len(windows) // BATCH)
    found: dict[str, Any] = {}
    ways = [(GPU, "full"), (GPU, "bf16"), *([] if "256" in name else [(CPU, "full")])]
    for device, precision in ways:
        settings = TrainingSettings(epochs_per_cycle=1, batch_size=BATCH, lr=1e-4, precision=precision)
        known = Statistics.of(trajectories, case.layout)
        model = case.build(kind, device, own, statistics=known)
        trainer = Trainer(model, player="synthetic", layout=case.layout, settings=settings)

        def epoch(trainer: Any = trainer) -> None:
            trainer.train(windows, 1)

        way = device.type if precision == "full" else f"{device.type} {precision}"
        found[way] = timed(epoch, seconds) / steps
        if device is GPU:
            found["waits"] = waits(epoch) / steps
    return {**found, **({"ratio": found["cpu"] / found["cuda"]} if "cpu" in found else {})}


def waits(run: Callable[[], Any]) -> int:
    """Return how often a call waits for the GPU, by torch's own count."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing CUDA operation" in str(one.message) for one in told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object alone")
    parser.add_argument("--quick", action="store_true", help="shorter, and without grids of 256 x 256 cells")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this benchmark compares a GPU with the CPU, and torch finds no GPU")
    torch.set_num_threads(1)
    seconds = 0.2 if given.quick else 0.5
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "physics": {}, "surrogate": {}}
    for part, run, cases in (("physics", physics, CASES), ("surrogate", surrogate, NETS)):
        for name in cases:
            if not (given.quick and "256" in name):
                found[part][name] = run(name, seconds)  # type: ignore[operator]
                if not given.json:
                    print(part, name, json.dumps(found[part][name]), flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
