"""Shards: the parts into which samples are divided, whatever the number of processes that compute them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import attrs

from hyco_engine.errors import SpecError
from hyco_engine.ranks.runtime import RanksDiffer, Runtime, Single, tree_sum

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

MANY = 8
"""The number of shards of several processes, unless the spec says another one."""


@attrs.frozen
class Shards:
    """Divides samples into `count` parts, a power of two, of which each rank computes neighbours.

    Every part is computed alone and all parts are added in one binary tree, so that sums have the same bits for any
    number of ranks that divides `count`. One shard is the whole. If they are not `exact`, each rank has one part, and
    the sums are equal to rounding.
    """

    count: int = 1
    runtime: Runtime = attrs.field(factory=Single)
    exact: bool = True

    @property
    def whole(self) -> bool:
        """True if nothing is divided."""
        return self.count == 1

    @property
    def own(self) -> range:
        """The shards of this rank."""
        each = self.count // self.runtime.size
        return range(self.runtime.rank * each, (self.runtime.rank + 1) * each)

    def cut(self, samples: int) -> list[tuple[int, int]]:
        """Return the first index of each shard of so many samples and the one after its last; sizes are alike."""
        return list(pairwise(k * samples // self.count for k in range(self.count + 1)))

    def each(self, work: Callable[[int], T]) -> list[T]:
        """Return what `work` makes of each shard of this rank.

        If it fails on one rank, every rank does all shards: all fail alike, as one process does, or go on. Raises as
        `all_failed` does if a rank fails nevertheless where others do not.
        """
        if self.runtime.size == 1:
            return [work(shard) for shard in self.own]
        found, error = _tried(work, self.own)
        if self.every(error is None):
            return found
        found, error = _tried(work, range(self.count))
        if self.all_failed(error):
            raise error or AssertionError
        return [found[shard] for shard in self.own]

    def of_own(self, work: Callable[[], T]) -> T:
        """Return what `work` makes of what this rank alone holds. If it fails on a rank, all fail as in `all_failed`.

        Otherwise a rank that goes on after its error, such as in smaller passes, would meet others that did not.
        """
        try:
            found = work()
        except Exception as error:
            self.all_failed(error)
            raise
        self.all_failed(None)
        return found

    def all_failed(self, error: Exception | None) -> bool:
        """Return whether all ranks failed in something, this one by `error`, rather than none.

        Raises RanksDiffer on a rank that failed where others did not, and RankFailed on these. A rank that is still
        busy with shards where this one has failed hears of it there, since it meets in the same way.
        """
        if self.runtime.size == 1:
            return error is not None
        import torch

        fine = [bool(one) for one in self.runtime.gather(torch.tensor([error is None]))]
        if all(fine) or not any(fine):
            return not fine[0]
        if error is not None:
            told = str(error) or type(error).__name__
            raise RanksDiffer(f"{told} (other ranks had no error there)") from error
        # the rank that failed tells why, and comes no more
        self.runtime.barrier()
        raise RanksDiffer("another rank failed where this one had no error")

    def sum(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the sum over all shards; `parts` are those of this rank's shards."""
        own = tree_sum(list(parts))
        if self.whole:
            return own
        return self.runtime.sum(own) if self.exact else self.runtime.fast_sum(own)

    def joined(self, rows: Tensor, samples: int) -> Tensor:
        """Return the rows `[samples, ...]` of all shards; `rows` are those of the samples of this rank's shards."""
        ends = self.cut(samples)
        each = self.count // self.runtime.size
        counts = [ends[k + each - 1][1] - ends[k][0] for k in range(0, self.count, each)]
        missing = max(counts) - len(rows)
        padded = rows.new_zeros(missing, *rows.shape[1:])
        import torch

        found = self.runtime.gather(torch.cat([rows, padded]) if missing else rows)
        return torch.cat([one[:count] for one, count in zip(found, counts, strict=True)])

    def every(self, true: bool) -> bool:
        """Return whether this holds on every rank."""
        if self.whole:
            return true
        import torch

        return all(bool(one) for one in self.runtime.gather(torch.tensor([true])))


def _tried(work: Callable[[int], T], shards: range) -> tuple[list[T], Exception | None]:
    try:
        return [work(shard) for shard in shards], None
    except Exception as error:
        return [], error


def shards_for(asked: int | str, runtime: Runtime) -> int:
    """Return the number of shards; "auto" is one for one process. Raises SpecError if the processes cannot share it."""
    if asked == "auto":
        asked = 1 if runtime.size == 1 else max(MANY, 1 << (runtime.size - 1).bit_length())
    count = int(asked)
    if count % runtime.size:
        allowed = ", ".join(str(size) for size in _powers(count))
        raise SpecError(
            f"{runtime.size} processes cannot share {count} shard{'s' if count > 1 else ''}: start {allowed} of them, "
            "or begin a run with another number of shards",
            key="run.shards",
        )
    return count


def check_shards(value: int | str) -> None:
    """Raise ValueError unless the value is a power of two or "auto"."""
    if isinstance(value, int) and (value < 1 or value & (value - 1)):
        raise ValueError(f"must be a power of two, such as 1, 2, 4 or 8, not {value}")


def _powers(count: int) -> Iterator[int]:
    size = 1
    while size <= count:
        yield size
        size *= 2
