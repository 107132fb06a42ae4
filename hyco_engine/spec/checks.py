"""Checks of single spec values that need no data."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")
_RANGE = re.compile(r"\s*([+-]?\d{1,15})?\s*:\s*([+-]?\d{1,15})?\s*", re.ASCII)


def check_folder_name(value: str) -> None:
    """The value names a folder of its own below another one and cannot lead out of it."""
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"{value[:120]!r} cannot name a folder: use 1 to 100 letters, digits, '_', '-' and '.', "
            f"starting with none of the last two"
        )


def check_device(value: str) -> None:
    """The value looks like a device; whether it is there is seen when the run starts."""
    if not _DEVICE.fullmatch(value):
        raise ValueError(f"must be 'auto', 'cpu', 'cuda', 'cuda:<number>' or 'mps', not {value[:120]!r}")


def check_interval(value: tuple[float, float] | None) -> None:
    """The lower bound is below the upper one."""
    if value is not None and not value[0] < value[1]:
        raise ValueError(f"the lower bound must be below the upper one, not {value[0]:g} and {value[1]:g}")


def check_curriculum(value: tuple[tuple[int, int], ...]) -> None:
    """Pairs (steps, epochs) of positive numbers, whose steps grow."""
    steps = [pair[0] for pair in value]
    if any(number < 1 for pair in value for number in pair) or any(a >= b for a, b in itertools.pairwise(steps)):
        given = ", ".join(f"[{a}, {b}]" for a, b in value)
        raise ValueError(f"must be pairs [steps, epochs] of at least 1 each, with growing steps, not [{given}]")


def parse_range(text: str) -> slice:
    """`start:stop` as in Python: either may be left out or negative. Raises ValueError."""
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(f"must be a range start:stop such as '0:30' or '30:', not {text[:120]!r}")
    start, stop = (None if part is None else int(part) for part in match.groups())
    # a start counted from one end and a stop from the other cannot be compared without the length
    if stop == 0 or (start is not None and stop is not None and (start < 0) == (stop < 0) and stop <= start):
        raise ValueError(f"the range {text!r} is empty: start must be below stop, which is not in it")
    return slice(start, stop)


def check_range(value: str) -> None:
    """The value is a range or empty."""
    if value:
        parse_range(value)


def overlaps(ranges: Mapping[str, str]) -> list[str]:
    """The pairs of ranges that overlap whatever the length; ranges counted from the end are not compared."""
    spans = []
    for name, text in ranges.items():
        where = parse_range(text) if text else slice(-1)
        start, stop = where.start or 0, math.inf if where.stop is None else where.stop
        if start >= 0 and stop >= 0:
            spans.append((name, text, start, stop))
    return [
        f"{name} {text!r} and {other} {other_text!r}"
        for (name, text, start, stop), (other, other_text, other_start, other_stop) in itertools.combinations(spans, 2)
        if start < other_stop and other_start < stop
    ]
