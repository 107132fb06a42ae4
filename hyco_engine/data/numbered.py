"""Arrays whose names differ in one number alone, read as one array: `sim*/u` is sim0/u, sim1/u, ..., in this order."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hyco_engine.data.array_files import Array, ArrayReader, Index, Stored
from hyco_engine.errors import DataError

STAR = "*"
"""What stands for the number in the name of such an array; alone, it is the name of the numbers themselves."""
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


def members(name: str, names: Iterable[str]) -> dict[float, str]:
    """Return the names that differ from `name` in a number at its star alone, by that number, which increases."""
    before, _, after = name.partition(STAR)
    found = {}
    for other in names:
        inner = other[len(before) : len(other) - len(after)]
        if other == f"{before}{inner}{after}" and _NUMBER.fullmatch(inner):
            found[float(inner)] = other
    return dict(sorted(found.items()))


def patterns(names: Iterable[str]) -> dict[str, dict[float, str]]:
    """Return the names with a star that stand for several of `names`, with these."""
    found: dict[str, dict[float, str]] = {}
    for name in names:
        for number in _NUMBER.finditer(name):
            pattern = f"{name[: number.start()]}{STAR}{name[number.end() :]}"
            found.setdefault(pattern, {})[float(number[0])] = name
    return {pattern: dict(sorted(own.items())) for pattern, own in found.items() if len(own) > 1}


class NumberedReader(ArrayReader):
    """Gives what another reader does, and arrays whose names have a star, with an axis in front."""

    def __init__(self, reader: ArrayReader, apart: Iterable[str] = ()) -> None:
        """The arrays `apart`, such as times, are not among those that a star stands for."""
        self._reader = reader
        self._apart = frozenset(apart)
        self._members: dict[str, dict[float, str]] = {}
        self.squeezes, self.axes, self.whole = reader.squeezes, reader.axes, reader.whole
        self.notes, self.marks_missing, self.dated = reader.notes, reader.marks_missing, reader.dated
        super().__init__(reader.path)
        self.refused = reader.refused

    def _list(self) -> Iterable[tuple[str, Stored]]:
        return self._reader.arrays.items()

    def find(self, name: str, key: str) -> Stored:
        if name not in self.arrays and STAR in name and (own := members(name, self.arrays.keys() - self._apart)):
            stored = [self.arrays[member] for member in own.values()]
            if unlike := [k for k, each in enumerate(stored) if each.shape != stored[0].shape]:
                first, other = (list(own.values())[k] for k in (0, unlike[0]))
                raise DataError(
                    f"{self.path}: the arrays {name!r} have different shapes: {first!r} {stored[0].shape}, {other!r} "
                    f"{stored[unlike[0]].shape}",
                    key=key,
                )
            dtype = np.result_type(*(each.dtype for each in stored))
            self._members[name] = own
            self.arrays = {**self.arrays, name: Stored((len(own), *stored[0].shape), dtype)}
        return super().find(name, key)

    def numbers(self, name: str, key: str) -> Array:
        """Return the numbers at the star of a name that was found. Raises DataError if it has none."""
        if name not in self._members:
            raise DataError(
                f"{self.path}: {STAR!r} is the numbers in the names of arrays, and {name!r} has no star", key=key
            )
        return np.array(list(self._members[name]))

    def read(self, name: str, index: Index = ()) -> Array:
        if name not in self._members:
            return self._reader.read(name, index)
        names = list(self._members[name].values())
        first, *rest = index or (slice(None),)
        if isinstance(first, int):
            return self._reader.read(names[first], tuple(rest))
        return np.stack([self._reader.read(own, tuple(rest)) for own in names[first]])

    def read_whole(self, names: Iterable[str]) -> int:
        return self._reader.read_whole(self._each(names))

    def unit(self, name: str) -> str:
        return self._reader.unit(self._each([name])[0])

    def release(self) -> None:
        self._reader.release()

    def files(self, names: Iterable[str]) -> list[Path]:
        return self._reader.files(self._each(names))

    def content(self, names: Iterable[str]) -> str:
        return self._reader.content(self._each(names))

    def _each(self, names: Iterable[str]) -> list[str]:
        return [own for name in names for own in (self._members[name].values() if name in self._members else [name])]
