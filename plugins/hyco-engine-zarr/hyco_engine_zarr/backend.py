"""The cache backend `zarr`."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from hyco_engine.builtin.caches.ahead import Ahead
from hyco_engine.builtin.caches.values import Flat, Form, chunks
from hyco_engine.errors import RunError, SpecError
from hyco_engine.hooks.checking import describe
from hyco_engine.interfaces import Batch, CacheBackend, CacheContext, GeneratedSamples, Recipe, Values
from hyco_engine_zarr.store import ChunkStore, Compression, Place, place_of

if TYPE_CHECKING:
    from hyco_engine_zarr import ZarrOptions


class Zarr(CacheBackend):
    """Writes samples chunk by chunk while they are made, to a group of their own that `close` removes.

    Without `url` the group lies in the folder that `hold` is given. At most about `memory_bytes` of read samples are
    kept in memory.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        chunk_bytes: int = 1_000_000,
        memory_bytes: int = 256_000_000,
        compression: Compression = "none",
    ) -> None:
        self.url = url
        self.uses_folder = url is None
        self.chunk_bytes = chunk_bytes
        self.memory_bytes = memory_bytes
        self.compression = compression

    def hold(
        self, recipe: Recipe, folder: Path | None, progress: Callable[[int], None] = lambda made: None
    ) -> GeneratedSamples:
        """Hold the samples as `CacheBackend` says. Raise RunError without a place to write, or where writing fails."""
        samples = ZarrSamples(self._place(folder), len(recipe), self.chunk_bytes, self.memory_bytes, self.compression)
        try:
            for start, stop, form, made in chunks(recipe):
                samples.write(start, form, made)
                progress(stop)
        except BaseException:
            samples.close()
            raise
        return samples

    def _place(self, folder: Path | None) -> Place:
        if self.url is not None:
            # a random name, so that runs that share a store never share a group
            return place_of(f"{self.url.rstrip('/')}/hyco-samples-{uuid.uuid4().hex}.zarr")
        if folder is None:
            raise RunError(
                "the cache 'zarr' was given no folder: set augmentation.cache.url, augmentation.cache.directory or "
                "paths.cache, or choose the cache 'memory' or 'on-the-fly'"
            )
        return place_of(str(folder / "samples.zarr"))


class ZarrSamples(GeneratedSamples):
    """Samples in chunks of a zarr group; half of the memory holds chunks, the rest batches read ahead.

    Where the order of batches is known, a thread reads ahead, so that the model trains while a remote store answers.
    """

    def __init__(self, place: Place, count: int, chunk_bytes: int, memory_bytes: int, compression: Compression) -> None:
        self._place = place
        self._count = count
        self._chunk_bytes = chunk_bytes
        self._memory_bytes = memory_bytes
        self._compression = compression
        self._form = Form(None, None)
        self._store: ChunkStore | None = None
        self._ahead = Ahead(self._read, limit=1)
        self._closed = False

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        return 0 if self._store is None else self._store.nbytes

    def write(self, start: int, form: Form, made: Flat) -> None:
        """Store samples from index `start` on. Calls come in index order while the data set is made."""
        if self._store is None:
            self._form = form
            self._store = ChunkStore(
                self._place, made, self._count, self._chunk_bytes, self._memory_bytes // 2, self._compression
            )
            limit = self._memory_bytes // 4 // max(1, self._store.sample_bytes)
            self._ahead = Ahead(self._read, limit=max(1, limit), background=True)
        self._store.write(start, made)

    def batch(self, indices: Tensor) -> Batch:
        """Return a batch as `Samples` says. Raise RunError where written samples are gone or damaged."""
        self._check_open()
        return self._form.batch(self._ahead.take(indices))

    def inputs(self, indices: Tensor) -> Values:
        self._check_open()
        return self._form.values("input", self._read(indices))

    def upcoming(self, batches: Sequence[Tensor]) -> None:
        """Read ahead for the calls of `batch` that will follow."""
        self._ahead.announce(batches)

    def close(self) -> None:
        self._closed = True
        self._ahead.close()
        if self._store is not None:
            store, self._store = self._store, None
            store.remove()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("these samples are closed")

    def _read(self, indices: Tensor) -> Flat:
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < self._count:
            raise IndexError(f"indices from {int(indices.min())} to {int(indices.max())}, of {self._count} samples")
        if self._store is None:
            raise IndexError("there are no samples")
        return self._store.read(indices)


def build(options: ZarrOptions, context: CacheContext) -> Zarr:
    """Build the cache `zarr`. Raise SpecError for a URL that fsspec cannot read with the installed packages."""
    if options.url:
        try:
            place_of(options.url)
        except Exception as error:
            raise SpecError(
                f"fsspec cannot use {options.url!r}: {describe(error)}", key="augmentation.cache.url"
            ) from error
    return Zarr(
        options.url or None,
        chunk_bytes=int(options.chunk_mb * 1e6),
        memory_bytes=int(options.memory_mb * 1e6),
        compression=options.compression,
    )
