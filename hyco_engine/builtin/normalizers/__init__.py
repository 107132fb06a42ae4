"""Built-in loss normalizers. Factories import torch when called; this module must not."""

from __future__ import annotations

from hyco_engine.builtin.normalizers import options
from hyco_engine.hooks.hookspecs import hookimpl
from hyco_engine.hooks.records import Record, imported


def _record(kind: str, options: type, summary: str) -> Record:
    """Return the record of the kind `some-kind`, whose factory is `build` in the module `some_kind` of this package."""
    factory = imported(f"{__name__}.{kind.replace('-', '_')}", "build")
    return Record(kind=kind, summary=summary, options=options, factory=factory)


@hookimpl
def hyco_normalizers() -> list[Record]:
    return [
        _record("manual", options.ManualOptions, "weighted sum of the terms, each in units of its declared scale"),
        _record("running-mean", options.RunningMeanOptions, "each term divided by the running mean of its loss"),
        _record(
            "sqrt-dim",
            options.SqrtDimOptions,
            "running mean; terms with many values a sample weigh more, by the square root of their number",
        ),
        _record(
            "batch-stat", options.BatchStatOptions, "each term divided by a statistic of its losses over the batch"
        ),
        _record(
            "uncertainty", options.UncertaintyOptions, "learned variance of each term (Kendall, Gal, Cipolla 2018)"
        ),
        _record(
            "grad-norm",
            options.GradNormOptions,
            "terms weighted to equal gradient norms (Wang, Teng, Perdikaris 2021)",
        ),
    ]
