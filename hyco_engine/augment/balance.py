"""The number of samples to generate, and the check that a phase trains on what was planned."""

from __future__ import annotations

import math

import attrs

TOLERANCE = 0.01
"""The largest difference between the two ratios that needs no explanation (R12)."""


def generated_count(n_real: int, alpha: float) -> int:
    """Return `int(n_real * alpha)` in floating point, as the design documents define it: 100 * 0.29 gives 28.

    Raises ValueError unless `n_real >= 0` and `alpha` is finite and `>= 0`.
    """
    if n_real < 0 or not (math.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"cannot generate for {n_real} real samples at alpha {alpha!r}: both must be finite and >= 0")
    return int(n_real * alpha)


@attrs.frozen(kw_only=True)
class Balance:
    """The real and the generated samples of one training phase.

    `actual_ratio = n_generated * weight / n_real`; `expected_ratio` is what the plan declares. `ok` is False if the two
    differ for another reason than rounding down to whole samples; `verdict` says so in words.
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
    """The candidate's name, if the strategy has several."""


def check_balance(
    *, cycle: int, phase: str, n_real: int, n_generated: int, weight: float, alpha: float, expected_ratio: float
) -> Balance:
    """Compare the samples of a phase with what the plan declares. It never raises: a run fails on it, a library warns.

    If the count alone gives the planned ratio, a weight on top of it applies alpha twice, which is wrong at any size.
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
    """Return whether `n_generated` is the planned count, rounded down.

    The slack allows for plans such as alpha * tau, whose product may be rounded in another order.
    """
    if weight <= 0:
        return False
    exact = n_real * expected_ratio / weight
    return n_generated == int(exact) or 0 <= exact * (1 + 1e-12) - n_generated < 1


def _unexplained(n_real: int, n_generated: int, weight: float, expected: float, actual: float) -> str:
    return (
        f"{n_generated} samples × weight {weight:g} give {actual:.4g} of the {n_real} real samples, but the plan "
        f"declares {expected:.4g}, and rounding down to whole samples does not explain the difference of "
        f"{abs(actual - expected):.4g}; correct the strategy's count, weight or expected_ratio"
    )


def _twice(n_real: int, n_generated: int, weight: float, expected: float, actual: float) -> str:
    return (
        f"count int({n_real}*{expected:g})={n_generated} × weight {weight:g} gives {actual:.4g} of the real samples, "
        f"but the plan declares {expected:g}: alpha was applied twice, once as a count and once as a weight "
        f"(10 % × 10 % = 1 %); use one of them: {n_generated} samples of weight 1, or {n_real} samples of weight "
        f"{expected:g}"
    )
