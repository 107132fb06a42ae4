"""Interpolation of uneven samples: exact where it can be, with an error that is told, and gaps that stay gaps."""

from __future__ import annotations

import numpy as np
import pytest

from hyco_engine.builtin.sources.array_resample import Method, Resampling

PLACES = np.sort(np.random.default_rng(0).uniform(0, 1, 41))


@pytest.mark.parametrize(("method", "degree"), [("linear", 1), ("cubic", 3)])
def test_polynomials_of_the_order_are_exact(method: Method, degree: int) -> None:
    found = Resampling.of(PLACES, method)
    assert len(found.even) == 41
    assert (found.even[0], found.even[-1]) == (PLACES[0], PLACES[-1])
    values = np.stack([PLACES**degree, 1 + PLACES]).T[None]
    expected = np.stack([found.even**degree, 1 + found.even]).T[None]
    np.testing.assert_allclose(found(values, 1), expected, atol=1e-9)


@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_the_error_that_is_told_is_that_of_the_interpolation(method: Method) -> None:
    given = np.linspace(0, 1, 65) ** 1.3
    found = Resampling.of(given, method)
    off = found(np.sin(9 * given), 0) - np.sin(9 * found.even)
    actual = float(np.sqrt((off**2).mean()) / np.sin(9 * given).std())
    assert 0.3 < found.error(np.sin(9 * given), 0) / actual < 6


def test_missing_frames_stay_missing_and_the_others_exact() -> None:
    kept = [0, 1, 2, 5, 6, 9]
    found = Resampling.of(0.1 * np.array(kept), "missing")
    assert (len(found.even), found.missing) == (10, 4)
    values = found(np.array(kept, dtype=float), 0)
    assert np.isnan(values).nonzero()[0].tolist() == [3, 4, 7, 8]
    assert values[kept].tolist() == kept
    # interpolated, what was there is kept
    np.testing.assert_allclose(
        Resampling.of(0.1 * np.array(kept), "linear")(np.array(kept) ** 2.0, 0)[kept], np.array(kept) ** 2
    )
    with pytest.raises(ValueError, match="not at multiples of one step"):
        Resampling.of(PLACES, "missing")


def test_linear_interpolation_spreads_no_gaps() -> None:
    given = np.array([0.0, 1.0, 1.5, 2.0, 3.0])
    values = Resampling.of(given, "linear")(np.array([0, np.nan, 1.5, 2, 3]), 0)
    assert np.isnan(values).nonzero()[0].tolist() == [1, 2]
