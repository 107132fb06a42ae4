"""A whole cycle against the same cycle done one sample at a time, as the design documents first had it.

Workload W1: Burgers on 128 cells, L = 100, periodic, dt = 0.1, semi-Lagrangian, a learnable field D(x); a residual
network of 28 k parameters (W1 asks for 27 k; two blocks of width 48, since vector units take 16 channels at once);
30 simulations of 50 frames, horizon 3, alpha 0.1, 10 and 5 epochs, Adam.

One by one: a plain PhiFlow script, eager, whose `math.gradient` is asked for one sample at a time, and a surrogate that
is given one sample at a time too, with a step of the optimizer for each; every generated sample is a file of its own.
The script's step is the engine's, which is checked. Two further figures are printed beside: the surrogate in batches of
32, read and collated sample by sample from the files, since convolutions are the larger part of our cycle and are the
same there; and the engine's own eager execution in place of the script, which has less overhead.

Only the engine's cycle is run in full. The one-by-one side would take minutes for each phase: each phase is timed on
some of its samples, given below, before and after the engine's cycle, and the median of a sample is multiplied by their
number.

    python tests/benchmarks/cycle.py --json

`tests/benchmarks/caches.py` prints its result among others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from phi import math
from phi.field import CenteredGrid, laplace, spatial_gradient
from phi.geom import Box
from phi.physics import advect
from safetensors.torch import load_file, save_file
from torch import Tensor

from hyco_engine.builtin.caches.memory import Memory
from hyco_engine.builtin.strategies.count import Count
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.statistics import Statistics
from hyco_engine.data.windows import WindowDataset
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import BuildContext, Samples, Tracker, Trajectory
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.rollout import rollout
from hyco_engine.training.hybrid import HybridTrainer
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer

SINGLE, SINGLE_BATCHES = 32, 6
"""Samples, and batches of the surrogate, on which one-by-one phases are timed, twice."""
SIMULATIONS, FRAMES, HORIZON, ALPHA, BATCH = 30, 50, 3, 0.1, 32
SYNTHETIC_EPOCHS, PHYSICAL_EPOCHS = 10, 5
CELLS, LENGTH, DT = 128, 100.0, 0.1


class Case:
    """The data of W1 and fresh models."""

    def __init__(self) -> None:
        self.registry = Registry.discover()
        grid = Grid(axes=("x",), resolution=(CELLS,), lower=(0.0,), upper=(LENGTH,))
        self.layout = StateLayout(
            grid=grid, dynamic=(FieldInfo(name="u", boundary=Boundary.parse("periodic", ("x",))),)
        )
        true = self.physics("graph")
        x = torch.tensor(grid.centers("x"))
        true.learnables.set_("nu", torch.sin(torch.pi * x / LENGTH) ** 2)
        with torch.no_grad():
            states = true.initial_states(SIMULATIONS, torch.Generator().manual_seed(0))
            frames = torch.cat([states[:, None], rollout(true, states, FRAMES - 1)], dim=1)
        empty = torch.zeros(0, CELLS)
        trajectories = [Trajectory(dynamic=simulation, static=empty) for simulation in frames]
        self.statistics = Statistics.of(trajectories, self.layout)
        self.windows = WindowDataset(trajectories, horizon=HORIZON, complete=True)

    def physics(self, compile: str) -> Any:
        return self._build(
            "burgers",
            {"scheme": "semi-lagrangian"},
            compile=compile,
            parameters={"nu": ParameterSetting(init=1.0, field=True)},
        )

    def surrogate(self) -> Any:
        return self._build("resnet", {"width": 48, "blocks": 2, "kernel_size": 3}, statistics=self.statistics)

    def _build(self, kind: str, options: dict[str, Any], **context: Any) -> Any:
        record = self.registry.get("hyco_models", kind)
        told = BuildContext(seed=0, registry=self.registry, layout=self.layout, dt=DT, **context)
        return record.factory(record.options(**options), told)

    def trainer(self, player: Any, model: Any) -> Trainer:
        settings = {
            "synthetic": TrainingSettings(epochs_per_cycle=SYNTHETIC_EPOCHS, batch_size=BATCH, lr=1e-4),
            "physical": TrainingSettings(epochs_per_cycle=PHYSICAL_EPOCHS, batch_size=BATCH, lr=1e-2, optimizer="adam"),
        }
        return Trainer(model, player=player, layout=self.layout, settings=settings[player])


class Script:
    """A script in PhiFlow alone, which takes Fields and gives the loss and its gradient by `math.gradient`."""

    def __init__(self) -> None:
        self._field = CenteredGrid(0.0, math.extrapolation.PERIODIC, x=CELLS, bounds=Box(x=LENGTH))
        self._gradient = math.gradient(self._loss, wrt="nu", get_output=True)
        self.nu = torch.ones(CELLS, requires_grad=True)

    def rollout(self, state: Tensor, steps: int) -> list[Any]:
        """Fields after each step from `state [1, 1, N]`."""
        return self._steps(self._of(state[0, 0]), self._of(self.nu.detach()), steps)

    def loss_and_gradient(self, states: Tensor, targets: Tensor) -> None:
        """Return the loss of one sample, and leave its gradient in `nu.grad`."""
        wanted = [self._of(target[0]) for target in targets[0]]
        _, gradient = self._gradient(self._of(self.nu.detach()).values, self._of(states[0, 0]), wanted)
        self.nu.grad = gradient.native("x")

    def _of(self, values: Tensor) -> Any:
        return self._field.with_values(math.wrap(values, math.spatial("x")))

    def _loss(self, nu: Any, u: Any, wanted: Sequence[Any]) -> Any:
        found = self._steps(u, self._field.with_values(nu), len(wanted))
        return sum(math.mean((a - b).values ** 2) for a, b in zip(found, wanted, strict=True)) / len(wanted)

    @staticmethod
    def _steps(u: Any, nu: Any, steps: int) -> list[Any]:
        slope = spatial_gradient(nu).vector["x"]
        found = []
        for _ in range(steps):
            u = advect.semi_lagrangian(u, u, DT)
            u = u + DT * (nu * laplace(u) + slope * spatial_gradient(u).vector["x"])
            found.append(u)
        return found


class PhaseTimes(Tracker):
    """This process's seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begin = 0.0

    def phase_started(self, record: Mapping[str, Any]) -> None:
        self._begin = time.perf_counter()

    def phase_ended(self, record: Mapping[str, Any]) -> None:
        self.seconds[record["phase"]] = time.perf_counter() - self._begin


