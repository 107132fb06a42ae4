"""Built-in loss normalizers."""

from __future__ import annotations

from typing import Any

from hyco_engine.hooks.hookspecs import hookimpl
from hyco_engine.hooks.records import Record
from hyco_engine.spec.options import options


@options
class ManualOptions:
    """Scales and weights are given under `loss.terms`."""


def _manual(options: ManualOptions, context: Any) -> Any:
    from hyco_engine.training.losses import WeightedSum

    return WeightedSum()


@hookimpl
def hyco_normalizers() -> list[Record]:
    return [
        Record(
            kind="manual",
            summary="weighted sum of the terms, each in units of its declared scale",
            options=ManualOptions,
            factory=_manual,
        )
    ]
