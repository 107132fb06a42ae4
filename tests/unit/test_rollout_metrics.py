"""Every metric against its definition, on fields whose errors are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from report_cases import layout_of

from hyco_engine.data.fields import Boundary, FieldInfo, StateLayout
from hyco_engine.interfaces import Trajectory
from hyco_engine.training.evaluation import HeldOutRollouts, rollout_errors
from hyco_engine.training.rollout_metrics import RolloutMetrics

N = 64
X = (torch.arange(N, dtype=torch.float64) + 0.5) / N


def wave(k: int) -> torch.Tensor:
    return torch.sin(2 * math.pi * k * X)


def measured(prediction: torch.Tensor, truth: torch.Tensor) -> dict[str, object]:
    """Of `[T, N]` each."""
    metrics = RolloutMetrics(layout_of(N), len(truth))
    metrics.add(prediction[None, :, None], truth[None, :, None])
    return metrics.results()["by_field"]["u"]


def test_an_error_in_one_wave() -> None:
    truth = torch.stack([2 + wave(1)])
    found = measured(truth + 0.1 * wave(3), truth)
    mse = 0.01 / 2
    assert found["rmse"] == pytest.approx(math.sqrt(mse))
    assert found["nrmse"] == pytest.approx(math.sqrt(mse / 4.5))
    assert found["vrmse"] == pytest.approx(math.sqrt(mse / 0.5))
    assert found["mae"] == pytest.approx(0.2 / math.pi, rel=1e-2)
    assert found["linf"] == pytest.approx(0.1, rel=2e-3)
    assert found["conserved_rmse"] == pytest.approx(0, abs=1e-12)
    # waves 1 and 3 are orthogonal
    assert found["pearson_r"] == pytest.approx(math.sqrt(0.5 / (0.5 + mse)))
    assert found["correlation_time"] is None


@pytest.mark.parametrize(("k", "band"), [(1, "low"), (3, "low"), (5, "mid"), (10, "mid"), (11, "high"), (32, "high")])
def test_bands_are_thirds_of_the_logarithm(k: int, band: str) -> None:
    # up to Nyquist, 32 waves: 32^(1/3) = 3.2 and 32^(2/3) = 10.1
    truth = torch.stack([wave(1)])
    error = torch.cos(2 * math.pi * k * torch.arange(N, dtype=torch.float64) / N)
    found = measured(truth + error, truth)
    for name in ("low", "mid", "high"):
        expected = float(error.square().mean()) if name == band else 0.0
        assert found[f"spectral_mse/{name}"] == pytest.approx(expected, abs=1e-12)


def test_a_shift_is_not_conserved() -> None:
    truth = torch.stack([wave(1)])
    found = measured(truth - 0.25, truth)
    assert found["conserved_rmse"] == pytest.approx(0.25)
    assert found["boundary_rmse"] == pytest.approx(0.25)
    assert found["pearson_r"] == pytest.approx(1.0)


def test_the_boundary_is_the_outermost_cells() -> None:
    layout = layout_of(4, 3)
    truth = torch.ones(1, 1, 1, 4, 3)
    inner = torch.zeros_like(truth)
    inner[..., 1:-1, 1:-1] = 5.0
    metrics = RolloutMetrics(layout, 1)
    metrics.add(truth + inner, truth)
    assert metrics.results()["boundary_rmse"] == 0.0
    metrics = RolloutMetrics(layout, 1)
    metrics.add(truth + 5.0 - inner, truth)
    # the ten cells around the two inner ones
    assert metrics.results()["boundary_rmse"] == pytest.approx(5.0)


def test_lead_times_are_kept_apart_and_averaged() -> None:
    truth = torch.stack([wave(1)] * 3)
    factors = torch.tensor([1.1, 1.4, 3.0], dtype=torch.float64)[:, None]
    metrics = RolloutMetrics(layout_of(N), 3)
    metrics.add((truth * factors)[None, :, None], truth[None, :, None])
    found = metrics.results()
    assert found["by_step"]["u"]["nrmse"] == pytest.approx([0.1, 0.4, 2.0])
    assert found["nrmse"] == pytest.approx((0.1 * 0.4 * 2.0) ** (1 / 3))
    assert found["rmse"] == pytest.approx(math.sqrt((0.1**2 + 0.4**2 + 2.0**2) / 3 / 2))
    assert found["linf"] == pytest.approx(2.0 * float(wave(1).max()))


def test_the_first_step_that_is_not_correlated() -> None:
    truth = torch.stack([wave(1)] * 4)
    # r = 1 / sqrt(1 + a^2)
    prediction = truth + torch.tensor([0.1, 0.7, 0.8, 0.0], dtype=torch.float64)[:, None] * wave(2)
    assert measured(prediction, truth)["correlation_time"] == 3


def test_what_was_not_observed_enters_nothing() -> None:
    truth = torch.stack([wave(1), wave(1)])
    truth[0, :10] = math.nan
    prediction = truth + 0.1
    prediction[0, :10] = 1e6
    found = measured(prediction, truth)
    assert found["linf"] == pytest.approx(0.1)
    assert found["conserved_rmse"] == pytest.approx(0.1)
    # of the second frame, which is complete
    assert found["spectral_mse/low"] == pytest.approx(0.01)
    unseen = torch.full((1, N), math.nan, dtype=torch.float64)
    assert measured(unseen, unseen)["rmse"] is None


def test_what_diverges_is_infinite() -> None:
    truth = torch.stack([wave(1)])
    found = measured(truth * math.inf, truth)
    assert found["nrmse"] == found["rmse"] == found["linf"] == math.inf
    found = measured(truth * math.nan, truth)
    assert found["nrmse"] == found["linf"] == math.inf


def test_simulations_are_pooled_whatever_the_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    boundary = Boundary.parse("zero-gradient", ("x", "y"))
    layout = StateLayout(
        grid=layout_of(6, 5).grid,
        dynamic=(
            FieldInfo(name="v", components=("x", "y"), sampling="staggered", boundary=boundary),
            FieldInfo(name="s", boundary=boundary),
        ),
    )
    shape = (5, 4, 3, *layout.spatial)
    truth, guess = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    whole, parts = RolloutMetrics(layout, 4), RolloutMetrics(layout, 4)
    whole.add(guess, truth)
    for rows in (slice(0, 1), slice(1, 5)):
        parts.add(guess[rows], truth[rows])
    for field in ("v", "s"):
        for metric, values in whole.results()["by_step"][field].items():
            np.testing.assert_allclose(parts.results()["by_step"][field][metric], values, rtol=1e-12, err_msg=metric)


def test_nrmse_is_the_one_that_training_measures() -> None:
    generator = torch.Generator().manual_seed(1)
    layout = layout_of(8, name="u")
    trajectories = [
        Trajectory(dynamic=torch.randn(n, 1, 8, generator=generator), static=torch.zeros(0, 8)) for n in (5, 5, 3)
    ]
    more = RolloutMetrics(layout, 4)

    def predict(state: torch.Tensor, steps: int) -> torch.Tensor:
        return state[:, None].expand(-1, steps, -1, -1) * 0.5

    errors = rollout_errors(predict, trajectories, layout, watch=more.add)
    found = more.results()
    assert found["nrmse"] == pytest.approx(errors["nrmse"], rel=1e-12)
    assert found["vrmse"] == pytest.approx(errors["vrmse"], rel=1e-12)
    assert found["by_step"]["u"]["nrmse"] == pytest.approx(errors["nrmse_by_step"], rel=1e-12)


@pytest.mark.parametrize("factor", [1e-15, 1e12])
@pytest.mark.parametrize("spreads", [0.0, 1e7])
def test_the_unit_and_the_zero_of_a_field_change_no_relative_error(factor: float, spreads: float) -> None:
    truth = torch.stack([wave(1), 0.5 * wave(2)])
    prediction = truth + 0.1 * wave(3)
    plain = measured(prediction, truth)
    other = measured(factor * (prediction + spreads), factor * (truth + spreads))
    for metric in ("vrmse", "pearson_r") if spreads else ("nrmse", "vrmse", "pearson_r"):
        assert other[metric] == pytest.approx(plain[metric], rel=1e-6), metric
    for metric in ("rmse", "mae", "linf"):
        assert other[metric] == pytest.approx(factor * plain[metric], rel=1e-6), metric


@pytest.mark.parametrize("level", [0.0, 0.1, 101325.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_undefined_is_none(level: float, dtype: torch.dtype) -> None:
    """A frame without a spread has no vrmse, and one of zeros no nrmse either; means are those of the other frames."""
    flat = torch.full((N,), level, dtype=dtype)
    truth = torch.stack([flat, flat + wave(1).to(dtype)])[:, None]
    layout = layout_of(N)
    metrics = RolloutMetrics(layout, 2)
    guess = truth + 0.25
    metrics.add(guess[None], truth[None])
    found = metrics.results()["by_step"]["u"]
    assert found["vrmse"] == [None, pytest.approx(0.25 / math.sqrt(0.5), rel=2e-2)]
    assert found["nrmse"][0] == (None if level == 0 else pytest.approx(0.25 / level, rel=1e-6))
    assert found["pearson_r"][0] is None
    whole = Trajectory(dynamic=torch.cat([truth[:1], truth]), static=torch.zeros(0, N))
    errors = rollout_errors(lambda state, steps: guess[None], [whole], layout)
    assert errors["vrmse"] == pytest.approx(found["vrmse"][1], rel=1e-9)
    assert errors["nrmse_by_step"] == found["nrmse"]


def test_the_best_of_several_fields_is_the_same_after_a_constant_is_added_to_one() -> None:
    layout = StateLayout(
        grid=layout_of(N).grid,
        dynamic=tuple(FieldInfo(name=name, boundary=Boundary.parse("periodic", ("x",))) for name in "up"),
    )
    frames = torch.stack([torch.stack([wave(1), wave(2)]), torch.stack([wave(2), wave(1)])])
    scores = []
    for level in (0.0, 101325.0):
        lift = torch.tensor([0.0, level], dtype=torch.float64)[:, None]
        trajectory = Trajectory(dynamic=frames + lift, static=torch.zeros(0, N))
        heldout = HeldOutRollouts([trajectory], layout)
        scores.append(heldout.score(heldout.persistence()))
    assert scores[0] == pytest.approx(math.sqrt(2.0))
    assert scores[1] == pytest.approx(scores[0], rel=1e-9)


def test_without_any_spread_models_are_compared_by_nrmse() -> None:
    trajectory = Trajectory(dynamic=torch.arange(1.0, 4.0).reshape(3, 1, 1).expand(3, 1, N), static=torch.zeros(0, N))
    heldout = HeldOutRollouts([trajectory], layout_of(N))
    found = heldout.persistence()
    assert found["vrmse"] is None
    assert heldout.score(found) == found["nrmse"] == pytest.approx(math.sqrt(1 / 2 * 2 / 3))
