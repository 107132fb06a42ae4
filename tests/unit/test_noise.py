"""The estimate of the noise in fields, and what follows from it for a physics."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from messages import lacking
from scipy.integrate import solve_ivp
from tiny_specs import in_time
from torch import Tensor

import hyco_engine as hyco
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.manager import DataManager
from hyco_engine.data.noise import estimate_noise, is_noisy
from hyco_engine.data.recut import Recut
from hyco_engine.data.settings import Noise, Observe, SourceChoice, Split
from hyco_engine.data.windows import WindowDataset
from hyco_engine.interfaces import Trajectory, TrajectorySource
from hyco_engine.training.noisy import meet_noise
from hyco_engine.training.settings import TrainingSettings

pytestmark = pytest.mark.usefixtures("measured")

X = torch.linspace(0, 1, 65, dtype=torch.float64)[:-1]
T = torch.linspace(0, 1, 41, dtype=torch.float64)[:, None]
FIELDS = {
    "a wave": torch.sin(2 * torch.pi * (X - T)),
    "a shock": torch.tanh((X - 0.2 - 0.5 * T) / 0.005),
    "a jump that stays": torch.where(X > 0.5, 1.0, 0.0).expand(41, -1).contiguous(),
    "a field at rest but for a pulse": torch.exp(-((X - 0.3 - 0.3 * T) ** 2) / 2e-3),
}


def layout(*names: str) -> StateLayout:
    grid = Grid(axes=("x",), resolution=(64,), lower=(0.0,), upper=(1.0,))
    boundary = Boundary.parse("periodic", ("x",))
    return StateLayout(grid=grid, dynamic=tuple(FieldInfo(name=name, boundary=boundary) for name in names))


def trajectory(*fields: Tensor) -> Trajectory:
    return Trajectory(dynamic=torch.stack(fields, dim=1), static=torch.zeros(0, 64, dtype=torch.float64))


def drawn(seed: int, shape: Any = (41, 64)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("level", [0.003, 0.05, 0.3])
@pytest.mark.parametrize("name", list(FIELDS))
def test_noise_is_found_whatever_the_field(name: str, level: float) -> None:
    field = FIELDS[name]
    found = estimate_noise([trajectory(field + level * drawn(1))], layout("u"))
    assert found["u"] == pytest.approx(level, rel=0.15)


@pytest.mark.parametrize("name", list(FIELDS))
def test_a_field_without_noise_is_not_noisy(name: str) -> None:
    field = FIELDS[name]
    assert estimate_noise([trajectory(field)], layout("u"))["u"] < 1e-3 * float(field.std())


def test_each_field_has_its_own_noise_and_hidden_values_are_left_out() -> None:
    u, v = FIELDS["a wave"] + 0.1 * drawn(1), 1e3 * FIELDS["a shock"] + 5.0 * drawn(2)
    u[drawn(3) > 1.5] = torch.nan
    found = estimate_noise([trajectory(u, v)], layout("u", "v"))
    assert found["u"] == pytest.approx(0.1, rel=0.15)
    assert found["v"] == pytest.approx(5.0, rel=0.15)


@given(st.floats(1e-9, 1e9), st.floats(-1e3, 1e3))
def test_the_estimate_follows_the_unit_and_ignores_an_offset(scale: float, offset: float) -> None:
    field = FIELDS["a wave"] + 0.05 * drawn(1)
    own = estimate_noise([trajectory(field)], layout("u"))["u"]
    other = estimate_noise([trajectory(scale * (field + offset))], layout("u"))["u"]
    assert other == pytest.approx(scale * own, rel=1e-6)


def test_too_few_values_tell_nothing() -> None:
    assert estimate_noise([trajectory(FIELDS["a wave"][:1])], layout("u"))["u"] < 0.01
    grid = Grid(axes=("x",), resolution=(4,), lower=(0.0,), upper=(1.0,))
    small = StateLayout(grid=grid, dynamic=layout("u").dynamic)
    values = Trajectory(dynamic=drawn(0, (3, 1, 4)), static=torch.zeros(0, 4, dtype=torch.float64))
    assert estimate_noise([values], small) == {"u": 0.0}


# --- short series without space ---------------------------------------------------------------------------------------

LAWS: dict[str, tuple[Callable[[float, Any], list[float]], list[float], float]] = {
    "Lotka-Volterra": (lambda _, u: [u[0] - 0.5 * u[0] * u[1], 0.25 * u[0] * u[1] - 0.75 * u[1]], [2.0, 1.0], 20.0),
    "SIR": (lambda _, u: [-0.5 * u[0] * u[1], 0.5 * u[0] * u[1] - 0.1 * u[1]], [0.99, 0.01], 60.0),
    "Michaelis-Menten": (lambda _, u: [-u[0] / (0.5 + u[0])], [5.0], 15.0),
    "pendulum": (lambda _, u: [u[1], -math.sin(u[0]) - 0.1 * u[1]], [2.5, 0.0], 25.0),
    "van der Pol": (lambda _, u: [u[1], 2 * (1 - u[0] ** 2) * u[1] - u[0]], [2.0, 0.0], 20.0),
    "an enzyme that binds at once": (
        lambda _, u: [0.3 * u[1] - 2 * (0.5 - u[1]) * u[0], 2 * (0.5 - u[1]) * u[0] - 0.8 * u[1]],
        [2.0, 0.0],
        30.0,
    ),
}
"""Laws of series with a start and a duration."""


def series(name: str, frames: int, part: float = 1.0) -> Tensor:
    """Return a clean series `[frames, C]` of a law in units of its spreads, over a part of its duration."""
    law, start, end = LAWS[name]
    times = np.linspace(0, part * end, frames)
    found = solve_ivp(law, (0, times[-1]), start, t_eval=times, rtol=1e-9, atol=1e-11).y.T
    return torch.from_numpy(found / found.std(axis=0))


def noise_of(*simulations: Tensor) -> dict[str, float]:
    """Return the estimate for each component of series, as fields `0`, `1`, ... of their own."""
    grid = Grid(axes=(), resolution=(), lower=(), upper=())
    names = [str(k) for k in range(simulations[0].shape[1])]
    fields = tuple(FieldInfo(name=name, boundary=Boundary(sides={})) for name in names)
    known = [Trajectory(dynamic=own, static=own[0, :0]) for own in simulations]
    return estimate_noise(known, StateLayout(grid=grid, dynamic=fields))


@pytest.mark.parametrize("name", list(LAWS))
@pytest.mark.parametrize("part", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("frames", [5, 18, 30, 60, 100])
def test_a_short_series_without_noise_is_not_noisy(name: str, frames: int, part: float) -> None:
    assert max(noise_of(series(name, frames, part)).values()) < 0.002


@pytest.mark.parametrize("name", ["Lotka-Volterra", "SIR", "Michaelis-Menten", "pendulum"])
@pytest.mark.parametrize("level", [0.02, 0.05, 0.1])
def test_the_noise_of_a_short_series_is_found_where_frames_resolve_it(name: str, level: float) -> None:
    clean, found = series(name, 50, 0.2), []
    for seed in range(10):
        estimates = noise_of(clean + level * drawn(seed, clean.shape))
        found += [1 / 1.5 < own / level < 1.5 for own in estimates.values()]
    assert np.mean(found) >= 0.85


def test_simulations_of_few_frames_are_looked_at_together() -> None:
    clean = [series("Michaelis-Menten", 12, part) for part in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)]
    assert noise_of(*clean)["0"] < 0.002
    noisy = [own + 0.05 * drawn(seed, own.shape) for seed, own in enumerate(clean)]
    assert noise_of(*noisy)["0"] == pytest.approx(0.05, rel=0.4)


def test_few_jumps_of_a_short_series_are_no_noise() -> None:
    steps = torch.where(torch.arange(50)[:, None] > 20, 1.0, 0.0).double()
    assert noise_of(steps)["0"] == 0.0


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ({}, {"initial_states": "learned", "horizon": 40, "stride": 41}),
        ({"horizon": 5}, {"initial_states": "learned"}),
        ({"stride": 7}, {"initial_states": "learned", "horizon": 40}),
        ({"initial_states": "learned"}, {"horizon": 40, "stride": 41}),
        ({"initial_states": "observed"}, {}),
        ({"starts": 3}, {}),
    ],
)
def test_what_a_user_sets_stays(settings: dict[str, Any], chosen: dict[str, Any]) -> None:
    assert meet_noise(TrainingSettings(**settings), "gauss-newton", (40, 41)) == chosen


def test_only_full_batches_learn_start_states() -> None:
    assert meet_noise(TrainingSettings(), "adam", (40, 41)) == {}
    assert meet_noise(TrainingSettings(), "lbfgs", None) == {"initial_states": "learned"}


def test_a_little_noise_does_not_matter() -> None:
    assert not is_noisy({"u": 0.001, "v": 0.0})
    assert is_noisy({"u": 0.001, "v": 0.01})
    assert not is_noisy({})


def test_windows_are_cut_out_of_longer_ones() -> None:
    frames = torch.arange(2 * 11, dtype=torch.float64).reshape(2, 11, 1, 1).expand(2, 11, 1, 64).clone()
    frames[0, 4] = torch.nan
    whole = WindowDataset(
        [Trajectory(dynamic=f, static=torch.ones(1, 64).double() * k) for k, f in enumerate(frames)], horizon=10
    )
    cut = Recut(whole, 3, stride=1)
    states, targets = cut.batch(torch.arange(len(cut)))
    # every frame but the hidden one, and those after which no three steps follow
    assert [int(s[0, 0]) for s in states] == [0, 1, 2, 3, 5, 6, 7, *range(11, 19)]
    assert targets[-1, :, 0, 0].tolist() == [19, 20, 21]
    assert states[:, 1, 0].tolist() == [0.0] * 7 + [1.0] * 8


@pytest.mark.parametrize("noise", [Noise(level=0.2), Noise(level=0.2 * 0.5**0.5, relative=False)])
def test_declared_noise_counts_where_too_little_is_known_for_an_estimate(noise: Noise) -> None:
    values = FIELDS["a wave"][:9, ::8]
    grid = Grid(axes=("x",), resolution=(8,), lower=(0.0,), upper=(1.0,))
    source = Given(values, StateLayout(grid=grid, dynamic=layout("u").dynamic))
    choice = SourceChoice(kind="given", observe=Observe(noise=noise), split=Split(by="time", val="7:9"))
    manager = DataManager(source, choice, None, dtype=torch.float64)
    manager.prepare()
    assert manager.noise["u"] == pytest.approx(0.2, rel=0.2)


class Given(TrajectorySource):
    dt = 0.1
    num_simulations = 1

    def __init__(self, values: Tensor, layout: StateLayout) -> None:
        self.values, self.layout = values, layout

    def fingerprint(self) -> str:
        return "given"

    def load(self, index: int) -> Trajectory:
        return Trajectory(dynamic=self.values[:, None], static=torch.zeros(0, self.values.shape[1]).double())


# --- whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def noisy_spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Burgers with viscosity 0.1 of another solver, with 10 % of noise in the file."""
    folder = tmp_path_factory.mktemp("noisy")
    x, dt = np.arange(32) * 4.0 / 32, 0.1
    k = 2 * np.pi * np.fft.rfftfreq(32, 4.0 / 32)
    u, frames = np.exp(-4 * (x - 1) ** 2), []
    for step in range(31 * 200):
        if step % 200 == 0:
            frames.append(u)
        hat = np.fft.rfft(u)
        u = u + dt / 200 * np.fft.irfft(-0.5j * k * np.fft.rfft(u**2) - 0.1 * k**2 * hat, 32)
    clean = np.array(frames)
    values = clean + 0.1 * clean.std() * np.random.default_rng(3).normal(size=clean.shape)
    np.savez(folder / "pulse.npz", u=values, x=x, t=np.arange(31) * dt)
    return in_time(folder / "pulse.npz", {"kind": "burgers", "compile": "graph"})


