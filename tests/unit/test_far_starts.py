"""Two parameters are found from starts that are five and ten times off, in all directions."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gallery_cases import Case, windows
from torch import Tensor, nn

from hyco_engine import load_physics, run
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.physics.transforms import choose_transform
from hyco_engine.runs.loading import evaluate
from hyco_engine.training.least_squares import LevenbergMarquardt, NormalEquations
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.solver.lbfgs import LBFGS
from hyco_engine.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("measured")

FISHER = Case(kind="fisher-kpp", resolution=(32,), upper=(10.0,), dt=0.1, options={"length_scale": 0.1})
FLOW = Case(
    kind="navier-stokes",
    resolution=(16, 16),
    upper=(2 * math.pi, 2 * math.pi),
    dt=0.1,
    options={"forcing": "kolmogorov", "waves": 2, "length_scale": 0.3},
)
SPOTS = Case(kind="gray-scott", resolution=(24, 24), upper=(24.0, 24.0), dt=2.0)
CASES = {
    "fisher-kpp": (FISHER, {"D": 0.1, "r": 1.0}, None),
    "navier-stokes": (FLOW, {"nu": 0.02, "F": 1.0}, None),
    # the step of the start is the step of the data: Euler's error is part of the truth here
    "gray-scott": (SPOTS, {"Du": 0.1, "Dv": 0.05}, 0.2),
}


def found_from(kind: str, factors: tuple[float, float], optimizer: str) -> list[float]:
    """What was found, over the truth."""
    case, truth, inner = CASES[kind]
    data = windows(case.model(parameters=truth, inner_dt=inner), count=2, frames=7, horizon=3)
    settings = {name: ParameterSetting(learn=False) for name in ("f", "k")} if kind == "gray-scott" else {}
    for (name, value), factor in zip(truth.items(), factors, strict=True):
        settings[name] = ParameterSetting(init=value * factor)
    model = case.model(parameters=settings, inner_dt=inner)
    training = TrainingSettings(optimizer=optimizer, batch_size=len(data))  # type: ignore[arg-type]
    Trainer(model, player="physical", layout=model.layout, settings=training).train(data, 60)
    values = model.learnables.values()
    return [float(values[name].detach()) / value for name, value in truth.items()]


@pytest.mark.parametrize(
    ("kind", "factors", "optimizer"),
    [
        # without a reach nu ran off to 0
        pytest.param("navier-stokes", (0.2, 10.0), "gauss-newton", marks=pytest.mark.slow),
        # without one the line search stopped where the loss is not finite
        ("fisher-kpp", (0.1, 0.1), "lbfgs"),
    ],
)
def test_both_are_found_from_far_off(kind: str, factors: tuple[float, float], optimizer: str) -> None:
    assert found_from(kind, factors, optimizer) == pytest.approx([1.0, 1.0], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["gauss-newton", "lbfgs"])
@pytest.mark.parametrize("factors", [(a, b) for a in (0.1, 0.2, 5.0, 10.0) for b in (0.1, 0.2, 5.0, 10.0)])
@pytest.mark.parametrize("kind", ["fisher-kpp", "navier-stokes"])
def test_both_are_found_from_all_directions(kind: str, factors: tuple[float, float], optimizer: str) -> None:
    assert found_from(kind, factors, optimizer) == pytest.approx([1.0, 1.0], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["gauss-newton", "lbfgs"])
@pytest.mark.parametrize("factors", [(a, b) for a in (0.1, 0.2, 5.0) for b in (0.1, 0.2, 5.0)])
def test_diffusivities_are_found_from_all_directions(factors: tuple[float, float], optimizer: str) -> None:
    assert found_from("gray-scott", factors, optimizer) == pytest.approx([1.0, 1.0], rel=1e-3)


def test_internal_steps_follow_a_search_to_where_those_of_the_start_are_too_long(tmp_path: Path) -> None:
    """The true kappa is 25 times the start value."""
    spec = {
        "run": {"name": "far", "cycles": 1},
        "paths": {"cache": str(tmp_path / "cache"), "runs": str(tmp_path / "runs")},
        "data": {
            "kind": "simulate",
            "resolution": {"x": 32},
            "num_simulations": 3,
            "num_frames": 8,
            "dt": 0.01,
            "num_predict_steps": 3,
            "truth": {"kappa": 0.5},
            "split": {"by": "simulation", "train": "0:1", "val": "1:2", "test": "2:3"},
        },
        "physical": {"kind": "heat", "parameters": {"kappa": {"init": 0.02}}},
        "training": {"physical": {"epochs_per_cycle": 8}},
    }
    found = run(spec)
    summary = found.summary
    assert summary["parameters"]["kappa"]["relative_error"] < 1e-3
    assert summary["warnings"] == []
    # the run's own weights bring the steps along: the true value needs 9.85, and has room to grow in 16
    assert load_physics(found.folder).substeps == 16
    again = evaluate(found.folder, "test")["metrics"]["physical"]["test"]["nrmse"]
    assert again == summary["metrics"]["physical"]["test"]["nrmse"]


class Bowl:
    """The problem of a number that is not finite beyond 1 on both sides of its start, 0; least at `low`."""

    terms = ()

    def __init__(self, low: float, trusted: float = math.inf) -> None:
        self.low = low
        self.theta = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.parameters = [self.theta]
        self.unknowns = SimpleNamespace(trust_region=lambda: torch.tensor([trusted], dtype=torch.float64))
        self.tried: list[float] = []

    def gradient(self) -> Any:
        self.tried.append(float(self.theta.detach()))
        loss = (self.theta - self.low) ** 2 if abs(self.tried[-1]) < 1 else self.theta * math.nan
        loss.backward()
        return float(loss.detach()), dict


def test_a_line_search_comes_back_from_where_the_loss_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    # a first step that leads to 100
    monkeypatch.setattr("hyco_engine.training.solver.lbfgs.FIRST_STEP", 100.0)
    bowl: Any = Bowl(0.9)
    solver = LBFGS(player="physical")
    state = solver.fresh(bowl)
    for _ in range(12):
        solver.iterate(bowl, state)
    assert max(bowl.tried) >= 1
    assert float(bowl.theta.detach()) == pytest.approx(0.9, rel=1e-6)


def test_a_line_search_evaluates_nothing_beyond_its_trust_region() -> None:
    bowl: Any = Bowl(0.9, trusted=0.3)
    solver = LBFGS(player="physical")
    state = solver.fresh(bowl)
    for _ in range(2):
        begun, last = len(bowl.tried), float(bowl.theta.detach())
        solver.iterate(bowl, state)
        assert all(abs(place - last) <= 0.3 + 1e-7 for place in bowl.tried[begun:])
    assert state.nonfinite == 0
    assert 0 < float(bowl.theta.detach()) < 0.61


class Square:
    """|A theta - b|^2."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b

    def values(self, points: Tensor, starts: Tensor) -> Tensor:
        return (points @ self.a.T - self.b).square().sum(1)

    def normal_equations(self, points: Tensor, starts: Tensor) -> NormalEquations:
        r = points @ self.a.T - self.b
        hessian = (self.a.T @ self.a).expand(len(points), -1, -1)
        return NormalEquations(values=r.square().sum(1), gradient=r @ self.a, hessian=hessian)


