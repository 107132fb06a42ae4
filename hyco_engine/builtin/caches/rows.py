"""Samples as rows of bytes: how named tensors lie in a row, and checksums of rows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor

ALIGN = 16
"""Tensors in a buffer start at multiples of this, which is the largest size of a number."""


@attrs.frozen(kw_only=True)
class Column:
    """One tensor's part of a row."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    nbytes: int


@attrs.frozen
class RowLayout:
    """A row is the bytes of all columns, one after the other."""

    columns: tuple[Column, ...]
    row_bytes: int
    word: torch.dtype
    """The integers that checksums add up: the widest that divide every column."""

    @classmethod
    def of(cls, made: Mapping[str, Tensor]) -> RowLayout:
        """Of samples `[B, ...]` by name."""
        return cls.from_columns(
            [
                Column(name=n, shape=tuple(v.shape[1:]), dtype=v.dtype, nbytes=math.prod(v.shape[1:]) * v.dtype.itemsize)
                for n, v in made.items()
            ]
        )

    @classmethod
    def from_columns(cls, columns: Sequence[Column]) -> RowLayout:
        step = math.gcd(8, *(column.nbytes for column in columns))
        word = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}[step]
        return cls(tuple(columns), sum(column.nbytes for column in columns), word)

    def first(self, count: int) -> RowLayout:
        """The layout of the first `count` columns, which a read may stop after."""
        return self.from_columns(self.columns[:count])

    def pack(self, made: Mapping[str, Tensor]) -> Tensor:
        """`[B, row_bytes]`, uint8."""
        return torch.cat([_bytes(made[column.name]) for column in self.columns], dim=1)

    def sums(self, made: Mapping[str, Tensor]) -> Tensor:
        """`[B]`, int64: the sum of each row's words, modulo 2**64. Changing any one word changes it."""
        parts = [_bytes(made[c.name]).view(self.word).sum(1, dtype=torch.int64) for c in self.columns if c.nbytes]
        return torch.stack(parts).sum(0) if parts else torch.zeros(len(next(iter(made.values()))), dtype=torch.int64)

    def join(self, rows: Sequence[tuple[memoryview, int]]) -> Tensor:
        """The rows that begin at these places, as one buffer in which each column lies in one piece."""
        parts: list[memoryview | bytes] = []
        offset = 0
        for column in self.columns:
            stop = offset + column.nbytes
            parts += [view[start + offset : start + stop] for view, start in rows]
            parts.append(bytes(-len(rows) * column.nbytes % ALIGN))
            offset = stop
        joined = bytearray().join(parts)
        return torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.empty(0, dtype=torch.uint8)

    def total(self, buffer: Tensor) -> int:
        """The sum of `sums` of the rows in a buffer, modulo 2**64."""
        return int(buffer.view(self.word).sum(dtype=torch.int64))

    def split(self, buffer: Tensor, count: int) -> dict[str, Tensor]:
        """The columns of a buffer of `count` rows, without copying: `[count, ...]` by name."""
        made, start = {}, 0
        for column in self.columns:
            size = count * column.nbytes
            made[column.name] = buffer[start : start + size].view(column.dtype).view(count, *column.shape)
            start += size + -size % ALIGN
        return made


def _bytes(values: Tensor) -> Tensor:
    """`[B, n]`, uint8."""
    flat = values.detach().contiguous().view(-1).view(torch.uint8)
    return flat.view(len(values), flat.numel() // max(1, len(values)))


def header(layout: RowLayout, rows: int) -> bytes:
    """What a safetensors file of `rows` samples begins with; the rows follow."""
    columns = [
        {"name": c.name, "shape": list(c.shape), "dtype": str(c.dtype).removeprefix("torch."), "bytes": c.nbytes}
        for c in layout.columns
    ]
    about = {
        "__metadata__": {"format": "hyco-engine generated samples 1", "columns": json.dumps(columns)},
        "samples": {"dtype": "U8", "shape": [rows, layout.row_bytes], "data_offsets": [0, rows * layout.row_bytes]},
    }
    text = json.dumps(about).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