def test_noise_is_found_met_and_told(
    noisy_spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = hyco.Engine(noisy_spec).plan()
    wanted = {"initial_states": "learned", "horizon": 20, "stride": 21, "epochs_per_cycle": 25}
    assert {key: plan["training"][f"training.physical.{key}"] for key in wanted} == wanted
    assert lacking(" ".join(plan["notes"]), "u", "noise", "horizon", 20, "stride", 21) == []
    result = hyco.run(noisy_spec)
    summary = result.summary
    assert summary["noise"]["u"]["relative"] == pytest.approx(0.1, rel=0.25)
    assert summary["identification"]["optimizer"] == "gauss-newton"
    low, high = summary["identification"]["error_bars"]["interval"]["nu"]
    assert low < 0.1 < high
    assert high - low < 0.05
    assert summary["balance"][0]["n_real"] == 1
    resolved = tomllib.loads((result.folder / "spec.toml").read_text())
    assert {key: resolved["training"]["physical"][key] for key in wanted} == wanted
    # a key that is set stays, and its price is told
    observed = hyco.run(noisy_spec, overrides={"training.physical.initial_states": "observed"}).summary
    assert observed["balance"][0]["n_real"] == 18
    assert [note for note in observed["warnings"] if "biases parameters" in note]
    # the resolved spec repeats the run
    again = hyco.run(result.folder / "spec.toml", run_dir=tmp_path / "again")
    assert again.summary["parameters"] == summary["parameters"]


def test_a_resumed_run_keeps_what_was_chosen(
    noisy_spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = {**noisy_spec, "run": {"cycles": 1, "device": "cpu"}}
    whole = hyco.run(spec, overrides={"run.cycles": 2}, run_dir=tmp_path / "whole")
    hyco.run(spec, run_dir=tmp_path / "part")
    resumed = hyco.run(spec, overrides={"run.cycles": 2}, run_dir=tmp_path / "part", resume=True)
    assert resumed.summary["parameters"] == whole.summary["parameters"]
    texts = [json.loads((tmp_path / name / "summary.json").read_text())["noise"] for name in ("whole", "part")]
    assert texts[0] == texts[1]


def test_persistence_of_a_continuation_holds_the_last_training_frame(
    noisy_spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = {**noisy_spec, "run": {"cycles": 0}}
    spec["data"] = {**spec["data"], "split": {**spec["data"]["split"], "measure": "continuation"}}
    found = hyco.run(spec).summary["metrics"]["persistence"]["val"]["nrmse_by_step"]
    values = np.load(spec["data"]["path"])["u"]
    wanted = [np.sqrt(((values[20] - values[k]) ** 2).mean() / (values[k] ** 2).mean()) for k in range(21, 26)]
    assert found == pytest.approx(wanted, rel=1e-5)
