from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyco_engine.augment.balance import Balance, check_balance, generated_count


def check(n_real: int, n_generated: int, weight: float, expected: float) -> Balance:
    return check_balance(
        cycle=1,
        phase="train_synthetic",
        n_real=n_real,
        n_generated=n_generated,
        weight=weight,
        alpha=0.1,
        expected_ratio=expected,
    )


@pytest.mark.parametrize(
    ("alpha", "counts"),
    [
        (0, (0, 0, 0, 0)),
        (0.001, (0, 0, 0, 1)),
        (0.1, (0, 0, 1, 141)),
        (0.5, (0, 4, 5, 705)),
        (1, (1, 9, 10, 1410)),
        (2, (2, 18, 20, 2820)),
    ],
)
def test_counts_of_the_documents(alpha: float, counts: tuple[int, ...]) -> None:
    assert tuple(generated_count(n, alpha) for n in (1, 9, 10, 1410)) == counts


def test_counts_are_python_s_own() -> None:
    assert generated_count(100, 0.29) == 28


@pytest.mark.parametrize(("n_real", "alpha"), [(-1, 0.1), (10, -0.1), (10, math.nan), (10, math.inf)])
def test_impossible_counts(n_real: int, alpha: float) -> None:
    with pytest.raises(ValueError, match="cannot generate for"):
        generated_count(n_real, alpha)


@given(n_real=st.integers(1, 10**6), alpha=st.floats(0, 4))
def test_count_and_weight_each_keep_the_balance(n_real: int, alpha: float) -> None:
    assert check(n_real, generated_count(n_real, alpha), 1.0, alpha).ok
    assert check(n_real, n_real, alpha, alpha).ok


@given(n_real=st.integers(1, 10**5), alpha=st.floats(0.001, 2), tau=st.floats(0, 1))
def test_a_trusted_share_keeps_the_balance_whatever_the_order_of_multiplying(
    n_real: int, alpha: float, tau: float
) -> None:
    assert check(n_real, int(n_real * alpha * tau), 1.0, alpha * tau).ok
    assert check(n_real, int(n_real * (alpha * tau)), 1.0, tau * alpha).ok


@given(n_real=st.integers(100, 10**6), alpha=st.floats(0.01, 0.95))
def test_alpha_twice_is_noticed_at_any_size(n_real: int, alpha: float) -> None:
    balance = check(n_real, generated_count(n_real, alpha), alpha, alpha)
    assert not balance.ok
    assert "alpha was applied twice" in balance.verdict


def test_the_verdict_explains_double_scaling_with_the_arithmetic() -> None:
    balance = check(940, 94, 0.1, 0.1)
    assert not balance.ok
    assert balance.actual_ratio == pytest.approx(0.01)
    assert balance.verdict == (
        "train_synthetic, cycle 1: 940 real and 94 generated samples: count int(940*0.1)=94 × weight 0.1 gives 0.01 of "
        "the real samples, but the plan declares 0.1: alpha was applied twice, once as a count and once as a weight "
        "(10 % × 10 % = 1 %); use one of them: 94 samples of weight 1, or 940 samples of weight 0.1"
    )


@pytest.mark.parametrize(
    ("n_real", "n_generated", "weight", "expected", "ok", "words"),
    [
        (1000, 100, 1.0, 0.1, True, "as planned"),
        (9, 0, 1.0, 0.1, True, "0.9 samples, rounded down to 0"),
        (19, 1, 1.0, 0.1, True, "1.9 samples, rounded down to 1"),
        (1000, 109, 1.0, 0.1, True, "within 0.01 of the plan"),
        (
            1000,
            112,
            1.0,
            0.1,
            False,
            "112 samples × weight 1 give 0.112 of the 1000 real samples, but the plan declares 0.1",
        ),
        (1000, 88, 1.0, 0.1, False, "does not explain the difference of 0.012"),
        (10, 2, 1.0, 0.1, False, "0.2 of the 10"),
        (1000, 0, 1.0, 0.0, True, "as planned"),
        (1000, 1000, 0.0, 0.0, True, "as planned"),
        (1000, 1000, 0.0, 0.1, False, "weight 0"),
        (0, 0, 1.0, 0.1, True, "rounded down to 0"),
        (0, 5, 1.0, 0.1, False, "inf"),
    ],
)
def test_verdicts(n_real: int, n_generated: int, weight: float, expected: float, ok: bool, words: str) -> None:
    balance = check(n_real, n_generated, weight, expected)
    assert balance.ok is ok
    assert words in balance.verdict
