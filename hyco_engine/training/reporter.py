"""Telling trackers what happens, and keeping what of it the results need."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from hyco_engine.errors import HycoError, RunError
from hyco_engine.hooks.attribution import out_of_memory
from hyco_engine.hooks.checking import describe
from hyco_engine.interfaces import Tracker
from hyco_engine.resources import limit_text


@attrs.define(kw_only=True)
class Guarded:
    """A plugin's tracker, whose mistakes must not end a run: after the first one it is told no more.

    `name` is what messages call it, with its distribution. What it refuses when a run starts, such as a file that is
    there already, is raised: nothing is lost yet.
    """

    tracker: Tracker
    name: str
    failed: bool = False

    def tell(self, event: str, record: Any) -> str | None:
        """Returns what to warn of, or None."""
        if self.failed:
            return None
        try:
            getattr(self.tracker, event)(record)
        except Exception as error:
            if event == "started" and isinstance(error, HycoError):
                raise
            self.failed = True
            return f"the tracker {self.name} failed in {event}, and is left out from here on: {describe(error)}"
        return None


@attrs.frozen(kw_only=True)
class Reporter:
    """Tells all trackers; `seconds` adds up by phase, `warnings` in the order in which they came.

    What a tracker raises ends the run, unless it is guarded.
    """

    trackers: Sequence[Tracker | Guarded]
    seconds: dict[str, float] = attrs.Factory(dict)
    warnings: list[str] = attrs.Factory(list)

    def tell(self, event: str, record: Any) -> None:
        """Call the method `event` of every tracker. Raises RunError with the record's phase where memory ends."""
        about = record if isinstance(record, Mapping) else {}
        for tracker in self.trackers:
            if not isinstance(tracker, Guarded):
                with naming_memory(about.get("phase", event), about.get("cycle")):
                    getattr(tracker, event)(record)
            elif (trouble := tracker.tell(event, record)) is not None:
                self.warn(trouble)

    def warn(self, message: str) -> None:
        """Something the user should know."""
        self.warnings.append(message)
        self.tell("warned", message)

    @contextmanager
    def timed(self, phase: str, total: int | None = None) -> Iterator[None]:
        """Tell the start and the end of a phase outside of the cycles; its time counts also where it fails."""
        self.tell("phase_started", {"cycle": None, "phase": phase, "total": total})
        with clock(self.seconds, phase) as passed:
            yield
        self.tell("phase_ended", {"cycle": None, "phase": phase, "seconds": passed()})


@contextmanager
def clock(seconds: dict[str, float], phase: str, cycle: int | None = None) -> Iterator[Callable[[], float]]:
    """Add the time spent within to `seconds[phase]`, also where it fails; gives what tells the time that passed.

    Raises RunError where memory ends.
    """
    start = time.perf_counter()
    try:
        with naming_memory(phase, cycle):
            yield lambda: time.perf_counter() - start
    finally:
        seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start


@contextmanager
def naming_memory(phase: str, cycle: int | None = None) -> Iterator[None]:
    """Raise RunError with the name of the phase where memory ends within."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        place = phase if cycle is None else f"{phase} of cycle {cycle}"
        raise RunError(
            f"out of memory in {place}; {limit_text()}. Take smaller batches (training.<model>.batch_size), or "
            "augmentation.cache.kind = 'disk' or 'on-the-fly'"
        ) from error
