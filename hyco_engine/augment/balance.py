"""How many samples to generate, and whether what a phase trains on is what was planned."""

from __future__ import annotations

import math

import attrs

TOLERANCE = 0.01
"""Largest difference of the two ratios that needs no explanation (R12)."""


def generated_count(n_real: int, alpha: float) -> int:
    """`int(n_real * alpha)` in floating point, as the design documents have it: 100 * 0.29 gives 28.

    Raises ValueError unless `n_real >= 0` and `alpha` is finite and `>= 0`.
    """
    if n_real < 0 or not (math.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"cannot generate for {n_real} real samples at alpha {alpha!r}: both must be finite and >= 0")
    return int(n_real * alpha)


@attrs.frozen(kw_only=True)
class Balance:
    """Real against generated samples of one training phase.

    `actual_ratio = n_generated * weight / n_real`; `expected_ratio` is what the plan declares. `ok` is False where the
    two differ and rounding down to whole samples is not the reason; `verdict` says it in words.
    """

    cycle: int
    phase: str
    n_real: int
    n_generated: int
    weight: float
    alpha: float
    actual_ratio: float
    expected_ratio: float
    ok: bool
    verdict: str
    candidate: str = ""
    """The strategy's name, where several train side by side."""


def check_balance(
    *, cycle: int, phase: str, n_real: int, n_generated: int, weight: float, alpha: float, expected_ratio: float
) -> Balance:
    """Compare what is there with what the plan declares. Never raises: a run makes an error of it, a library a warning.

    A weight on top of a count that alone gives the planned ratio is alpha applied twice, and wrong at any size.
    """
    scaled = n_generated * weight
    actual = scaled / n_real if n_real else (math.inf if scaled else 0.0)
    if math.isclose(actual, expected_ratio, rel_tol=1e-9, abs_tol=1e-12):
        ok, why = True, "as planned"
    elif _rounded_down(n_real, n_generated, weight, expected_ratio):
        exact = n_real * expected_ratio / weight
        ok, why = True, f"as planned: {exact:.6g} samples, rounded down to {n_generated}"
    elif weight != 1 and n_generated and n_generated == int(n_real * expected_ratio):
        ok, why = False, _twice(n_real, n_generated, weight, expected_ratio, actual)
    elif abs(actual - expected_ratio) <= TOLERANCE:
        ok, why = True, f"within {TOLERANCE:g} of the plan"
    else:
        ok, why = False, _unexplained(n_real, n_generated, weight, expected_ratio, actual)
    return Balance(
        cycle=cycle,
        phase=phase,
        n_real=n_real,
        n_generated=n_generated,
        weight=weight,
        alpha=alpha,
        actual_ratio=actual,
        expected_ratio=expected_ratio,
        ok=ok,
        verdict=f"{phase}, cycle {cycle}: {n_real} real and {n_generated} generated samples: {why}",
    )


def _rounded_down(n_real: int, n_generated: int, weight: float, expected_ratio: float) -> bool:
    """Whether `n_generated` is the planned count with its fraction cut off.

    The slack is for plans such as alpha * tau, whose product may be rounded in another order.
    """
    if weight <= 0:
        return False
    exact = n_real * expected_ratio / weight
    return n_generated == int(exact) or 0 <= exact * (1 + 1e-12) - n_generated < 1


def _unexplained(n_real: int, n_generated: int, weight: float, expected: float, actual: float) -> str:
    return (
        f"{n_generated} samples × weight {weight:g} give {actual:.4g} of the {n_real} real samples, the plan declares "
        f"{expected:.4g}, and rounding down to whole samples does not explain the difference of "
        f"{abs(actual - expected):.4g}; correct the strategy's count, weight or expected_ratio"
    )


def _twice(n_real: int, n_generated: int, weight: float, expected: float, actual: float) -> str:
    return (
        f"count int({n_real}*{expected:g})={n_generated} × weight {weight:g} gives {actual:.4g} of the real samples, "
        f"the plan declares {expected:g}: alpha was applied twice, once as a count and once as a weight "
        f"(10 % × 10 % = 1 %); use one of them: {n_generated} samples of weight 1, or {n_real} samples of weight "
        f"{expected:g}"
    )
