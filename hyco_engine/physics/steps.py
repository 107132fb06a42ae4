"""The number of internal steps in a frame: the user's, or one that is stable for the present parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
from torch import Tensor

from hyco_engine.data.fields import StateLayout
from hyco_engine.errors import DataError, SpecError

if TYPE_CHECKING:
    from hyco_engine.physics.model import Physics

MAX_INTERNAL_STEPS = 1000
"""The number of internal steps per frame above which a mistake in the units is far more likely than a wish."""
TOO_MANY = 4
"""A number of steps that is so many times as large as needed is lowered."""

Parameters = Mapping[str, Tensor]


@attrs.define(kw_only=True, eq=False)
class InternalSteps:
    """How many internal steps make a frame of `dt`.

    The number that the physics asks for at the start values stays until it is no longer stable, or `TOO_MANY` times too
    large. It then becomes a power of two: a change is rare, and comes back to numbers whose graphs exist already. A
    number that the user set by `physical.dt` is `fixed`. `sizes` holds the largest magnitude of each field, if known.

    Steps must be stable for each of several sets of parameters, since simulations may differ in them.
    """

    physics: Physics
    layout: StateLayout
    sizes: Mapping[str, float]
    dt: float
    begun: int
    fixed: bool
    count: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.count = self.begun

    @classmethod
    def of(
        cls,
        physics: Physics,
        layout: StateLayout,
        sizes: Mapping[str, float],
        start: Sequence[Parameters],
        dt: float,
        inner_dt: float | None,
    ) -> InternalSteps:
        """Return the internal steps for the `start` values; `inner_dt` is the user's. Raises DataError or SpecError."""
        if inner_dt is not None:
            begun = divide(dt, inner_dt)
        else:
            begun = _affordable(max(physics.internal_steps(layout, sizes, one, dt) for one in start), sizes, dt)
        return cls(physics=physics, layout=layout, sizes=sizes, dt=dt, begun=begun, fixed=inner_dt is not None)

    @property
    def changed(self) -> int | None:
        """The number, if it is not the one of the start values; else None."""
        return None if self.count == self.begun else self.count

    def restore(self, count: int | None) -> None:
        """Take the number that `changed` gave."""
        if not self.fixed:
            self.count = self.begun if count is None else count

    @contextmanager
    def divided(self, parts: int) -> Iterator[None]:
        """Take, within the context, `parts` times as many steps."""
        count = self.count
        self.count = count * parts
        try:
            yield
        finally:
            self.count = count

    def load(self, parameters: Sequence[Parameters]) -> float:
        """Return the needed number of steps over the present one; above 1 the steps are too long for `parameters`.

        It is infinite where more than `MAX_INTERNAL_STEPS` are needed, and 0 for steps that the user set.
        """
        if self.fixed:
            return 0.0
        least = self._asked(self.physics.least_steps, parameters)
        return math.inf if self.count < least and least > MAX_INTERNAL_STEPS else least / self.count

    def settle(self, parameters: Sequence[Parameters]) -> bool:
        """Choose the number anew if `parameters` need another one; return true if it changed."""
        load = self.load(parameters)
        asked = 0.0 if self.fixed else self._asked(self.physics.internal_steps, parameters)
        if self.fixed or not math.isfinite(load + asked):
            return False
        wanted = min(MAX_INTERNAL_STEPS, max(_power(math.ceil(asked)), math.ceil(load * self.count)))
        if wanted == self.count or (load <= 1 and wanted * TOO_MANY > self.count):
            return False
        self.count = wanted
        return True

    def _asked(self, of: Callable[..., float], parameters: Sequence[Parameters]) -> float:
        """Return the physics' largest answer; it is infinite for parameters with which it cannot compute any."""
        try:
            steps = max(float(of(self.layout, self.sizes, one, self.dt)) for one in parameters)
        except (ArithmeticError, ValueError):
            # a search may try values that are not finite, or overflow
            return math.inf
        return steps if steps >= 0 else math.inf


def _power(count: int) -> int:
    """Return the smallest power of two that is not below `count`."""
    return 1 << max(0, count - 1).bit_length()


def _affordable(steps: int, sizes: Mapping[str, float], dt: float) -> int:
    """Return `steps`. Raises DataError if there are more than `MAX_INTERNAL_STEPS`."""
    if steps > MAX_INTERNAL_STEPS:
        reached = ", ".join(f"{name} reaches {size:.3g}" for name, size in sizes.items()) or "large start values"
        raise DataError(
            f"a stable step needs {steps} internal steps for each frame of {dt:g} ({reached}): check units, bounds "
            "and the time between frames, or set physical.dt to confirm that many steps are intended",
            key="physical.dt",
        )
    return steps


def divide(dt: float, inner_dt: float) -> int:
    """Return how many internal steps make a frame. Raises SpecError if `inner_dt` does not divide `dt` to 1e-6."""
    count = max(1, round(dt / inner_dt))
    if abs(count * inner_dt - dt) > 1e-6 * dt:
        near = ", ".join(f"{dt / n:.9g}" for n in sorted({count, max(1, count - 1), count + 1}))
        raise SpecError(
            f"dt = {inner_dt:g} does not divide the time between two frames, {dt:g}: use for example {near}",
            key="physical.dt",
        )
    return count
