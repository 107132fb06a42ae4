"""The largest Lyapunov exponent of a physics: the mean rate at which two nearby rollouts part.

One rollout starts from the data, the other from a small disturbance of it, and after every frame their difference is
scaled back to its first size (Benettin et al. 1980). Over the span of the data alone, an unstable front or a growing
population parts them as well as chaos does. So the physics runs on: growth counts from the end of that span, and only
if the difference outgrows the change of the state itself, which is one of the differences that a step carries along and
in chaos neither grows nor decays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.data.clock import later
from hyco_engine.data.contracts import Trajectory
from hyco_engine.data.fields import StateLayout
from hyco_engine.data.masks import sample_mask
from hyco_engine.data.statistics import Statistics
from hyco_engine.physics.within import internal_steps
from hyco_engine.rollout import evaluating, rollout

SIMULATIONS = 4
SPANS = 9
"""Number of spans of the data over which growth counts, as long as these are no more than `MOST_FRAMES` frames."""
MOST_FRAMES = 2000
MOST_WORK = 2**32
"""The physics runs on for so many values times internal steps at most, well under a minute of work."""
FIXED = 2**15
"""An internal step of few values takes as long as one of so many, and that of a system without space has few."""
LEAST_GROWTH = 5.0
"""Least growth that counts, as a logarithm. Without chaos a difference may still grow with a power of time; ten spans
hold 2.3 such units for the first power."""
BLOCKS = 8
"""Stretches of each rollout whose rates give the standard error."""
CLEAR = 3.0
"""Standard errors above zero from which on an exponent is positive."""


@attrs.frozen(kw_only=True)
class Lyapunov:
    """A positive exponent, per unit of time."""

    exponent: float
    standard_error: float

    def to_data(self) -> dict[str, float]:
        return {
            "lyapunov_exponent": self.exponent,
            "standard_error": self.standard_error,
            "lyapunov_time": 1 / self.exponent,
        }


def largest_exponent(
    model: nn.Module,
    trajectories: Sequence[Trajectory],
    layout: StateLayout,
    dt: float,
    statistics: Statistics,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    between: Callable[[], None] = lambda: None,
) -> Lyapunov | None:
    """Return the exponent of a stepper from the first frames of `trajectories`; `between` frames the caller may end it.

    None stands for one that is not clearly positive, or that would cost more than `MOST_WORK` to find out.
    """
    known = [t for t in trajectories if len(t.dynamic) > 1 and bool(t.dynamic[0].isfinite().all())][:SIMULATIONS]
    if not known:
        return None
    span = max(len(trajectory.dynamic) for trajectory in known) - 1
    states = torch.stack([torch.cat([t.dynamic[0], t.static]) for t in known]).to(device)
    affordable = MOST_WORK // (max(2 * states.numel(), FIXED) * internal_steps(model))
    if affordable < 2 * span:
        return None
    pair = _Pair(model, states, layout, statistics, generator, between)
    with torch.no_grad(), evaluating(model):
        first, _ = pair.run(span)
        if not float(first[span // 4 :].sum()) > 0:
            return None
        frames = min(SPANS * span, max(span, MOST_FRAMES), affordable - span)
        growth, change = pair.run(frames // 3)
        # what fades for so long was an unstable front or a growing population
        if not float(growth.sum()) > 0:
            return None
        growth, change = map(torch.cat, zip((growth, change), pair.run(frames - frames // 3), strict=True))
    total = growth.sum(0)
    # a state that no longer changes has the change 0, and log 0 is -inf
    beyond = total - (change[-1] - change[0])
    if not (float(total.mean()) > LEAST_GROWTH and float(beyond.mean()) > LEAST_GROWTH):
        return None
    rates = torch.stack([block.mean(0) for block in growth.chunk(BLOCKS)]).flatten() / dt
    exponent, error = float(growth.mean()) / dt, float(rates.std()) / math.sqrt(len(rates))
    clear = math.isfinite(error) and exponent > CLEAR * error
    return Lyapunov(exponent=exponent, standard_error=error) if clear else None


class _Pair:
    """Two rollouts whose distance is brought back to its first size after every frame.

    Distances are root mean squares over all samples, in units of each field's spread.
    """

    def __init__(
        self,
        model: nn.Module,
        states: Tensor,
        layout: StateLayout,
        statistics: Statistics,
        generator: torch.Generator,
        between: Callable[[], None],
    ) -> None:
        self._model = model
        self._between = between
        self._layout, self._n = layout, layout.n_dynamic
        shape = (-1, *(1 for _ in layout.spatial))
        self._spread = statistics.std[: self._n].reshape(shape).to(states)
        self._own = sample_mask(layout)[: self._n].to(states.device)
        # the root of the rounding error: the disturbance is far above it, and its square far below itself
        self._size = math.sqrt(torch.finfo(states.dtype).eps)
        self._states = states
        drawn = torch.randn(states[:, : self._n].shape, generator=generator, dtype=torch.float64).to(states)
        self._apart = self._scaled(torch.where(self._own, drawn * self._spread, 0.0))

    def run(self, frames: int) -> tuple[Tensor, Tensor]:
        """Go on, and return the logarithms of the distance's growth and of the state's change, `[frames, B]` each."""
        growth, change = [], []
        for _ in range(frames):
            self._between()
            before, static = self._states[:, : self._n], self._states[:, self._n :]
            both = torch.cat([self._states, torch.cat([before + self._apart, static], dim=1)])
            near, far = rollout(self._model, both, 1)[:, 0].chunk(2)
            growth.append((self._distance(far - near) / self._size).log())
            change.append(self._distance(near - before).log())
            self._apart = self._scaled(far - near)
            self._states = torch.cat([near, later(static, self._layout.advances, 1, self._layout.n_axes)], dim=1)
        return torch.stack(growth).cpu(), torch.stack(change).cpu()

    def _distance(self, difference: Tensor) -> Tensor:
        share = torch.where(self._own, difference / self._spread, 0.0).double()
        return (share.square().flatten(1).sum(1) / self._own.sum()).sqrt()

    def _scaled(self, difference: Tensor) -> Tensor:
        factor = (self._size / self._distance(difference)).to(difference)
        return difference * factor.reshape(-1, *(1 for _ in difference.shape[1:]))
