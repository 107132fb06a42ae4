"""Units change nothing: runs on a u + b, and on lengths and times in other units, find the same.

A heat equation is linear, so a u + b solves it exactly where u does, with kappa in the unit length^2 / time. A run in
other units must then find the same kappa after conversion, the same errors relative to the fluctuations, and tell the
same verdict, each to 1e-4.

A minimum in float32 is found to about 0.003 standard errors, as far as its loss shows; the data here are so exact that
this is less than 1e-4.

The training of a network amplifies rounding, in a number of epochs from 1e-7 of float32 to anything, so two cases are
compared. Powers of two scale without rounding: float32 must give the same bits, which shows that no threshold and no
epsilon has a unit. Any other a and b change the rounding: float64 leaves 1e-9 for b of 1e7 spreads, and the few epochs
here do not amplify that to 1e-4.
"""

from __future__ import annotations

import functools
import random
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import hyco_engine as hyco

pytestmark = pytest.mark.usefixtures("measured")

KAPPA = 0.02
CELLS, FRAMES, DT = 15, 15, 0.02
SAME = 1e-4
NORMALIZERS = ("manual", "running-mean", "sqrt-dim", "batch-stat", "uncertainty", "grad-norm")
SURROGATES: dict[str, dict[str, Any]] = {
    "resnet": {"kind": "resnet", "width": 4, "blocks": 1},
    "unet": {"kind": "unet", "width": 4, "levels": 2},
}


@attrs.frozen(kw_only=True)
class Units:
    """The field is `field * (u + spreads * spread(u))`; lengths and times are so many times their numbers in u."""

    field: float = 1.0
    spreads: float = 0.0
    length: float = 1.0
    time: float = 1.0

    @property
    def kappa(self) -> float:
        return self.length**2 / self.time


