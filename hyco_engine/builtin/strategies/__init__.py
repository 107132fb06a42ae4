"""Built-in augmentation strategies."""

from __future__ import annotations

from typing import Any

from hyco_engine.hooks.hookspecs import hookimpl
from hyco_engine.hooks.records import Record
from hyco_engine.spec.options import options


@options
class CountOptions:
    """`alpha` is the core's."""


@options
class WeightOptions:
    """`alpha` is the core's."""


def _count(options: CountOptions, context: Any) -> Any:
    from hyco_engine.builtin.strategies.count import Count

    return Count()


def _weight(options: WeightOptions, context: Any) -> Any:
    from hyco_engine.builtin.strategies.weight import Weight

    return Weight()


@hookimpl
def hyco_strategies() -> list[Record]:
    return [
        Record(
            kind="count",
            summary="int(n_real * alpha) generated samples, each counting as much as a real one",
            options=CountOptions,
            factory=_count,
        ),
        Record(
            kind="weight",
            summary="as many generated samples as real ones, each with weight alpha",
            options=WeightOptions,
            factory=_weight,
        ),
    ]
