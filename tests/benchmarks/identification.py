"""Identification of parameters: the workloads of the predecessor, published data, noise. Prints what was found.

    python tests/benchmarks/identification.py [--data DIR] [--json] [--only CASE,CASE] [--draws 20]

Everything is a use of the library: gallery physics, windows, `Trainer`, Levenberg-Marquardt. `DIR` (../shared/data)
holds the published data; its cases are left out where it is missing. With --json the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.windows import WindowDataset
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import BuildContext, Trajectory
from hyco_engine.physics.model import FlowModel
from hyco_engine.physics.settings import ParameterSetting, Profile
from hyco_engine.rollout import rollout
from hyco_engine.runs.summary import relative_error
from hyco_engine.training.error_bars import independent, measure
from hyco_engine.training.least_squares import LevenbergMarquardt, NormalEquations
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.tangents import TangentRollout
from hyco_engine.training.trainer import Trainer

NU = 0.01 / math.pi
PUBLISHED = {2000: {0: 0.469, 1: 0.008, 5: 6.216, 10: 6.391}, 500: {0: 13.885, 1: 0.483, 5: 1.708, 10: 4.058}}
"""Errors of nu in %, single PINN runs; Raissi, Perdikaris, Karniadakis (2019), table 3."""


def context(layout: StateLayout, dt: float, **more: Any) -> BuildContext:
    return BuildContext(seed=0, registry=Registry.discover(), layout=layout, dt=dt, **more)


def periodic_grid(cells: int, length: float, dims: int) -> Grid:
    return Grid(axes=("x", "y")[:dims], resolution=(cells,) * dims, lower=(0.0,) * dims, upper=(length,) * dims)


def physical(kind: str, options: dict[str, Any], built: BuildContext) -> FlowModel:
    record = built.registry.get("hyco_models", kind)
    model = built.registry.build("hyco_models", kind, record.options(**options), built)
    assert isinstance(model, FlowModel)
    return model


def simulated(model: FlowModel, count: int, frames: int, seed: int = 0) -> list[Trajectory]:
    states = model.initial_states(count, torch.Generator().manual_seed(seed))
    dynamic = model.layout.n_dynamic
    with torch.no_grad():
        path = torch.cat([states[:, None, :dynamic], rollout(model, states, frames - 1)], dim=1)
    return [Trajectory(dynamic=p, static=s[dynamic:]) for p, s in zip(path, states, strict=True)]


def trainer_of(model: FlowModel, **settings: Any) -> Trainer:
    chosen = attrs.evolve(TrainingSettings(optimizer="auto"), **settings)
    return Trainer(model, player="physical", layout=model.layout, settings=chosen)


# --- W1: a field in one dimension, beside plain torch ---------------------------------------------------------------


class PlainStep(torch.nn.Module):
    """Semi-Lagrangian advection and explicit diffusion with D(x), by hand."""

    def __init__(self, start: Tensor, dx: float, dt: float) -> None:
        super().__init__()
        self.d = torch.nn.Parameter(start.clone())
        self.dx, self.dt = dx, dt

    def forward(self, state: Tensor) -> Tensor:
        u, n = state[:, 0], state.shape[-1]
        place = torch.arange(n, dtype=u.dtype) - u * (self.dt / self.dx)
        low = place.floor()
        f, i = place - low, low.long() % n
        a = u.gather(-1, i) * (1 - f) + u.gather(-1, (i + 1) % n) * f
        left, right = torch.roll(a, 1, -1), torch.roll(a, -1, -1)
        d_left, d_right = torch.roll(self.d, 1), torch.roll(self.d, -1)
        spread = self.d * (left + right - 2 * a) + (d_right - d_left) * (right - left) / 4
        return (a + self.dt / self.dx**2 * spread)[:, None]


def plain_lbfgs(model: PlainStep, data: WindowDataset, iterations: int) -> tuple[float, int]:
    """Return (seconds, evaluations)."""
    states, targets = data.batch(torch.arange(len(data)))
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=iterations,
        max_eval=2 * iterations,
        history_size=20,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )
    count = 0
    # the loss in units in which L-BFGS works: torch skips updates with y.s < 1e-10
    with torch.no_grad():
        scale = 1.0 / float((rollout(model, states, targets.shape[1]) - targets).square().mean())

    def closure() -> Tensor:
        nonlocal count
        count += 1
        optimizer.zero_grad()
        loss = (rollout(model, states, targets.shape[1]) - targets).square().mean() * scale
        loss.backward()
        return loss.detach()

    start = time.perf_counter()
    optimizer.step(closure)
    return time.perf_counter() - start, count


def w1(horizon: int = 4, iterations: int = 130, rounds: int = 5) -> dict[str, Any]:
    """Physics only: D(x) = sin^2(pi x / L) from 1; 4 simulations, all windows in one L-BFGS."""
    axes, n, length, dt = ("x",), 128, 100.0, 0.1
    field = FieldInfo(name="u", boundary=Boundary.parse("periodic", axes))
    layout = StateLayout(grid=periodic_grid(n, length, 1), dynamic=(field,))
    options = {"scheme": "semi-lagrangian"}

    def model_of(init: Any, compile: str) -> FlowModel:
        setting = {"nu": ParameterSetting(init=init, field=True)}
        return physical("burgers", options, context(layout, dt, inner_dt=dt, parameters=setting, compile=compile))

    truth = model_of(Profile(), "graph")
    true = truth.learnables.values()["nu"].detach()
    data = WindowDataset(simulated(truth, 4, 50), horizon=horizon, complete=True)
    rows = []
    for _ in range(rounds):
        plain = PlainStep(torch.ones(n), length / n, dt)
        plain_s, evaluations = plain_lbfgs(plain, data, iterations)
        for compile in ("graph", "inductor"):
            model = model_of(1.0, compile)
            trainer = trainer_of(model, batch_size=len(data))
            start = time.perf_counter()
            trainer.whole_loss(data).gradient()
            capture_s = time.perf_counter() - start
            start = time.perf_counter()
            result = trainer.train(data, iterations)
            seconds = time.perf_counter() - start
            error = relative_error(model.learnables.values()["nu"].detach(), true)
            row = {"compile": compile, "error": error, "seconds": seconds, "capture_s": capture_s}
            rows.append({**row, "iterations": result.metrics["epoch"], "ratio": seconds / plain_s, "plain_s": plain_s})
    plain_error = relative_error(plain.d.detach(), true)
    best = {}
    for compile in ("graph", "inductor"):
        own = sorted((row for row in rows if row["compile"] == compile), key=lambda row: row["ratio"])
        best[compile] = own[len(own) // 2]
        row = best[compile]
        print(
            f"W1 {compile:8} error {row['error']:.2e} in {row['iterations']} iterations, {row['seconds']:.2f} s "
            f"(capture {row['capture_s']:.1f} s apart): {row['ratio']:.2f} x plain torch ({row['plain_s']:.2f} s, "
            f"{evaluations} evaluations, error {plain_error:.2e})"
        )
    chosen = best["inductor"]
    return {
        "error": chosen["error"],
        "time_ratio_to_plain_lbfgs": chosen["ratio"],
        "capture_s": chosen["capture_s"],
        "plain_error": plain_error,
        "graph": {"error": best["graph"]["error"], "time_ratio_to_plain_lbfgs": best["graph"]["ratio"]},
    }


# --- W2, W3: fields in two dimensions -------------------------------------------------------------------------------


def w2(horizon: int = 4, iterations: int = 60) -> dict[str, Any]:
    """Advection by a ring vortex plus an unknown field m; one simulation of 20 frames."""
    built = BuildContext(seed=0, registry=Registry.discover(), grid=periodic_grid(64, 64.0, 2), dt=1.0)
    options = {"velocity": "ring-vortex"}
    true_m = {f"m{axis}": ParameterSetting(init=Profile(scale=0.2), field=True) for axis in "xy"}
    start_m = {f"m{axis}": ParameterSetting(init=0.0, field=True) for axis in "xy"}
    truth = physical("advection", options, attrs.evolve(built, parameters=true_m))
    data = WindowDataset(simulated(truth, 1, 20), horizon=horizon, complete=True)
    model = physical("advection", options, attrs.evolve(built, layout=truth.layout, grid=None, parameters=start_m))
    true = torch.stack([value.detach() for value in truth.learnables.values().values()])
    begun = time.perf_counter()
    start = relative_error(torch.stack(list(model.learnables.values().values())).detach(), true)
    result = trainer_of(model).train(data, iterations)
    error = relative_error(torch.stack(list(model.learnables.values().values())).detach(), true)
    seconds = time.perf_counter() - begun
    notes = "; ".join(result.notes)
    print(f"W2 error of m {start:.3g} -> {error:.3g} (moved: {result.moved}), {seconds:.0f} s {notes}")
    return {"start_error": start, "error": error, "moved": result.moved}


def w3(horizon: int = 4, iterations: int = 60) -> dict[str, Any]:
    """Burgers in two dimensions, D(x, y) = sin^2 sin^2 from 1; one simulation of 20 frames."""
    dt, setting = 0.1, {"scheme": "semi-lagrangian"}
    field = FieldInfo(name="u", components=("x", "y"), boundary=Boundary.parse("periodic", ("x", "y")))
    layout = StateLayout(grid=periodic_grid(64, 100.0, 2), dynamic=(field,))

    def model_of(init: Any) -> FlowModel:
        parameters = {"nu": ParameterSetting(init=init, field=True)}
        return physical("burgers", setting, context(layout, dt, inner_dt=dt, parameters=parameters))

    truth, model = model_of(Profile()), model_of(1.0)
    true = truth.learnables.values()["nu"].detach()
    data = WindowDataset(simulated(truth, 1, 20), horizon=horizon, complete=True)
    begun = time.perf_counter()
    trainer_of(model).train(data, iterations)
    error = relative_error(model.learnables.values()["nu"].detach(), true)
    print(f"W3 error of D {error:.3g} ({iterations} iterations, {time.perf_counter() - begun:.0f} s)")
    return {"error": error}


# --- burgers_shock --------------------------------------------------------------------------------------------------


class Points:
    """Scattered values of u from a known initial state: one rollout a start, read off at that start's points.

    A `SquaredSum` in nu: start s has the targets `y[s]` at (frame, node) `at[s]`.
    """

    def __init__(self, model: FlowModel, state: Tensor, to_nodes: Tensor, at: Tensor, y: Tensor, steps: int) -> None:
        self.model, self.state, self.to_nodes, self.at, self.y, self.steps = model, state, to_nodes, at, y, steps
        self._rollout = TangentRollout(model)

    def _read(self, u: Tensor, starts: Tensor) -> Tensor:
        """`[S, T, N]` on cells -> `[S, points]`; the first frame is the known one."""
        nodes = u @ self.to_nodes.T
        frame, node = self.at[starts, 0], self.at[starts, 1]
        return nodes.flatten(1).gather(1, frame * nodes.shape[2] + node)

    def _padded(self, points: Tensor) -> Tensor:
        # one graph, whatever starts are left
        return torch.cat([points, points[-1:].expand(len(self.y) - len(points), -1)])

    def _frames(self, predictions: Tensor, first: Tensor, count: int) -> Tensor:
        return torch.cat([first.expand(count, 1, -1), predictions[:count, 0, :, 0]], dim=1)

    def values(self, points: Tensor, starts: Tensor) -> Tensor:
        with torch.no_grad():
            predictions, _ = self._rollout(self.state, self.steps, self._padded(points), tangents=False)
        u = self._frames(predictions, self.state[:, 0], len(points))
        return (self._read(u, starts) - self.y[starts]).square().sum(1)

    def normal_equations(self, points: Tensor, starts: Tensor) -> NormalEquations:
        with torch.no_grad():
            predictions, rates = self._rollout(self.state, self.steps, self._padded(points), tangents=True)
        assert rates is not None
        count = len(points)
        r = self._read(self._frames(predictions, self.state[:, 0], count), starts) - self.y[starts]
        j = self._read(self._frames(rates[:, 0], torch.zeros_like(self.state[:, 0]), count), starts)
        return NormalEquations(
            values=r.square().sum(1),
            gradient=(j * r).sum(1, keepdim=True),
            hessian=j.square().sum(1)[:, None, None],
        )


def shock_model(cells: int, start: float) -> tuple[FlowModel, Tensor]:
    """Return (model, initial state) on [-1, 1] with u = 0 at both ends."""
    grid = Grid(axes=("x",), resolution=(cells,), lower=(-1.0,), upper=(1.0,))
    layout = StateLayout(grid=grid, dynamic=(FieldInfo(name="u", boundary=Boundary.parse(0.0, ("x",))),))
    state = -torch.sin(math.pi * torch.tensor(grid.centers("x"), dtype=torch.float64))[None, None]
    # about the size of the field, as the statistics of a data set would say: the internal steps are chosen by it
    setting = {"nu": ParameterSetting(init=start, bounds=(1e-5, 1.0))}
    built = context(layout, 0.01, dtype=torch.float64, parameters=setting, compile="inductor")
    probe = physical("burgers", {}, built)
    values = {name: value.detach() for name, value in probe.learnables.values().items()}
    count = probe.physics.internal_steps(layout, {"u": 1.0}, values, 0.01)
    return physical("burgers", {}, attrs.evolve(built, inner_dt=0.01 / count)), state


def cells_to_nodes(cells: int, nodes: Tensor) -> Tensor:
    """Cubic interpolation `[nodes, cells]` from cell centres on [-1, 1], odd about both ends."""
    dx = 2.0 / cells
    matrix = torch.zeros(len(nodes), cells, dtype=torch.float64)
    for row, x in enumerate(nodes.tolist()):
        place = (x + 1) / dx - 0.5
        base = math.floor(place)
        f = place - base
        weights = [-f * (f - 1) * (f - 2) / 6, (f + 1) * (f - 1) * (f - 2) / 2, -(f + 1) * f * (f - 2) / 2]
        weights.append((f + 1) * f * (f - 1) / 6)
        for k, weight in zip(range(base - 1, base + 3), weights, strict=True):
            sign, cell = (-1, -1 - k) if k < 0 else (-1, 2 * cells - 1 - k) if k >= cells else (1, k)
            matrix[row, cell] += sign * weight
    return matrix


def fit_points(problem: Points, starts: int, iterations: int = 25) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (estimates, standard errors, interval ends `[2, S]`, final information) of each batched start."""
    from scipy.special import stdtrit

    search = LevenbergMarquardt(starts=starts)
    raw = next(iter(problem.model.learnables.raw.values())).detach()
    points = raw.double().expand(starts, 1).clone()
    for _ in range(iterations):
        step = search.iterate(problem, points)
        points = step.points
        if bool((step.converged | ~step.moved).all()):
            break
    found = problem.normal_equations(points, torch.arange(starts))
    value, hessian = found.values, found.hessian
    transform = problem.model.learnables.transform("nu")
    x = points[:, 0].clone().requires_grad_()
    nu = transform.to_value(x)
    (slope,) = torch.autograd.grad(nu.sum(), x)
    errors, ends = [], []
    for start in range(starts):
        covariance, dof = independent(hessian[start], float(value[start]), problem.y.shape[1])
        error = float(covariance.sqrt())
        reach = float(stdtrit(dof, 0.975)) * error
        errors.append(error * float(slope[start]))
        ends.append([float(transform.to_value(points[start, 0] + sign * reach)) for sign in (-1, 1)])
    information = hessian[:, 0, 0] / slope**2
    return nu.detach(), torch.tensor(errors), torch.tensor(ends).T, information.detach()


