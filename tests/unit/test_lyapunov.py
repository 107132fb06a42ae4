"""The largest Lyapunov exponent: known values where there is chaos, and none where states part for another reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

import hyco_engine as hyco
from hyco_engine.data.statistics import Statistics
from hyco_engine.interfaces import Trajectory
from hyco_engine.report.verdict import verdict
from hyco_engine.rollout import rollout
from hyco_engine.testing.contexts import tiny_layout
from hyco_engine.training import lyapunov
from hyco_engine.training.lyapunov import FIXED, Lyapunov, largest_exponent

pytestmark = pytest.mark.usefixtures("measured")

DT = 0.05


class Ode(nn.Module):
    """`u' = rate(u)` in every cell alone, by four Runge-Kutta steps a frame; its channels are the components of u."""

    def __init__(self, rate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, u: Tensor) -> Tensor:
        h = DT / 4
        for _ in range(4):
            a = self.rate(u)
            b = self.rate(u + h / 2 * a)
            c = self.rate(u + h / 2 * b)
            u = u + h / 6 * (a + 2 * b + 2 * c + self.rate(u + h * c))
        return u


def lorenz(u: Tensor) -> Tensor:
    """Lorenz (1963), whose exponents are 0.9056, 0 and -14.572 (Sprott, Chaos and Time-Series Analysis, 2003)."""
    x, y, z = u.unbind(1)
    return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], dim=1)


def pendulum(u: Tensor) -> Tensor:
    """Neighbouring pendulums part in proportion to time, since their periods differ."""
    angle, speed, rest = u.unbind(1)
    return torch.stack([speed, -torch.sin(angle), 0 * rest], dim=1)


def exponent(rate: Callable[[Tensor], Tensor], start: list[float], frames: int = 100) -> Lyapunov | None:
    layout = tiny_layout(2)
    layout = attrs.evolve(layout, dynamic=tuple(attrs.evolve(layout.dynamic[0], name=name) for name in "xyz"))
    model = Ode(rate)
    first = torch.tensor(start, dtype=torch.float64).reshape(1, 3, 1).expand(1, 3, 2)
    whole = torch.cat([first[:, None], rollout(model, first, frames)], dim=1)[0]
    trajectory = Trajectory(dynamic=whole, static=whole[0, :0])
    generator = torch.Generator().manual_seed(0)
    return largest_exponent(model, [trajectory], layout, DT, Statistics.of([trajectory], layout), generator)


def test_the_exponent_of_lorenz_is_the_published_one() -> None:
    found = exponent(lorenz, [-8.0, -8.0, 27.0], frames=200)
    assert found is not None
    assert found.exponent == pytest.approx(0.9056, abs=3 * found.standard_error)
    assert 0 < found.standard_error < 0.15
    assert found.to_data()["lyapunov_time"] == pytest.approx(1 / found.exponent)


@pytest.mark.parametrize(
    ("rate", "start"),
    [
        (lambda u: -u, [1.0, 2.0, 3.0]),
        # neighbouring states part, as fast as the state itself moves
        (lambda u: u, [1e-3, 2e-3, 3e-3]),
        # they part as long as a population is small, or a front unstable
        (lambda u: u - u**2, [1e-5, 2e-5, 3e-5]),
        (lambda u: u - u**3, [1e-5, -2e-5, 3e-5]),
        (pendulum, [2.0, 0.0, 1.0]),
        (lambda u: 0 * u, [1.0, 2.0, 3.0]),
        # it diverges
        (lambda u: u**3, [1.0, 2.0, 3.0]),
    ],
    ids=["decay", "growth", "population", "bistable", "pendulum", "rest", "divergence"],
)
def test_without_chaos_there_is_none(rate: Callable[[Tensor], Tensor], start: list[float]) -> None:
    assert exponent(rate, start) is None


def test_the_physics_runs_on_no_longer_than_differences_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    frames: list[int] = []
    run = lyapunov.rollout

    def rolled(*args: Any) -> Tensor:
        frames.append(1)
        return run(*args)

    monkeypatch.setattr(lyapunov, "rollout", rolled)
    assert exponent(lambda u: u - u**2, [1e-3, 2e-3, 3e-3], frames=60) is None
    assert len(frames) == 60 + lyapunov.SPANS * 60 // 3


def test_without_a_known_start_state_there_is_none() -> None:
    layout = tiny_layout(2)
    hidden = torch.full((5, 1, 2), float("nan"))
    trajectory = Trajectory(dynamic=hidden, static=hidden[0, :0])
    statistics = Statistics.unknown(layout)
    assert largest_exponent(Ode(lorenz), [trajectory], layout, DT, statistics, torch.Generator()) is None


def test_a_physics_that_costs_too_much_is_not_rolled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # few values take as long as many
    frames, values = 100, FIXED
    monkeypatch.setattr("hyco_engine.training.lyapunov.MOST_WORK", values * (2 * frames - 1))
    assert exponent(lorenz, [-8.0, -8.0, 27.0], frames=frames) is None
    monkeypatch.setattr("hyco_engine.training.lyapunov.MOST_WORK", values * 9 * frames)
    assert exponent(lorenz, [-8.0, -8.0, 27.0], frames=frames) is not None


# --- in a run ---------------------------------------------------------------------------------------------------------


def spec_of(kind: str, tmp_path: Any, **data: Any) -> dict[str, Any]:
    return {
        "run": {"cycles": 1},
        "paths": {"runs": str(tmp_path / "runs"), "cache": str(tmp_path / "cache")},
        "data": {
            "kind": "simulate",
            "name": kind,
            "split": {"train": "0:1", "val": "1:2"},
            "num_simulations": 2,
            **data,
        },
        "physical": {"kind": kind, "parameters": {name: {"init": v} for name, v in data["truth"].items()}},
        "training": {"physical": {"epochs_per_cycle": 0}},
    }


def a_run(kind: str, tmp_path: Any, **data: Any) -> dict[str, Any]:
    return dict(hyco.Engine(spec_of(kind, tmp_path, **data)).run().summary)


def test_a_run_tells_the_chaos_of_its_physics(tmp_path: Any) -> None:
    """On 36 units of length, Kuramoto-Sivashinsky has the exponent 0.080 (Edson et al., ANZIAM J. 61, 2019)."""
    more = {"skip_frames": 60, "num_frames": 41, "resolution": {"x": 48}, "bounds": {"x": [0.0, 36.0]}, "dt": 0.5}
    summary = a_run("kuramoto-sivashinsky", tmp_path, truth={"alpha": 1.0, "nu": 1.0}, **more)
    chaos = summary["chaos"]
    assert chaos["lyapunov_exponent"] == pytest.approx(0.080, abs=3 * chaos["standard_error"])
    assert chaos["standard_error"] < 0.02
    assert [told for told in summary["verdict"] if "chaotic" in told] == [
        told for told in verdict(summary) if told.startswith("The physics is chaotic, with a Lyapunov time of 1")
    ]
    assert summary["metrics"]["physical"]["val"]["correlation_time"] is None


@pytest.mark.parametrize(("kind", "name"), [("heat", "kappa"), ("burgers", "nu")])
def test_a_run_of_a_physics_without_chaos_tells_none(kind: str, name: str, tmp_path: Any) -> None:
    more = {"num_frames": 21, "resolution": {"x": 32}, "dt": 0.05}
    summary = a_run(kind, tmp_path, truth={name: 0.02}, **more)
    assert summary["chaos"] is None
    assert "chaotic" not in " ".join(summary["verdict"])


def test_a_physics_that_fails_beyond_the_data_costs_no_results(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> None:
        raise ArithmeticError("no convergence")

    monkeypatch.setattr("hyco_engine.results.largest_exponent", fails)
    summary = a_run("heat", tmp_path, truth={"kappa": 0.02}, num_frames=6, resolution={"x": 16}, dt=0.05)
    assert (summary["status"], summary["chaos"]) == ("completed", None)
    assert "whether the physics is chaotic could not be found out: no convergence" in summary["warnings"]


def test_a_run_that_is_asked_to_end_does_so_between_two_frames(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    frames: list[int] = []
    run = lyapunov.rollout

    def rolled(*args: Any) -> Tensor:
        frames.append(1)
        if len(frames) == 3:
            asked.append("SIGTERM")
        return run(*args)

    monkeypatch.setattr(lyapunov, "rollout", rolled)
    spec = spec_of("heat", tmp_path, truth={"kappa": 0.02}, num_frames=21, resolution={"x": 16}, dt=0.05)
    engine = hyco.Engine(spec)
    with pytest.raises(KeyboardInterrupt, match="interrupted by SIGTERM"):
        engine.run(tmp_path / "run", stop=lambda: asked[0] if asked else None)
    assert len(frames) == 3
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["chaos"]) == ("interrupted", None)
    monkeypatch.undo()
    assert hyco.Engine(spec).run(tmp_path / "run", resume=True).summary["status"] == "completed"
