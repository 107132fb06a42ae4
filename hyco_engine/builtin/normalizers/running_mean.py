"""`running-mean`: each term in units of the running mean of its own loss."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from hyco_engine.builtin.normalizers.base import Balancer, Step
from hyco_engine.builtin.normalizers.options import NonFinite, RunningMeanOptions
from hyco_engine.builtin.normalizers.sizes import TINY
from hyco_engine.interfaces import NormalizerContext, TermSpec

WARM_UP = 10
"""Number of a term's first steps that are averaged evenly."""
FLOOR = 1e-3
"""Lower limit of the running mean, as a share of its own peak."""


@attrs.frozen
class Mean:
    """Running mean of a loss."""

    count: float = 0.0
    value: float = 0.0
    peak: float = 0.0

    def followed_by(self, loss: float, decay: float) -> Mean:
        """Return the mean after one more loss: arithmetic over the first `WARM_UP` losses, exponential from then on."""
        count = self.count + 1.0
        gain = 1.0 / count if count <= WARM_UP else 1.0 - decay
        value = self.value + gain * (loss - self.value)
        return Mean(count, value, max(self.peak, value))


class RunningMean(Balancer):
    """w_k = priority_k / D_k with D_k = max(mean of L_k over the steps, FLOOR * its peak).

    The mean includes the batch that is weighted. A term that has always been 0 has its manual weight.
    """

    unit_invariant = True
    record = Mean

    def __init__(self, *, decay: float = 0.95, nonfinite: NonFinite = "raise") -> None:
        super().__init__(nonfinite=nonfinite)
        self.decay = decay

    def advanced(self, state: Mapping[str, Mean], step: Step) -> dict[str, Mean]:
        sizes = step.sizes.items()
        return {name: state.get(name, Mean()).followed_by(size.mean, self.decay) for name, size in sizes}

    def weight(self, spec: TermSpec, state: Mean | None) -> float:
        if state is None or state.peak <= 0:
            return self.factor(spec) * self.manual_weight(spec)
        return spec.priority * self.factor(spec) / max(state.value, FLOOR * state.peak, TINY)

    def factor(self, spec: TermSpec) -> float:
        """Return g_k, which is 1 here and which subclasses replace."""
        return 1.0


def build(options: RunningMeanOptions, context: NormalizerContext) -> RunningMean:
    """Build the normalizer `running-mean`."""
    return RunningMean(decay=options.decay, nonfinite=options.nonfinite)
