"""Spec keys of the built-in normalizers. The core reads the terms' scales and priorities: `[loss.terms.<name>]`."""

from __future__ import annotations

from typing import Literal

from hyco_engine.spec.options import option, options

NonFinite = Literal["raise", "skip_step", "skip_term"]

_NONFINITE = "reaction to a term that is NaN or infinite: end the run, skip the step, or skip the term in this step"
_DECAY = "share of the old running mean that a step keeps; the first 10 steps count equally"
_POWER = "p of the factor n^p, where n is the number of values in a sample of the term"
_RENORMALISE = "true: divide the factors n^p by their mean, so that the size of the total does not depend on p"


@options
class ManualOptions:
    """`normalizer = {kind = "manual"}`."""

    nonfinite: NonFinite = option("raise", help=_NONFINITE)


@options
class RunningMeanOptions:
    """`normalizer = {kind = "running-mean"}`."""

    decay: float = option(0.95, help=_DECAY, ge=0.0, lt=1.0)
    nonfinite: NonFinite = option("raise", help=_NONFINITE)


@options
class SqrtDimOptions:
    """`normalizer = {kind = "sqrt-dim"}`."""

    power: float = option(0.5, help=_POWER, ge=0.0, le=1.0)
    renormalise: bool = option(True, help=_RENORMALISE)
    decay: float = option(0.95, help=_DECAY, ge=0.0, lt=1.0)
    nonfinite: NonFinite = option("raise", help=_NONFINITE)


@options
class BatchStatOptions:
    """`normalizer = {kind = "batch-stat"}`."""

    statistic: Literal["rms", "std", "mean"] = option(
        "rms", help="statistic of the per-sample losses of one batch by which a term is divided"
    )
    power: float = option(0.0, help=_POWER, ge=0.0, le=1.0)
    nonfinite: NonFinite = option("raise", help=_NONFINITE)


@options
class UncertaintyOptions:
    """`normalizer = {kind = "uncertainty"}`."""

    lr: float = option(1e-2, help="learning rate of the log variances", gt=0.0)
    nonfinite: NonFinite = option("raise", help=_NONFINITE)


@options
class GradNormOptions:
    """`normalizer = {kind = "grad-norm"}`."""

    every: int = option(
        10,
        help="steps between two measurements of the gradients; each measurement needs one backward pass for each term",
        ge=1,
    )
    decay: float = option(0.9, help="share of the old weights that a measurement keeps", ge=0.0, lt=1.0)
    floor: float = option(1e-3, help="smallest gradient norm that counts, as a share of the largest", gt=0.0, le=1.0)
    nonfinite: NonFinite = option("raise", help=_NONFINITE)
