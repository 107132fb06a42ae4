"""How samples lie in files, and how files are mapped side by side."""

from __future__ import annotations

import ctypes
import json
import math
import mmap
from collections.abc import Mapping

import attrs
import numpy as np
import torch
from torch import Tensor

MAX_SHARDS = 128
"""Files are kept open; rather than more of them, larger ones are written."""

WORD = 8
_MAP_FIXED = 0x10


@attrs.frozen(kw_only=True)
class Column:
    """One of the tensors that a sample consists of; `stride` bytes a sample, of which the last ones may be filler."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    nbytes: int
    stride: int

    @classmethod
    def of(cls, name: str, values: Tensor, align: int) -> Column:
        """For samples `values [B, ...]`; `align` divides the stride."""
        nbytes = math.prod(values.shape[1:]) * values.dtype.itemsize
        stride = -(-nbytes // align) * align
        return cls(name=name, shape=tuple(values.shape[1:]), dtype=values.dtype, nbytes=nbytes, stride=stride)

    def words(self, values: Tensor) -> Tensor:
        """`[B, stride / 8]`, int64: the bytes of `values [B, *shape]`, filler zero."""
        flat = values.detach().contiguous().view(-1).view(torch.uint8).view(len(values), self.nbytes)
        if self.stride > self.nbytes:
            flat = torch.nn.functional.pad(flat, (0, self.stride - self.nbytes))
        return flat.view(torch.int64)

    def values(self, words: Tensor) -> Tensor:
        """The inverse of `words`; copies only where there is filler."""
        if self.stride > self.nbytes:
            flat = words.view(torch.uint8)[:, : self.nbytes].contiguous().view(-1)
            return flat.view(self.dtype).view(len(words), *self.shape)
        return words.view(self.dtype).view(len(words), *self.shape)


@attrs.frozen(kw_only=True)
class ShardLayout:
    """Every file holds, of each column, `rows` samples one after the other, in whole pages."""

    columns: tuple[Column, ...]
    rows: int
    shards: int

    @classmethod
    def plan(cls, made: Mapping[str, Tensor], count: int, shard_bytes: int) -> ShardLayout:
        """For `count` samples like those in `made [B, ...]`.

        Only whole pages can be mapped, so the samples of a file must fill pages: odd sizes get some filler where it
        would otherwise take too many samples.
        """
        align = WORD
        while True:
            columns = tuple(Column.of(name, values, align) for name, values in made.items())
            size = sum(column.stride for column in columns)
            step = max(mmap.PAGESIZE // math.gcd(mmap.PAGESIZE, column.stride) for column in columns)
            if align == mmap.PAGESIZE or step * size <= shard_bytes // 8:
                break
            align *= 2
        rows = max(shard_bytes // size // step, 1, -(-count // (step * MAX_SHARDS))) * step if size else count
        rows = min(rows, -(-count // step) * step)
        return cls(columns=columns, rows=rows, shards=-(-count // rows))

    def offset(self, index: int) -> int:
        """Where in a file a column begins."""
        return len(self.header()) + self.rows * sum(column.stride for column in self.columns[:index])

    @property
    def file_bytes(self) -> int:
        return self.offset(len(self.columns))

    def header(self) -> bytes:
        """What every file begins with, in whole pages: that of a safetensors file of bytes."""
        about: dict[str, object] = {"__metadata__": {"format": "hyco-engine generated samples, version 1"}}
        start = 0
        for column in self.columns:
            stop = start + self.rows * column.stride
            about[column.name] = {"dtype": "U8", "shape": [self.rows, column.stride], "data_offsets": [start, stop]}
            start = stop
        text = json.dumps(about).encode()
        text += b" " * (-(len(text) + 8) % mmap.PAGESIZE)
        return len(text).to_bytes(8, "little") + text


class Mapped:
    """One column of all files, as one tensor `words [count, stride / 8]` of int64.

    The files are mapped side by side into one range of addresses, so that a batch of samples from many files is a
    single gather, which the standard library's `mmap` cannot do.
    """

    def __init__(self, column: Column, count: int, rows: int, shards: int) -> None:
        self._column = column
        self._part = rows * column.stride
        if not self._part:  # a tensor without values
            self.words = torch.empty(count, 0, dtype=torch.int64)
            self._direct: Tensor | None = None
            return
        self._range = mmap.mmap(-1, shards * self._part, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        view = np.frombuffer(self._range, np.uint8)
        self._address = view.ctypes.data
        del view
        words = (ctypes.c_int64 * (shards * self._part // WORD)).from_address(self._address)
        self.words = torch.frombuffer(words, dtype=torch.int64).view(shards * rows, column.stride // WORD)[:count]
        self._direct = None if column.stride > column.nbytes else column.values(self.words)

    def add(self, shard: int, file: int, offset: int) -> None:
        """Map one file's part. Raises OSError."""
        if not self._part:
            return
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
        address = self._address + shard * self._part
        flags = mmap.MAP_SHARED | _MAP_FIXED
        if libc.mmap(address, self._part, mmap.PROT_READ, flags, file, offset) != address:
            raise OSError(ctypes.get_errno(), "mmap failed")

    def select(self, indices: Tensor) -> Tensor:
        """`[B, *shape]`: a copy of the samples at `indices`."""
        if self._direct is None:
            return self._column.values(self.words.index_select(0, indices))
        return self._direct.index_select(0, indices)

    def close(self) -> None:
        del self.words, self._direct
        if self._part:
            self._range.close()  # unmaps the files in the range as well
