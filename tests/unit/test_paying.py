"""Whether a surrogate pays: states on coarser grids, the count of rollouts, and what a run's models cost."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from messages import error_naming
from tiny_specs import BURGERS

import hyco_engine as hyco
from hyco_engine.cli import cli
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.regrid import coarser, regridded
from hyco_engine.errors import DataError
from hyco_engine.paying import costs, won_back
from hyco_engine.report.pay_words import pay_sentences
from hyco_engine.runs.costs import read_costs

F64 = torch.float64


def layout_of(*resolution: int, boundary: Any = "periodic", static: tuple[FieldInfo, ...] = ()) -> StateLayout:
    axes = ("x", "y", "z")[: len(resolution)]
    grid = Grid(axes=axes, resolution=resolution, lower=(0.0,) * len(axes), upper=(1.0,) * len(axes))
    return StateLayout(
        grid=grid, dynamic=(FieldInfo(name="u", boundary=Boundary.parse(boundary, axes)),), static=static
    )


def wave(layout: StateLayout) -> torch.Tensor:
    x, y = (torch.tensor(layout.grid.centers(axis), dtype=F64) for axis in layout.grid.axes)
    return (torch.sin(2 * math.pi * x)[:, None] * torch.cos(2 * math.pi * y))[None, None]


# --- grids ---


def test_waves_are_regridded_with_fourth_order() -> None:
    errors = []
    for n in (16, 32, 64):
        own = layout_of(n, 2 * n)
        other = coarser(own, 2)
        assert other is not None
        assert other.grid.resolution == (n // 2, n)
        down = regridded(wave(own), own.fields, own, other)
        back = regridded(wave(other), own.fields, other, own)
        errors.append(max(float((down - wave(other)).abs().max()), float((back - wave(own)).abs().max())))
    assert errors[1] / errors[0] == pytest.approx(1 / 16, rel=0.3)
    assert errors[2] / errors[1] == pytest.approx(1 / 16, rel=0.15)


def test_cubes_are_exact_away_from_the_sides_and_numbers_everywhere() -> None:
    number = FieldInfo(name="nu", sampling="uniform", boundary=Boundary.parse("zero-gradient", ("x",)))
    own = layout_of(32, boundary="zero-gradient", static=(number,))
    other = coarser(own, 4)
    assert other is not None

    def cube(layout: StateLayout) -> torch.Tensor:
        x = torch.tensor(layout.grid.centers("x"), dtype=F64)
        return torch.stack([1 + x**3 - x, torch.full_like(x, 0.7)])[None]

    found = regridded(cube(own), own.fields, own, other)
    torch.testing.assert_close(found[:, 0, 1:-1], cube(other)[:, 0, 1:-1], rtol=0, atol=1e-14)
    assert torch.equal(found[:, 1], cube(other)[:, 1])


def test_some_grids_have_no_coarser_one() -> None:
    assert coarser(layout_of(30), 4) is None
    assert coarser(layout_of(14), 2) is None
    assert coarser(layout_of(), 2) is None
    faces = FieldInfo(name="v", components=("x",), sampling="staggered", boundary=Boundary.parse("periodic", ("x",)))
    assert coarser(layout_of(32, static=(faces,)), 2) is None


# --- the count ---


def measured(*physics: tuple[float, float], error: float = 0.1, seconds: float = 0.002) -> dict[str, Any]:
    rows = [
        {"resolution": [8], "internal_steps": 1, "error": e, "seconds": s, "seconds_in_batch": s / 10}
        for e, s in physics
    ]
    own = {"error": error, "seconds": seconds, "seconds_in_batch": seconds / 10}
    found = {"training_s": 60.0, "surrogate": own, "physics": rows, "persistence": 1.0, "steps": 40, "batch": 8}
    return {**found, **won_back(found)}


def test_the_rival_is_the_cheapest_physics_that_errs_no_more() -> None:
    found = measured((1e-6, 2.0), (0.05, 0.052), (0.2, 0.001))
    assert found["rivals"]["single"]["seconds"] == 0.052
    assert found["pays_after"] == {"single": 1200, "batch": 12000}
    assert "pays after 1200 of them" in pay_sentences(found)[0]
    assert "8 at a time, the surrogate pays after 12000" in pay_sentences(found)[1]


def test_a_cheaper_physics_of_equal_error_means_never() -> None:
    found = measured((1e-6, 2.0), (0.1, 0.002))
    assert found["pays_after"] == {"single": None, "batch": None}
    assert "never pays: at its error of 0.1, the physics on 8 cells" in pay_sentences(found)[0]


def test_without_a_physics_that_errs_as_little_the_first_rollout_pays() -> None:
    found = measured((0.3, 2.0))
    assert found["pays_after"] == {"single": 0, "batch": 0}
    assert pay_sentences(found) == [
        "The surrogate pays from its first rollout on: no physics with the parameters that were found errs as little "
        "(0.3 at best; the surrogate 0.1)."
    ]


def test_nothing_changes_is_a_rival_too() -> None:
    found = measured((1e-6, 2.0), error=1.5)
    assert found["pays_after"] == {"single": None, "batch": None}
    sentence = "The surrogate never pays: “nothing changes” errs no more than it, and costs nothing."
    assert pay_sentences(found) == [sentence]


# --- a run ---


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> hyco.RunResult:
    folder = tmp_path_factory.mktemp("paying")
    paths = {"runs": str(folder), "cache": str(folder / "cache")}
    physical = {**BURGERS["physical"], "compile": "graph"}
    spec = {**BURGERS, "run": {"name": "tiny", "cycles": 1}, "paths": paths, "physical": physical}
    # figures would take longer than all else
    return hyco.Engine(spec, draw=lambda *_: ()).run()


@pytest.fixture(scope="module")
def evaluated(tiny: hyco.RunResult) -> dict[str, Any]:
    (tiny.folder / "report.html").touch()  # which is then made again
    shown = CliRunner().invoke(cli, ["evaluate", str(tiny.folder), "--split", "test", "--costs", "--json"])
    assert shown.exit_code == 0, shown.output
    found: dict[str, Any] = json.loads(shown.stdout)
    return found


def test_a_run_measures_its_models_and_the_physics_on_coarser_grids(
    tiny: hyco.RunResult, evaluated: dict[str, Any]
) -> None:
    found, metrics = evaluated["costs"], tiny.summary["metrics"]
    assert found["surrogate"]["error"] == pytest.approx(metrics["synthetic"]["test"]["vrmse"], rel=1e-4)
    assert found["persistence"] == pytest.approx(metrics["persistence"]["test"]["vrmse"], rel=1e-4)
    own = found["physics"][0]
    assert own["resolution"] == [16]
    assert own["error"] == pytest.approx(metrics["physical"]["test"]["vrmse"], rel=1e-3)
    assert {tuple(row["resolution"]) for row in found["physics"]} == {(16,), (8,)}
    assert own["error"] < min(row["error"] for row in found["physics"] if row["resolution"] == [8])
    assert all(row["seconds"] > 0 for row in [found["surrogate"], *found["physics"]])
    phases = tiny.summary["timings"]["phases"]
    assert found["training_s"] == pytest.approx(phases["train_synthetic"] + phases["generate_physical"])
    assert (found["steps"], found["batch"]) == (7, 1)


def test_costs_stay_with_the_run_and_its_report(tiny: hyco.RunResult, evaluated: dict[str, Any]) -> None:
    kept = read_costs(tiny.folder)
    assert kept == evaluated["costs"]
    sentence = kept["sentences"][0]
    page = (tiny.folder / "report.html").read_text()
    assert "Does the surrogate pay?" in page
    assert sentence.split(":")[0] in page
    out = tiny.folder.with_name("compared.html")
    compared = CliRunner().invoke(cli, ["compare", *[str(tiny.folder)] * 2, "--out", str(out)])
    assert f"{tiny.folder}: {sentence}" in compared.output
    assert sentence.split(":")[0] in out.read_text()


def test_damaged_costs_are_named(tiny: hyco.RunResult, evaluated: dict[str, Any]) -> None:
    path = tiny.folder / "costs.json"
    content = path.read_text()
    try:
        path.write_text(content.replace("costs", "cost", 1) + " ")
        with error_naming(DataError, "costs.json", "checksums.json"):
            read_costs(tiny.folder)
    finally:
        path.write_text(content)


def test_without_held_out_rollouts_nothing_is_compared(tiny: hyco.RunResult) -> None:
    with error_naming(DataError, "test", "--split"):
        costs(tiny.folder, "test", overrides=['data.split={train="0:2", val="2:4"}'])
