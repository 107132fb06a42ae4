"""Files mapped side by side, and what happens when one of them shrinks while it is read."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyco_engine.builtin.caches.shards import WORD, Column

_MAP_FIXED = 0x10


class Mapped:
    """One column of all files, as one tensor `words [count, stride / 8]` of int64.

    The files are mapped side by side into one range of addresses, so that a batch of samples from many files is a
    single gather, which the standard library's `mmap` cannot do. Where a file was cut off, zeros are read in place of
    what is gone: whoever reads must look at the file afterwards.
    """

    def __init__(self, column: Column, count: int, rows: int, shards: int) -> None:
        self._column = column
        self._part = rows * column.stride
        self._files: list[tuple[int, int]] = []  # descriptor, and where in the file the part begins
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
        _guard.add(self)

    def add(self, file: int, offset: int) -> None:
        """Map the next file's part. Raises OSError."""
        if not self._part:
            return
        _map_over(self._address + len(self._files) * self._part, self._part, mmap.MAP_SHARED, file, offset)
        self._files.append((file, offset))

    def select(self, indices: Tensor) -> Tensor:
        """`[B, *shape]`: a copy of the samples at `indices`."""
        if self._direct is None:
            return self._column.values(self.words.index_select(0, indices))
        return self._direct.index_select(0, indices)

    def give_up_short_files(self) -> bool:
        """Put zeros in the place of files that are shorter than they were; whether there were any."""
        found = False
        for shard, (file, offset) in enumerate(self._files):
            if os.fstat(file).st_size < offset + self._part:
                place = self._address + shard * self._part
                _map_over(place, self._part, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
                found = True
        return found

    def close(self) -> None:
        del self.words, self._direct
        if self._part:
            _guard.remove(self)
            self._range.close()  # unmaps the files in the range as well


def _map_over(address: int, length: int, flags: int, file: int, offset: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    if libc.mmap(address, length, mmap.PROT_READ, flags | _MAP_FIXED, file, offset) != address:
        raise OSError(ctypes.get_errno(), "mmap failed")


class _Guard:
    """Handles SIGBUS as long as there are mapped files; afterwards, and for all others, it is as it was before.

    The kernel sends it to a thread that touches a page beyond the end of its file. That cannot be avoided by looking at
    the size first, and reading by copies instead (`pread`) takes 1.6 to 4 times as long. The thread is in the middle of
    a gather, which holds no lock, so Python may run here; Python's own handlers would run too late, since on return the
    thread touches the page again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mapped: tuple[Mapped, ...] = ()  # never changed in place: the handler cannot wait for a lock
        self._previous: int | None = None
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._handle)

    def add(self, mapped: Mapped) -> None:
        with self._lock:
            if not self._mapped:
                self._previous = self._install(ctypes.cast(self._handler, ctypes.c_void_p).value)
            self._mapped = (*self._mapped, mapped)

    def remove(self, mapped: Mapped) -> None:
        with self._lock:
            self._mapped = tuple(other for other in self._mapped if other is not mapped)
            if not self._mapped:
                ours = ctypes.cast(self._handler, ctypes.c_void_p).value
                found = self._install(self._previous)
                if found != ours:  # somebody took our place in the meantime
                    self._install(found)

    @staticmethod
    def _install(handler: int | None) -> int | None:
        libc = ctypes.CDLL(None)
        libc.signal.restype = ctypes.c_void_p
        libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
        previous: int | None = libc.signal(signal.SIGBUS, handler)
        return previous

    def _handle(self, number: int) -> None:
        found = False
        try:
            for mapped in self._mapped:
                found |= mapped.give_up_short_files()
        except Exception:
            found = False
        if not found:  # not ours: on return it comes again, to whom it would have come to without us
            self._install(self._previous)


_guard: Any = _Guard()
