"""Telling trackers what happens, and keeping what of it the results need."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from hyco_engine.interfaces import Tracker


@attrs.frozen(kw_only=True)
class Reporter:
    """Tells all trackers; `seconds` adds up by phase, `warnings` in the order in which they came."""

    trackers: Sequence[Tracker]
    seconds: dict[str, float] = attrs.Factory(dict)
    warnings: list[str] = attrs.Factory(list)

    def tell(self, event: str, record: Any) -> None:
        """Call the method `event` of every tracker."""
        for tracker in self.trackers:
            getattr(tracker, event)(record)

    def warn(self, message: str) -> None:
        """Something the user should know."""
        self.warnings.append(message)
        self.tell("warned", message)

    @contextmanager
    def timed(self, phase: str, cycle: int | None = None, total: int | None = None) -> Iterator[None]:
        """A phase from its start to its end; its time counts also where it fails."""
        self.tell("phase_started", {"cycle": cycle, "phase": phase, "total": total})
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
        self.tell("phase_ended", {"cycle": cycle, "phase": phase, "seconds": seconds})
