"""Batches made before the trainer asks for them, several small ones at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from hyco_engine.builtin.caches.values import Flat


class Ahead:
    """Serves batches of samples that `make(indices)` makes.

    Once the order of batches is announced, it makes neighbours together as long as they hold at most `limit` samples.
    With `background`, a thread makes the next such group while the caller uses the present one. The groups depend on
    the announcement alone, so that a caller who skips batches changes nothing for those that follow.
    """

    def __init__(self, make: Callable[[Tensor], Flat], *, limit: int, background: bool = False) -> None:
        self._make = make
        self._limit = limit
        self._background = background
        self._worker: ThreadPoolExecutor | None = None
        self._forget()

    def _forget(self) -> None:
        self._order = torch.empty(0, dtype=torch.int64)
        self._bytes = memoryview(b"")
        self._starts = [0]  # of batches in the order
        self._groups = [0]  # the first batch of each group, and the number of batches
        self._next = 0
        self._current = -1
        self._pieces: list[Flat] = []
        self._pending: tuple[int, Future[list[Flat]]] | None = None

    def announce(self, batches: Sequence[Tensor]) -> None:
        """Take note of the batches to come, in order, in place of those announced before."""
        self._drop_pending()
        self._forget()
        if not batches:
            return
        # half as wide as indices are: the order of a large data set is most of what is held beside a batch
        self._order = torch.cat(list(batches)).int()
        self._bytes = memoryview(self._order.numpy()).cast("B")  # type: ignore[arg-type]
        self._starts = [0, *accumulate(len(indices) for indices in batches)]
        for k in range(len(batches)):
            if self._starts[k + 1] - self._starts[self._groups[-1]] > self._limit and k > self._groups[-1]:
                self._groups.append(k)
        self._groups.append(len(batches))
        self._prepare(0)

    def take(self, indices: Tensor) -> Flat:
        """Return the samples at `indices`. A batch that was not announced, or was skipped, is made immediately."""
        position = self._find(indices)
        if position is None:
            return self._make(indices)
        group = bisect_right(self._groups, position) - 1
        if group != self._current:
            self._pieces = []  # frees them before others are made
            self._pieces = self._load(group)
            self._current = group
            self._prepare(group + 1)
        self._next = position + 1
        return self._pieces[position - self._groups[group]]

    def close(self) -> None:
        """Forget everything, and return once the thread has ended."""
        self._drop_pending()
        self._forget()
        if self._worker is not None:
            self._worker.shutdown(wait=True, cancel_futures=True)
            self._worker = None

    def _find(self, indices: Tensor) -> int | None:
        """Return the position of the next announced batch with these indices."""
        wanted = indices.int().numpy().tobytes()  # faster to compare than tensors
        starts, width = self._starts, self._order.itemsize
        for k in range(self._next, len(starts) - 1):
            if self._bytes[starts[k] * width : starts[k + 1] * width] == wanted:
                return k
        return None

    def _load(self, group: int) -> list[Flat]:
        if self._pending is not None and self._pending[0] == group:
            pending, self._pending = self._pending[1], None
            return pending.result()
        self._drop_pending()
        return self._make_group(group)

    def _make_group(self, group: int) -> list[Flat]:
        starts = self._starts[self._groups[group] : self._groups[group + 1] + 1]
        made = self._make(self._order[starts[0] : starts[-1]].long())
        if len(starts) == 2:
            return [made]
        lengths = [stop - start for start, stop in pairwise(starts)]
        pieces = [torch.split(values, lengths) for values in made.values()]
        return [dict(zip(made, parts, strict=True)) for parts in zip(*pieces, strict=True)]

    def _prepare(self, group: int) -> None:
        if self._background and group < len(self._groups) - 1:
            self._worker = self._worker or ThreadPoolExecutor(1, thread_name_prefix="hyco-generate")
            self._pending = group, self._worker.submit(self._make_group, group)

    def _drop_pending(self) -> None:
        """Wait for the thread, which reads the announced order, so that the order can be dropped."""
        if self._pending is not None:
            future, self._pending = self._pending[1], None
            if not future.cancel():
                future.exception()
