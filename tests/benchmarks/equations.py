"""Are the parameters of equations found from data of another code, and do their intervals hold?

    python tests/benchmarks/equations.py [--json] [--cases kdv,sir] [--draws 20] [--noise 0.05] [--surrogates]

scipy integrates each equation at tight tolerances, in space with numpy's transforms; this engine makes no data. The
spec has the rates as text, and all parameters start two times off. `errors` are the relative
errors of the parameters on clean data. `covered` is the share of 95 % intervals that hold the truth, over all
parameters and `--draws` draws of noise, which is a share of each field's standard deviation; `flagged` is the share of
those that the run says not to trust, `honest` of those of which one of both is so. All three are null without draws.
`seconds` is the time of the run on clean data. With `--surrogates` a surrogate with the defaults is trained beside the
physics of clean data, which takes minutes a case: `surrogate` is the error of its rollouts over the whole of a
simulation that validates, over that of "nothing changes"; else it is null. The last line is one JSON object
{case: {name: value}}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from scipy.integrate import solve_ivp

import hyco_engine as hyco

CELLS = 48
OFF = 2.0


@attrs.frozen(kw_only=True)
class Case:
    """An equation, its true parameters, and how scipy makes data of it."""

    rates: Mapping[str, str]
    truth: Mapping[str, float]
    slope: Callable[..., Sequence[Any]]
    """`slope(state, parameters, d)` is the change of each field; `d(u, n)` is the derivative of order n along x."""
    starts: Sequence[Sequence[float]] = ()
    """The start states without space; with it they are a few waves of this size."""
    size: float = 0.4
    mean: float = 0.0
    length: float | None = None
    """The period along x; None without space."""
    dt: float
    frames: int
    constants: Mapping[str, float] = attrs.Factory(dict)


CASES: Mapping[str, Case] = {
    "kdv": Case(
        rates={"u": "-a*u*dx(u) - d*dx(u, 3)"},
        truth={"a": 6.0, "d": 1.0},
        slope=lambda s, p, d: [-p["a"] * s[0] * d(s[0], 1) - p["d"] * d(s[0], 3)],
        length=20.0,
        dt=0.1,
        frames=11,
    ),
    "allen-cahn": Case(
        rates={"u": "r*u - b*u**3 + e*lap(u)"},
        truth={"r": 1.0, "b": 0.8, "e": 0.1},
        slope=lambda s, p, d: [p["r"] * s[0] - p["b"] * s[0] ** 3 + p["e"] * d(s[0], 2)],
        length=6.0,
        dt=0.2,
        frames=11,
    ),
    "cahn-hilliard": Case(
        rates={"c": "lap(b*c**3 - c - g*lap(c))"},
        truth={"b": 1.0, "g": 0.3},
        slope=lambda s, p, d: [d(p["b"] * s[0] ** 3 - s[0] - p["g"] * d(s[0], 2), 2)],
        length=12.0,
        dt=0.05,
        frames=11,
    ),
    "fitzhugh-nagumo": Case(
        rates={"v": "D*lap(v) + v - v**3/3 - w", "w": "e*(v + a - b*w)"},
        truth={"D": 0.5, "e": 0.1, "a": 0.7, "b": 0.8},
        slope=lambda s, p, d: [
            p["D"] * d(s[0], 2) + s[0] - s[0] ** 3 / 3 - s[1],
            p["e"] * (s[0] + p["a"] - p["b"] * s[1]),
        ],
        size=0.7,
        length=20.0,
        dt=0.4,
        frames=21,
    ),
    "swift-hohenberg": Case(
        rates={"u": "r*u - u - 2*lap(u) - lap(lap(u)) + q*u**2 - u**3"},
        truth={"r": 0.5, "q": 0.8},
        slope=lambda s, p, d: [p["r"] * s[0] - s[0] - 2 * d(s[0], 2) - d(s[0], 4) + p["q"] * s[0] ** 2 - s[0] ** 3],
        length=25.0,
        dt=0.3,
        frames=11,
    ),
    "keller-segel": Case(
        rates={"n": "D*lap(n) - div(chi*n*grad(s))", "s": "lap(s) + n - k*s"},
        truth={"D": 0.5, "chi": 0.8, "k": 1.2},
        slope=lambda s, p, d: [
            p["D"] * d(s[0], 2) - d(p["chi"] * s[0] * d(s[1], 1), 1),
            d(s[1], 2) + s[0] - p["k"] * s[1],
        ],
        size=0.12,
        mean=1.0,
        length=10.0,
        dt=0.1,
        frames=11,
    ),
    "porous-medium": Case(
        rates={"u": "div(m*u**2*grad(u)) - r*u"},
        truth={"m": 0.5, "r": 0.3},
        slope=lambda s, p, d: [d(p["m"] * s[0] ** 2 * d(s[0], 1), 1) - p["r"] * s[0]],
        size=0.12,
        mean=1.0,
        length=6.0,
        dt=0.05,
        frames=11,
    ),
    "wave": Case(
        rates={"u": "v", "v": "c2*lap(u)"},
        truth={"c2": 2.0},
        slope=lambda s, p, d: [s[1], p["c2"] * d(s[0], 2)],
        length=6.0,
        dt=0.1,
        frames=11,
    ),
    "lotka-volterra": Case(
        rates={"prey": "a*prey - b*prey*predator", "predator": "d*prey*predator - c*predator"},
        truth={"a": 1.1, "b": 0.4, "c": 0.4, "d": 0.1},
        slope=lambda s, p, d: [
            p["a"] * s[0] - p["b"] * s[0] * s[1],
            p["d"] * s[0] * s[1] - p["c"] * s[1],
        ],
        starts=[[10.0, 5.0], [4.0, 2.0], [6.0, 1.0]],
        dt=0.25,
        frames=61,
    ),
    "lorenz": Case(
        rates={"u": "sigma*(v - u)", "v": "u*(rho - w) - v", "w": "u*v - beta*w"},
        truth={"sigma": 10.0, "rho": 28.0, "beta": 8 / 3},
        slope=lambda s, p, d: [
            p["sigma"] * (s[1] - s[0]),
            s[0] * (p["rho"] - s[2]) - s[1],
            s[0] * s[1] - p["beta"] * s[2],
        ],
        starts=[[1.0, 1.0, 20.0], [-5.0, -4.0, 25.0], [8.0, 2.0, 30.0]],
        dt=0.02,
        frames=101,
    ),
    "sir": Case(
        rates={"S": "-beta*S*I/constants.N", "I": "beta*S*I/constants.N - gamma*I", "R": "gamma*I"},
        truth={"beta": 0.4, "gamma": 0.1},
        slope=lambda s, p, d: [
            -p["beta"] * s[0] * s[1] / 1000,
            p["beta"] * s[0] * s[1] / 1000 - p["gamma"] * s[1],
            p["gamma"] * s[1],
        ],
        starts=[[990.0, 10.0, 0.0], [900.0, 50.0, 50.0], [950.0, 50.0, 0.0]],
        dt=1.0,
        frames=41,
        constants={"N": 1000.0},
    ),
    "michaelis-menten": Case(
        rates={"S": "-vmax*S/(km + S)", "P": "vmax*S/(km + S)"},
        truth={"vmax": 1.5, "km": 0.7},
        slope=lambda s, p, d: [-p["vmax"] * s[0] / (p["km"] + s[0]), p["vmax"] * s[0] / (p["km"] + s[0])],
        starts=[[3.0, 0.0], [1.0, 0.2], [2.0, 0.5]],
        dt=0.1,
        frames=31,
    ),
}


def made(case: Case) -> dict[str, Any]:
    """Return each field `[simulations, frames, *cells]`, the times, and the positions."""
    times, rng = case.dt * np.arange(case.frames), np.random.default_rng(0)
    fields, length = len(case.rates), case.length
    cells = 1 if length is None else CELLS
    x = (np.arange(cells) + 0.5) * (length or 1.0) / cells
    starts = [np.array(start)[:, None] for start in case.starts]
    if length is not None:
        for _ in range(3):
            waves = [
                [rng.normal() * np.sin(2 * np.pi * k * x / length + rng.uniform(0, 6)) for k in (1, 2, 3)]
                for _ in range(fields)
            ]
            starts.append(case.mean + case.size * np.sum(waves, axis=1))
    waves_of = 2j * np.pi * np.fft.rfftfreq(cells, (length or 1.0) / cells)

    def derivative(u: Any, order: int) -> Any:
        return np.fft.irfft(waves_of**order * np.fft.rfft(u), cells)

    def change(_: float, flat: Any) -> Any:
        return np.concatenate(case.slope(flat.reshape(fields, cells), case.truth, derivative))

    every = []
    for start in starts:
        span = (0.0, float(times[-1]))
        found = solve_ivp(change, span, start.ravel(), method="LSODA", t_eval=times, rtol=1e-9, atol=1e-10)
        assert found.success, found.message
        every.append(found.y.T.reshape(case.frames, fields, cells))
    values = np.array(every)
    if length is None:
        values = values[..., 0]
    return {name: values[:, :, k] for k, name in enumerate(case.rates)} | {"t": times, "x": x}


def run(case: Case, data: Mapping[str, Any], folder: Path, **more: Any) -> dict[str, Any]:
    """Return the summary of a run on the data; `more` are further tables of its spec."""
    np.savez(folder / "data.npz", **data)
    space = case.length is not None
    table = {
        "run": {"name": "equation", "threads": 1, **({} if more else {"cycles": 1})},
        "paths": {"runs": str(folder / "runs"), "cache": str(folder / "cache")},
        "data": {
            "kind": "arrays",
            "path": str(folder / "data.npz"),
            "variables": {name: name for name in case.rates},
            "axes": "stx" if space else "st",
            "time": "t",
            "split": {"train": "0:2", "val": "2:3"},
            **({"bounds": {"x": [0.0, case.length]}, "boundary": "periodic"} if space else {}),
        },
        "physical": {
            "kind": "equation",
            "rates": dict(case.rates),
            "constants": dict(case.constants),
            "parameters": {name: {"init": OFF * value} for name, value in case.truth.items()},
        },
        **more,
    }
    found: dict[str, Any] = hyco.Engine(table, draw=lambda *drawn: ()).run().summary
    return found


def of_surrogate(case: Case, data: Mapping[str, Any]) -> float:
    """Return the error of a hybrid's surrogate on the simulation that validates, over that of the last known frame."""
    kind = "mlp" if case.length is None else "resnet"
    with tempfile.TemporaryDirectory() as folder:
        metrics = run(case, data, Path(folder), synthetic={"kind": kind})["metrics"]
    return float(metrics["synthetic"]["val"]["nrmse"] / metrics["persistence"]["val"]["nrmse"])


