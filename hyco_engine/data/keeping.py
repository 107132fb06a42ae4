"""Where prepared simulations are kept between runs: one folder a data set, shared by processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hyco_engine.data.contracts import Trajectory
from hyco_engine.data.store import Entry, Unusable, read_entry, write_entry
from hyco_engine.errors import DataError
from hyco_engine.settings import check_folder_name

log = logging.getLogger("hyco_engine")

MAX_VARIANTS = 4
"""Of one simulation as several specs want it: the ones used last are kept."""


def kept(folder: Path | None, name: str, entry: Entry, build: Callable[[], Trajectory]) -> Trajectory:
    """What `build` gives, from the cache where it is there already; without a folder as it is.

    Called under the folder's lock. Specs that want it otherwise have files of their own: none rebuilds another's.
    """
    if folder is None:
        return build()
    stem = f"{name}_{entry.index:06d}"
    path = folder / f"{stem}-{entry.digest}.safetensors"
    try:
        found = read_entry(path, entry)
        with suppress(OSError):  # in a folder that may only be read
            os.utime(path)
        return found
    except Unusable as reason:
        if path.exists():
            log.info("the cache entry %s is rebuilt: %s", path, reason)
    built = build()
    try:
        write_entry(path, entry, built)
        _forget_old(folder, stem)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        return read_entry(path, entry)
    except Unusable as reason:
        raise DataError(f"{path} was written and cannot be read back: {reason}", key="paths.cache") from None


def _forget_old(folder: Path, stem: str) -> None:
    """Whoever has one of them mapped keeps it."""
    variants = sorted(folder.glob(f"{stem}*.safetensors"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in variants[MAX_VARIANTS:]:
        path.unlink()


@contextmanager
def shared_folder(cache: Path | None, name: str) -> Iterator[Path | None]:
    """The folder of a data set's tensors, held against other processes; None without a cache."""
    if cache is None:
        yield None
        return
    try:
        check_folder_name(name)
    except ValueError as error:
        raise DataError(str(error), key="data.name") from None
    folder = cache / "tensors" / name
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("waiting for another process that prepares %s", folder)
            lock.acquire()
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        # under the lock nobody else is writing, so these were left by a process that was killed
        for rest in folder.glob("*.tmp"):
            rest.unlink(missing_ok=True)
        yield folder
    finally:
        lock.release()


def _cannot_write(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot write to {folder}: {error.strerror or error}; free space, or set paths.cache to another folder",
        key="paths.cache",
    )
