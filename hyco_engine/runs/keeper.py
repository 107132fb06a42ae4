"""The decisions when a run writes a checkpoint, and when it ends on request."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hyco_engine.ranks.runtime import Runtime, Single


class Interrupted(KeyboardInterrupt):
    """Raised when a run ends on request, after its progress has been saved."""


class Keeper:
    """Calls `write` at each phase's end, every `minutes` within a phase, and before the run ends on request.

    `stop` returns the name of the signal that asks the run to end, or None. All ranks of `runtime` do the same at a
    rest: rank 0 has the clock, and a signal to one of them asks all.
    """

    def __init__(
        self,
        write: Callable[[dict[str, Any]], None],
        *,
        minutes: float,
        stop: Callable[[], str | None],
        runtime: Runtime | None = None,
    ) -> None:
        self._write = write
        self._seconds = minutes * 60
        self._stop = stop
        self._runtime = runtime or Single()
        self._last = time.monotonic()

    def between(self) -> None:
        """End the run on request; callers have no unsaved progress."""
        _end(self._stop())

    def at_rest(self, state: Callable[[], dict[str, Any]], *, phase_ended: bool) -> None:
        """Write a checkpoint if one is due, then end the run on request."""
        signal, due = self._agreed(self._stop(), time.monotonic() - self._last >= self._seconds)
        if phase_ended or signal is not None or due:
            self._write(state())
            self._last = time.monotonic()
        _end(signal)

    def _agreed(self, signal: str | None, due: bool) -> tuple[str | None, bool]:
        """Return the signal that any rank received, and whether a checkpoint is due."""
        if self._runtime.size == 1:
            return signal, due
        import torch

        found = self._runtime.gather(torch.tensor([signal is not None, due]))
        asked = [rank for rank, flags in enumerate(found) if flags[0]]
        return signal or (f"a signal to rank {asked[0]}" if asked else None), bool(found[0][1])


def _end(signal: str | None) -> None:
    if signal is not None:
        raise Interrupted(f"interrupted by {signal}")
