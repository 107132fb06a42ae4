"""The budget of a surrogate's training, `run.budget` of a spec."""

from __future__ import annotations

import re

import attrs

_BUDGET = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|epochs?)", re.ASCII)
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


@attrs.frozen(kw_only=True)
class Budget:
    """A time in seconds, or a number of epochs of the run; the default work if both are None."""

    seconds: float | None = None
    epochs: int | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read "auto", a time such as "90 s", "5 min" or "2 h", or a number such as "300 epochs". Raises ValueError."""
        if text == "auto":
            return cls()
        match = _BUDGET.fullmatch(text.strip())
        if match is None or float(match[1]) == 0 or (match[2].startswith("epoch") and "." in match[1]):
            raise ValueError(f'must be "auto", a time such as "5 min", or a number such as "300 epochs", not {text!r}')
        if match[2] in _SECONDS:
            return cls(seconds=float(match[1]) * _SECONDS[match[2]])
        return cls(epochs=int(match[1]))
