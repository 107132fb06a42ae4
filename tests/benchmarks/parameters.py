"""Simulations that differ: are their parameters identified, and does a surrogate answer for parameters unseen?

    python tests/benchmarks/parameters.py [--json] [--case NAME]... [--seeds 3] [--epochs 20] [--alpha 8]

Each case simulates one equation with parameters of its own for each simulation, over a decade or over published pairs.

`identified`: the physics finds a value for each simulation (`scope = "simulation"`), split in time. `clean` is the
largest relative error; `noise` is the root mean square of errors over their reported standard errors with 5 % noise,
which is 1 for an estimate at its bound with honest error bars.

`surrogate`: the physics knows the parameters (`from`) and teaches the surrogate at new ones; `alone` is the same
network on real data, with as many epochs as give it as many samples to train on. Each number is the median over seeds
of the test nrmse, for simulations whose parameters lie inside of the range that trained (`interpolation`) and outside
(`extrapolation`), beside persistence. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

import hyco_engine as hyco
from hyco_engine.runs.loading import evaluate

TRAIN, VAL, TEST = 8, 2, 3
"""The number of simulations that train, that validate, and of each kind that test."""


@attrs.frozen(kw_only=True)
class Case:
    """The physics, the grid, and the parameters of the simulations.

    Of these, the first TRAIN train, then VAL validate, TEST interpolate and TEST extrapolate.
    """

    kind: str
    data: Mapping[str, Any]
    values: Mapping[str, Sequence[float]]
    fixed: Mapping[str, float] = attrs.Factory(dict)
    """Parameters that the physics knows, and that are the same in all simulations."""
    network: Mapping[str, Any]


def spread(inside: tuple[float, float], outside: Sequence[float], *, step: int = 1) -> list[float]:
    """Return TRAIN + VAL + TEST values within `inside`, on a logarithmic scale, whose ends train, and `outside`.

    With another `step`, prime to both counts, the values come in another order: two parameters then lie on no line.
    """
    low, high = map(math.log, inside)
    places = [step * k % TRAIN / (TRAIN - 1) for k in range(TRAIN)]
    places += [(step * k % (VAL + TEST) + 0.5) / (VAL + TEST) for k in range(VAL + TEST)]
    return [math.exp(low + (high - low) * place) for place in places] + list(outside)


FEED, KILL = (0.014, 0.018, 0.026, 0.029), (0.054, 0.051, 0.051, 0.057)
"""Pairs of Gray-Scott that train, each from two starts; some of The Well's data set that extrapolate are far away."""
CASES = {
    "burgers": Case(
        kind="burgers",
        data={"resolution": {"x": 64}, "bounds": {"x": [0.0, 1.0]}, "dt": 0.02, "num_frames": 31},
        values={"nu": spread((0.003, 0.03), [0.0015, 0.002, 0.06])},
        network={"kind": "unet"},
    ),
    "fisher-kpp": Case(
        kind="fisher-kpp",
        data={"resolution": {"x": 64}, "bounds": {"x": [0.0, 1.0]}, "dt": 0.2, "num_frames": 21},
        values={"D": spread((0.0005, 0.005), [0.00025, 0.007, 0.01]), "r": spread((0.5, 2.0), [0.3, 2.5, 3.0], step=3)},
        network={"kind": "unet"},
    ),
    "gray-scott": Case(
        kind="gray-scott",
        data={"resolution": {"x": 32, "y": 32}, "bounds": {"x": [0.0, 32.0], "y": [0.0, 32.0]}, "dt": 10.0}
        | {"num_frames": 21},
        values={
            "f": [*FEED, *FEED, 0.022, 0.022, 0.02, 0.022, 0.024, 0.03, 0.058, 0.098],
            "k": [*KILL, *KILL, 0.051, 0.052, 0.052, 0.051, 0.053, 0.062, 0.065, 0.057],
        },
        fixed={"Du": 0.2, "Dv": 0.1},
        network={"kind": "unet"},
    ),
    "navier-stokes": Case(
        kind="navier-stokes",
        data={"resolution": {"x": 32, "y": 32}, "bounds": {"x": [0.0, 1.0], "y": [0.0, 1.0]}, "dt": 0.02}
        | {"num_frames": 21},
        values={"nu": spread((0.001, 0.01), [0.0005, 0.0007, 0.02])},
        network={"kind": "unet"},
    ),
}


