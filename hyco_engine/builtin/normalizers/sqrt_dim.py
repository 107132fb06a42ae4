"""`sqrt-dim`: the running mean, times the square root of a term's number of values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

from hyco_engine.builtin.normalizers.options import NonFinite, SqrtDimOptions
from hyco_engine.builtin.normalizers.running_mean import RunningMean
from hyco_engine.interfaces import NormalizerContext, TermSpec


def dimension_factor(spec: TermSpec, specs: Mapping[str, TermSpec], power: float, renormalise: bool = True) -> float:
    """Return g_k = n_k^p / (sum_j priority_j n_j^p / sum_j priority_j) over all terms j.

    The factors keep the sum of the priorities: sum priority g = sum priority. Without `renormalise` g_k = n_k^p, and
    the total, and with it SGD's effective learning rate, grows with the sizes.
    """
    own = math.pow(spec.n_elements, power)
    if not renormalise:
        return own
    priorities = sum(other.priority for other in specs.values())
    if priorities <= 0:
        return 1.0
    return own * priorities / sum(other.priority * math.pow(other.n_elements, power) for other in specs.values())


@final
class SqrtDim(RunningMean):
    """w_k = priority_k g_k / D_k with D_k as in `running-mean` and g_k ~ n_k^power.

    A term's loss is a mean over its n_k values: the more there are, the more of its gradient cancels.
    """

    def __init__(
        self, *, power: float = 0.5, renormalise: bool = True, decay: float = 0.95, nonfinite: NonFinite = "raise"
    ) -> None:
        super().__init__(decay=decay, nonfinite=nonfinite)
        self.power = power
        self.renormalise = renormalise

    def factor(self, spec: TermSpec) -> float:
        return dimension_factor(spec, self.specs, self.power, self.renormalise)


def build(options: SqrtDimOptions, context: NormalizerContext) -> SqrtDim:
    """Build the normalizer `sqrt-dim`."""
    return SqrtDim(
        power=options.power, renormalise=options.renormalise, decay=options.decay, nonfinite=options.nonfinite
    )
