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
        _record("manual", options.ManualOptions, "sums the weighted terms, each in units of its declared scale"),
        _record("running-mean", options.RunningMeanOptions, "divides each term by the running mean of its loss"),
        _record(
            "sqrt-dim",
            options.SqrtDimOptions,
            "weighs terms as running-mean does, times the square root of their number of values in a sample",
        ),
        _record(
            "batch-stat", options.BatchStatOptions, "divides each term by a statistic of its losses over the batch"
        ),
        _record(
            "uncertainty", options.UncertaintyOptions, "learns a variance for each term (Kendall, Gal, Cipolla 2018)"
        ),
        _record(
            "grad-norm",
            options.GradNormOptions,
            "weighs terms to equal gradient norms (Wang, Teng, Perdikaris 2021)",
        ),
    ]
