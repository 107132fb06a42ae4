"""Speed of physical training: samples x steps a second, forward and backward, batch 32, horizon 10, one thread.

    python tests/benchmarks/physics_speed.py [--json] [--quick]

Four ways to run the same step of the gallery's `burgers`: PhiFlow as written, one sample at a time; the captured graph
without inductor; the captured graph with inductor; a step written by hand in torch, compiled by inductor. Both schemes:
the default one, finite differences and Runge-Kutta, and semi-Lagrangian advection with explicit diffusion. All ways are
timed in turn, several times over, and the median ratios are printed: the machine may be noisy. Compile times are apart.
With --json the last line is one JSON object, of the default scheme, with the other below `semi_lagrangian`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hyco_engine.builtin.models.burgers import Burgers, BurgersOptions
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import BuildContext
from hyco_engine.physics.model import FlowModel
from hyco_engine.rollout import rollout

BATCH, HORIZON = 32, 10
DT, NU = 0.1, 0.3
CASES = {"burgers1d": (128, 100.0, 1), "burgers2d": (64, 64.0, 2)}
"""(cells along each axis, length of each axis, axes)."""
WAYS = ("eager_single", "graph", "inductor", "handwritten")


def layout_of(cells: int, length: float, dims: int) -> StateLayout:
    axes = ("x", "y")[:dims]
    grid = Grid(axes=axes, resolution=(cells,) * dims, lower=(0.0,) * dims, upper=(length,) * dims)
    field = FieldInfo(name="u", components=axes if dims > 1 else (), boundary=Boundary.parse("periodic", axes))
    return StateLayout(grid=grid, dynamic=(field,))


def model_of(layout: StateLayout, scheme: str, compile: str) -> FlowModel:
    from hyco_engine.physics.settings import ParameterSetting

    context = BuildContext(
        seed=0,
        registry=Registry(),
        layout=layout,
        dt=DT,
        inner_dt=DT,
        compile=compile,  # type: ignore[arg-type]
        parameters={"nu": ParameterSetting(init=NU)},
    )
    return FlowModel(Burgers(BurgersOptions(scheme=scheme)), context)  # type: ignore[arg-type]


class HandWritten(torch.nn.Module):
    """The same step in plain torch, without PhiFlow."""

    def __init__(self, dx: float, dims: int, scheme: str) -> None:
        super().__init__()
        self.nu = torch.nn.Parameter(torch.tensor(NU))
        step = {
            ("semi-lagrangian", 1): semi_lagrangian_1d,
            ("semi-lagrangian", 2): semi_lagrangian_2d,
            ("finite-difference", 1): runge_kutta_1d,
            ("finite-difference", 2): runge_kutta_2d,
        }[scheme, dims]
        self._dx = dx
        self.plain = step
        self._step = torch.compile(step, fullgraph=True, dynamic=False)

    def forward(self, u: Tensor) -> Tensor:
        return self._step(u, self.nu, self._dx)


def laplacian(u: Tensor, dx: float, axes: tuple[int, ...]) -> Tensor:
    parts = [torch.roll(u, 1, axis) + torch.roll(u, -1, axis) - 2 * u for axis in axes]
    return sum(parts[1:], start=parts[0]) / dx**2


def semi_lagrangian_1d(u: Tensor, nu: Tensor, dx: float) -> Tensor:
    n = u.shape[-1]
    place = torch.arange(n, dtype=u.dtype, device=u.device) - u * (DT / dx)
    low = place.floor()
    f, i = place - low, low.long() % n
    a = u.gather(-1, i) * (1 - f) + u.gather(-1, (i + 1) % n) * f
    return a + DT * nu * laplacian(a, dx, (-1,))


def semi_lagrangian_2d(u: Tensor, nu: Tensor, dx: float) -> Tensor:
    n = u.shape[-1]
    grid = torch.arange(n, dtype=u.dtype, device=u.device)
    x, y = grid[:, None] - u[:, 0] * (DT / dx), grid[None, :] - u[:, 1] * (DT / dx)
    x0, y0 = x.floor(), y.floor()
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    i, j = x0.long() % n, y0.long() % n
    k, l = (i + 1) % n, (j + 1) % n
    flat = u.flatten(2)

    def at(row: Tensor, column: Tensor) -> Tensor:
        index = (row * n + column).flatten(1)[:, None].expand(-1, 2, -1)
        return flat.gather(2, index).view_as(u)

    lower = at(i, j) * (1 - fy) + at(i, l) * fy
    upper = at(k, j) * (1 - fy) + at(k, l) * fy
    a = lower * (1 - fx) + upper * fx
    return a + DT * nu * laplacian(a, dx, (-1, -2))


def first(u: Tensor, dx: float, axis: int) -> Tensor:
    near = torch.roll(u, -1, axis) - torch.roll(u, 1, axis)
    return near * (2 / 3 / dx) - (torch.roll(u, -2, axis) - torch.roll(u, 2, axis)) * (1 / 12 / dx)


def second(u: Tensor, dx: float, axis: int) -> Tensor:
    near = torch.roll(u, -1, axis) + torch.roll(u, 1, axis)
    far = torch.roll(u, -2, axis) + torch.roll(u, 2, axis)
    return near * (4 / 3 / dx**2) - far * (1 / 12 / dx**2) - u * (2.5 / dx**2)


def runge_kutta(rate: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    k1 = rate(u)
    k2 = rate(u + DT / 2 * k1)
    k3 = rate(u + DT / 2 * k2)
    k4 = rate(u + DT * k3)
    return u + DT / 6 * (k1 + 2 * (k2 + k3) + k4)


def runge_kutta_1d(u: Tensor, nu: Tensor, dx: float) -> Tensor:
    def rate(v: Tensor) -> Tensor:
        return nu * second(v, dx, -1) - (v * first(v, dx, -1) + first(v * v, dx, -1)) / 3

    return runge_kutta(rate, u)


def runge_kutta_2d(u: Tensor, nu: Tensor, dx: float) -> Tensor:
    def rate(v: Tensor) -> Tensor:
        p, q = v[:, 0], v[:, 1]
        along_p = (p * first(p, dx, -2) + first(p * p, dx, -2)) / 3 + q * first(p, dx, -1)
        along_q = p * first(q, dx, -2) + (q * first(q, dx, -1) + first(q * q, dx, -1)) / 3
        return nu * (second(v, dx, -1) + second(v, dx, -2)) - torch.stack([along_p, along_q], 1)

    return runge_kutta(rate, u)


def train_step(model: torch.nn.Module, state: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    rollout(model, state, HORIZON).square().mean().backward()


def rate_of(model: torch.nn.Module, state: Tensor, seconds: float) -> float:
    """Samples x steps a second."""
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or not count:
        train_step(model, state)
        count += 1
    return count * HORIZON * len(state) / (time.perf_counter() - start)


def measure(name: str, scheme: str, seconds: float, rounds: int) -> dict[str, Any]:
    cells, length, dims = CASES[name]
    layout = layout_of(cells, length, dims)
    models: dict[str, torch.nn.Module] = {
        "eager_single": model_of(layout, scheme, "eager"),
        "graph": model_of(layout, scheme, "graph"),
        "inductor": model_of(layout, scheme, "inductor"),
        "handwritten": HandWritten(length / cells, dims, scheme),
    }
    states = models["graph"].initial_states(BATCH, torch.Generator().manual_seed(0))  # type: ignore[operator]
    compile_s = {}
    for way, model in models.items():
        start = time.perf_counter()
        train_step(model, states[:1] if way == "eager_single" else states)
        compile_s[way] = time.perf_counter() - start
        if way == "inductor" and model.execution[0] != "inductor":  # type: ignore[operator, index]
            sys.exit(f"{name}: inductor was not used: {model.execution}")
    with torch.no_grad():
        ours, theirs = models["inductor"](states), models["handwritten"](states)
        difference = float((ours - theirs).abs().max() / ours.abs().max())
    if difference > 1e-4:
        sys.exit(f"{name}: the hand-written step is another one: it differs by {difference:.2g}")
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            rates[way].append(rate_of(models[way], states[:1] if way == "eager_single" else states, seconds))
    middle = {way: statistics.median(values) for way, values in rates.items()}

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=True))

    return {
        "scheme": scheme,
        "speedup_vs_eager_single": ratio("inductor", "eager_single"),
        "ratio_to_handwritten": ratio("inductor", "handwritten"),
        "graph_vs_eager_single": ratio("graph", "eager_single"),
        "handwritten_vs_eager_single": ratio("handwritten", "eager_single"),
        "samples_steps_per_s": middle,
        "first_call_s": compile_s,
        "difference_to_handwritten": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--data", help="not used here: nothing is read")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, one scheme")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seconds, rounds = (0.5, 2) if arguments.quick else (1.5, 5)
    result: dict[str, Any] = {}
    for name in CASES:
        for scheme in ("finite-difference",) if arguments.quick else ("finite-difference", "semi-lagrangian"):
            row = measure(name, scheme, seconds, rounds)
            if scheme == "finite-difference":
                result[name] = row
            else:
                result[name]["semi_lagrangian"] = row
            print(
                f"{name:10} {scheme:18} samples*steps/s: "
                + ", ".join(f"{way} {row['samples_steps_per_s'][way]:,.0f}" for way in WAYS)
                + f"\n{'':29} against eager one by one: inductor {row['speedup_vs_eager_single']:.0f} x, graph "
                f"{row['graph_vs_eager_single']:.0f} x, by hand {row['handwritten_vs_eager_single']:.0f} x; against by "
                f"hand: {row['ratio_to_handwritten']:.2f} x\n{'':29} first call: "
                + ", ".join(f"{way} {row['first_call_s'][way]:.1f} s" for way in WAYS)
            )
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
