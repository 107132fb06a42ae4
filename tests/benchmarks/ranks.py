"""What several processes gain: `python tests/benchmarks/ranks.py [--rounds 3] [--json]`, on two idle cores.

Each process has one thread. `efficiency` is the time of one process divided by twice that of two:

* `surrogate`: an epoch of the U-Net of docs/benchmarks.md (Burgers on 128 cells, batches of 64), in two shards;
* `gauss_newton`: iterations of Gauss-Newton for the viscosity in 240 windows of 10 steps on 256 cells;
* `learned_starts`: the same for 96 windows on 64 cells, whose start states are learned beside the viscosity;
* `generation`: rollouts of that physics, 16 batches of 32.

`bytes_per_step` is what a process sends in a step of the surrogate. `single_process_overhead` is by how much longer an
epoch takes one process in 2 and in 8 shards than whole. `cpu` is the same efficiency by processor time, which other
programs disturb less, and in which waiting for the other process does not count. The result has medians.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

SEED = 0


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of the clock and of the processor that `work` takes."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - cpu


def layout(cells: int) -> Any:
    from hyco_engine.parts import Boundary, FieldInfo, Grid, StateLayout

    grid = Grid(axes=("x",), resolution=(cells,), lower=(0.0,), upper=(1.0,))
    return StateLayout(grid=grid, dynamic=(FieldInfo(name="u", boundary=Boundary.parse("periodic", ("x",))),))


def physics(cells: int) -> Any:
    """Return Burgers' equation, captured and not compiled."""
    from hyco_engine.builtin.models.burgers import Burgers, BurgersOptions
    from hyco_engine.hooks.registry import Registry
    from hyco_engine.interfaces import PhysicsContext
    from hyco_engine.parts import FlowModel, ParameterSetting

    context = PhysicsContext(
        seed=SEED,
        registry=Registry(),
        layout=layout(cells),
        dt=0.01,
        inner_dt=0.0025,
        compile="graph",
        parameters={"nu": ParameterSetting(init=0.002)},
    )
    return FlowModel(Burgers(BurgersOptions()), context)


def windows(cells: int, simulations: int, frames: int, horizon: int) -> Any:
    """Return windows of random data, whose values do not matter for the time."""
    import torch

    from hyco_engine.interfaces import Trajectory
    from hyco_engine.parts import WindowDataset

    draws = torch.Generator().manual_seed(SEED)
    x = torch.arange(cells) / cells * 2 * torch.pi
    found = []
    for _ in range(simulations):
        phase, size = torch.rand(2, generator=draws)
        wave = 0.3 * (1 + size) * torch.sin(x + 6 * phase)
        found.append(Trajectory(dynamic=wave.expand(frames, 1, cells).clone(), static=torch.zeros(0, cells)))
    return WindowDataset(tuple(found), horizon=horizon)


def work(rounds: int, which: str) -> dict[str, Any]:
    """Return the seconds of one measurement in this process, which meets the others if there are any."""
    import torch

    from hyco_engine.augment.shared import SharedRecipe
    from hyco_engine.builtin.models.options_synthetic import UNetOptions
    from hyco_engine.builtin.models.unet import build as unet
    from hyco_engine.hooks.registry import Registry
    from hyco_engine.interfaces import SurrogateContext
    from hyco_engine.parts import AugmentedDataset, Memory, RolloutRecipe, Trainer, TrainingSettings, runtime_here
    from hyco_engine.ranks.shards import Shards

    torch.set_num_threads(1)
    name, _, shards = which.partition("/")
    with runtime_here() as runtime:
        divided = Shards(int(shards or 1), runtime)
        if name == "surrogate":
            net = unet(UNetOptions(), SurrogateContext(seed=SEED, registry=Registry(), layout=layout(128)))
            settings = TrainingSettings(batch_size=64, lr=1e-3)
            trainer = Trainer(net, player="synthetic", layout=layout(128), settings=settings, shards=divided)
            data = AugmentedDataset(windows(128, 16, 35, 3))

            def run() -> object:
                return trainer.train(data, 1)
        elif name in ("gauss_newton", "learned_starts"):
            starts_are = "learned" if name == "learned_starts" else "observed"
            settings = TrainingSettings(optimizer="gauss-newton", memory_gb=0.1, initial_states=starts_are)
            cells, data = (64, windows(64, 96, 11, 10)) if starts_are == "learned" else (256, windows(256, 12, 30, 10))

            def run() -> object:
                model = physics(cells)
                trainer = Trainer(model, player="physical", layout=layout(cells), settings=settings, shards=divided)
                return trainer.train(AugmentedDataset(data), 4)
        else:
            teacher, starts = physics(256), windows(256, 512, 2, 1).inputs(torch.arange(512))
            teacher.prepare(starts[:32])

            def run() -> object:
                recipe = RolloutRecipe(teacher, starts.__getitem__, 512, horizon=40, layout=layout(256), batch_size=32)
                return Memory().hold(SharedRecipe(recipe, runtime) if runtime.size > 1 else recipe, None)

        run()
        times = []
        for _ in range(rounds):
            runtime.barrier()
            times.append(measured(run))
    clock, cpu = (statistics.median(one[k] for one in times) for k in (0, 1))
    weights = sum(p.numel() for p in net.parameters()) if name == "surrogate" else 0
    return {"clock": clock, "cpu": cpu, "weights": weights}


def in_processes(size: int, rounds: int, which: str) -> dict[str, Any]:
    """Return what the slowest of so many processes measured."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in range(size):
        given = {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, __file__, "--rounds", str(rounds), "--work", which]
        environment = os.environ | given | {"OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    found = [json.loads(one.communicate()[0].splitlines()[-1]) for one in started]
    return {name: max(one[name] for one in found) for name in found[0]}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the result as JSON alone")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.work:
        print(json.dumps(work(given.rounds, given.work)))
        return
    alone: dict[str, dict[str, Any]] = {}
    two: dict[str, dict[str, Any]] = {}
    for name in ("surrogate", "gauss_newton", "learned_starts", "generation"):
        alone[name] = in_processes(1, given.rounds, f"{name}/1")
        two[name] = in_processes(2, given.rounds, f"{name}/2")
    divided = {shards: in_processes(1, given.rounds, f"surrogate/{shards}") for shards in (2, 8)}
    weights, whole = alone["surrogate"]["weights"], alone["surrogate"]
    result = {
        "efficiency": {name: alone[name]["clock"] / (2 * two[name]["clock"]) for name in alone},
        "cpu": {name: alone[name]["cpu"] / (2 * two[name]["cpu"]) for name in alone},
        # a gradient, and the losses and weights of half of a batch
        "bytes_per_step": 4 * weights + 16 * 32,
        "single_process_overhead": {
            str(shards): {kind: one[kind] / whole[kind] - 1 for kind in ("clock", "cpu")}
            for shards, one in divided.items()
        },
    }
    print(json.dumps(result, indent=None if given.json else 2))


if __name__ == "__main__":
    main()
