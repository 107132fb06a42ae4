"""The decisions when a run writes a checkpoint, and when it ends on request."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Raised when a run ends on request, after its progress has been saved."""


class Keeper:
    """Calls `write` at each phase's end, every `minutes` within a phase, and before the run ends on request.

    `stop` returns the name of the signal that asks the run to end, or None.
    """

    def __init__(
        self, write: Callable[[dict[str, Any]], None], *, minutes: float, stop: Callable[[], str | None]
    ) -> None:
        self._write = write
        self._seconds = minutes * 60
        self._stop = stop
        self._last = time.monotonic()

    def between(self) -> None:
        """End the run on request; callers have no unsaved progress."""
        _end(self._stop())

    def at_rest(self, state: Callable[[], dict[str, Any]], *, phase_ended: bool) -> None:
        """Write a checkpoint if one is due, then end the run on request."""
        signal = self._stop()
        if phase_ended or signal is not None or time.monotonic() - self._last >= self._seconds:
            self._write(state())
            self._last = time.monotonic()
        _end(signal)


def _end(signal: str | None) -> None:
    if signal is not None:
        raise Interrupted(f"interrupted by {signal}")
