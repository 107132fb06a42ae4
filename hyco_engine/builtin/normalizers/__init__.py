"""Built-in loss normalizers. Factories import torch; this module must not."""

from __future__ import annotations

from typing import Any

from hyco_engine.builtin.normalizers.options import (
    BatchStatOptions,
    GradNormOptions,
    ManualOptions,
    RunningMeanOptions,
    SqrtDimOptions,
    UncertaintyOptions,
)
from hyco_engine.hooks.hookspecs import hookimpl
from hyco_engine.hooks.records import Record


def _manual(options: ManualOptions, context: Any) -> Any:
    from hyco_engine.builtin.normalizers.manual import Manual

    return Manual(nonfinite=options.nonfinite)


def _running_mean(options: RunningMeanOptions, context: Any) -> Any:
    from hyco_engine.builtin.normalizers.running_mean import RunningMean

    return RunningMean(decay=options.decay, nonfinite=options.nonfinite)


def _sqrt_dim(options: SqrtDimOptions, context: Any) -> Any:
    from hyco_engine.builtin.normalizers.sqrt_dim import SqrtDim

    return SqrtDim(
        power=options.power, renormalise=options.renormalise, decay=options.decay, nonfinite=options.nonfinite
    )


def _batch_stat(options: BatchStatOptions, context: Any) -> Any:
    from hyco_engine.builtin.normalizers.batch_stat import BatchStat

    return BatchStat(statistic=options.statistic, power=options.power, nonfinite=options.nonfinite)


def _uncertainty(options: UncertaintyOptions, context: Any) -> Any:
    from hyco_engine.builtin.normalizers.uncertainty import Uncertainty

    return Uncertainty(lr=options.lr, nonfinite=options.nonfinite)


def _grad_norm(options: GradNormOptions, context: Any) -> Any:
    from hyco_engine.builtin.normalizers.grad_norm import GradNorm

    return GradNorm(every=options.every, decay=options.decay, floor=options.floor, nonfinite=options.nonfinite)


@hookimpl
def hyco_normalizers() -> list[Record]:
    return [
        Record(
            kind="manual",
            summary="weighted sum of the terms, each in units of its declared scale",
            options=ManualOptions,
            factory=_manual,
        ),
        Record(
            kind="running-mean",
            summary="each term divided by the running mean of its loss",
            options=RunningMeanOptions,
            factory=_running_mean,
        ),
        Record(
            kind="sqrt-dim",
            summary="running mean, with terms of many values a sample weighted up by their square root",
            options=SqrtDimOptions,
            factory=_sqrt_dim,
        ),
        Record(
            kind="batch-stat",
            summary="each term divided by a statistic of its losses over the batch",
            options=BatchStatOptions,
            factory=_batch_stat,
        ),
        Record(
            kind="uncertainty",
            summary="learned variance of each term (Kendall, Gal, Cipolla 2018)",
            options=UncertaintyOptions,
            factory=_uncertainty,
        ),
        Record(
            kind="grad-norm",
            summary="terms weighted to equal gradient norms (Wang, Teng, Perdikaris 2021)",
            options=GradNormOptions,
            factory=_grad_norm,
        ),
    ]
