"""The cache of prepared simulations between runs: processes share one folder for each data set."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs
from filelock import FileLock, Timeout

from hyco_engine.data.contracts import Trajectory
from hyco_engine.data.store import Entry, Unusable, read_entry, write_entry
from hyco_engine.errors import DataError, how_to_write
from hyco_engine.settings import check_folder_name

log = logging.getLogger("hyco_engine")

MAX_VARIANTS = 4
"""How many variants of one simulation are cached, as several specs want them; the oldest are deleted."""


@attrs.frozen
class Shelf:
    """The cached simulations of one data set; without a folder there are none, and unless it `writes` they stay.

    Who writes holds the folder's lock.
    """

    folder: Path | None
    writes: bool

    def cached(self, name: str, entry: Entry, build: Callable[[], Trajectory]) -> Trajectory:
        """Return the trajectory that the cache holds for `entry`; if it holds none, build it, and store it if it may.

        Specs that want other variants have files of their own, so that no spec rebuilds the file of another. Raises
        DataError if the folder cannot be written.
        """
        if (found := self.held(name, entry)) is not None:
            return found
        built = build()
        if self.folder is None or not self.writes:
            return built
        path = _path(self.folder, name, entry)
        try:
            write_entry(path, entry, built)
            _delete_old_variants(self.folder, _stem(name, entry))
        except OSError as error:
            raise _cannot_write(self.folder, error) from error
        try:
            return read_entry(path, entry)
        except Unusable as reason:
            raise DataError(f"{path} was written but cannot be read back: {reason}", key="paths.cache") from None

    def held(self, name: str, entry: Entry) -> Trajectory | None:
        """Return the trajectory that the cache holds for `entry`; None if it holds none that can be used."""
        if self.folder is None:
            return None
        path = _path(self.folder, name, entry)
        try:
            found = read_entry(path, entry)
        except Unusable as reason:
            if path.exists():
                log.info("the cache entry %s is rebuilt, because %s", path, reason)
            return None
        if self.writes:
            with suppress(OSError):  # the folder may be read-only
                os.utime(path)
        return found


def _stem(name: str, entry: Entry) -> str:
    return f"{name}_{entry.index:06d}"


def _path(folder: Path, name: str, entry: Entry) -> Path:
    return folder / f"{_stem(name, entry)}-{entry.digest}.safetensors"


def _delete_old_variants(folder: Path, stem: str) -> None:
    """Delete the variants of a simulation beyond `MAX_VARIANTS`; a process that has mapped one keeps its data."""
    variants = sorted(folder.glob(f"{stem}*.safetensors"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in variants[MAX_VARIANTS:]:
        with suppress(PermissionError):  # Windows removes no file that a process has mapped
            path.unlink()


@contextmanager
def shelf(cache: Path | None, name: str, *, writes: bool) -> Iterator[Shelf]:
    """Yield the cached tensors of a data set; to write, lock their folder against other processes."""
    try:
        check_folder_name(name)
    except ValueError as error:
        raise DataError(str(error), key="data.name") from None
    folder = None if cache is None else cache / "tensors" / name
    if folder is None or not writes:
        yield Shelf(folder, writes=False)
        return
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("waiting for another process that prepares the data in %s", folder)
            lock.acquire()
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        # under the lock no other process writes, so a process that was killed left these files
        for rest in folder.glob("*.tmp"):
            rest.unlink(missing_ok=True)
        yield Shelf(folder, writes=True)
    finally:
        lock.release()


def _cannot_write(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot write to {folder}: {error.strerror or error}; "
        f"{how_to_write(error, 'set paths.cache to another folder')}",
        key="paths.cache",
    )
