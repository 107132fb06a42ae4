"""Making batches before they are asked for, several small ones at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from hyco_engine.builtin.caches.values import Flat


class Ahead:
    """Serves batches of samples that `make(indices)` makes.

    Once the order of batches is announced, neighbours are made together as long as they hold at most `limit` samples;
    with `background`, the next such group is made in a thread while the present one is used. How batches are grouped
    depends on the announcement alone, so that batches that are skipped change nothing for those that follow.
    """

    def __init__(self, make: Callable[[Tensor], Flat], *, limit: int, background: bool = False) -> None:
        self._make = make
        self._limit = limit
        self._background = background
        self._worker: ThreadPoolExecutor | None = None
        self._forget()

    def _forget(self) -> None:
        self._next, self._current = 0, -1
        self._pieces: list[Flat] = []
        self._pending: tuple[int, Future[list[Flat]]] | None = None
        self._groups: list[list[Tensor]] = []
        self._first: list[int] = []
        self._group_of: list[int] = []
        self._positions: dict[bytes, list[int]] = {}

    def announce(self, batches: Sequence[Tensor]) -> None:
        """The batches to come, in order; what was announced before is forgotten."""
        self._drop_pending()
        self._forget()
        held = 0
        for position, indices in enumerate(batches):
            if not self._groups or held + len(indices) > self._limit:
                self._groups.append([])
                self._first.append(position)
                held = 0
            held += len(indices)
            self._groups[-1].append(indices)
            self._group_of.append(len(self._groups) - 1)
            self._positions.setdefault(_key(indices), []).append(position)
        self._prepare(0)

    def take(self, indices: Tensor) -> Flat:
        """The samples at `indices`; made on the spot if this batch was not announced, or has been passed."""
        positions = self._positions.get(_key(indices), ())
        position = next((p for p in positions if p >= self._next), None)
        if position is None:
            return self._make(indices)
        group = self._group_of[position]
        if group != self._current:
            self._pieces = []  # frees them before others are made
            self._pieces = self._load(group)
            self._current = group
            self._prepare(group + 1)
        self._next = position + 1
        return self._pieces[position - self._first[group]]

    def close(self) -> None:
        """Forget everything; returns when the background is at rest."""
        self._drop_pending()
        self._forget()
        if self._worker is not None:
            self._worker.shutdown(wait=True, cancel_futures=True)
            self._worker = None

    def _load(self, group: int) -> list[Flat]:
        if self._pending is not None and self._pending[0] == group:
            pending, self._pending = self._pending[1], None
            return pending.result()
        self._drop_pending()
        return self._make_group(self._groups[group])

    def _make_group(self, batches: Sequence[Tensor]) -> list[Flat]:
        if len(batches) == 1:
            return [self._make(batches[0])]
        lengths = [len(indices) for indices in batches]
        made = {name: torch.split(values, lengths) for name, values in self._make(torch.cat(list(batches))).items()}
        return [dict(zip(made, parts, strict=True)) for parts in zip(*made.values(), strict=True)]

    def _prepare(self, group: int) -> None:
        if self._background and group < len(self._groups):
            self._worker = self._worker or ThreadPoolExecutor(1, thread_name_prefix="hyco-generate")
            self._pending = group, self._worker.submit(self._make_group, self._groups[group])

    def _drop_pending(self) -> None:
        if self._pending is not None:
            future, self._pending = self._pending[1], None
            if not future.cancel():
                future.exception()


def _key(indices: Tensor) -> bytes:
    return indices.numpy().tobytes()
