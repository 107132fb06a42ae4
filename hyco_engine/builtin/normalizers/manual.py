"""`manual`: the weights follow from the declared priorities and scales alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from hyco_engine.builtin.normalizers.base import Balancer, Step
from hyco_engine.builtin.normalizers.options import ManualOptions
from hyco_engine.interfaces import NormalizerContext, TermSpec
from hyco_engine.training.losses import WeightedSum


@final
class Manual(Balancer, WeightedSum):
    """w_k = priority_k / scale_k; a scale that is not declared counts as 1. The default, and the baseline."""

    ratio = False

    def advanced(self, state: Mapping[str, Any], step: Step) -> dict[str, Any]:
        return {}

    def weight(self, spec: TermSpec, state: None) -> float:
        return self.manual_weight(spec)


def build(options: ManualOptions, context: NormalizerContext) -> Manual:
    """Build the normalizer `manual`."""
    return Manual(nonfinite=options.nonfinite)
