"""Checks of single spec values that need no data. Each raises ValueError."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")
_RANGE = re.compile(r"\s*([+-]?\d{1,15})?\s*:\s*([+-]?\d{1,15})?\s*", re.ASCII)


def check_folder_name(value: str) -> None:
    """Check that the value names a folder directly below another one and cannot lead out of it."""
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"{value[:120]!r} cannot name a folder: use 1 to 100 letters, digits, '_', '-' and '.', "
            f"and do not start with '-' or '.'"
        )


def check_device(value: str) -> None:
    """Check that the value looks like a device; whether the device exists is checked when the run starts."""
    if not _DEVICE.fullmatch(value):
        raise ValueError(f"must be 'auto', 'cpu', 'cuda', 'cuda:<number>' or 'mps', not {value[:120]!r}")


def check_interval(value: tuple[float, float] | None) -> None:
    """Check that the lower bound is below the upper one."""
    if value is not None and not value[0] < value[1]:
        raise ValueError(f"the lower bound must be below the upper one, not {value[0]:g} and {value[1]:g}")


def check_curriculum(value: tuple[tuple[int, int], ...]) -> None:
    """Check that the value consists of pairs (steps, epochs) of positive numbers, with growing steps."""
    steps = [pair[0] for pair in value]
    if any(number < 1 for pair in value for number in pair) or any(a >= b for a, b in itertools.pairwise(steps)):
        given = ", ".join(f"[{a}, {b}]" for a, b in value)
        raise ValueError(f"must be pairs [steps, epochs] of at least 1 each, with growing steps, not [{given}]")


def parse_range(text: str) -> slice:
    """Read `start:stop` as in Python: either number may be missing or negative. Raises ValueError."""
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(f"must be a range start:stop such as '0:30' or '30:', not {text[:120]!r}")
    start, stop = (None if part is None else int(part) for part in match.groups())
    # a start counted from one end and a stop from the other cannot be compared without the length
    if stop == 0 or (start is not None and stop is not None and (start < 0) == (stop < 0) and stop <= start):
        raise ValueError(f"the range {text!r} is empty: start must be below stop, which is not part of it")
    return slice(start, stop)


def check_range(value: str) -> None:
    """Check that the value is a range or empty."""
    if value:
        parse_range(value)


def overlaps(ranges: Mapping[str, str]) -> list[str]:
    """Return the pairs of ranges that overlap at any length; ranges counted from the end are not compared."""
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
