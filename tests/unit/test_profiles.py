"""Profile intervals against closed forms, with three parameters."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hyco_engine.physics.transforms import Transform
from hyco_engine.training.least_squares import NormalEquations
from hyco_engine.training.profile import CLOSE, NoProfile, Profiles

FREE = torch.full((3,), math.inf, dtype=torch.float64)


class Squares:
    """The sum of squares of `residuals`, a function of a point `[P]`; counts how often it is linearised."""

    def __init__(self, residuals: Callable[[Tensor], Tensor]) -> None:
        self.residuals = residuals
        self.count = 0

    def values(self, points: Tensor, starts: Tensor) -> Tensor:
        return torch.stack([self.residuals(point).square().sum() for point in points])

    def normal_equations(self, points: Tensor, starts: Tensor) -> NormalEquations:
        self.count += 1
        r, j = self.residuals(points[0]), torch.autograd.functional.jacobian(self.residuals, points[0])
        return NormalEquations(values=(r @ r)[None], gradient=(j.T @ r)[None], hessian=(j.T @ j)[None])


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def profiles(squares: Squares, point: Tensor, left: int = 200, trust_region: Tensor = FREE) -> Profiles:
    return Profiles(squares, point, trust_region=trust_region, left=left)


def is_end(found: float, exact: float) -> bool:
    """Return True if the distance is at least the exact one, and hardly more."""
    return exact * (1 - 1e-9) <= found <= exact * (1 + CLOSE)


@pytest.mark.parametrize("index", range(3))
def test_the_profile_of_a_linear_model_is_its_curvature(index: int) -> None:
    """The loss minimised over the others exceeds its minimum by d^2 / (H^-1)_kk."""
    matrix = random(12, 3)
    squares = Squares(lambda point: matrix @ point - 1.0)
    best = torch.linalg.lstsq(matrix, torch.ones(12, 1, dtype=torch.float64)).solution[:, 0]
    exact = math.sqrt(2.0 * float(torch.linalg.inv(matrix.T @ matrix)[index, index]))
    low, high = profiles(squares, best).interval(index, Transform(), excess=2.0, size=exact)
    assert is_end(float(best[index]) - low, exact)
    assert is_end(high - float(best[index]), exact)
    # the minimum, a step of the others, the proof that they need no further one, and the other end on the same line
    assert squares.count == 4


def test_the_others_follow_a_curved_valley() -> None:
    """The valley b = exp(a), c = a^2 bends, but along it the loss is a^2."""
    squares = Squares(lambda x: torch.stack([x[0], 10 * (x[1] - torch.exp(x[0])), 10 * (x[2] - x[0] ** 2)]))
    start = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    low, high = profiles(squares, start).interval(0, Transform(), excess=2.0, size=0.1)
    assert is_end(-low, math.sqrt(2))
    assert is_end(high, math.sqrt(2))


def test_the_interval_has_another_minimum_in_it_that_fits_as_well() -> None:
    """s enters as s^2: with another minimum at -1 of a loss that is higher by 1, it reaches to the far side of it."""

    def residuals(x: Tensor) -> Tensor:
        return torch.stack([10 * (x[0] ** 2 - 1), x[1] - x[0], x[2] + x[1], torch.where(x[0] < 0, 1.0, 0.0).to(x)])

    best = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    alone = profiles(Squares(residuals), best).interval(0, Transform(), excess=2.0, size=0.1)
    upper = math.sqrt(1 + math.sqrt(2.0) / 10)
    assert is_end(alone[1] - 1, upper - 1)
    assert 0.9 < alone[0] < 1
    low, high = profiles(Squares(residuals), best).interval(0, Transform(), excess=2.0, size=0.1, others=[-best])
    assert high == alone[1]
    # there, 1 of the allowed excess of 2 is used already
    exact = -math.sqrt(1 + 1 / 10)
    assert -math.sqrt(1 + math.sqrt(2.0) / 10 * 1.21) <= low <= exact * (1 - 1e-9)


@pytest.mark.parametrize("wanted", [-0.4, 0.1])
def test_a_parameter_at_its_bound_has_an_interval_to_one_side(wanted: float) -> None:
    """The parabola of a has its bottom at `wanted`, and a lies above 0, at 0 or near it."""
    transform = Transform(lower=0.0, upper=5.0, log=True)

    def residuals(x: Tensor) -> Tensor:
        a = transform.to_value(x[0])
        return torch.stack([a - wanted, 3 * (x[1] - a), x[2] - 2 * x[1]])

    a = max(1e-6, wanted)
    raw = float(transform.to_raw(torch.tensor(a, dtype=torch.float64)))
    best = torch.tensor([raw, a, 2 * a], dtype=torch.float64)
    region = torch.tensor([transform.reach, math.inf, math.inf], dtype=torch.float64)
    squares = Squares(residuals)
    found = profiles(squares, best, trust_region=region)
    low, high = found.interval(0, transform, excess=2.0, size=1e3)
    assert low == -math.inf
    least = (a - wanted) ** 2
    exact = wanted + math.sqrt(2.0 + least)
    value = float(transform.to_value(torch.tensor(high, dtype=torch.float64)))
    assert squares.count <= 12
    assert exact <= value <= exact * 1.15


@pytest.mark.parametrize(
    ("residuals", "left", "told"),
    [
        (
            lambda x: x[:1] * 1e-3,
            6,
            "profiles took 6 evaluations, as many as the identification is worth",
        ),
        (
            # nothing is known beyond 1, where the excess is half of the allowed one
            lambda x: torch.where(x[:1] < 1, x[:1], torch.inf),
            100,
            "further out, its loss is not finite or asks for shorter internal steps",
        ),
    ],
)
def test_where_no_end_is_found_the_reason_is_told(residuals: Callable[[Tensor], Tensor], left: int, told: str) -> None:
    with pytest.raises(NoProfile) as caught:
        profiles(Squares(residuals), torch.zeros(3, dtype=torch.float64), left).interval(
            0, Transform(), excess=2.0, size=1.0
        )
    assert str(caught.value) == told