def spec(case: Case, name: str, folder: Path, seed: int, split: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec of the physics and its data alone."""
    count = len(next(iter(case.values.values())))
    truth = {key: {"each": list(values)} for key, values in case.values.items()} | case.fixed
    data = {"kind": "simulate", "name": name, "num_simulations": count, "truth": truth, "split": split, **case.data}
    return {
        "run": {"name": name, "seed": seed},
        "paths": {"runs": str(folder / "runs"), "cache": str(folder / "cache")},
        "data": data,
        "physical": {"kind": case.kind, "parameters": known(case)},
    }


def known(case: Case) -> dict[str, Any]:
    return {key: {"init": value, "learn": False} for key, value in case.fixed.items()}


def identified(case: Case, name: str, folder: Path) -> dict[str, float]:
    """Return how well the physics finds the parameters of each simulation."""
    found = {}
    for noise in (0.0, 0.05):
        table = spec(case, name, folder, 0, {"by": "time"})
        table["run"]["cycles"] = 1
        table["physical"]["parameters"] |= {key: {"scope": "simulation"} for key in case.values}
        if noise:
            table["data"]["observe"] = {"noise": {"level": noise}}
        parameters = hyco.run(table).summary["parameters"]
        every = [own for key in case.values for own in parameters[key]["own"]]
        if noise:
            scores = [(own["value"] - own["truth"]) / own["standard_error"] for own in every]
            found["noise"] = math.sqrt(statistics.fmean(score**2 for score in scores))
        else:
            found["clean"] = max(abs(own["value"] / own["truth"] - 1) for own in every)
    return found


def surrogates(
    case: Case, name: str, folder: Path, seeds: int, epochs: int, alpha: float
) -> dict[str, dict[str, float]]:
    """Return the median errors of hybrid, surrogate alone and persistence, inside and outside of the trained range."""
    held, first = TRAIN + VAL, {"interpolation": TRAIN + VAL, "extrapolation": TRAIN + VAL + TEST}
    split = {"by": "simulation", "train": f"0:{TRAIN}", "val": f"{TRAIN}:{held}", "test": f"{held}:{held + TEST}"}
    errors: dict[str, dict[str, list[float]]] = {
        sort: {which: [] for which in ("hybrid", "alone", "persistence")} for sort in first
    }
    for seed in range(seeds):
        table = spec(case, name, folder, seed, split)
        table["synthetic"] = dict(case.network)
        given = known(case) | {key: {"from": key} for key in case.values}
        hybrid = {**table, "physical": {"kind": case.kind, "parameters": given}}
        hybrid |= {"training": {"synthetic": {"epochs_per_cycle": epochs}}}
        hybrid |= {"augmentation": {"kind": "trust", "alpha": alpha}}
        alone = {key: value for key, value in table.items() if key != "physical"}
        alone["data"] = {**alone["data"], "physics": table["physical"]}
        alone |= {"training": {"synthetic": {"epochs_per_cycle": round(epochs * (1 + alpha))}}}
        for which, one in (("hybrid", hybrid), ("alone", alone)):
            folder_of_run = hyco.run(one).folder
            for sort, start in first.items():
                test = f'data.split.test = "{start}:{start + TEST}"'
                metrics = evaluate(folder_of_run, "test", overrides=[test])["metrics"]
                errors[sort][which].append(metrics["synthetic"]["test"]["nrmse"])
                if which == "alone":
                    errors[sort]["persistence"].append(metrics["persistence"]["test"]["nrmse"])
    return {sort: {which: statistics.median(each) for which, each in own.items()} for sort, own in errors.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the result as JSON alone")
    parser.add_argument("--case", action="append", default=[], choices=list(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20, help="epochs of the hybrid's surrogate in each cycle")
    parser.add_argument("--alpha", type=float, default=8.0, help="generated samples for each real one")
    given = parser.parse_args(argv)
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        if given.case and name not in given.case:
            continue
        with tempfile.TemporaryDirectory() as folder:
            found[name] = {"identified": identified(case, name, Path(folder))}
            if given.seeds:
                found[name]["surrogate"] = surrogates(case, name, Path(folder), given.seeds, given.epochs, given.alpha)
        if not given.json:
            print(name, json.dumps(found[name]), flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
