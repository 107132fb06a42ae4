"""`batch-stat`: each term in units of a statistic of its losses over the batch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Literal, final

import attrs

from hyco_engine.builtin.normalizers.base import Balancer, Step
from hyco_engine.builtin.normalizers.options import BatchStatOptions, NonFinite
from hyco_engine.builtin.normalizers.sizes import TINY, Sizes
from hyco_engine.builtin.normalizers.sqrt_dim import dimension_factor
from hyco_engine.interfaces import NormalizerContext, TermSpec

FLOOR = 1e-3
"""Lower limit of the statistic, as a share of the rms."""


@attrs.frozen
class Spread:
    """The size of a term's losses over the samples of a batch; 0 where all of them were 0."""

    size: float


@final
class BatchStat(Balancer):
    """w_k = priority_k g_k / max(S_k, FLOOR * rms_k), S_k over the per-sample losses l_kb of this step alone.

    S: rms = sqrt(mean l^2), std, or mean; never centred, so weights are positive. A std of fewer than two samples is
    replaced by the rms. g_k as in `sqrt-dim`. Outside of training the weights are those of the last step.
    """

    unit_invariant = True
    record = Spread

    def __init__(
        self,
        *,
        statistic: Literal["rms", "std", "mean"] = "rms",
        power: float = 0.0,
        nonfinite: NonFinite = "raise",
    ) -> None:
        super().__init__(nonfinite=nonfinite)
        self.statistic = statistic
        self.power = power
        self._warned = False

    def advanced(self, state: Mapping[str, Spread], step: Step) -> dict[str, Spread]:
        sizes = step.sizes.items()
        return {name: Spread(max(self._statistic(name, size), FLOOR * size.rms)) for name, size in sizes}

    def weight(self, spec: TermSpec, state: Spread | None) -> float:
        factor = dimension_factor(spec, self.specs, self.power)
        if state is None or state.size <= 0:
            return factor * self.manual_weight(spec)
        return spec.priority * factor / max(state.size, TINY)

    def _statistic(self, name: str, size: Sizes) -> float:
        match self.statistic:
            case "rms":
                return size.rms
            case "mean":
                return size.mean
            case "std" if size.samples >= 2:
                return size.std
            case "std":
                self._warn(name)
                return size.rms

    def _warn(self, name: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"batch-stat: a batch has one sample of the term {name!r}, whose std is unknown; its rms is used. "
                'Use larger batches or statistic = "rms"',
                stacklevel=2,
            )


def build(options: BatchStatOptions, context: NormalizerContext) -> BatchStat:
    """Build the normalizer `batch-stat`."""
    return BatchStat(statistic=options.statistic, power=options.power, nonfinite=options.nonfinite)
