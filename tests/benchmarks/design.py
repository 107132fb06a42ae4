"""Designed measurements: do readings where `hyco-engine design` asks for them pay more than at random places?

    python tests/benchmarks/design.py [--json] [--problems 20] [--draws 8] [--readings 12]

Each problem is one of four equations on a periodic axis, with random parameters and a random pulse, solved apart from
the engine. A run identifies the parameters from a few noisy readings at random places. Then as many readings are added:
where the design asks for them, and at random measurements. Each draw has noise of its own everywhere, and random places
of its own; all draws are identified in one run, each as a simulation with parameters of its own. The error of a problem
is the root mean square of the relative errors of all parameters over the draws. `ratio` is the median over the problems
of the error with random readings over that with designed ones; `predicted` is that of the standard errors that the
design expects. The aim is 1.5. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

import hyco_engine as hyco
from hyco_engine.designing import Wanted, design

Array = NDArray[np.float64]
CELLS, FRAMES, FINE = 48, 20, 4
"""Cells of the physics, frames, and how many times finer the truth is solved."""
NOISE = 0.02


@attrs.frozen(kw_only=True)
class Case:
    """An equation with the ranges of its parameters, and its solution's rate of change."""

    text: str
    rate: Callable[[Array, Callable[[Array, int], Array], Mapping[str, float]], Array]
    ranges: Mapping[str, tuple[float, float]]
    end: float


CASES = {
    "heat": Case(
        text="kappa*lap(u)",
        rate=lambda u, dx, p: p["kappa"] * dx(u, 2),
        ranges={"kappa": (0.003, 0.01)},
        end=1.0,
    ),
    "transport": Case(
        text="-c*dx(u) + D*lap(u) - k*u",
        rate=lambda u, dx, p: -p["c"] * dx(u, 1) + p["D"] * dx(u, 2) - p["k"] * u,
        ranges={"c": (0.2, 0.6), "D": (0.002, 0.006), "k": (0.2, 0.6)},
        end=1.0,
    ),
    "burgers": Case(
        text="-u*dx(u) + nu*lap(u)",
        rate=lambda u, dx, p: -u * dx(u, 1) + p["nu"] * dx(u, 2),
        ranges={"nu": (0.005, 0.02)},
        end=0.6,
    ),
    "fisher": Case(
        text="D*lap(u) + r*u*(1 - u)",
        rate=lambda u, dx, p: p["D"] * dx(u, 2) + p["r"] * u * (1 - u),
        ranges={"D": (0.002, 0.006), "r": (1.0, 3.0)},
        end=1.0,
    ),
}


