"""Generated samples in safetensors files of bounded size, read batch by batch."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from hyco_engine.builtin.caches.rows import RowLayout, header
from hyco_engine.builtin.caches.values import Form, chunks
from hyco_engine.errors import RunError
from hyco_engine.interfaces import Batch, CacheBackend, GeneratedSamples, Recipe, Values

MAX_OPEN = 128
"""Files kept open; those beyond are opened again when they are read."""


class Disk(CacheBackend):
    """Writes samples while they are made, so that no more than one batch of them is in memory.

    `shard_bytes` is the largest size of one file's samples; a single sample may exceed it.
    """

    def __init__(self, shard_bytes: int = 64_000_000) -> None:
        self.shard_bytes = shard_bytes

    def hold(
        self, recipe: Recipe, folder: Path | None, progress: Callable[[int], None] = lambda made: None
    ) -> GeneratedSamples:
        """As in `CacheBackend`. Raises RunError without a folder, or where it cannot be written or is full."""
        if folder is None:
            raise RunError(
                "the cache 'disk' was given no folder: set paths.cache or augmentation.cache.directory, or choose the "
                "cache 'memory' or 'on-the-fly'"
            )
        needed = len(recipe) * recipe.sample_bytes
        _refuse_full(folder, needed)
        samples: DiskSamples | None = None
        try:
            for start, stop, form, made in chunks(recipe):
                if samples is None:
                    layout = RowLayout.of(made)
                    samples = DiskSamples(folder, len(recipe), form, layout, self.shard_bytes)
                samples.write(start, made)
                progress(stop)
        except OSError as error:
            if samples is not None:
                samples.close()
            raise RunError(_unwritable(folder, needed, error)) from error
        except BaseException:
            if samples is not None:
                samples.close()
            raise
        if samples is None:
            samples = DiskSamples(folder, 0, Form(None, None), RowLayout.of({}), self.shard_bytes)
        return samples


class DiskSamples(GeneratedSamples):
    """Files `shard_00000.safetensors` ... of one tensor `samples [rows, row_bytes]`, a sample being one row.

    Files are read, not mapped: touching a page of a mapped file that somebody truncated kills the process, whereas a
    short read is an error that can be told. What is read is held against checksums that were taken before writing and
    are kept in memory, so that a file that was changed is noticed whatever changed it. A file that was removed is
    still there for whoever has it open.
    """

    def __init__(self, folder: Path, count: int, form: Form, layout: RowLayout, shard_bytes: int) -> None:
        self._folder = folder
        self._count = count
        self._form = form
        self._layout = layout
        self._rows = max(1, shard_bytes // max(1, layout.row_bytes))
        self._sums = torch.zeros(count, dtype=torch.int64)
        self._input_sums = torch.zeros(count, dtype=torch.int64)
        self._inputs = layout.first(len(form.flat_names("input")) if count else 0)
        self._files: dict[int, int] = {}
        self._starts: dict[int, int] = {}
        self._closed = False

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        return self._count * self._layout.row_bytes

    def write(self, start: int, made: dict[str, Tensor]) -> None:
        """Store samples from index `start` on; called in index order while the data set is made."""
        rows = self._layout.pack(made)
        stop = start + len(rows)
        self._sums[start:stop] = self._layout.sums(made)
        self._input_sums[start:stop] = self._inputs.sums(made)
        while start < stop:
            shard, row = divmod(start, self._rows)
            part = rows[: self._rows - row]
            if shard not in self._starts:
                self._create(shard)
            _write_all(self._file(shard), part, self._starts[shard] + row * self._layout.row_bytes)
            start, rows = start + len(part), rows[len(part) :]

    def batch(self, indices: Tensor) -> Batch:
        """As in `Samples`. Raises RunError where a file was damaged or is gone."""
        return self._form.batch(self._read(indices, self._layout, self._sums))

    def inputs(self, indices: Tensor) -> Values:
        return self._form.values("input", self._read(indices, self._inputs, self._input_sums))

    def close(self) -> None:
        self._closed = True
        for file in self._files.values():
            os.close(file)
        self._files.clear()
        for shard in self._starts:
            self._path(shard).unlink(missing_ok=True)
        self._starts.clear()

    def _read(self, indices: Tensor, layout: RowLayout, sums: Tensor) -> dict[str, Tensor]:
        if self._closed:
            raise ValueError("these samples are closed")
        wanted = sums.index_select(0, indices)  # refuses indices out of range
        buffer = layout.buffer(len(indices))
        got = 0
        try:
            for index, slot in zip(indices.tolist(), buffer.slots(), strict=True):
                shard, row = divmod(index, self._rows)
                file = self._files.get(shard)
                if file is None:
                    file = self._file(shard)
                got += os.preadv(file, slot, self._starts[shard] + row * self._layout.row_bytes)
        except OSError as error:
            raise RunError(self._damaged(f"cannot be read: {error.strerror}")) from error
        if got != len(indices) * layout.row_bytes:
            raise RunError(self._damaged(f"{self._shortened(indices)} shorter than it was written"))
        made = buffer.columns()
        if buffer.sum() != int(wanted.sum()):
            bad = indices[layout.sums(made) != wanted]
            names = sorted({self._path(int(i) // self._rows).name for i in bad})
            raise RunError(self._damaged(f"{', '.join(names)} changed after being written (sample {int(bad[0])})"))
        return made

    def _file(self, shard: int) -> int:
        file = self._files.get(shard)
        if file is None:
            file = os.open(self._path(shard), os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            self._keep(shard, file)
        return file

    def _create(self, shard: int) -> None:
        rows = min(self._rows, self._count - shard * self._rows)
        head = header(self._layout, rows)
        file = os.open(self._path(shard), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._starts[shard] = len(head)
        self._keep(shard, file)
        _write_all(file, head, 0)

    def _keep(self, shard: int, file: int) -> None:
        if len(self._files) >= MAX_OPEN:
            os.close(self._files.pop(next(iter(self._files))))
        self._files[shard] = file

    def _path(self, shard: int) -> Path:
        return self._folder / f"shard_{shard:05d}.safetensors"

    def _shortened(self, indices: Tensor) -> str:
        for shard in sorted({int(i) // self._rows for i in indices}):
            rows = min(self._rows, self._count - shard * self._rows)
            if os.fstat(self._file(shard)).st_size < self._starts[shard] + rows * self._layout.row_bytes:
                return f"{self._path(shard).name} is"
        return "a file is"

    def _damaged(self, what: str) -> str:
        return (
            f"the generated samples in {self._folder} are damaged: {what}; nothing was trained on them since. See that no "
            "other program writes there and that the disk is sound, then resume the run, or use another folder "
            "(augmentation.cache.directory) or cache (augmentation.cache.kind)"
        )


def _write_all(file: int, values: Tensor | bytes, offset: int) -> None:
    left = memoryview(values if isinstance(values, bytes) else values.numpy()).cast("B")
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
        f"cannot write the generated samples to {folder}: {error.strerror or error}; {needed / 1e6:.1f} MB are needed and "
        f"{free}. Free some space, choose another folder (augmentation.cache.directory), generate less (augmentation.alpha), "
        "or choose the cache 'on-the-fly' (augmentation.cache.kind)"
    )