def solution(t: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return a solution of the heat equation that is 0 at x = 0 and x = 1."""
    modes = ((1, 1.0), (2, 0.6))
    return sum(c * np.exp(-KAPPA * (np.pi * k) ** 2 * t) * np.sin(np.pi * k * x) for k, c in modes)


def in_units(values: np.ndarray, units: Units) -> np.ndarray:
    # the same level for frames, sensors and walls
    return units.field * (values + units.spreads * 0.5)


def spec_of(folder: Path, units: Units, **tables: Any) -> dict[str, Any]:
    """Write data in these units and return a spec of it; `sensors = True` gives readings at points."""
    sensors, physics = tables.pop("sensors", False), tables.pop("physics", True)
    data: dict[str, Any]
    wall = float(in_units(np.zeros(1), units)[0])
    # the walls' value is that of the ghost cells, so the first and the last cell lie one spacing from the zeros
    x = (np.arange(CELLS) + 1) / (CELLS + 1)
    bounds = [0.5 / (CELLS + 1) * units.length, (CELLS + 0.5) / (CELLS + 1) * units.length]
    if sensors:
        rng = np.random.default_rng(0)
        place, time = rng.uniform(0.05, 0.95, 60), rng.uniform(0, DT * (FRAMES - 1), 60)
        table = [time * units.time, place * units.length, in_units(solution(time, place), units)]
        np.savetxt(folder / "seen.csv", np.stack(table, axis=1), "%.17g", ",", header="t,x,u", comments="")
        np.save(folder / "first.npy", in_units(solution(np.zeros(1), x), units))
        data = {"kind": "points", "path": str(folder / "seen.csv"), "resolution": {"x": CELLS}}
        data |= {"initial": {"u": {"file": str(folder / "first.npy")}}, "split": {"by": "sensor"}}
        data |= {"num_predict_steps": 4}
    else:
        frames = solution(DT * np.arange(FRAMES)[:, None], x)
        np.save(folder / "u.npy", in_units(frames, units))
        data = {"kind": "arrays", "path": str(folder / "u.npy"), "axes": "tx"}
        data |= {"split": {"by": "time", "train": "0:9", "val": "9:12", "test": "12:15"}}
    data |= {"dt": DT * units.time, "bounds": {"x": bounds}, "boundary": wall}
    made = {
        "run": {"cycles": 1},
        "paths": {"cache": str(folder / "cache"), "runs": str(folder / "runs")},
        "data": data | ({"truth": {"kappa": KAPPA * units.kappa}} if physics else {}),
        **({"physical": {"kind": "heat", "parameters": {"kappa": {"init": 0.05 * units.kappa}}}} if physics else {}),
        "training": {"synthetic": {"epochs_per_cycle": 3, "batch_size": 4, "lr": 1e-2}},
    }
    for name, table in tables.items():
        made[name] = made.get(name, {}) | table
    if made.get("synthetic", {}).get("kind") == "coordinate-mlp":
        made["synthetic"] = made["synthetic"] | {"duration": DT * (FRAMES - 1) * units.time}
    return made


def found(units: Units, **tables: Any) -> dict[str, Any]:
    """Run, and return what must be the same in all units."""
    with tempfile.TemporaryDirectory() as folder:
        spec = spec_of(Path(folder), units, **tables)
        summary = hyco.Engine(spec).run(Path(folder) / "run").summary
    return {
        "parameters": {
            name: {key: entry[key] / units.kappa for key in ("final", "standard_error")}
            for name, entry in summary["parameters"].items()
        },
        "errors": {
            f"{model} {split}": metrics["vrmse"]
            for model, by_split in summary["metrics"].items()
            for split, metrics in by_split.items()
        },
        "tau": [entry["tau"] for entry in summary["cooperation"]],
        "warnings": [without_numbers(text) for text in summary["warnings"]],
        "verdict": [without_numbers(text) for text in summary["verdict"]],
    }


def without_numbers(text: str) -> str:
    return re.sub(r"[-+]?\d[\d.]*(e[-+]?\d+)?", "#", text)


def compare(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Require parameters to be the same to 1e-4 of their value, errors to 1e-4 of a spread, and words literally."""
    assert one["parameters"].keys() == other["parameters"].keys()
    for name, values in one["parameters"].items():
        assert other["parameters"][name]["final"] == pytest.approx(values["final"], rel=SAME)
        # the data is exact, so the standard error is what the search left of the residual
        assert other["parameters"][name]["standard_error"] == pytest.approx(values["standard_error"], rel=0.2)
    assert other["errors"] == pytest.approx(one["errors"], abs=SAME)
    assert other["tau"] == pytest.approx(one["tau"], rel=1e-2, abs=SAME)
    assert (other["warnings"], other["verdict"]) == (one["warnings"], one["verdict"])


@functools.cache
def reference(name: str) -> dict[str, Any]:
    return found(Units(), **CASES[name])


FLOAT64 = {"precision": "float64"}
CASES: dict[str, dict[str, Any]] = {
    "physics": {},
    "lbfgs": {"training": {"physical": {"optimizer": "lbfgs", "epochs_per_cycle": 30}}},
    "adam": {"training": {"physical": {"optimizer": "adam", "epochs_per_cycle": 10}}},
    "sensors": {"sensors": True},
    "sensors of both models": {"sensors": True, "synthetic": SURROGATES["resnet"], "run": FLOAT64},
    "sensors of a function": {
        "sensors": True,
        "physics": False,
        "synthetic": {"kind": "coordinate-mlp", "width": 8, "depth": 2},
        "run": FLOAT64,
    },
    **{kind: {"physics": False, "synthetic": SURROGATES[kind], "run": FLOAT64} for kind in SURROGATES},
    **{
        f"both models, {kind}": {
            "synthetic": SURROGATES["resnet"],
            "loss": {"normalizer": {"kind": kind}},
            "run": FLOAT64,
        }
        for kind in NORMALIZERS
    },
}

exponents = st.floats(-12, 12)
UNITS = st.builds(
    lambda field, spreads, length, time: Units(field=10**field, spreads=spreads, length=10**length, time=10**time),
    exponents,
    st.one_of(st.just(0.0), st.floats(-1e7, 1e7)),
    exponents,
    exponents,
)


@pytest.mark.parametrize("name", CASES)
def test_runs_in_other_units_find_the_same(name: str) -> None:
    drawn = random.Random(name)
    field, length, time = (10 ** drawn.uniform(-12, 12) for _ in range(3))
    units = Units(field=field, spreads=drawn.choice((0.0, drawn.uniform(-1e7, 1e7))), length=length, time=time)
    compare(reference(name), found(units, **CASES[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@settings(max_examples=5, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(units=UNITS)
def test_runs_in_any_units_find_the_same(name: str, units: Units) -> None:
    compare(reference(name), found(units, **CASES[name]))


@pytest.mark.parametrize("power", [-40, 40])
@pytest.mark.parametrize("kind", NORMALIZERS)
def test_a_power_of_two_in_the_unit_of_the_field_changes_no_bit(kind: str, power: int) -> None:
    tables = {
        "synthetic": SURROGATES["resnet"],
        "loss": {"normalizer": {"kind": kind}},
        "run": {"precision": "float32"},
    }
    assert found(Units(field=2.0**power), **tables) == _in_float32(kind)


@functools.cache
def _in_float32(kind: str) -> dict[str, Any]:
    return found(
        Units(), synthetic=SURROGATES["resnet"], loss={"normalizer": {"kind": kind}}, run={"precision": "float32"}
    )
