"""How cost grows: with cells, simulations, frames, cycles and parameters, beside what the machine can do.

    python tests/benchmarks/growth.py [--json] [--quick]

`machine`: products of float32 and bfloat16 matrices in GFLOP/s and copies of memory in GB/s, one thread. `cells`: one
step of Burgers' equation in two dimensions, its graph without a compiler, from 64 x 64 to 1024 x 1024 cells with as
many samples as make 2^20 cells: nanoseconds of processor time for one cell and step, forward, and forward with the
gradient by the viscosity. `runs`: processor seconds and the most memory in MB of whole runs in processes of their own,
without pictures: one-dimensional Burgers with a small network and fixed numbers of epochs, of which one number grows
at a time. `parameters` grows the numbers of a diffusivity D(x), identified by Gauss-Newton, without a surrogate. Only
ratios along a row mean something on another machine. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from hyco_engine.builtin.models.burgers import Burgers
from hyco_engine.builtin.models.options_physical import BurgersOptions
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import BuildContext
from hyco_engine.physics.model import FlowModel
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.rollout import rollout

CELLS = 2**20
STEPS = 4
RUN: Mapping[str, Any] = {"name": "growth", "threads": 1}
DATA: Mapping[str, Any] = {
    "kind": "simulate",
    "num_simulations": 12,
    "num_frames": 21,
    "resolution": {"x": 64},
    "bounds": {"x": [0.0, 1.0]},
    "dt": 0.02,
    "split": {"by": "simulation", "train": "0:8", "val": "8:10", "test": "10:12"},
}
SPEC: Mapping[str, Any] = {
    "run": {**RUN, "cycles": 2},
    "data": {**DATA, "truth": {"nu": 0.02}},
    "physical": {"kind": "burgers", "parameters": {"nu": {"init": 0.05, "bounds": [1e-4, 1.0]}}},
    "synthetic": {"kind": "resnet", "width": 16, "blocks": 1},
    "augmentation": {"kind": "trust", "alpha": 0.5},
    "training": {"synthetic": {"epochs_per_cycle": 4, "batch_size": 32}, "physical": {"epochs_per_cycle": 3}},
}
PARAMETERS: Mapping[str, Any] = {
    "run": {**RUN, "cycles": 1},
    "data": {**DATA, "truth": {"kappa": {"profile": "sin-squared", "offset": 0.01, "scale": 0.02}}},
    "physical": {"kind": "heat", "parameters": {"kappa": {"init": 0.02, "field": True}}},
    "training": {"physical": {"epochs_per_cycle": 3, "optimizer": "gauss-newton"}},
}


def timed(run: Callable[[], Any], seconds: float) -> float:
    """Return the median processor time of one call."""
    run()
    times = []
    while sum(times) < seconds or len(times) < 3:
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)


def machine(seconds: float) -> dict[str, float]:
    a = torch.randn(1024, 1024)
    half, block = a.bfloat16(), torch.zeros(2**26)
    other = torch.empty_like(block)
    return {
        "float32_gflops": 2 * 1024**3 / timed(lambda: a @ a, seconds) / 1e9,
        "bfloat16_gflops": 2 * 1024**3 / timed(lambda: half @ half, seconds) / 1e9,
        "copy_gb_per_s": 2 * block.nbytes / timed(lambda: other.copy_(block), seconds) / 1e9,
    }


def cells(n: int, seconds: float) -> dict[str, float]:
    grid = Grid(axes=("x", "y"), resolution=(n, n), lower=(0.0, 0.0), upper=(float(n), float(n)))
    field = FieldInfo(name="u", components=("x", "y"), boundary=Boundary.parse("periodic", grid.axes))
    context = BuildContext(
        seed=0,
        registry=Registry(),
        layout=StateLayout(grid=grid, dynamic=(field,)),
        dt=0.1,
        inner_dt=0.1,
        compile="graph",
        parameters={"nu": ParameterSetting(init=0.3)},
    )
    model = FlowModel(Burgers(BurgersOptions()), context)
    state = model.initial_states(max(1, CELLS // n**2), torch.Generator().manual_seed(0))

    def forward() -> None:
        with torch.no_grad():
            rollout(model, state, STEPS)

    def gradient() -> None:
        model.zero_grad(set_to_none=True)
        rollout(model, state, STEPS).square().mean().backward()

    work = 1e-9 * STEPS * len(state) * n**2
    return {"forward_ns": timed(forward, seconds) / work, "gradient_ns": timed(gradient, seconds) / work}


def whole_run(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, float]:
    """Return processor seconds and the most memory of a run in a process of its own."""
    spec = copy.deepcopy(dict(base))
    code = (
        "import json, resource, sys; import hyco_engine as hyco;"
        "start = resource.getrusage(resource.RUSAGE_SELF);"
        "before = start.ru_utime + start.ru_stime;"
        "hyco.Engine(json.loads(sys.argv[1]), overrides=json.loads(sys.argv[2]), draw=lambda *a: ()).run();"
        "end = resource.getrusage(resource.RUSAGE_SELF);"
        "print(json.dumps([end.ru_utime + end.ru_stime - before, end.ru_maxrss]))"
    )
    with tempfile.TemporaryDirectory() as folder:
        spec["paths"] = {"runs": str(Path(folder) / "runs"), "cache": str(Path(folder) / "cache")}
        command = [sys.executable, "-c", code, json.dumps(spec), json.dumps(changes)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
    seconds, most = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": seconds, "memory_mb": most / 1024}


def simulations(count: int) -> dict[str, Any]:
    train, rest = f"0:{count}", {"val": f"{count}:{count + 2}", "test": f"{count + 2}:{count + 4}"}
    held_out = {f"data.split.{part}": places for part, places in rest.items()}
    return {"data.num_simulations": count + 4, "data.split.train": train} | held_out


def runs(factors: tuple[int, ...]) -> dict[str, dict[int, dict[str, float]]]:
    """Return the cost of runs by the number that grows; the first column has all numbers of the specs."""
    return {
        "simulations": {8 * f: whole_run(SPEC, simulations(8 * f)) for f in factors},
        "frames": {20 * f + 1: whole_run(SPEC, {"data.num_frames": 20 * f + 1}) for f in factors},
        "cycles": {2 * f: whole_run(SPEC, {"run.cycles": 2 * f}) for f in factors},
        # as many internal steps, whose length the cells bound
        "parameters": {
            64 * f: whole_run(PARAMETERS, {"data.resolution.x": 64 * f, "data.dt": 0.02 / f**2}) for f in factors
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object alone")
    parser.add_argument("--quick", action="store_true", help="shorter, up to 256 x 256 cells and twice the numbers")
    given = parser.parse_args()
    torch.set_num_threads(1)
    seconds = 0.3 if given.quick else 2.0
    # a new process begins with the memory of this one, so this one must still be small
    found: dict[str, Any] = {"runs": runs((1, 2) if given.quick else (1, 2, 4, 8))}
    found["machine"] = machine(seconds)
    found["cells"] = {n: cells(n, seconds) for n in ((64, 256) if given.quick else (64, 128, 256, 512, 1024))}
    if not given.json:
        for name, rows in found.items():
            print(name, json.dumps(rows), flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
