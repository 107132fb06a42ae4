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

    def pad(self, values: Tensor) -> Tensor:
        """`[B, stride / 8]`, int64: the bytes of `values [B, *shape]`, filler zero."""
        flat = values.detach().contiguous().view(-1).view(torch.uint8).view(len(values), self.nbytes)
        if self.stride > self.nbytes:
            flat = torch.nn.functional.pad(flat, (0, self.stride - self.nbytes))
        return flat.view(torch.int64)

    def unpad(self, words: Tensor) -> Tensor:
        """The inverse of `pad`; copies only where there is filler."""
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
        sizes = {name: math.prod(values.shape[1:]) * values.dtype.itemsize for name, values in made.items()}
        shard_bytes = max(shard_bytes, -(-count * sum(sizes.values()) // MAX_SHARDS))
        align = WORD
        while align < mmap.PAGESIZE and mmap.PAGESIZE // align * sum(sizes.values()) > shard_bytes // 8:
            align *= 2
        columns = tuple(
            Column(
                name=name,
                shape=tuple(values.shape[1:]),
                dtype=values.dtype,
                nbytes=sizes[name],
                stride=-(-sizes[name] // align) * align,
            )
            for name, values in made.items()
        )
        step = max((mmap.PAGESIZE // math.gcd(mmap.PAGESIZE, c.stride) for c in columns if c.stride), default=1)
        rows = max(1, shard_bytes // max(1, sum(c.stride for c in columns)) // step) * step
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
    """One column of all files, as one tensor `[shards * rows, stride / 8]` of int64.

    The files are mapped side by side into one range of addresses, so that a batch of samples from many files is a
    single gather, which the standard library's `mmap` cannot do.
    """

    def __init__(self, column: Column, rows: int, shards: int) -> None:
        self._part = rows * column.stride
        if not self._part:  # a tensor without values
            self.words = torch.empty(shards * rows, 0, dtype=torch.int64)
            return
        self._range = mmap.mmap(-1, shards * self._part, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        view = np.frombuffer(self._range, np.uint8)
        self._address = view.ctypes.data
        del view
        words = (ctypes.c_int64 * (shards * self._part // WORD)).from_address(self._address)
        self.words = torch.frombuffer(words, dtype=torch.int64).view(shards * rows, column.stride // WORD)

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

    def close(self) -> None:
        del self.words
        if self._part:
            self._range.close()  # unmaps the files in the range as well
