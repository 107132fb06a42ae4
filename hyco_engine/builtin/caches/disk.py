"""Generated samples in safetensors files of bounded size, mapped and read batch by batch."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from hyco_engine.builtin.caches.ahead import Ahead
from hyco_engine.builtin.caches.mapped import Mapped
from hyco_engine.builtin.caches.shards import Column, ShardLayout
from hyco_engine.builtin.caches.values import Flat, Form, chunks
from hyco_engine.errors import RunError
from hyco_engine.interfaces import Batch, CacheBackend, GeneratedSamples, Recipe, Values

GROUP_BYTES = 4_000_000
"""About how much is read at once where the order of batches is known."""

LARGE_BYTES = 32_000
"""Samples from this size on are read batch by batch, to be used while they are in the processor's cache."""

RACY_NS = 100_000_000
"""Files that changed more recently are not yet believed to show a further change in their times."""


class Disk(CacheBackend):
    """Writes samples while they are made, so that no more than one batch of them is in memory.

    `shard_bytes` is the largest size of one file's samples; a single sample may exceed it.
    """

    def __init__(self, shard_bytes: int = 256_000_000) -> None:
        self.shard_bytes = shard_bytes

    def hold(
        self, recipe: Recipe, folder: Path | None, progress: Callable[[int], None] = lambda made: None
    ) -> GeneratedSamples:
        """As in `CacheBackend`. Raises RunError without a folder, or where it is full or cannot be written."""
        if folder is None:
            raise RunError(
                "the cache 'disk' was given no folder: set paths.cache or augmentation.cache.directory, or choose the "
                "cache 'memory' or 'on-the-fly'"
            )
        needed = len(recipe) * recipe.sample_bytes
        _refuse_full(folder, needed)
        samples = DiskSamples(folder, len(recipe), self.shard_bytes)
        try:
            for start, stop, form, made in chunks(recipe):
                samples.write(start, form, made)
                progress(stop)
        except BaseException as error:
            samples.close()
            if isinstance(error, OSError):
                raise RunError(_unwritable(folder, needed, error)) from error
            raise
        return samples


