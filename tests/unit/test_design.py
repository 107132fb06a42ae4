"""Design of measurements: optimal designs in closed form, derivatives, and a run whose best readings are known."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from messages import error_naming
from torch import Tensor

import hyco_engine as hyco
from hyco_engine.cli import cli
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.designing import Wanted, design
from hyco_engine.errors import DataError
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import PhysicalModel, PhysicsContext
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.rollout import rollout
from hyco_engine.training.optimal_design import Criterion, gains, greedy, shortened, updated
from hyco_engine.training.sensitivities import Sensitivities
from hyco_engine.training.unknowns import Unknowns

pytestmark = pytest.mark.usefixtures("measured")

F64 = torch.float64


def random_blocks(count: int, rows: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, rows, size, generator=generator, dtype=F64)


def covariance_of(size: int) -> Tensor:
    root = random_blocks(1, size, size, seed=9)[0]
    return root @ root.T + 0.1 * torch.eye(size, dtype=F64)


def gained(covariance: Tensor, blocks: Tensor, criterion: Criterion) -> float:
    """What a set of blocks gains, from the inverse of the sum of all information."""
    rows = blocks.flatten(0, 1)
    after = torch.linalg.inv(torch.linalg.inv(covariance) + rows.T @ rows)
    if criterion == "d":
        return float(torch.logdet(covariance) - torch.logdet(after))
    return float(len(covariance) - (after.diagonal() / covariance.diagonal()).sum())


# --- linear algebra ---


def test_the_design_of_a_straight_line_is_its_ends() -> None:
    # a + b t, t = 0 ... 10, of which almost nothing is known
    t = torch.arange(11, dtype=F64)
    line = torch.stack([torch.ones(11, dtype=F64), t], dim=1)[:, None]
    found = greedy(1e6 * torch.eye(2, dtype=F64), line, 4)
    # without repetition, so that the neighbours follow
    assert sorted(found.indices[:2]) == [0, 10]
    assert sorted(found.indices[2:]) == [1, 9]
    # the variance of the slope is sigma^2 / sum (t - mean)^2
    assert float(found.covariances[1][1, 1]) == pytest.approx(1 / 50, rel=1e-4)
    assert float(found.covariances[3][1, 1]) == pytest.approx(1 / (50 + 32), rel=1e-4)


def test_the_design_of_a_parabola_is_its_ends_and_its_middle() -> None:
    t = torch.linspace(-1, 1, 21, dtype=F64)
    found = greedy(1e6 * torch.eye(3, dtype=F64), torch.stack([t**0, t, t**2], dim=1)[:, None], 3)
    assert sorted(found.indices) == [0, 10, 20]


@pytest.mark.parametrize("criterion", ["d", "a"])
@pytest.mark.parametrize(("rows", "size"), [(1, 1), (1, 3), (2, 3), (7, 3)])
def test_gains_and_updates_are_those_of_the_sum_of_information(rows: int, size: int, criterion: Criterion) -> None:
    covariance, blocks = covariance_of(size), random_blocks(5, rows, size)
    expected = [gained(covariance, block[None], criterion) for block in blocks]
    weights = 1 / covariance.diagonal()
    for given in (blocks, shortened(blocks)):
        assert given.shape[1] <= max(rows, size)
        assert gains(covariance, given, weights, criterion).tolist() == pytest.approx(expected, rel=1e-9)
        after = torch.linalg.inv(torch.linalg.inv(covariance) + blocks[2].T @ blocks[2])
        torch.testing.assert_close(updated(covariance, given[2]), after, rtol=1e-9, atol=1e-12)
    assert shortened(blocks).shape[1] == min(rows, size)


@pytest.mark.parametrize("criterion", ["d", "a"])
def test_the_greedy_choice_is_the_best_one_where_measurements_do_not_overlap(criterion: Criterion) -> None:
    # each measurement tells of one parameter alone
    sizes = torch.tensor([0.3, 2.0, 1.0, 0.1, 5.0], dtype=F64)
    measurements, covariance = torch.diag(sizes)[:, None], torch.eye(5, dtype=F64)
    found = greedy(covariance, measurements, 3, criterion)
    best = max(itertools.combinations(range(5), 3), key=lambda s: gained(covariance, measurements[list(s)], criterion))
    assert found.indices == (4, 1, 2)
    assert sorted(found.indices) == list(best)


@pytest.mark.parametrize("seed", range(4))
def test_the_greedy_choice_is_near_the_best_of_all(seed: int) -> None:
    measurements, covariance = random_blocks(9, 1, 3, seed), 10 * torch.eye(3, dtype=F64)
    best = max(gained(covariance, measurements[list(s)], "d") for s in itertools.combinations(range(9), 3))
    found = gained(covariance, measurements[list(greedy(covariance, measurements, 3).indices)], "d")
    assert (1 - 1 / math.e) * best <= found <= best + 1e-9


def test_units_change_no_choice() -> None:
    measurements, covariance = random_blocks(30, 1, 3), covariance_of(3)
    scale = torch.tensor([1e-6, 1.0, 1e4], dtype=F64)
    for criterion in ("d", "a"):
        own = greedy(covariance, measurements, 5, criterion)
        other = greedy(covariance * scale[:, None] * scale, measurements / scale, 5, criterion)
        assert own.indices == other.indices


# --- derivatives ---


def heat_model(settings: dict[str, Any]) -> PhysicalModel:
    grid = Grid(axes=("x",), resolution=(12,), lower=(0.0,), upper=(1.0,))
    layout = StateLayout(grid=grid, dynamic=(FieldInfo(name="u", boundary=Boundary.parse(0.0, ("x",))),))
    registry = Registry.discover()
    record = registry.get("hyco_models", "heat", "physical")
    context = PhysicsContext(seed=0, registry=registry, layout=layout, dt=0.05, dtype=F64, parameters=settings)
    model = registry.build("hyco_models", "heat", record.options(), context, expected=PhysicalModel)
    assert isinstance(model, PhysicalModel)
    return model


class AsWritten(PhysicalModel):
    """The same physics, of which nothing but its step is known."""

    def __init__(self, inner: PhysicalModel) -> None:
        super().__init__()
        self.inner = inner

    @property
    def learnables(self) -> Any:  # type: ignore[override]
        return self.inner.learnables

    def forward(self, state: Tensor) -> Tensor:
        found: Tensor = self.inner(state)
        return found


def test_derivatives_of_rollouts_are_those_of_differences() -> None:
    model = heat_model({"kappa": ParameterSetting(init=0.2)})
    x = torch.linspace(0.1, 0.9, 12, dtype=F64)
    states = torch.stack([torch.sin(math.pi * x), torch.sin(2 * math.pi * x)])[:, None]
    unknowns, h = Unknowns(model), 1e-5
    here = unknowns.point()

    def at(point: Tensor) -> Tensor:
        unknowns.move_to(point)
        with torch.no_grad():
            return rollout(model, states, 3)

    slope = (at(here + h) - at(here - h)) / (2 * h)
    own = at(here)
    for one in (model, AsWritten(model)):
        path, derivatives = Sensitivities(one)(states, 3)
        torch.testing.assert_close(path, own, rtol=1e-10, atol=1e-12)
        assert derivatives.shape == (2, 3, 1, 12, 1)
        torch.testing.assert_close(derivatives[..., 0], slope, rtol=1e-6, atol=1e-9)


# --- a run ---

KAPPA, NOISE = 0.2, 0.01


def readings(places: Any, times: Any, seed: int) -> np.ndarray:
    t, x = np.broadcast_arrays(times, places)
    errors = NOISE * np.random.default_rng(seed).standard_normal(t.shape)
    return np.stack([t, x, np.exp(-KAPPA * np.pi**2 * t) * np.cos(np.pi * x) + errors], axis=1)


def found_from(table: np.ndarray, folder: Path) -> hyco.RunResult:
    folder.mkdir(exist_ok=True)
    np.savetxt(folder / "sensors.csv", table, delimiter=",", header="t,x,u", comments="")
    np.save(folder / "start.npy", np.cos(np.pi * (np.arange(16) + 0.5) / 16))
    spec = {
        "run": {"name": "rod", "cycles": 1},
        "paths": {"runs": str(folder), "cache": str(folder / "cache")},
        "data": {
            "kind": "points",
            "path": str(folder / "sensors.csv"),
            "resolution": {"x": 16},
            "bounds": {"x": [0.0, 1.0]},
            "boundary": "zero-gradient",
            "dt": 0.1,
            "num_predict_steps": 10,
            "split": {"by": "sensor"},
            "heldout": 0.1,
            "initial": {"u": {"file": str(folder / "start.npy")}},
        },
        "physical": {
            "kind": "heat",
            "compile": "graph",
            "dt": 0.005,
            "parameters": {"kappa": {"init": 0.3, "bounds": [1e-3, 10.0]}},
        },
        "training": {"physical": {"epochs_per_cycle": 6}},
    }
    return hyco.run(spec)


TIMES, PLACES = np.tile(np.arange(1, 11) * 0.1, 10), np.repeat((np.arange(10) + 0.5) / 10, 10)


@pytest.fixture(scope="module")
def rod(tmp_path_factory: pytest.TempPathFactory) -> hyco.RunResult:
    """A rod with u = exp(-kappa pi^2 t) cos(pi x), whose derivative by kappa is largest at t = 1 / (kappa pi^2)."""
    return found_from(readings(PLACES, TIMES, 0), tmp_path_factory.mktemp("rod"))


def test_the_best_time_and_place_are_those_of_the_closed_form(rod: hyco.RunResult) -> None:
    found = design(rod.folder, Wanted(number=2, noise={"u": NOISE}))
    kappa = found["parameters"]["kappa"]
    first, second = found["chosen"]
    # the cells at both ends of the rod, and of the frames 0.1 apart the one nearest to 1 / (kappa pi^2) = 0.507
    assert {first["position"]["x"], second["position"]["x"]} == {0.03125, 0.96875}
    assert first["time"] == second["time"] == pytest.approx(0.5)
    assert first["field"] == "u"
    slope = 0.5 * np.pi**2 * math.exp(-kappa["value"] * np.pi**2 * 0.5) * math.cos(np.pi * 0.03125)
    information = 1 / kappa["standard_error"] ** 2 + (slope / NOISE) ** 2
    assert first["standard_error"]["kappa"] == pytest.approx(information**-0.5, rel=0.01)
    assert first["gain"] == pytest.approx(math.log(information * kappa["standard_error"] ** 2), rel=0.1)
    assert kappa["expected_error"] == second["standard_error"]["kappa"]
    assert kappa["narrower"] == pytest.approx(kappa["standard_error"] / kappa["expected_error"])
    low, high = kappa["expected_interval"]
    own_low, own_high = kappa["interval"]
    assert (own_high - own_low) / (high - low) == pytest.approx(kappa["narrower"], rel=1e-2)


def test_the_map_is_the_square_of_the_derivative(rod: hyco.RunResult) -> None:
    told = design(rod.folder, Wanted(number=1, noise={"u": 1.0}))["map"]
    gains = np.array(told["by_time_and_position"])
    kappa = rod.summary["parameters"]["kappa"]["final"]
    t, x = np.array(told["times"])[:, None], np.array(told["positions"])[:, 0]
    # one weak reading gains its square
    shape = (t * np.exp(-kappa * np.pi**2 * t) * np.cos(np.pi * x)) ** 2
    assert gains / gains.max() == pytest.approx(shape / shape.max(), abs=0.02)


def test_beyond_the_data_the_physics_rolls_on(rod: hyco.RunResult) -> None:
    frames = design(rod.folder, Wanted(unit="frame", number=20, until=2.0))
    assert frames["possible"] == 20
    assert frames["map"]["times"][-1] == pytest.approx(2.0)
    assert {entry["field"] for entry in frames["chosen"]} == {None}
    assert frames["parameters"]["kappa"]["narrower"] > 1.1
    # all measurements are taken, in any order
    assert frames["parameters"]["kappa"]["narrower_at_random"] == pytest.approx(
        frames["parameters"]["kappa"]["narrower"]
    )


def test_the_expected_error_is_the_one_that_such_data_give(rod: hyco.RunResult, tmp_path: Path) -> None:
    found = design(rod.folder, Wanted(unit="sensor", number=6, every=2, criterion="a"))
    places = np.array([entry["position"]["x"] for entry in found["chosen"]])
    assert len(set(places)) == 6
    more = readings(np.repeat(places, 10), np.tile(np.arange(1, 11) * 0.1, 6), 1)
    # the first tenth of the sensors validates in both runs
    actual = found_from(np.concatenate([readings(PLACES, TIMES, 0), more]), tmp_path / "more")
    kappa = found["parameters"]["kappa"]
    assert kappa["narrower"] > 1.3
    assert actual.summary["parameters"]["kappa"]["standard_error"] == pytest.approx(kappa["expected_error"], rel=0.15)


@pytest.mark.slow
def test_a_decay_is_best_measured_after_its_own_time(tmp_path: Path) -> None:
    t = np.arange(0, 31) * 0.1
    noise = 0.01 * np.random.default_rng(0).standard_normal((3, 31))
    np.savez(tmp_path / "decay.npz", u=np.exp(-t) * np.array([[1.0], [2.0], [3.0]]) + noise, t=t)
    spec = {
        "run": {"name": "decay", "cycles": 1},
        "paths": {"runs": str(tmp_path), "cache": str(tmp_path / "cache")},
        "data": {
            "kind": "arrays",
            "path": str(tmp_path / "decay.npz"),
            "variables": {"u": "u"},
            "axes": "st",
            "time": "t",
            "split": {"train": "0:2", "val": "2:3"},
            "num_predict_steps": 30,
        },
        "physical": {
            "kind": "equation",
            "rates": {"u": "-k*u"},
            "parameters": {"k": {"init": 0.5, "bounds": [0.1, 5.0]}},
        },
        "training": {"physical": {"epochs_per_cycle": 10, "initial_states": "observed"}},
    }
    run = hyco.run(spec)
    first = design(run.folder, Wanted(number=1))["chosen"][0]
    # the derivative of a exp(-k t) is largest at t = 1 / k, of the largest start
    assert first["time"] == pytest.approx(1 / run.summary["parameters"]["k"]["final"], abs=0.06)
    assert (first["simulation"], first["position"]) == (2, {})
    assert CliRunner().invoke(cli, ["design", str(run.folder)]).exit_code == 0


def test_the_command_writes_a_table_and_a_map(rod: hyco.RunResult, tmp_path: Path) -> None:
    args = ["design", str(rod.folder), "--number", "3", "--noise", "u=0.01", "--out", str(tmp_path)]
    shown = CliRunner().invoke(cli, args)
    assert shown.exit_code == 0, shown.output
    assert "readings to take next, of 160; a reading errs by u ± 0.01" in shown.output
    told = json.loads((tmp_path / "design.json").read_text())
    with (tmp_path / "design.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["t"]) for row in rows] == pytest.approx([entry["time"] for entry in told["chosen"]])
    assert list(rows[0]) == ["rank", "simulation", "t", "x", "field", "standard_error kappa"]
    assert (tmp_path / "design.png").read_bytes().startswith(b"\x89PNG")
    plain = CliRunner().invoke(cli, [*args, "--json"])
    assert json.loads(plain.stdout) == {
        **told,
        "files": [str(tmp_path / f"design.{s}") for s in ("json", "csv", "png")],
    }


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        (Wanted(fields=["w"]), ["'w'", "u"]),
        (Wanted(number=161), ["161", "160"]),
        (Wanted(until=0.05), ["0.05", "0.1"]),
        (Wanted(simulations=[3]), ["3", "0 to 0"]),
    ],
)
def test_what_cannot_be_chosen_is_said(rod: hyco.RunResult, wanted: Wanted, named: list[str]) -> None:
    with error_naming(DataError, *named):
        design(rod.folder, wanted)
