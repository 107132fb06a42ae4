"""Rows of tensors in a zarr group: written in order, read in any order, and verified at every reading."""

from __future__ import annotations

import logging
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import attrs
import fsspec
import numpy as np
import torch
import zarr
from fsspec.implementations.local import LocalFileSystem
from torch import Tensor
from zarr.abc.store import Store
from zarr.codecs import BloscCodec
from zarr.storage import FsspecStore, LocalStore

from hyco_engine.errors import HycoError, RunError
from hyco_engine.hooks.checking import describe

Compression = Literal["none", "zstd", "lz4"]
Flat = dict[str, Tensor]

METADATA_BYTES = 2000
"""Upper estimate of the bytes of a group's or an array's description."""


@attrs.frozen(kw_only=True)
class Place:
    """A folder of a file system, and the `url` by which messages name it."""

    url: str
    files: Any
    path: str

    def store(self) -> Store:
        if isinstance(self.files, LocalFileSystem):
            return LocalStore(self.path)
        return FsspecStore.from_url(self.url)

    def remove(self) -> None:
        """Remove the folder with its content, if it exists."""
        if self.files.exists(self.path):
            self.files.rm(self.path, recursive=True)


def place_of(url: str) -> Place:
    """Return the place of a URL. Raise fsspec's error where it lacks the protocol or a package for it."""
    files, path = fsspec.core.url_to_fs(url)
    return Place(url=url, files=files, path=path)


