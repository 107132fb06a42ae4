"""Samples as rows of bytes: how named tensors lie in a row, and checksums of rows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence

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

    def buffer(self, count: int) -> RowBuffer:
        """Room for `count` rows."""
        starts, size = [], 0
        for column in self.columns:
            starts.append(size)
            size += -(-count * column.nbytes // ALIGN) * ALIGN
        memory = torch.empty(size, dtype=torch.uint8)
        for start, column, after in zip(starts, self.columns, [*starts[1:], size], strict=True):
            end = start + count * column.nbytes
            if end < after:
                memory[end:after] = 0
        return RowBuffer(self, count, memory, tuple(starts))


@attrs.frozen(eq=False)
class RowBuffer:
    """Rows read from files; each column lies in one piece, so that it is a tensor without copying."""

    layout: RowLayout
    count: int
    memory: Tensor
    starts: tuple[int, ...]

    def slots(self) -> Iterator[Sequence[memoryview]]:
        """For each row, where its columns go."""
        view = memoryview(self.memory.numpy())
        places = [(start, column.nbytes) for start, column in zip(self.starts, self.layout.columns, strict=True)]
        for k in range(self.count):
            yield [view[start + k * width : start + k * width + width] for start, width in places]

    def sum(self) -> int:
        """The sum of the rows' checksums, modulo 2**64."""
        return int(self.memory.view(self.layout.word).sum(dtype=torch.int64))

    def columns(self) -> dict[str, Tensor]:
        """`[count, ...]` by name."""
        made = {}
        for start, column in zip(self.starts, self.layout.columns, strict=True):
            flat = self.memory[start : start + self.count * column.nbytes]
            made[column.name] = flat.view(column.dtype).view(self.count, *column.shape)
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