def interval(entry: Mapping[str, Any]) -> Sequence[float]:
    """Return the interval of the error budget, and without one that of the standard error."""
    told = (entry.get("budget") or {}).get("interval")
    return told or [entry["final"] + side * 1.96 * (entry["standard_error"] or 0.0) for side in (-1, 1)]


def measured(case: Case, draws: int, noise: float, *, surrogates: bool) -> dict[str, Any]:
    data = made(case)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = run(case, data, Path(folder))["parameters"]
    seconds = time.perf_counter() - start
    errors = {name: abs(found[name]["final"] / value - 1) for name, value in case.truth.items()}
    held: list[tuple[bool, bool]] = []
    for draw in range(draws):
        rng = np.random.default_rng(draw + 1)
        noisy = {name: data[name] + noise * data[name].std() * rng.normal(size=data[name].shape) for name in case.rates}
        with tempfile.TemporaryDirectory() as folder:
            found = run(case, {**data, **noisy}, Path(folder))["parameters"]
        for name, value in case.truth.items():
            low, high = interval(found[name])
            flagged = (found[name].get("budget") or {}).get("trusted") is False
            held.append((bool(low <= value <= high), flagged))
    shares: dict[str, float | None] = dict.fromkeys(("covered", "flagged", "honest"))
    if held:
        covered, flagged, honest = np.mean([(*both, any(both)) for both in held], axis=0).tolist()
        shares = {"covered": covered, "flagged": flagged, "honest": honest}
    surrogate = of_surrogate(case, data) if surrogates else None
    return {"errors": errors, **shares, "surrogate": surrogate, "seconds": seconds}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the result as JSON alone")
    parser.add_argument("--cases", default=",".join(CASES), help="cases, separated by commas")
    parser.add_argument("--draws", type=int, default=20, help="draws of noise; 0: clean data alone")
    parser.add_argument("--noise", type=float, default=0.05, help="share of each field's standard deviation")
    parser.add_argument("--surrogates", action="store_true", help="train surrogates beside the physics, too")
    given = parser.parse_args(argv)
    names = given.cases.split(",")
    if unknown := [name for name in names if name not in CASES]:
        parser.error(f"there is no case {unknown[0]!r}; there are {', '.join(CASES)}")
    found: dict[str, Any] = {}
    for name in names:
        found[name] = measured(CASES[name], given.draws, given.noise, surrogates=given.surrogates)
        if not given.json:
            print(name, json.dumps(found[name]), flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