def shock_all_points(folder: Path, horizon: int = 3) -> dict[str, Any]:
    """The main job's way: windows on the data's own grid; and its error bar."""
    from hyco_engine.engine import Engine

    spec = {
        "run": {"name": "shock", "cycles": 1},
        "data": {
            "kind": "arrays",
            "path": str(folder / "burgers_shock.mat"),
            "variables": {"u": "usol"},
            "axes": "xt",
            "time": "t",
            "coordinates": {"x": "x"},
            "bounds": {"x": [-1.0, 1.0]},
            "boundary": 0.0,
            "num_predict_steps": horizon,
            "split": {"by": "time", "train": "0:80", "val": "80:100"},
        },
        "physical": {"kind": "burgers", "parameters": {"nu": {"init": 0.05, "bounds": [1e-5, 1.0]}}},
        "training": {"physical": {"epochs_per_cycle": 20, "batch_size": 128}},
    }
    from hyco_engine.assembly import Assembler

    engine = Engine(spec)
    assembler = Assembler(engine.spec, engine.registry)
    task = assembler.task()
    task.read()
    trainer = assembler.trainer("physical", assembler.model("physical", task.form), task)
    begun = time.perf_counter()
    result = trainer.train(task.train, 20)
    bars = measure(trainer, task.train)
    assert bars is not None
    nu = result.metrics["param/nu"]
    low, high = bars.interval["nu"] or (math.nan, math.nan)
    told = "covers" if low < NU < high else "MISSES"
    print(
        f"burgers_shock, all points, windows of {horizon}: nu = {nu:.6f}, {100 * (nu / NU - 1):+.2f} %, standard error "
        f"{100 * (bars.standard_error['nu'] or 0) / NU:.2f} %, 95 % interval {told} the truth; "
        f"{result.metrics['epoch']} iterations, {time.perf_counter() - begun:.0f} s\n    {bars.assumption}"
    )
    return {"error": abs(nu / NU - 1), "covered": low < NU < high}


