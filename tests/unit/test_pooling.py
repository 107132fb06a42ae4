"""Values of groups that belong to a population lean on one another as far as their error bars say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from messages import error_naming
from test_different_simulations import spec

import hyco_engine as hyco
from hyco_engine.errors import SpecError
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.training.pooling import pooled

pytestmark = pytest.mark.usefixtures("measured")


def test_equal_errors_have_the_closed_form() -> None:
    y, e = torch.tensor([1.0, 2.0, 4.0, 7.0], dtype=torch.float64), 1.5
    found = pooled(y, torch.full((4,), e))
    variance = float(y.var()) - e**2
    share = variance / (variance + e**2)
    assert found.mean == pytest.approx(3.5)
    assert found.spread == pytest.approx(math.sqrt(variance))
    assert found.values.tolist() == pytest.approx([3.5 + share * (v - 3.5) for v in y.tolist()])
    for error, value in zip(found.errors.tolist(), y.tolist(), strict=True):
        own = share * e**2 + (1 - share) ** 2 * ((variance + e**2) / 4 + 2 * (value - 3.5) ** 2)
        assert error == pytest.approx(math.sqrt(own))


def test_what_errors_explain_leaves_one_common_value() -> None:
    found = pooled(torch.tensor([1.0, 1.1, 0.9]), torch.tensor([1.0, 1.0, 0.5]))
    assert found.spread == 0
    assert found.values.tolist() == pytest.approx([found.mean] * 3)
    assert found.mean == pytest.approx((1.0 + 1.1 + 4 * 0.9) / 6)
    assert float(found.errors[2]) == pytest.approx(math.sqrt(1 / 6 + 2 * 0.75 / 0.25 * (0.9 - found.mean) ** 2))


def test_a_group_without_information_has_the_population_as_its_estimate() -> None:
    found = pooled(torch.tensor([1.0, 2.0, 99.0]), torch.tensor([1e-6, 1e-6, math.inf]))
    assert found.values.tolist() == pytest.approx([1.0, 2.0, 1.5])
    assert float(found.errors[2]) == pytest.approx(math.sqrt(0.5 + 0.25))


def test_two_groups_at_least_must_be_determined() -> None:
    with pytest.raises(ValueError, match="two groups"):
        pooled(torch.tensor([1.0, 2.0]), torch.tensor([1.0, math.inf]))


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(0.01, 10)), min_size=2, max_size=8),
    st.floats(-10, 10),
    st.floats(0.1, 10),
)
def test_pooling_follows_units(groups: list[tuple[float, float]], shift: float, factor: float) -> None:
    y, e = (torch.tensor(column, dtype=torch.float64) for column in zip(*groups, strict=True))
    one, other = pooled(y, e), pooled(factor * y + shift, factor * e)
    torch.testing.assert_close(other.values, factor * one.values + shift, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(other.errors, factor * one.errors, rtol=1e-4, atol=1e-6)
    assert bool((one.values >= min(y.min().item(), one.mean) - 1e-9).all())
    assert bool((one.values <= max(y.max().item(), one.mean) + 1e-9).all())


def test_pooled_values_are_nearer_to_the_truth_and_their_intervals_cover() -> None:
    generator = torch.Generator().manual_seed(0)
    gains, covered = [], []
    for _ in range(200):
        truth = 1 + 0.5 * torch.randn(12, generator=generator, dtype=torch.float64)
        errors = 0.1 + torch.rand(12, generator=generator, dtype=torch.float64)
        y = truth + errors * torch.randn(12, generator=generator, dtype=torch.float64)
        found = pooled(y, errors)
        gains.append(float((found.values - truth).square().mean() / (y - truth).square().mean()))
        covered.append(float(((found.values - truth).abs() < 1.96 * found.errors).double().mean()))
    assert sorted(gains)[100] < 0.75
    assert 0.9 < sum(covered) / len(covered) < 0.97


def test_a_run_with_thin_data_reports_pooled_values_and_their_population(tmp_path: Path) -> None:
    runs = {}
    for prior in ("none", "population"):
        table = spec(
            tmp_path, physical={"kind": "burgers", "parameters": {"nu": {"scope": "simulation", "prior": prior}}}
        )
        table["data"]["observe"] = {"noise": {"level": 0.3}}
        runs[prior] = hyco.run(table).summary["parameters"]["nu"]
    assert "population" not in runs["none"]
    population = runs["population"]["population"]
    assert 0 < population["lower"] <= population["mean"] <= population["upper"]
    for alone, leaning in zip(runs["none"]["own"], runs["population"]["own"], strict=True):
        assert abs(math.log(leaning["value"] / population["mean"])) < abs(math.log(alone["value"] / population["mean"]))
        assert leaning["interval"][0] < leaning["value"] < leaning["interval"][1]


def test_a_shared_value_has_no_population() -> None:
    with error_naming(SpecError, "population", "scope", key="prior"):
        ParameterSetting(prior="population")


def test_exact_estimates_stay_as_they_are() -> None:
    found = pooled(torch.tensor([1.0, 2.0, 4.0]), torch.zeros(3))
    assert found.values.tolist() == pytest.approx([1.0, 2.0, 4.0])
    assert pooled(torch.ones(3), torch.zeros(3)).values.tolist() == pytest.approx([1.0] * 3)
