"""One writer a run folder: a lock that dies with its process, and a note of who holds it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from pathlib import Path
from types import TracebackType

import attrs
import psutil

from hyco_engine.errors import RunError

LOCK = "run.lock"
PATIENCE_S = 0.5
"""How long to try: `is_held` holds the lock for a moment."""


@attrs.frozen(kw_only=True)
class Holder:
    """A process: its id, and when it started, since ids are given again."""

    pid: int
    started: float

    @property
    def alive(self) -> bool:
        """Whether it runs, on this machine."""
        try:
            return abs(float(psutil.Process(self.pid).create_time()) - self.started) < 1.0
        except psutil.Error:
            return False


class RunLock:
    """Held from `acquire` to `release`. The system frees it when the process ends in whatever way."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._handle: int | None = None

    def acquire(self) -> str | None:
        """Returns a note where a process that is gone had held it. Raises RunError while another one does."""
        deadline = time.monotonic() + PATIENCE_S
        while (handle := self._open_locked()) is None:
            if time.monotonic() > deadline:
                raise self._busy(read_holder(self.path))
            time.sleep(0.02)
        left = _parsed(os.pread(handle, 4096, 0))
        if left is not None and left.alive and left.pid != os.getpid():
            # a file system that grants locks to everybody
            os.close(handle)
            raise self._busy(left)
        me = Holder(pid=os.getpid(), started=psutil.Process().create_time())
        self._handle = handle
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(attrs.asdict(me)).encode(), 0)
        except OSError as error:
            self.release()
            raise RunError(f"cannot lock {self.path}: {error.strerror}; free space or choose another folder") from error
        return None if left is None else f"process {left.pid}, which was writing to {self.path.parent}, is gone"

    def _busy(self, holder: Holder | None) -> RunError:
        who = "another process" if holder is None else f"process {holder.pid}"
        return RunError(f"{who} is writing to {self.path.parent}: wait for its end, or name another run folder")

    def _open_locked(self) -> int | None:
        while True:
            try:
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise RunError(f"cannot lock {self.path}: {error.strerror}") from error
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # its holder removes the file: a lock on one that is gone is none
                if os.path.samestat(os.fstat(handle), os.stat(self.path)):
                    return handle
            except FileNotFoundError:
                pass
            except OSError as error:
                os.close(handle)
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    return None
                raise RunError(f"cannot lock {self.path}: {error.strerror}") from error
            os.close(handle)

    def release(self) -> None:
        """May be called twice."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            self.path.unlink(missing_ok=True)
            os.close(handle)

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock in this file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    holder = read_holder(path)
    return holder is not None and holder.alive


def read_holder(path: Path) -> Holder | None:
    """Who wrote a lock file; None where there is none, or nothing that can be read."""
    try:
        with path.open("rb") as file:
            return _parsed(file.read(4096))
    except OSError:
        return None


def _parsed(data: bytes) -> Holder | None:
    try:
        found = json.loads(data)
        return Holder(pid=int(found["pid"]), started=float(found["started"]))
    except (ValueError, KeyError, TypeError):
        return None