def engine_cycle(case: Case, compile: str) -> dict[str, float]:
    """Seconds of one cycle of the engine by phase, compilation apart."""
    physical = case.trainer("physical", case.physics(compile))
    synthetic = case.trainer("synthetic", case.surrogate())
    # graphs are made when a shape first comes: that is told apart
    start = time.perf_counter()
    for size in {BATCH, (len(case.windows) + int(ALPHA * len(case.windows))) % BATCH or BATCH}:
        states, targets = case.windows.batch(torch.arange(size))
        (rollout(physical.model, states, HORIZON) - targets).square().mean().backward()
    made = time.perf_counter() - start
    phases = PhaseTimes()
    hybrid = HybridTrainer(
        physical=physical, synthetic=synthetic, strategy=Count(), cache=Memory(), alpha=ALPHA, trackers=[phases]
    )
    start = time.perf_counter()
    hybrid.train(case.windows, 1)
    return {**phases.seconds, "total": time.perf_counter() - start, "compile": made}


class PerSampleFiles(Samples):
    """Generated samples as one file each, collated one by one behind the real ones."""

    def __init__(self, real: Samples, folder: Path, count: int) -> None:
        self._real = real
        self._folder = folder
        self._count = count

    def __len__(self) -> int:
        return len(self._real) + self._count

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        samples = [self._sample(int(index)) for index in indices]
        return torch.stack([s for s, _ in samples]), torch.stack([t for _, t in samples])

    def _sample(self, index: int) -> tuple[Tensor, Tensor]:
        if index < len(self._real):
            state, targets = self._real[index]
            assert isinstance(state, Tensor)
            assert isinstance(targets, Tensor)
            return state, targets
        held = load_file(self._folder / f"{index - len(self._real):06d}.safetensors")
        return held["state"], held["targets"]


