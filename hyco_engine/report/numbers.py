"""Numbers as text for people."""

from __future__ import annotations

import math
from typing import Any, TypeGuard


def is_number(value: Any) -> TypeGuard[float]:
    """Return True for a finite number. JSON files hold None in place of NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def significant(value: Any, digits: int = 4) -> str:
    """Return a number with so many digits, `1200` rather than `1.2e+03`; a dash for an unknown one."""
    if not is_number(value):
        return "–"
    if value != 0 and (abs(value) < 1e-4 or abs(value) >= 1e6):
        return f"{value:.{digits}g}"
    if isinstance(value, int):
        return str(value)
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def percent(share: float) -> str:
    """Return a share as a percentage with two digits."""
    return f"{significant(100 * share, 2)} %"


def seconds(value: float) -> str:
    """Return a time in seconds below a minute, else in minutes or hours."""
    if round(value, 1) < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def size(count: float) -> str:
    """Return a number of bytes in the unit that fits, a power of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
