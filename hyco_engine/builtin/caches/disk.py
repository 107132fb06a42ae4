"""Generated samples in safetensors files of bounded size, mapped and read batch by batch."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import torch
from torch import Tensor

from hyco_engine.builtin.caches.ahead import Ahead
from hyco_engine.builtin.caches.rows import RowLayout, header
from hyco_engine.builtin.caches.values import Flat, Form, chunks
from hyco_engine.errors import RunError
from hyco_engine.interfaces import Batch, CacheBackend, GeneratedSamples, Recipe, Values

MAX_OPEN = 128
"""Files kept mapped; those beyond are opened again when they are read."""

GROUP_BYTES = 1_000_000
"""About how much is read at once where the order of batches is known: it should stay in the processor's cache."""


class Disk(CacheBackend):
    """Writes samples while they are made, so that no more than one batch of them is in memory.

    `shard_bytes` is the largest size of one file's samples; a single sample may exceed it.
    """

    def __init__(self, shard_bytes: int = 64_000_000) -> None:
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


@attrs.frozen(eq=False)
class _Shard:
    """A mapped file; `end` is its size when it was written."""

    mapped: mmap.mmap
    view: memoryview
    end: int

    def close(self) -> None:
        self.view.release()
        self.mapped.close()


class DiskSamples(GeneratedSamples):
    """Files `shard_00000.safetensors` ... of one tensor `samples [rows, row_bytes]`, a sample being one row.

    Rows are held against checksums that were taken before writing and are kept in memory, each time they are read: a
    file that was changed is noticed, whatever changed it. The sizes of files are looked at as well, since touching a
    page beyond the end of a mapped file kills the process. A file that was removed stays for whoever has it mapped.
    """

    def __init__(self, folder: Path, count: int, shard_bytes: int) -> None:
        self._folder = folder
        self._count = count
        self._shard_bytes = shard_bytes
        self._form = Form(None, None)
        self._layout = self._inputs = RowLayout.of({})
        self._rows = 1
        self._head = 0
        self._sums = torch.zeros(count, dtype=torch.int64)
        self._input_sums = torch.zeros(count, dtype=torch.int64)
        self._writing: int | None = None
        self._written = 0
        self._shards: dict[int, _Shard] = {}
        self._ahead = Ahead(self._read_all, limit=1)
        self._closed = False

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        return self._count * self._layout.row_bytes

    # --- writing ----------------------------------------------------------------------------------------------

    def write(self, start: int, form: Form, made: Flat) -> None:
        """Store samples from index `start` on; called in index order while the data set is made."""
        if start == 0:
            self._form = form
            self._layout = RowLayout.of(made)
            self._inputs = self._layout.first(len(form.flat_names("input")))
            self._rows = max(1, self._shard_bytes // max(1, self._layout.row_bytes))
            self._head = len(header(self._layout, self._rows))
            self._ahead = Ahead(self._read_all, limit=GROUP_BYTES // max(1, self._layout.row_bytes))
        rows = self._layout.pack(made)
        stop = start + len(rows)
        self._sums[start:stop] = self._layout.sums(made)
        self._input_sums[start:stop] = self._inputs.sums(made)
        while start < stop:
            shard, row = divmod(start, self._rows)
            if self._writing is None:
                self._begin(shard)
            part = rows[: self._rows - row]
            self._append(memoryview(part.numpy()).cast("B"), self._head + row * self._layout.row_bytes)
            start, rows = start + len(part), rows[len(part) :]
            if start % self._rows == 0 or start == self._count:
                self._finish(shard)

    def _begin(self, shard: int) -> None:
        self._writing = os.open(self._path(shard), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._written = shard + 1
        head = header(self._layout, self._rows_in(shard))
        self._append(memoryview(head.ljust(self._head)), 0)

    def _append(self, data: memoryview, offset: int) -> None:
        assert self._writing is not None
        while data:
            written = os.pwrite(self._writing, data, offset)
            data, offset = data[written:], offset + written

    def _finish(self, shard: int) -> None:
        assert self._writing is not None
        self._map(shard, self._writing)
        os.close(self._writing)
        self._writing = None

    # --- reading ----------------------------------------------------------------------------------------------

    def batch(self, indices: Tensor) -> Batch:
        """As in `Samples`. Raises RunError where a file was damaged."""
        return self._form.batch(self._ahead.take(indices))

    def upcoming(self, batches: Sequence[Tensor]) -> None:
        """The calls of `batch` to come: small ones are read together."""
        self._ahead.announce(batches)

    def inputs(self, indices: Tensor) -> Values:
        return self._form.values("input", self._read(indices, self._inputs, self._input_sums))

    def close(self) -> None:
        self._closed = True
        self._ahead.close()
        if self._writing is not None:
            os.close(self._writing)
            self._writing = None
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()
        for number in range(self._written):
            self._path(number).unlink(missing_ok=True)
        self._written = 0

    def _read_all(self, indices: Tensor) -> Flat:
        return self._read(indices, self._layout, self._sums)

    def _read(self, indices: Tensor, layout: RowLayout, sums: Tensor) -> Flat:
        if self._closed:
            raise ValueError("these samples are closed")
        wanted = sums.index_select(0, indices)  # refuses what is out of range
        size, head, shards = self._layout.row_bytes, self._head, self._shards
        places = [divmod(index, self._rows) for index in indices.tolist()]
        for shard in {shard for shard, _ in places}:
            self._check_size(shard)
        buffer = layout.join([(shards[shard].view, head + row * size) for shard, row in places])
        made = layout.split(buffer, len(places))
        if layout.total(buffer) != int(wanted.sum()):
            bad = (layout.sums(made) != wanted).nonzero().flatten()
            names = sorted({self._path(places[k][0]).name for k in bad.tolist()})
            raise RunError(self._damaged(f"{', '.join(names)} changed after being written"))
        return made

    def _check_size(self, number: int) -> None:
        shard = self._shards.get(number)
        try:
            if shard is None:
                file = os.open(self._path(number), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
                try:
                    shard = self._map(number, file)
                finally:
                    os.close(file)
            size = shard.mapped.size()
        except (OSError, ValueError) as error:
            raise RunError(self._damaged(f"{self._path(number).name} cannot be read: {error}")) from error
        if size < shard.end:
            raise RunError(self._damaged(f"{self._path(number).name} has {size} bytes, and had {shard.end}"))

    def _map(self, number: int, file: int) -> _Shard:
        end = self._head + self._rows_in(number) * self._layout.row_bytes
        mapped = mmap.mmap(file, end, mmap.MAP_SHARED, mmap.PROT_READ)
        self._shards[number] = shard = _Shard(mapped, memoryview(mapped), end)
        return shard

    def _rows_in(self, shard: int) -> int:
        return min(self._rows, self._count - shard * self._rows)

    def _path(self, shard: int) -> Path:
        return self._folder / f"shard_{shard:05d}.safetensors"

    def _damaged(self, what: str) -> str:
        return (
            f"the generated samples in {self._folder} are damaged: {what}. See that no other program writes there and that "
            "the disk is sound, then resume the run; or use another folder (augmentation.cache.directory) or cache "
            "(augmentation.cache.kind)"
        )


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
        f"{free}. Free some space, choose another folder (augmentation.cache.directory), generate less "
        "(augmentation.alpha), or choose the cache 'on-the-fly' (augmentation.cache.kind)"
    )
