"""Spec keys. This module imports no torch."""

from __future__ import annotations

from typing import Literal

from hyco_engine import option, options

STEPS = 105
"""Number of bars of a window."""
REACH = 20
"""Countdowns are cut off at this many bars before and after the event."""


@options
class EventRecordsOptions:
    """`[data] kind = "event-records"`."""

    num_train: int = option(768, help="windows to train on", ge=1)
    num_val: int = option(256, help="windows to validate on", ge=0)
    num_test: int = option(0, help="windows to test on", ge=0)
    noise: float = option(0.2, help="standard deviation of the noise, where an event changes the level by 1", ge=0.0)


@options
class MultiHeadLSTMOptions:
    """`[synthetic] kind = "multi-head-lstm"`."""

    width: int = option(32, help="hidden features in each direction", ge=1, le=4096)
    countdown: Literal["per-step", "scalar"] = option(
        "per-step", help="per-step: a number for each bar; scalar: one number, the event's bar, that all follow from"
    )
    countdown_scale: float = option(
        20.0,
        help="declared size of a countdown: the head predicts in units of it, and its loss counts in units of it; "
        "1 declares nothing",
        unit="bar",
        gt=0.0,
    )