def burgers_shock(folder: Path, draws: int, cells: int = 768) -> dict[str, Any]:
    from scipy.io import loadmat

    raw = loadmat(folder / "burgers_shock.mat", variable_names=["x", "t", "usol"])
    x, u = torch.tensor(raw["x"][:, 0]), torch.tensor(np.real(raw["usol"]).T.copy())
    model, state = shock_model(cells, start=0.006)
    to_nodes = cells_to_nodes(cells, x)
    windows = shock_all_points(folder)
    found: dict[str, Any] = {"0": windows["error"]}
    frames = torch.arange(u.numel()) // len(x)
    every = torch.stack([frames, torch.arange(u.numel()) % len(x)])[None]
    everything = Points(model, state, to_nodes, every, u.flatten()[None], len(u) - 1)
    nu, error, _, _ = fit_points(everything, 1)
    print(
        f"burgers_shock, all points, one rollout on {cells} cells: nu = {float(nu):.6f}, "
        f"{100 * (float(nu) / NU - 1):+.2f} %, standard error (independent values) {100 * float(error) / NU:.2f} %"
    )
    details: dict[str, Any] = {"windows": windows, "one_rollout": abs(float(nu) / NU - 1)}
    for noise in (0, 1, 5, 10):
        for count in (2000, 500):
            generator = torch.Generator().manual_seed(100 * noise + count)
            chosen = torch.stack([torch.randperm(u.numel(), generator=generator)[:count] for _ in range(draws)])
            at = torch.stack([chosen // len(x), chosen % len(x)], dim=1)
            sigma = noise / 100 * float(u.std(correction=0))
            y = u.flatten()[chosen]
            y = y + sigma * torch.randn(y.shape, generator=generator, dtype=torch.float64)
            problem = Points(model, state, to_nodes, at, y, len(u) - 1)
            problem._rollout = everything._rollout
            nu, _, ends, information = fit_points(problem, draws)
            rms = float((nu / NU - 1).square().mean().sqrt())
            covered = float(((ends[0] < NU) & (ends[1] > NU)).double().mean())
            bound = sigma / math.sqrt(float(information.mean())) / NU
            details[f"{noise}/{count}"] = {"rms": rms, "bound": bound, "covered": covered}
            if count == 2000 and noise:
                found[str(noise)] = rms
            print(
                f"burgers_shock, {count:4} points, noise {noise:2} %: RMS error {100 * rms:6.3f} % over {draws} draws "
                f"(Cramer-Rao {100 * bound:.3f} %, published single run {PUBLISHED[count][noise]:.3f} %), the 95 % "
                f"interval covers the truth in {100 * covered:.0f} % of the draws",
                flush=True,
            )
    return {**found, "details": details}


# --- Gray-Scott -----------------------------------------------------------------------------------------------------


def gray_scott(folder: Path) -> dict[str, Any]:
    """D_u, D_v from (0.10, 0.05), f and k known; windows of one frame, every fifth."""
    frames = np.stack([np.load(folder / f"{name}_timeseries.npy", allow_pickle=False) for name in "UV"], axis=1)
    times = np.load(folder / "time_points.npy", allow_pickle=False)
    # row = y, column = x, and a state is [.., x, y]
    path = torch.tensor(frames).transpose(-1, -2).contiguous()
    grid = periodic_grid(64, 64 * 100 / 63, 2)
    fields = tuple(FieldInfo(name=name, boundary=Boundary.parse("periodic", grid.axes)) for name in ("u", "v"))
    layout = StateLayout(grid=grid, dynamic=fields)
    known = {"f": ParameterSetting(init=0.018, learn=False), "k": ParameterSetting(init=0.051, learn=False)}
    start = {"Du": ParameterSetting(init=0.10), "Dv": ParameterSetting(init=0.05)}
    dt = float(times[1] - times[0])
    model = physical("gray-scott", {}, context(layout, dt, inner_dt=0.4, parameters=known | start))
    empty = torch.zeros(0, 64, 64)
    data = WindowDataset([Trajectory(dynamic=path, static=empty)], horizon=1, stride=5)
    trainer = trainer_of(model, batch_size=len(data))
    begun = time.perf_counter()
    result = trainer.train(data, 20)
    bars = measure(trainer, data)
    assert bars is not None
    truth = {"Du": 0.20, "Dv": 0.08}
    errors = {name: abs(result.metrics[f"param/{name}"] / true - 1) for name, true in truth.items()}
    told = ", ".join(
        f"{name} {result.metrics[f'param/{name}']:.6f} ({100 * errors[name]:.4f} %, standard error "
        f"{100 * (bars.standard_error[name] or 0) / true:.4f} %)"
        for name, true in truth.items()
    )
    print(f"Gray-Scott {told}; {result.metrics['epoch']} iterations, {time.perf_counter() - begun:.0f} s")
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared/data", metavar="DIR")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--only", default="w1,w2,w3,burgers_shock,gray_scott", help="cases, separated by commas")
    parser.add_argument("--draws", type=int, default=20, help="of random points and noise")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    published = {
        "burgers_shock": (arguments.data / "raissi_pinns", lambda folder: burgers_shock(folder, arguments.draws)),
        "gray_scott": (arguments.data / "hyco_grayscott", gray_scott),
    }
    result: dict[str, Any] = {}
    for name in arguments.only.split(","):
        if name in published:
            folder, run = published[name]
            if not folder.is_dir():
                print(f"{name}: left out, there is no {folder}; give --data DIR", file=sys.stderr)
                continue
            result[name] = run(folder)
        else:
            result[name] = {"w1": w1, "w2": w2, "w3": w3}[name]()
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
