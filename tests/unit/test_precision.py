"""The choice of the precision by the digits that it keeps of how a field varies, and what is told of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from data_cases import ListSource, choice, layout
from messages import error_naming

import hyco_engine as hyco
from hyco_engine.assembly import Assembler
from hyco_engine.data.manager import DataManager
from hyco_engine.data.precision import choose_precision, variations
from hyco_engine.errors import SpecError
from hyco_engine.interfaces import Trajectory

pytestmark = pytest.mark.usefixtures("measured")

F32, F64 = torch.float32, torch.float64


def seen(level: float, size: float = 1.0, dtype: torch.dtype = F64, static: float | None = None) -> Trajectory:
    """Two frames of five cells that lie `size` above or below `level`."""
    signs = torch.tensor([[1.0, -1, 1, -1, 1], [-1, 1, -1, 1, -1]], dtype=F64)[:, None]
    fixed = torch.full((0 if static is None else 1, 5), static or 0.0, dtype=F64)
    return Trajectory(dynamic=(level + size * signs).to(dtype), static=fixed.to(dtype))


@pytest.mark.parametrize(
    ("level", "size", "name"),
    [
        (0.0, 1.0, "float32"),
        (101325.0, 1000.0, "float32"),
        (101325.0, 1.0, "float64"),
        (101325.0, 0.01, "float64"),
        (1e-12, 1e-13, "float32"),
        (1e12, 1e5, "float64"),
        (1e12, 0.0, "float32"),
        (1e-25, 1e-26, "float64"),
        (1e25, 1e24, "float64"),
    ],
)
def test_float64_is_taken_where_float32_keeps_too_few_digits(level: float, size: float, name: str) -> None:
    found = choose_precision(seen(level, size), layout(), None)
    assert (found.name, found.warnings) == (name, ())
    assert (found.reason is None) == (name == "float32")
    assert choose_precision(None, layout(), None).name == "float32"


def test_digits_are_those_that_rounding_leaves() -> None:
    """7.2 of float32 and 15.7 of float64, less those that the offset takes."""
    (field,) = variations(seen(101325.0, 0.01), layout())
    assert field.digits(F64) == pytest.approx(-math.log10(2.0**-52) - math.log10(101325.0 / 0.01), abs=0.01)
    assert field.digits(F32) == 0.0
    reason = choose_precision(seen(101325.0, 0.01), layout(), None).reason
    assert reason == (
        "run.precision = \"float64\", since 'u' lies around 101325 and varies by 0.01, of which float32 keeps 0 digits"
    )


@pytest.mark.parametrize(
    ("trajectory", "asked", "told"),
    [
        (
            seen(101325.0),
            "float32",
            "'u' lies around 101325 and varies by 1, of which float32 keeps 1.9 digits, too few to learn from: leave "
            'run.precision out, or set it to "float64"',
        ),
        (
            seen(101325.0, dtype=F32),
            None,
            "'u' lies around 101325 and varies by 1, of which float32 keeps 1.9 digits, too few to learn from: the "
            "data is stored so: store it as float64, or without its offset",
        ),
        (
            seen(1e12, 1e-3),
            None,
            "'u' lies around 1e+12 and varies by 0.001, of which float64 keeps 0.7 digits, too few to learn from: "
            "store the data without its offset",
        ),
    ],
)
def test_what_is_lost_anyway_is_told(trajectory: Trajectory, asked: str | None, told: str) -> None:
    assert choose_precision(trajectory, layout(), asked).warnings == (told,)


def test_a_static_field_counts_and_a_constant_one_does_not() -> None:
    fields = layout("u", "c")
    assert choose_precision(seen(0.0, static=1e9), fields, None).name == "float32"
    varying = seen(0.0, static=1e9)
    varying.static[0, 0] += 1.0
    assert choose_precision(varying, fields, None).name == "float64"


def test_the_manager_loads_the_first_simulation_once(tmp_path: Any) -> None:
    for _ in range(2):
        source = ListSource(trajectories=[seen(101325.0), seen(101325.0, 2.0), seen(0.0)])
        manager = DataManager(source, choice(num_predict_steps=1), tmp_path)
        manager.prepare()
        assert manager.dtype == F64
        assert source.loaded in ([0, 1, 2], [])
        # the subtraction of the offset is exact
        assert (manager.trajectories[0].dynamic - 101325.0).abs().unique().tolist() == [1.0]
    assert source.loaded == []


def spec_at(level: float, **run: Any) -> dict[str, Any]:
    x = (np.arange(8) + 0.5) / 8
    t = 0.02 * np.arange(9)[:, None]
    np.save("u.npy", level + np.exp(-0.02 * (2 * np.pi) ** 2 * t) * np.sin(2 * np.pi * x))
    return {
        "run": {"cycles": 0, **run},
        "data": {
            "kind": "arrays",
            "path": "u.npy",
            "axes": "tx",
            "dt": 0.02,
            "bounds": {"x": [0.0, 1.0]},
            "boundary": "periodic",
            "split": {"by": "time", "train": "0:5", "val": "5:9"},
        },
        "physical": {"kind": "heat"},
    }


def test_check_and_run_tell_the_choice_and_the_resolved_spec_has_it(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for level, name in ((0.0, "float32"), (1e6, "float64")):
        tables = spec_at(level)
        plan = hyco.Engine(tables).plan()
        assert [note for note in plan["notes"] if "run.precision" in note] == (
            []
            if name == "float32"
            else [
                "run.precision = \"float64\", since 'u' lies around 1e+06 and varies by 0.66, of which float32 keeps "
                "0.7 digits"
            ]
        )
        folder = hyco.Engine(tables).run().folder
        assert f'precision = "{name}"' in (folder / "spec.toml").read_text()
    assert hyco.Engine(spec_at(1e6, precision="float32")).plan()["precision"] == "float32"


def test_a_device_without_float64_is_refused_with_the_digits(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    engine = hyco.Engine(spec_at(1e6))
    assembler = Assembler(engine.spec, engine.registry)
    assembler.device = torch.device("mps")
    with error_naming(SpecError, "keeps 0.7 digits", 'run.device = "cpu"', "data.scale", key="run.device"):
        assembler.prepare(assembler.task())
