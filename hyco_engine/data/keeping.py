"""Where prepared simulations are kept between runs: one folder a data set, shared by processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hyco_engine.data.store import Entry, Unusable, read_entry, write_entry
from hyco_engine.errors import DataError
from hyco_engine.interfaces import Trajectory
from hyco_engine.spec.checks import check_folder_name

log = logging.getLogger("hyco_engine")


def kept(folder: Path | None, name: str, entry: Entry, build: Callable[[], Trajectory]) -> Trajectory:
    """What `build` gives, from the cache where it is there already; without a folder as it is."""
    if folder is None:
        return build()
    path = folder / f"{name}_{entry.index:06d}.safetensors"
    try:
        return read_entry(path, entry)
    except Unusable as reason:
        if path.exists():
            log.info("the cache entry %s is rebuilt: %s", path, reason)
    built = build()
    try:
        write_entry(path, entry, built)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        return read_entry(path, entry)
    except Unusable as reason:
        raise DataError(f"{path} was written and cannot be read back: {reason}", key="paths.cache") from None


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
