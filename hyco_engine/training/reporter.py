"""Reports to trackers, and the warnings and times that the results need."""

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
    """A plugin's tracker, whose errors must not end a run: after the first error it receives no more events.

    `name` is its name in messages, with its distribution. An error at the start of a run, such as for a file that
    exists already, is raised, since nothing is lost yet.
    """

    tracker: Tracker
    name: str
    failed: bool = False

    def tell(self, event: str, record: Any) -> str | None:
        """Pass an event on; return a warning if the tracker failed, else None."""
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


class PhaseWatch(Tracker):
    """Knows at which `place` of the run the last phase began, such as "train_physical of cycle 2"."""

    place = ""

    def phase_started(self, record: Mapping[str, Any]) -> None:
        cycle = record.get("cycle")
        self.place = str(record["phase"]) if cycle is None else f"{record['phase']} of cycle {cycle}"


@attrs.frozen(kw_only=True)
class Reporter:
    """Tells all trackers; `seconds` adds up by phase, and `warnings` have the order in which they came.

    An error of a tracker ends the run, unless the tracker is guarded.
    """

    trackers: Sequence[Tracker | Guarded]
    seconds: dict[str, float] = attrs.Factory(dict)
    warnings: list[str] = attrs.Factory(list)

    def tell(self, event: str, record: Any) -> None:
        """Call the method `event` of every tracker. Raises RunError with the record's phase if memory runs out."""
        about = record if isinstance(record, Mapping) else {}
        for tracker in self.trackers:
            if not isinstance(tracker, Guarded):
                with naming_memory(about.get("phase", event), about.get("cycle")):
                    getattr(tracker, event)(record)
            elif (trouble := tracker.tell(event, record)) is not None:
                self.warn(trouble)

    def note(self, message: str) -> None:
        """Tell the user what was chosen."""
        self.tell("noted", message)

    def warn(self, message: str) -> None:
        """Tell the user a warning."""
        self.warnings.append(message)
        self.tell("warned", message)

    @contextmanager
    def timed(self, phase: str, total: int | None = None) -> Iterator[None]:
        """Report the start and the end of a phase outside of the cycles; its time counts even if it fails."""
        self.tell("phase_started", {"cycle": None, "phase": phase, "total": total})
        with clock(self.seconds, phase) as passed:
            yield
        self.tell("phase_ended", {"cycle": None, "phase": phase, "seconds": passed()})


@contextmanager
def clock(seconds: dict[str, float], phase: str, cycle: int | None = None) -> Iterator[Callable[[], float]]:
    """Add the time spent within to `seconds[phase]`, even if it fails; yield a function that returns the time passed.

    Raises RunError if memory runs out.
    """
    start = time.perf_counter()
    try:
        with naming_memory(phase, cycle):
            yield lambda: time.perf_counter() - start
    finally:
        seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start


@contextmanager
def naming_memory(phase: str, cycle: int | None = None) -> Iterator[None]:
    """Raise RunError with the name of the phase if memory runs out within."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        place = phase if cycle is None else f"{phase} of cycle {cycle}"
        raise RunError(
            f"out of memory in {place}; {limit_text()}. Take smaller batches (training.<model>.batch_size, "
            "and memory_gb under gauss-newton and lbfgs), or augmentation.cache.kind = 'disk' or 'on-the-fly'"
        ) from error