def test_a_step_is_the_minimum_within_reach() -> None:
    """One parameter is held at its reach; the other goes where it is best beside that, not beside the far minimum."""
    a = torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=torch.float64)
    problem = Square(a, torch.tensor([10.0, 1.0], dtype=torch.float64))
    search = LevenbergMarquardt(trust_region=torch.tensor([2.0, math.inf], dtype=torch.float64))
    search.damping[:] = 0.0
    point = search.iterate(problem, torch.zeros(1, 2)).points[0]
    # theta_0 = 2, and theta_1 = argmin (2 + t / 2 - 10)^2 + (t - 1)^2 = 4
    assert point.tolist() == pytest.approx([2.0, 4.0], rel=1e-12)


@pytest.mark.parametrize("bounds", [(0.0, math.inf), (-1.0, math.inf), (-math.inf, 1.0), (0.0, 0.5), (-1.0, 1.0)])
def test_within_its_reach_a_parameter_stays_off_its_bounds(bounds: tuple[float, float]) -> None:
    """A step of one reach leaves at least a thirtieth of the distance to the nearer bound."""
    transform = choose_transform("auto", *bounds, 0.2, positive=True)
    start = torch.tensor(0.2, dtype=torch.float64)
    raw = transform.to_raw(start)
    for sign in (-1, 1):
        value = float(transform.to_value(raw + sign * transform.reach))
        for bound in bounds:
            if math.isfinite(bound):
                assert abs(value - bound) > abs(0.2 - bound) / 30


def test_without_bounds_there_is_no_reach() -> None:
    assert choose_transform("auto", -math.inf, math.inf, 1.0, positive=True).reach == math.inf
