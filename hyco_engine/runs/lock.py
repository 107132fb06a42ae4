"""One writer for each run folder: a lock of the operating system, which ends with its process, and a holder's note."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import attrs
import psutil
from filelock import FileLock, Timeout

from hyco_engine.errors import RunError
from hyco_engine.runs.files import write_atomic
from hyco_engine.untrusted import parse_json, read_regular

LOCK, GUARD = "run.lock", ".run.lock"
"""The note, and the file that is locked. They are two, since no other process can read a locked file on Windows."""

PATIENCE_S = 0.5
"""Seconds to try for, since `is_held` holds the lock for a moment."""


def try_lock(path: Path) -> FileLock | None:
    """Lock a file that its holder removes; return None while another process holds it. Raises OSError."""
    seen = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
        # Holders remove their file, so the lock may be on a file that is gone. It is not if the path leads to the
        # same file now as before: the open descriptor keeps its number from being given to another.
        if os.path.samestat(os.fstat(seen), os.stat(path, follow_symlinks=False)):
            return lock
    except (Timeout, FileNotFoundError):
        pass
    finally:
        os.close(seen)
    lock.release(force=True)
    return None


def unlock(lock: FileLock) -> None:
    """Remove the file and free the lock."""
    with suppress(PermissionError):  # Windows removes no open file; there `release` does it
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release(force=True)


@attrs.frozen(kw_only=True)
class Holder:
    """A process, by its id and the time when it started, since ids are given again."""

    pid: int
    started: float

    @property
    def alive(self) -> bool:
        """True if the process runs on this machine."""
        try:
            return abs(float(psutil.Process(self.pid).create_time()) - self.started) < 1.0
        except (psutil.Error, ValueError, OverflowError):  # no such process, or no number of one
            return False


class RunLock:
    """The right to write to a run folder, from `acquire` to `release`, or to the end of the process."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._lock: FileLock | None = None

    def acquire(self) -> str | None:
        """Take the lock; return a message if its last holder died. Raises RunError while another process holds it."""
        deadline = time.monotonic() + PATIENCE_S
        try:
            while (lock := try_lock(self.path.with_name(GUARD))) is None:
                if time.monotonic() > deadline:
                    raise self._busy(read_holder(self.path))
                time.sleep(0.02)
        except OSError as error:
            raise RunError(f"cannot lock {self.path}: {error.strerror or error}") from error
        left = read_holder(self.path)
        if left is not None and left.alive and left.pid != os.getpid():
            # this file system grants the lock to every process
            lock.release(force=True)
            raise self._busy(left)
        self._lock = lock
        me = Holder(pid=os.getpid(), started=psutil.Process().create_time())
        try:
            write_atomic(self.path, json.dumps(attrs.asdict(me)))
        except RunError:
            self.release()
            raise
        return None if left is None else f"process {left.pid}, which was writing to {self.path.parent}, is gone"

    def _busy(self, holder: Holder | None) -> RunError:
        who = "another process" if holder is None else f"process {holder.pid}"
        return RunError(f"{who} is writing to {self.path.parent}: wait for its end, or name another run folder")

    def release(self) -> None:
        """Remove the note and free the lock. A second call does nothing."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            self.path.unlink(missing_ok=True)
            unlock(lock)

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """Return whether a process, on this machine or another, holds the lock to which the note `path` belongs."""
    guard = path.with_name(GUARD)
    # a lock is made by opening a file for writing, and in a folder of somebody else it may be a link
    if guard.is_file() and not guard.is_symlink():
        try:
            with FileLock(guard, timeout=0):
                pass
        except Timeout:
            return True
        except OSError:  # without write access to the folder, the note alone decides
            pass
    holder = read_holder(path)
    return holder is not None and holder.alive


def read_holder(path: Path) -> Holder | None:
    """Return the process that a note names, or None if there is no readable note."""
    try:
        found = parse_json(read_regular(path, most=4096, links=False))
        return Holder(pid=int(found["pid"]), started=float(found["started"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
