"""The layout of generated samples in files: each sample is a row of bytes, and a file holds one row after the other."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

MAX_SHARDS = 128
"""The files stay open, so a large data set gets larger files rather than more of them."""

WORD = 8
"""Every column begins at a multiple of this many bytes, so that rows can be summed and copied as 64-bit integers."""


@attrs.frozen(kw_only=True)
class Column:
    """One of the tensors that a sample consists of. It takes `nbytes` bytes of the sample's row, from `offset` on."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    nbytes: int
    offset: int

    @property
    def words(self) -> slice:
        """The columns of rows `[B, stride / 8]` that hold this tensor; the last one may end in padding."""
        return slice(self.offset // WORD, -(-(self.offset + self.nbytes) // WORD))

    def values(self, words: Tensor) -> Tensor:
        """Return the tensors `[B, *shape]` in `words [B, ...]`, which share its memory unless padding is cut off."""
        if words.shape[1] * WORD > self.nbytes:
            words = words.view(torch.uint8)[:, : self.nbytes].contiguous()
        return words.view(self.dtype).view(len(words), *self.shape)


@attrs.frozen(kw_only=True)
class ShardLayout:
    """Every file holds `rows` samples of `stride` bytes each, behind a safetensors header."""

    columns: tuple[Column, ...]
    stride: int
    rows: int
    shards: int

    @classmethod
    def plan(cls, made: Mapping[str, Tensor], count: int, shard_bytes: int) -> ShardLayout:
        """Return the layout for `count` samples like those in `made [B, ...]`, in files of about `shard_bytes`."""
        columns: list[Column] = []
        offset = 0
        for name, values in made.items():
            shape = tuple(values.shape[1:])
            nbytes = math.prod(shape) * values.dtype.itemsize
            columns.append(Column(name=name, shape=shape, dtype=values.dtype, nbytes=nbytes, offset=offset))
            offset += -(-nbytes // WORD) * WORD
        rows = max(1, shard_bytes // offset, -(-count // MAX_SHARDS)) if offset else count
        rows = min(rows, count)
        return cls(columns=tuple(columns), stride=offset, rows=rows, shards=-(-count // rows))

    def pack(self, made: Mapping[str, Tensor]) -> Tensor:
        """Return the rows `[B, stride / 8]` of samples `made [B, ...]`, as int64; padding is zero."""
        count = len(next(iter(made.values())))
        rows = torch.zeros(count, self.stride // WORD, dtype=torch.int64)
        there = rows.view(torch.uint8)
        for column in self.columns:
            flat = made[column.name].detach().contiguous().view(-1).view(torch.uint8).view(count, column.nbytes)
            there[:, column.offset : column.offset + column.nbytes] = flat
        return rows

    def header(self) -> bytes:
        """Return the beginning of every file, a safetensors header with one tensor of bytes, `samples`."""
        stop = self.rows * self.stride
        about = {
            "__metadata__": {"format": "hyco-engine generated samples, version 2"},
            "samples": {"dtype": "U8", "shape": [self.rows, self.stride], "data_offsets": [0, stop]},
        }
        text = json.dumps(about).encode()
        text += b" " * (-len(text) % WORD)
        return len(text).to_bytes(8, "little") + text

    @property
    def file_bytes(self) -> int:
        """The size of every file."""
        return len(self.header()) + self.rows * self.stride