def one_by_one_cycle(case: Case) -> dict[str, float]:
    """Seconds of each phase done one sample at a time, multiplied out; "..., ..." are other ways to do a phase."""
    script, eager, surrogate = Script(), case.physics("eager"), case.surrogate()
    n_generated = int(len(case.windows) * ALPHA)
    n_all = len(case.windows) + n_generated
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds["generate_physical"] = _generate(case, script.rollout, folder) * n_generated
        # as many real and generated samples, in the proportion of the whole
        data = PerSampleFiles(case.windows, folder, SINGLE)
        mixed = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        batches, single = torch.split(mixed[: SINGLE_BATCHES * BATCH], BATCH), torch.split(mixed[:SINGLE], 1)
        net, steps = _torch_loss(surrogate), SYNTHETIC_EPOCHS * n_all
        in_batches = _train(net, surrogate.parameters(), 1e-4, data, batches) / BATCH
        seconds["train_synthetic, in batches"] = in_batches * steps
        seconds["train_synthetic"] = _train(net, surrogate.parameters(), 1e-4, data, single) * steps
        seconds["generate_synthetic"] = _generate(case, partial(rollout, surrogate), folder) * n_generated
        steps = PHYSICAL_EPOCHS * n_all
        seconds["train_physical"] = _train(script.loss_and_gradient, [script.nu], 1e-2, data, single) * steps
        engines = _train(_torch_loss(eager), eager.parameters(), 1e-2, data, single) * steps
        seconds["train_physical, eager in the engine"] = engines
    return seconds


def check_script(case: Case) -> None:
    """Check that the script steps and differentiates as the engine does."""
    script, eager = Script(), case.physics("eager")
    states, targets = case.windows.batch(torch.arange(1))
    _torch_loss(eager)(states, targets)
    script.loss_and_gradient(states, targets)
    (raw,) = eager.parameters()
    torch.testing.assert_close(script.nu.grad, raw.grad.reshape(-1), rtol=1e-3, atol=1e-6)


def _torch_loss(model: Any) -> Callable[[Tensor, Tensor], None]:
    def loss_and_gradient(states: Tensor, targets: Tensor) -> None:
        (rollout(model, states, HORIZON) - targets).square().mean().backward()

    return loss_and_gradient


def _generate(case: Case, steps: Callable[[Tensor, int], Any], folder: Path) -> float:
    """Median of the seconds for a sample and its file."""

    def make(index: int) -> None:
        state = case.windows.inputs(torch.tensor([index]))
        assert isinstance(state, Tensor)
        with torch.no_grad():
            found = steps(state, HORIZON)
        targets = found[0] if isinstance(found, Tensor) else torch.stack([u.values.native("x")[None] for u in found])
        save_file({"state": state[0], "targets": targets.contiguous()}, folder / f"{index:06d}.safetensors")

    return statistics.median(_seconds(make, index) for index in range(SINGLE))


def _train(
    loss_and_gradient: Callable[[Tensor, Tensor], None],
    parameters: Iterable[Tensor],
    lr: float,
    data: Samples,
    batches: Sequence[Tensor],
) -> float:
    """Median of the seconds for loss, gradient and Adam step of a batch."""
    optimizer = torch.optim.Adam(parameters, lr=lr)

    def step(indices: Tensor) -> None:
        optimizer.zero_grad()
        loss_and_gradient(*data.batch(indices))
        optimizer.step()

    step(batches[0])  # the first call also examines the step
    return statistics.median(_seconds(step, indices) for indices in batches)


def _seconds(work: Callable[[Any], object], argument: Any) -> float:
    start = time.perf_counter()
    work(argument)
    return time.perf_counter() - start


def measure(compile: str = "inductor") -> dict[str, Any]:
    """Return `cycle_speedup`, the speed-ups over the other ways, and the seconds from which they follow."""
    case = Case()
    check_script(case)
    before = one_by_one_cycle(case)
    engine = engine_cycle(case, compile)
    after = one_by_one_cycle(case)
    single = {phase: (before[phase] + after[phase]) / 2 for phase in before}

    def speedup(**instead: str) -> float:
        phases = ("generate_physical", "train_synthetic", "generate_synthetic", "train_physical")
        return sum(single[instead.get(phase, phase)] for phase in phases) / engine["total"]

    batches, eager = "train_synthetic, in batches", "train_physical, eager in the engine"
    return {
        "cycle_speedup": speedup(),
        "cycle_speedup_with_surrogate_in_batches": speedup(train_synthetic=batches),
        "cycle_speedup_with_the_engines_eager_physics": speedup(train_physical=eager),
        "physics_speedup": single["train_physical"] / engine["train_physical"],
        "engine": engine,
        "one_by_one": single,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--compile", default="inductor", choices=["eager", "graph", "inductor"])
    given = parser.parse_args()
    result = measure(given.compile)
    for name in ("engine", "one_by_one"):
        print(name, {phase: round(value, 3) for phase, value in result[name].items()})
    print(f"one by one: timed on {SINGLE} samples (batches: {SINGLE_BATCHES}) of each phase, and multiplied")
    for name, value in result.items():
        if isinstance(value, float):
            print(f"{name} {value:.1f}")
    if given.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