class DiskSamples(GeneratedSamples):
    """Files `shard_00000.safetensors` ... that hold an equal number of samples each, mapped.

    Checksums are taken before writing and kept in memory. A file is verified once in whole, and again whenever its time
    of change differs; until then, every sample that is read is verified. Not noticed is what leaves no time of change:
    a disk that gives wrong data for pages it dropped and reads again. A file that was removed stays for whoever has it
    open.
    """

    def __init__(self, folder: Path, count: int, shard_bytes: int) -> None:
        self._folder = folder
        self._count = count
        self._shard_bytes = shard_bytes
        self._form = Form(None, None)
        self._layout = ShardLayout(columns=(), rows=1, shards=0)
        self._file_bytes = 0
        self._mapped: dict[str, Mapped] = {}
        self._columns: dict[str, Column] = {}
        self._sums = torch.zeros(count, dtype=torch.int64)
        self._files: list[int] = []
        self._settled: dict[int, int] = {}
        self._chunk = 1
        self._ahead = Ahead(self._read_all, limit=1)
        self._closed = False

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        return self._layout.shards * self._file_bytes

    # --- writing ----------------------------------------------------------------------------------------------

    def write(self, start: int, form: Form, made: Flat) -> None:
        """Store samples from index `start` on; called in index order while the data set is made. Raises OSError."""
        if start == 0:
            self._plan(form, made)
        rows = self._layout.rows
        words = self._words(made)
        stop = start + len(next(iter(made.values())))
        for values in words.values():
            self._sums[start:stop] += values.sum(1)
        done = start
        while done < stop:
            shard, row = divmod(done, rows)
            if shard == len(self._files):
                self._begin(shard)
            count = min(rows - row, stop - done)
            for index, column in enumerate(self._layout.columns):
                part = words[column.name][done - start : done - start + count]
                _write_all(self._files[shard], part, self._layout.offset(index) + row * column.stride)
            done += count

    def _plan(self, form: Form, made: Flat) -> None:
        self._form = form
        self._layout = layout = ShardLayout.plan(made, self._count, self._shard_bytes)
        self._file_bytes = layout.file_bytes
        self._columns = {column.name: column for column in layout.columns}
        self._mapped = {
            column.name: Mapped(column, self._count, layout.rows, layout.shards) for column in layout.columns
        }
        size = sum(column.stride for column in layout.columns)
        self._chunk = max(1, GROUP_BYTES // max(1, size))
        self._ahead = Ahead(self._read_all, limit=self._chunk if size < LARGE_BYTES else 1)

    def _begin(self, shard: int) -> None:
        file = os.open(self._path(shard), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._files.append(file)
        os.ftruncate(file, self._file_bytes)
        _write_all(file, self._layout.header(), 0)
        for index, column in enumerate(self._layout.columns):
            self._mapped[column.name].add(file, self._layout.offset(index))

    # --- reading ----------------------------------------------------------------------------------------------

    def batch(self, indices: Tensor) -> Batch:
        """As in `Samples`. Raises RunError where a file was damaged."""
        return self._form.batch(self._ahead.take(indices))

    def inputs(self, indices: Tensor) -> Values:
        return self._form.values("input", self._read(indices, self._form.flat_names("input")))

    def upcoming(self, batches: Sequence[Tensor]) -> None:
        """The calls of `batch` to come: small ones are read together."""
        self._ahead.announce(batches)

    def close(self) -> None:
        self._closed = True
        self._ahead.close()
        for mapped in self._mapped.values():
            mapped.close()
        self._mapped.clear()
        for shard, file in enumerate(self._files):
            os.close(file)
            with suppress(OSError):  # the core removes the folder
                self._path(shard).unlink()
        self._files.clear()

    def _read_all(self, indices: Tensor) -> Flat:
        return self._read(indices, self._mapped)

    def _read(self, indices: Tensor, names: Iterable[str]) -> Flat:
        if self._closed:
            raise ValueError("these samples are closed")
        shards = {index // self._layout.rows for index in indices.tolist()}
        made = {name: self._mapped[name].select(indices) for name in names}  # refuses what is out of range
        # after reading, so that a change before it is seen
        if not all([self._is_settled(shard) for shard in shards]):
            made = {name: mapped.select(indices) for name, mapped in self._mapped.items()}
            self._verify(indices, self._words(made), self._sums[indices])
        return made

    def _is_settled(self, shard: int) -> bool:
        """Whether a file is known to hold what was written: it was verified, and nobody touched it since."""
        status = os.fstat(self._files[shard])
        changed = status.st_ctime_ns
        if self._settled.get(shard) == changed:
            return True
        if status.st_size < self._file_bytes:
            name = self._path(shard).name
            raise RunError(self._damaged(f"{name} has {status.st_size} bytes, and had {self._file_bytes}"))
        # a write shortly after another may leave the same time; times may be in whole seconds
        if time.time_ns() - changed < (RACY_NS if changed % 10**9 else 3 * 10**9):
            return False
        first = shard * self._layout.rows
        stop = min(first + self._layout.rows, self._count)
        for start in range(first, stop, self._chunk):
            part = slice(start, min(start + self._chunk, stop))
            words = {name: mapped.words[part] for name, mapped in self._mapped.items()}
            self._verify(torch.arange(part.start, part.stop), words, self._sums[part])
        self._settled[shard] = changed
        return False

    def _words(self, made: Flat) -> Flat:
        return {name: self._columns[name].words(values) for name, values in made.items()}

    def _verify(self, indices: Tensor, words: Flat, wanted: Tensor) -> None:
        if (sum(int(got.sum()) for got in words.values()) - int(wanted.sum())) % 2**64:
            bad = indices[torch.stack([got.sum(1) for got in words.values()]).sum(0) != wanted]
            changed = sorted({self._path(index // self._layout.rows).name for index in bad.tolist()})
            raise RunError(self._damaged(f"{', '.join(changed)} changed after being written"))

    def _path(self, shard: int) -> Path:
        return self._folder / f"shard_{shard:05d}.safetensors"

    def _damaged(self, what: str) -> str:
        return (
            f"the generated samples in {self._folder} are damaged: {what}. See that no other program writes there and "
            "that the disk is sound, then resume the run; or use another folder (augmentation.cache.directory) or "
            "cache (augmentation.cache.kind)"
        )


def _write_all(file: int, data: Tensor | bytes, offset: int) -> None:
    left = memoryview(data) if isinstance(data, bytes) else memoryview(data.numpy()).cast("B")  # type: ignore[arg-type]
    while left:
        written = os.pwrite(file, left, offset)
        left, offset = left[written:], offset + written


def _refuse_full(folder: Path, needed: int) -> None:
    """Better now than after an hour of generating."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise RunError(_unwritable(folder, needed, error)) from error
    if free < needed:
        raise RunError(_unwritable(folder, needed, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))


def _unwritable(folder: Path, needed: int, error: OSError) -> str:
    try:
        free = f"{shutil.disk_usage(folder).free / 1e6:.1f} MB are free"
    except OSError:
        free = "how much is free is unknown"
    return (
        f"cannot write the generated samples to {folder}: {error.strerror or error}; {needed / 1e6:.1f} MB are needed "
        f"and {free}. Free some space, choose another folder (augmentation.cache.directory), generate less "
        "(augmentation.alpha), or choose the cache 'on-the-fly' (augmentation.cache.kind)"
    )
