"""The cache of prepared simulations between runs: processes share one folder for each data set."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs
from filelock import FileLock, Timeout

from hyco_engine.data.contracts import Trajectory
from hyco_engine.data.store import Entry, Unusable, read_entry, write_entry
from hyco_engine.errors import DataError, how_to_write
from hyco_engine.ranks.runtime import Runtime, Single
from hyco_engine.settings import check_folder_name

log = logging.getLogger("hyco_engine")

MAX_VARIANTS = 4
"""How many variants of one simulation are cached, as several specs want them; the oldest are deleted."""


@attrs.frozen
class Shelf:
    """The cached simulations of one data set; without a folder there are none, and unless it `writes` they stay.

    Rank 0 of the `runtime` holds the lock of a folder that is written, for all ranks.
    """

    folder: Path | None
    writes: bool
    runtime: Runtime = attrs.field(factory=Single)

    def all(
        self,
        name: str,
        groups: Sequence[Sequence[Entry]],
        build: Callable[[Entry], Trajectory],
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[Trajectory]:
        """Return the trajectories of all entries in their order, after a call of `progress(done)` for each one.

        Ranks take the groups in turn. Then each reads what the others stored, and builds what it lacks: all of it if
        the cache is not shared, and what failed on the rank whose turn it was, so that all ranks fail as one process
        does. Raises what `build` does, and DataError if the folder cannot be written.
        """
        size, rank = self.runtime.size, self.runtime.rank
        found: dict[int, Trajectory] = {}
        for first in range(0, len(groups), size):
            turn = groups[first : first + size]
            if size > 1:
                for entry in turn[rank] if rank < len(turn) else ():
                    try:
                        found[entry.index] = self._cached(name, entry, build)
                    except Exception as error:
                        log.debug("%s of simulation %d failed at first: %s", name, entry.index, error)
                        break
                    progress(len(found))
                self.runtime.barrier()
            for entry in (entry for group in turn for entry in group if entry.index not in found):
                # what is still missing, rank 0 alone writes
                reader = self if rank == 0 else attrs.evolve(self, writes=False)
                found[entry.index] = reader._cached(name, entry, build)
                progress(len(found))
        return [found[entry.index] for group in groups for entry in group]

    def _cached(self, name: str, entry: Entry, build: Callable[[Entry], Trajectory]) -> Trajectory:
        """Return the trajectory that the cache holds for `entry`; if it holds none, build it, and store it if it may.

        Specs that want other variants have files of their own, so that no spec rebuilds the file of another. What
        rank 0 cannot write is an error, since the folder is its own; another rank may be on a machine without one.
        """
        if (found := self.held(name, entry)) is not None:
            return found
        built = build(entry)
        if self.folder is None or not self.writes:
            return built
        path = _path(self.folder, name, entry)
        try:
            write_entry(path, entry, built)
            _delete_old_variants(self.folder, _stem(name, entry))
        except OSError as error:
            if self.runtime.rank > 0:
                return built
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
def shelf(cache: Path | None, name: str, *, writes: bool, runtime: Runtime) -> Iterator[Shelf]:
    """Yield the cached tensors of a data set; to write, rank 0 locks their folder against other runs.

    The other ranks may write only after a meeting with rank 0, which then holds the lock.
    """
    try:
        check_folder_name(name)
    except ValueError as error:
        raise DataError(str(error), key="data.name") from None
    folder = None if cache is None else cache / "tensors" / name
    if folder is None or not writes or runtime.rank > 0:
        yield Shelf(folder, writes, runtime)
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
        yield Shelf(folder, writes, runtime)
    finally:
        lock.release()


def _cannot_write(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot write to {folder}: {error.strerror or error}; "
        f"{how_to_write(error, 'set paths.cache to another folder')}",
        key="paths.cache",
    )