def solved(case: Case, parameters: Mapping[str, float], start: Callable[[Array], Array]) -> Array:
    """Return the solution `[frames, cells]` at the cells' centres, by Fourier derivatives and Runge-Kutta."""
    n = CELLS * FINE
    x = (np.arange(n) + 0.5) / n
    waves = 2j * np.pi * np.fft.rfftfreq(n, 1 / n)

    def dx(u: Array, order: int) -> Array:
        return np.fft.irfft(waves**order * np.fft.rfft(u), n)

    u, steps = start(x), 400
    dt, frames = case.end / FRAMES / steps, []
    for _ in range(FRAMES + 2):
        for _ in range(steps):
            k1 = case.rate(u, dx, parameters)
            k2 = case.rate(u + dt / 2 * k1, dx, parameters)
            k3 = case.rate(u + dt / 2 * k2, dx, parameters)
            k4 = case.rate(u + dt * k3, dx, parameters)
            u = u + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        # the coarse centres lie midway between fine ones
        shifted = np.fft.irfft(np.fft.rfft(u) * np.exp(waves * 0.5 / n), n)
        frames.append(shifted[FINE // 2 - 1 :: FINE])
    return np.stack(frames)


@attrs.frozen(kw_only=True)
class Problem:
    """One experiment: the truth, what is measured first, and where files lie."""

    case: Case
    truth: Mapping[str, float]
    start: Array
    path: Array
    first: Array
    """The flat indices of the first readings among all frames and cells."""
    folder: Path

    @classmethod
    def make(cls, name: str, seed: int, readings: int, folder: Path) -> Problem:
        case, rng = CASES[name], np.random.default_rng([seed, len(name)])
        truth = {key: float(np.exp(rng.uniform(*np.log(ends)))) for key, ends in case.ranges.items()}
        centre, width = rng.uniform(), rng.uniform(0.06, 0.1)

        def pulse(x: Array) -> Array:
            return sum(np.exp(-(((x - centre + k) / width) ** 2) / 2) for k in range(-3, 4))  # type: ignore[return-value]

        x = (np.arange(CELLS) + 0.5) / CELLS
        first = rng.choice(FRAMES * CELLS, readings, replace=False)
        return cls(case=case, truth=truth, start=pulse(x), path=solved(case, truth, pulse), first=first, folder=folder)

    def found(self, name: str, simulations: list[tuple[Array, np.random.Generator]], *, shared: bool) -> hyco.RunResult:
        """Identify the parameters from readings at flat indices, with noise from a generator, in each simulation."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        rows = []
        for number, (places, rng) in enumerate(simulations):
            # the split needs a reading to validate on, in the last of two more frames
            places = np.append(places, (FRAMES + 1) * CELLS)
            frame, cell = np.divmod(places, CELLS)
            values = self.path.flatten()[places] + NOISE * rng.standard_normal(len(places))
            t, x = (frame + 1) * self.case.end / FRAMES, (cell + 0.5) / CELLS
            rows.append(np.stack([np.full(len(places), number), t, x, values], axis=1))
        np.savetxt(folder / "readings.csv", np.concatenate(rows), delimiter=",", header="s,t,x,u", comments="")
        np.save(folder / "start.npy", self.start)
        scope = {} if shared else {"scope": "simulation"}
        parameters = {
            key: {"init": math.sqrt(low * high), "bounds": [low / 5, high * 5], **scope}
            for key, (low, high) in self.case.ranges.items()
        }
        spec = {
            "run": {"name": "design", "cycles": 1},
            "paths": {"runs": str(folder), "cache": str(folder / "cache")},
            "data": {
                "kind": "points",
                "path": str(folder / "readings.csv"),
                "resolution": {"x": CELLS},
                "bounds": {"x": [0.0, 1.0]},
                "boundary": "periodic",
                "dt": self.case.end / FRAMES,
                "num_frames": FRAMES + 3,
                "num_predict_steps": FRAMES,
                "initial": {"u": {"file": str(folder / "start.npy")}},
                "split": {"by": "time", "train": f"0:{FRAMES + 1}"},
            },
            "physical": {
                "kind": "equation",
                "rates": {"u": self.case.text},
                "compile": "graph",
                "parameters": parameters,
            },
            "training": {"physical": {"epochs_per_cycle": 25}},
        }
        return hyco.run(spec)


def errors(problem: Problem, found: hyco.RunResult) -> Array:
    """Return the relative errors `[draws, parameters]`."""
    own = found.summary["parameters"]
    return np.stack([[e["value"] / value - 1 for e in own[key]["own"]] for key, value in problem.truth.items()], axis=1)


def measured(name: str, seed: int, draws: int, readings: int, folder: Path) -> dict[str, Any]:
    problem = Problem.make(name, seed, readings, folder)
    rng = np.random.default_rng([seed, 1])
    before = problem.found("before", [(problem.first, rng)], shared=True)
    told = design(before.folder, Wanted(number=readings, until=problem.case.end))
    dt = problem.case.end / FRAMES
    asked = np.array(
        [(round(e["time"] / dt) - 1) * CELLS + round(e["position"]["x"] * CELLS - 0.5) for e in told["chosen"]]
    )
    found = {}
    for kind in ("designed", "random"):
        noises = [np.random.default_rng([seed, 2, draw]) for draw in range(draws)]
        places = [asked if kind == "designed" else r.choice(FRAMES * CELLS, readings, replace=False) for r in noises]
        added = [(np.concatenate([problem.first, own]), r) for own, r in zip(places, noises, strict=True)]
        result = problem.found(kind, added, shared=False)
        found[kind] = float(np.sqrt(np.square(errors(problem, result)).mean()))
    parameters = told["parameters"].values()
    predicted = [p["narrower"] / p["narrower_at_random"] for p in parameters]
    return {
        "case": name,
        "seed": seed,
        **found,
        "ratio": found["random"] / found["designed"],
        "predicted": float(np.sqrt(np.square(predicted).mean())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    parser.add_argument("--problems", type=int, default=20)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--readings", type=int, default=12)
    args = parser.parse_args()
    logging.getLogger("hyco_engine").setLevel(logging.ERROR)
    begun, rows = time.monotonic(), []
    for number in range(args.problems):
        name = list(CASES)[number % len(CASES)]
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measured(name, number // len(CASES), args.draws, args.readings, Path(folder)))
        if not args.json:
            row = rows[-1]
            print(
                f"{name:10} {row['seed']}  designed {row['designed']:.4f}  random {row['random']:.4f}  "
                f"ratio {row['ratio']:.2f}  predicted {row['predicted']:.2f}",
                flush=True,
            )
    medians = {key: float(np.median([row[key] for row in rows])) for key in ("ratio", "predicted")}
    print(json.dumps({**medians, "problems": rows, "seconds": time.monotonic() - begun}))


if __name__ == "__main__":
    main()
