"""Lets signals ask a run to end: it finishes its step and writes a checkpoint. Commands do so, embedded runs do not."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ASKING = tuple(
    signal.Signals(getattr(signal, name))
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGBREAK")
    if hasattr(signal, name)
)
"""Windows has no SIGUSR1; there SIGBREAK, Ctrl-Break, is what another program can send."""


class StopRequest:
    """Returns, when it is called, the name of the first signal that came, or None. With `tells` it says so at once."""

    def __init__(self, tells: bool = True) -> None:
        self.signal: str | None = None
        self._tells = tells

    def __call__(self) -> str | None:
        return self.signal

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal. A second SIGINT raises KeyboardInterrupt."""
        again = self.signal is not None
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or signal.Signals(number).name
        if not again and self._tells:
            with suppress(OSError):
                # the stream may be in the middle of a write
                os.write(2, f"{self.signal}: ending after this step; Ctrl-C (again) ends at once\n".encode())


@contextmanager
def stop_on_signals(tells: bool = True) -> Iterator[StopRequest]:
    """Lets the signals ask within the block, and do afterwards what they did before. Only the main thread may enter.

    A process that was asked is about to end, and what asks again must not end it before it has told its exit code: such
    signals are ignored after the block, except for SIGINT, by which a person hastens the end.
    """
    request = StopRequest(tells)
    before = {number: signal.signal(number, request.receive) for number in ASKING}
    try:
        yield request
    finally:
        for number, handler in before.items():
            asked = request.signal is not None and number != signal.SIGINT
            signal.signal(number, signal.SIG_IGN if asked else handler)
