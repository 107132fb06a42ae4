"""How samples lie in files."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

MAX_SHARDS = 128
"""Files are kept open; rather than more of them, larger ones are written."""

WORD = 8


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
