from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyco_engine.augment.cache_choice import choose_cache
from hyco_engine.errors import SpecError

ALL = ("disk", "memory", "on-the-fly")


def kind(sample_bytes: int, count: int, budget: float, folder: bool = True) -> str:
    return choose_cache("auto", sample_bytes, count, budget, folder, ALL).kind


@pytest.mark.parametrize("budget", [2.0, 0.3, 1.1, 0.001, 0.000003, 7])
def test_the_borders_are_strictly_below_half_the_budget_and_strictly_below_it(budget: float) -> None:
    whole = round(budget * 1e9)
    half = whole // 2
    assert whole % 2 == 0
    for size, expected in [
        (0, "memory"),
        (half - 1, "memory"),
        (half, "disk"),
        (whole - 1, "disk"),
        (whole, "on-the-fly"),
        (10 * whole, "on-the-fly"),
    ]:
        assert kind(size, 1, budget) == kind(1, size, budget) == expected
        assert kind(size, 1, budget, folder=False) == ("on-the-fly" if expected == "disk" else expected)


@given(sample=st.integers(1, 10**7), count=st.integers(0, 10**6), budget=st.integers(1, 10**6))
def test_a_gb_is_1e9_bytes_and_borders_are_exact_in_decimal(sample: int, count: int, budget: int) -> None:
    decision = choose_cache("auto", sample, count, budget / 1000, True, ALL)
    assert decision.estimated_bytes == sample * count
    limit = budget * 10**6
    expected = "memory" if 2 * sample * count < limit else "disk" if sample * count < limit else "on-the-fly"
    assert decision.kind == expected


@pytest.mark.parametrize(
    ("count", "folder", "reason"),
    [
        (10, True, "10 samples × 1000000 bytes = 0.01 GB, below half the budget of 2 GB: memory"),
        (
            1000,
            True,
            "1000 samples × 1000000 bytes = 1 GB, at least half the budget of 2 GB but below it: disk",
        ),
        (
            1500,
            False,
            "1500 samples × 1000000 bytes = 1.5 GB, at least half the budget of 2 GB but below it; there is no cache "
            "folder: on-the-fly",
        ),
        (2000, True, "2000 samples × 1000000 bytes = 2 GB, not below the budget of 2 GB: on-the-fly"),
    ],
)
def test_the_reason_is_one_sentence_with_the_numbers(count: int, folder: bool, reason: str) -> None:
    assert choose_cache("auto", 10**6, count, 2.0, folder, ALL).reason == reason


def test_a_kind_that_is_asked_for_is_kept() -> None:
    decision = choose_cache("memory", 10**9, 100, 2.0, False, ALL)
    assert decision.kind == "memory"
    assert decision.reason == "the spec asks for memory; 100 samples × 1000000000 bytes = 100 GB"
    assert choose_cache("their-own", 1, 1, 2.0, True, [*ALL, "their-own"]).kind == "their-own"


@pytest.mark.parametrize(
    ("size", "installed", "expected"),
    [
        (1, ["disk", "on-the-fly"], "disk"),
        (1, ["on-the-fly"], "on-the-fly"),
        (1500, ["memory", "on-the-fly"], "on-the-fly"),
        (1500, ["memory"], "memory"),
        (3000, ["memory", "disk"], "disk"),
        (3000, ["memory"], "memory"),
    ],
)
def test_what_is_not_installed_is_passed_over_and_said(size: int, installed: list[str], expected: str) -> None:
    decision = choose_cache("auto", 10**6, size, 2.0, True, [*installed, "their-own"])
    assert decision.kind == expected
    assert "is not installed" in decision.reason
    assert decision.reason.endswith(f": {expected}")


def test_nothing_fits() -> None:
    with pytest.raises(SpecError, match=r"none is installed \(installed: their-own\)") as caught:
        choose_cache("auto", 1, 1, 2.0, True, ["their-own"])
    assert caught.value.problems[0].key == "augmentation.cache.kind"
    with pytest.raises(SpecError, match="only disk is installed and has no folder"):
        choose_cache("auto", 1, 1, 2.0, False, ["disk"])
    with pytest.raises(SpecError, match=r"the cache 'memory' is not installed \(installed: disk\)"):
        choose_cache("memory", 1, 1, 2.0, True, ["disk"])
    with pytest.raises(SpecError, match="the cache 'disk' needs a folder"):
        choose_cache("disk", 1, 1, 2.0, False, ALL)