class ChunkStore:
    """`count` rows of tensors like those in `like [B, ...]`, by name, in chunks of equally many rows.

    Checksums are taken before writing and kept in memory, since zarr reads a missing chunk as zeros. Chunks that were
    read are kept up to `memory_bytes`. Several threads may read at the same time.
    """

    def __init__(
        self,
        place: Place,
        like: Mapping[str, Tensor],
        count: int,
        chunk_bytes: int,
        memory_bytes: int,
        compression: Compression,
    ) -> None:
        self.sample_bytes = sum(values[:1].nbytes for values in like.values())
        self._place = place
        self._count = count
        self._rows = max(1, min(count, chunk_bytes // max(1, self.sample_bytes)))
        self._most = max(1, memory_bytes // max(1, self._rows * self.sample_bytes))
        self._buffer = {name: values.new_empty((self._rows, *values.shape[1:])) for name, values in like.items()}
        self._dtypes = {name: values.dtype for name, values in like.items()}
        self._sums: list[dict[str, int]] = []
        self._kept: OrderedDict[int, Flat] = OrderedDict()
        self._lock = threading.Lock()
        with self._doing("write"):
            group = zarr.open_group(place.store(), mode="w-", zarr_format=3)
            self._arrays = {name: self._array(group, name, values, compression) for name, values in like.items()}

    def _array(self, group: zarr.Group, name: str, values: Tensor, compression: Compression) -> Any:
        dtype = values[:0].numpy().dtype
        return group.create_array(
            name,
            shape=(self._count, *values.shape[1:]),
            chunks=(self._rows, *(max(1, n) for n in values.shape[1:])),
            dtype=dtype,
            filters=None,
            compressors=None if compression == "none" else BloscCodec(cname=compression, shuffle="shuffle"),
            # a chunk of zeros is written too, since some of them may be negative zeros
            config={"write_empty_chunks": True},
        )

    @property
    def nbytes(self) -> int:
        """Return the largest size in the store, that without compression; the last chunk counts as full."""
        chunks = -(-self._count // self._rows)
        return chunks * self._rows * self.sample_bytes + (1 + len(self._arrays)) * METADATA_BYTES

    def write(self, start: int, made: Mapping[str, Tensor]) -> None:
        """Write rows from `start` on, in order; a chunk leaves memory once it is full. Raise RunError on failure."""
        done, stop = start, start + len(next(iter(made.values())))
        while done < stop:
            row = done % self._rows
            taken = min(self._rows - row, stop - done)
            for name, values in made.items():
                self._buffer[name][row : row + taken] = values[done - start : done - start + taken]
            done += taken
            if done % self._rows == 0 or done == self._count:
                self._flush(len(self._sums), row + taken)

    def _flush(self, chunk: int, rows: int) -> None:
        first = chunk * self._rows
        full = {name: values[:rows].numpy() for name, values in self._buffer.items()}
        with self._doing("write"):
            for name, values in full.items():
                self._arrays[name][first : first + rows] = values
        self._sums.append({name: _checksum(values) for name, values in full.items()})
        if first + rows == self._count:
            self._buffer.clear()

    def read(self, indices: Tensor) -> Flat:
        """Return the rows at `indices [B]`, which are in range. Raise RunError where they are not as written."""
        shapes = {name: (len(indices), *array.shape[1:]) for name, array in self._arrays.items()}
        made = {name: torch.empty(shape, dtype=self._dtypes[name]) for name, shape in shapes.items()}
        chunk_of = indices // self._rows
        wanted = sorted(set(chunk_of.tolist()))
        for start in range(0, len(wanted), self._most):
            for chunk, rows in self._chunks(wanted[start : start + self._most]):
                ours = (chunk_of == chunk).nonzero().flatten()
                for name, values in rows.items():
                    made[name][ours] = values[indices[ours] - chunk * self._rows]
        return made

    def _chunks(self, wanted: Sequence[int]) -> list[tuple[int, Flat]]:
        """Return chunks from memory as far as it holds them; read the others together."""
        with self._lock:
            found = {chunk: self._kept[chunk] for chunk in wanted if chunk in self._kept}
            for chunk in found:
                self._kept.move_to_end(chunk)
        missing = [chunk for chunk in wanted if chunk not in found]
        if missing:
            fetched = self._fetch(missing)
            with self._lock:
                self._kept.update(fetched)
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
            found |= fetched
        return [(chunk, found[chunk]) for chunk in wanted]

    def _fetch(self, chunks: Sequence[int]) -> dict[int, Flat]:
        ends = [min((chunk + 1) * self._rows, self._count) for chunk in chunks]
        rows = np.concatenate([np.arange(chunk * self._rows, end) for chunk, end in zip(chunks, ends, strict=True)])
        made: dict[int, Flat] = {chunk: {} for chunk in chunks}
        for name, array in self._arrays.items():
            with self._doing("read"):
                values = np.ascontiguousarray(array.oindex[rows])
            start = 0
            for chunk, end in zip(chunks, ends, strict=True):
                part = values[start : start + end - chunk * self._rows]
                start += len(part)
                if _checksum(part) != self._sums[chunk][name]:
                    raise RunError(
                        f"the generated samples in {self._place.url} are damaged: chunk {chunk} of {name!r} is not "
                        "what was written. Make sure that no other program writes there, then resume the run; or use "
                        "another place (augmentation.cache.url) or cache (augmentation.cache.kind)"
                    )
                made[chunk][name] = torch.from_numpy(part)
        return made

    def remove(self) -> None:
        """Remove the whole group. A failure is logged and raises nothing, since the run itself is unharmed."""
        self._kept.clear()
        try:
            self._place.remove()
        except Exception as error:
            logging.getLogger("hyco_engine").warning(
                "the generated samples in %s could not be removed; remove them by hand: %s",
                self._place.url,
                describe(error),
            )

    @contextmanager
    def _doing(self, what: Literal["read", "write"]) -> Iterator[None]:
        """Turn whatever the store raises into a RunError."""
        try:
            yield
        except HycoError:
            raise
        except Exception as error:
            size = self._count * self.sample_bytes
            raise RunError(
                f"cannot {what} the generated samples in {self._place.url}: {describe(error)}; {size / 1e6:.1f} MB are "
                "needed. Check that the place exists and can be written, use another (augmentation.cache.url), or "
                "choose another cache (augmentation.cache.kind)"
            ) from error


def _checksum(values: np.ndarray[Any, Any]) -> int:
    return zlib.crc32(values.reshape(-1).view(np.uint8).data)
