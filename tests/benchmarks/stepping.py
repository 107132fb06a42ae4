"""Steps of equations written as text beside the steppers of exponax: errors at the same step, float64.

    python tests/benchmarks/stepping.py [--json]

Both solve the same equation on the same periodic grid from the same start by exponential Runge-Kutta steps of fourth
order (ETDRK4), over the same time. Errors are those of the last state, relative to its norm, against exponax's own
solution with four times as many cells and steps 16 times as short as the shortest, or scipy's (`kdv`); `ratio` is the
engine's error over exponax's. The last line is one JSON object {case: {step: {`engine`, `exponax`, `ratio`}}}.

It needs exponax beside the engine: `tox -e speed`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_X64"] = "1"

import attrs
import exponax
import jax.numpy as jnp
import numpy as np
import torch
from scipy.integrate import solve_ivp

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import BuildContext
from hyco_engine.physics.settings import ParameterSetting

SHORTER, FINER = 16, 4


@attrs.frozen(kw_only=True)
class Case:
    """An equation on a periodic interval, as text and as exponax's stepper `(length, cells, dt)`."""

    rate: str
    parameters: Mapping[str, float]
    length: float
    cells: int
    time: float
    steps: tuple[int, ...]
    start: Callable[[Any], Any]
    stepper: Callable[[float, int, float], Any]
    truth: Callable[[Case, int], np.ndarray[Any, Any]] = attrs.field()
    """The last state on so many cells."""

    @truth.default
    def _of_short_steps(self) -> Callable[[Case, int], np.ndarray[Any, Any]]:
        return lambda case, cells: exponax_steps(attrs.evolve(case, cells=cells), SHORTER * max(case.steps))


def kdv_by_scipy(case: Case, cells: int) -> np.ndarray[Any, Any]:
    """Return the last state by an integrating factor and DOP853; exponax converges slowly here."""
    k = 2 * np.pi / case.length * np.arange(cells // 2 + 1)
    turning = 1j * case.parameters["d"] * k**3
    kept = 3 * np.arange(cells // 2 + 1) < cells

    def slope(t: float, v: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        u = np.fft.irfft(np.exp(turning * t) * v * kept, cells)
        return np.asarray(-3j * k * kept * np.exp(-turning * t) * np.fft.rfft(u * u))

    start = np.fft.rfft(case.start(places(attrs.evolve(case, cells=cells))))
    found = solve_ivp(slope, (0.0, case.time), start, method="DOP853", rtol=1e-10, atol=1e-10, t_eval=[case.time])
    return np.fft.irfft(np.exp(turning * case.time) * found.y[:, -1], cells)


CASES = {
    "kdv": Case(
        rate="-3*dx(u*u) - d*dx(u, 3)",
        parameters={"d": 1.0},
        length=20.0,
        cells=128,
        time=0.5,
        steps=(50, 100, 200),
        start=lambda x: 2 / np.cosh(x - 6) ** 2 + 0.5 / np.cosh((x - 13) / 2) ** 2,
        stepper=lambda length, cells, dt: exponax.stepper.KortewegDeVries(
            1, length, cells, dt, convection_scale=6.0, dispersivity=1.0, hyper_diffusivity=0.0, conservative=True,
            order=4,
        ),
        truth=kdv_by_scipy,
    ),
    "kuramoto-sivashinsky": Case(
        rate="-0.5*c*dx(u*u) - dx(u, 2) - dx(u, 4)",
        parameters={"c": 1.0},
        length=60.0,
        cells=128,
        time=10.0,
        steps=(50, 100, 200),
        start=lambda x: np.cos(2 * np.pi * x / 60 * 2) + 0.5 * np.sin(2 * np.pi * x / 60 * 5),
        stepper=lambda length, cells, dt: exponax.stepper.KuramotoSivashinskyConservative(
            1, length, cells, dt, order=4
        ),
    ),
    "cahn-hilliard": Case(
        rate="lap(b*(u**3 - u) - g*lap(u))",
        parameters={"b": 0.1, "g": 0.001},
        length=4.0,
        cells=128,
        time=1.0,
        steps=(50, 100, 200),
        start=lambda x: 0.3 * np.cos(2 * np.pi * x / 4 * 2) + 0.2 * np.sin(2 * np.pi * x / 4 * 3),
        stepper=lambda length, cells, dt: exponax.stepper.reaction.CahnHilliard(
            1, length, cells, dt, diffusivity=0.1, gamma=0.01, order=4
        ),
    ),
}  # fmt: skip


def engine_steps(case: Case, count: int) -> np.ndarray[Any, Any]:
    """Return the last state of the engine after `count` steps."""
    grid = Grid(axes=("x",), resolution=(case.cells,), lower=(0.0,), upper=(case.length,))
    field = FieldInfo(name="u", boundary=Boundary.parse("periodic", grid.axes))
    registry = Registry.discover()
    record = registry.get("hyco_models", "equation")
    dt = case.time / count
    context = BuildContext(
        seed=0,
        registry=registry,
        layout=StateLayout(grid=grid, dynamic=(field,)),
        dt=dt,
        inner_dt=dt,
        compile="graph",
        dtype=torch.float64,
        parameters={name: ParameterSetting(init=value) for name, value in case.parameters.items()},
    )
    model = record.factory(record.options(rates={"u": case.rate}), context)
    state = torch.tensor(case.start(places(case)))[None, None]
    with torch.no_grad():
        for _ in range(count):
            state = model(state)
    found: np.ndarray[Any, Any] = state[0, 0].numpy()
    return found


def exponax_steps(case: Case, count: int) -> np.ndarray[Any, Any]:
    """Return the last state of exponax after `count` steps."""
    stepper = case.stepper(case.length, case.cells, case.time / count)
    state = jnp.asarray(case.start(places(case)))[None]
    return np.asarray(exponax.repeat(stepper, count)(state))[0]


def places(case: Case) -> np.ndarray[Any, Any]:
    return np.arange(case.cells) * (case.length / case.cells)


def measure(case: Case) -> dict[str, dict[str, float]]:
    truth = case.truth(case, FINER * case.cells)[::FINER]
    found = {}
    for count in case.steps:
        ours, theirs = (
            float(np.linalg.norm(steps(case, count) - truth) / np.linalg.norm(truth))
            for steps in (engine_steps, exponax_steps)
        )
        found[f"{case.time / count:g}"] = {"engine": ours, "exponax": theirs, "ratio": ours / theirs}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name, case in CASES.items():
        found[name] = measure(case)
        if not given.json:
            print(name, json.dumps(found[name]), flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
