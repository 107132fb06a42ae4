"""Generated samples in safetensors files of bounded size, read batch by batch ahead of their use."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from io import FileIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyco_engine.builtin.caches.ahead import Ahead
from hyco_engine.builtin.caches.shards import WORD, ShardLayout
from hyco_engine.builtin.caches.values import Flat, Form, chunks
from hyco_engine.errors import RunError, how_to_write
from hyco_engine.interfaces import Batch, CacheBackend, GeneratedSamples, Recipe, Values

Integers = npt.NDArray[np.int64]

GROUP_BYTES = 4_000_000
"""If the order of batches is known, the thread reads about this much ahead at once."""

BUFFER_BYTES = 1_000_000
"""Rows pass through one buffer of about this size on their way to a batch; a processor's cache holds it."""


class Disk(CacheBackend):
    """A backend that writes samples while they are made, so that no more than one batch of them is in memory.

    `shard_bytes` is the largest size of one file's samples; a single sample may exceed it.
    """

    def __init__(self, shard_bytes: int = 256_000_000) -> None:
        self.shard_bytes = shard_bytes

    def hold(
        self, recipe: Recipe, folder: Path | None, progress: Callable[[int], None] = lambda made: None
    ) -> GeneratedSamples:
        """Hold the samples as `CacheBackend` says. Raises RunError without a folder that can be written."""
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
    """Samples in files `shard_00000.safetensors` and so on, which hold an equal number of samples each.

    Files are read by copies rather than mapped: a mapped file that shrinks ends the process by a signal, and the
    process may belong to somebody else's program. A thread reads announced batches while the model trains.

    Memory keeps a checksum of each sample, taken before the sample is written, and every sample that is read is held
    against it. The files stay open, so that a file that is removed or replaced remains readable.
    """

    def __init__(self, folder: Path, count: int, shard_bytes: int) -> None:
        self._folder = folder
        self._count = count
        self._shard_bytes = shard_bytes
        self._form = Form(None, None)
        self._layout = ShardLayout(columns=(), stride=0, rows=1, shards=0)
        self._head = 0
        self._sums = np.zeros(count, dtype=np.uint32)
        self._files: list[FileIO] = []
        self._buffer = np.empty((1, 0), dtype=np.int64)
        self._reading = threading.Lock()  # the buffer is shared by the caller and the thread that reads ahead
        self._ahead = Ahead(self._read_all, limit=1)
        self._closed = False

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        return self._layout.shards * self._layout.file_bytes if self._layout.shards else 0

    # --- writing ----------------------------------------------------------------------------------------------

    def write(self, start: int, form: Form, made: Flat) -> None:
        """Store samples from index `start` on; called in index order while the data set is made. Raises OSError."""
        if start == 0:
            self._plan(form, made)
        rows = self._layout.pack(made).numpy()
        self._sums[start : start + len(rows)] = _checksums(rows)
        done = 0
        while done < len(rows):
            shard, row = divmod(start + done, self._layout.rows)
            if shard == len(self._files):
                self._begin(shard)
            part = rows[done : done + self._layout.rows - row]
            _write_all(self._files[shard], part.data.cast("B") if part.size else memoryview(b""))
            done += len(part)

    def _plan(self, form: Form, made: Flat) -> None:
        self._form = form
        self._layout = layout = ShardLayout.plan(made, self._count, self._shard_bytes)
        self._head = len(layout.header())
        stride = max(1, layout.stride)
        self._buffer = np.empty((max(1, BUFFER_BYTES // stride), layout.stride // WORD), dtype=np.int64)
        self._ahead = Ahead(self._read_all, limit=max(1, GROUP_BYTES // stride), background=True)

    def _begin(self, shard: int) -> None:
        path = self._path(shard)
        file = FileIO(path, "x+", opener=lambda name, flags: os.open(name, flags, 0o600))
        self._files.append(file)
        file.truncate(self._layout.file_bytes)
        _write_all(file, memoryview(self._layout.header()))

    # --- reading ----------------------------------------------------------------------------------------------

    def batch(self, indices: Tensor) -> Batch:
        """Give samples as `Samples` says. Raises RunError where a file was damaged or cannot be read."""
        self._check_open()
        return self._form.batch(self._ahead.take(indices))

    def inputs(self, indices: Tensor) -> Values:
        self._check_open()
        return self._form.values("input", self._read(indices, self._form.flat_names("input")))

    def upcoming(self, batches: Sequence[Tensor]) -> None:
        """Announce the calls of `batch` to come, which are then read ahead, small ones together."""
        self._ahead.announce(batches)

    def close(self) -> None:
        self._closed = True
        self._ahead.close()
        for shard, file in enumerate(self._files):
            file.close()
            with suppress(OSError):  # the core removes the folder
                self._path(shard).unlink()
        self._files.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("these samples are closed")

    def _read_all(self, indices: Tensor) -> Flat:
        return self._read(indices, [column.name for column in self._layout.columns])

    def _read(self, indices: Tensor, names: Iterable[str]) -> Flat:
        wanted = indices.numpy()
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self._count:
            raise IndexError(f"indices from {wanted.min()} to {wanted.max()}, of {self._count} samples")
        columns = [column for column in self._layout.columns if column.name in set(names)]
        made = [torch.empty(len(wanted), c.words.stop - c.words.start, dtype=torch.int64) for c in columns]
        with self._reading:
            for start in range(0, len(wanted), len(self._buffer)):
                rows = self._rows(wanted[start : start + len(self._buffer)])
                for column, words in zip(columns, made, strict=True):
                    words.numpy()[start : start + len(rows)] = rows[:, column.words]
        return {column.name: column.values(words) for column, words in zip(columns, made, strict=True)}

    def _rows(self, indices: Integers) -> Integers:
        """Return the rows of samples, in the buffer, after a check of their checksums."""
        rows = self._buffer[: len(indices)]
        if rows.size:
            into, stride = rows.data.cast("B"), self._layout.stride
            shards, places = np.divmod(indices, self._layout.rows)
            # neighbours in a file are read at once
            breaks = np.flatnonzero((np.diff(indices) != 1) | (np.diff(shards) != 0)) + 1
            for start, stop in pairwise([0, *breaks.tolist(), len(indices)]):
                self._fill(int(shards[start]), int(places[start]), into[start * stride : stop * stride])
        bad = indices[_checksums(rows) != self._sums[indices]]
        if len(bad):
            changed = {self._path(shard).name for shard in (bad // self._layout.rows).tolist()}
            raise RunError(self._damaged(f"{', '.join(sorted(changed))} changed after being written"))
        return rows

    def _fill(self, shard: int, row: int, into: memoryview) -> None:
        file = self._files[shard]
        try:
            if _read_into(file, into, self._head + row * self._layout.stride):
                return
            what = f"has {os.fstat(file.fileno()).st_size} bytes, and had {self._layout.file_bytes}"
        except OSError as error:
            what = f"cannot be read: {error.strerror or error}"
        raise RunError(self._damaged(f"{self._path(shard).name} {what}"))

    def _path(self, shard: int) -> Path:
        return self._folder / f"shard_{shard:05d}.safetensors"

    def _damaged(self, what: str) -> str:
        return (
            f"the generated samples in {self._folder} are damaged: {what}. See that no other program writes there and "
            "that the disk is sound, then resume the run; or use another folder (augmentation.cache.directory) or "
            "cache (augmentation.cache.kind)"
        )


def _checksums(rows: Integers) -> npt.NDArray[np.uint32]:
    """Return a number of 32 bits for each row: the sum of its words, folded, so that every bit counts."""
    sums: Integers = rows.sum(1)
    return (sums ^ (sums >> 32)).astype(np.uint32)


def _write_all(file: FileIO, left: memoryview) -> None:
    while left:
        left = left[file.write(left) :]


def _read_into(file: FileIO, left: memoryview, offset: int) -> bool:
    """Fill `left` from the file; return False if the file is too short."""
    while left:
        if hasattr(os, "preadv"):
            count = os.preadv(file.fileno(), [left], offset)
        else:  # Windows, and macOS before 11
            file.seek(offset)
            count = file.readinto(left)
        if not count:
            return False
        left, offset = left[count:], offset + count
    return True


def _refuse_full(folder: Path, needed: int) -> None:
    """Raise RunError if the folder has too little space, before an hour of generating is lost."""
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
    advice = how_to_write(error, "choose another folder (augmentation.cache.directory)")
    return (
        f"cannot write the generated samples to {folder}: {error.strerror or error}; {needed / 1e6:.1f} MB are needed "
        f"and {free}; {advice}, or choose the cache 'on-the-fly' (augmentation.cache.kind)"
    )
