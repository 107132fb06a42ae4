"""Signals that ask a run to end: it finishes its step and writes a checkpoint. For commands, not for embedded runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Called, it gives the name of the signal that came, or None."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def __call__(self) -> str | None:
        return self.signal

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The handler. A second SIGINT is a KeyboardInterrupt."""
        again = self.signal is not None
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or signal.Signals(number).name
        if not again:
            with suppress(OSError):
                # the stream may be in the middle of a write
                os.write(2, f"{self.signal}: ending after this step; Ctrl-C (again) ends at once\n".encode())


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within, the signals ask; afterwards they do what they did before. For the main thread."""
    request = StopRequest()
    before = {number: signal.signal(number, request.receive) for number in ASKING}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
