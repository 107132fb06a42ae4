"""What a process of a run knows of the others, each of which has a rank from 0 on."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from hyco_engine.errors import HycoError, RunError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")
Tensors = TypeVar("Tensors", "Tensor", "dict[str, Tensor]")

INTERRUPTED = 130
"""The exit code of a run that was interrupted."""


class RanksDiffer(RunError):
    """A rank failed where another one did not, so that they cannot go on together."""


class RankFailed(RanksDiffer):
    """Another rank failed, with this exit code.

    `silent` is true if it told nothing, and `untold` if rank 0 is gone and tells nothing any more.
    """

    def __init__(self, message: str, exit_code: int = 1, *, silent: bool = False, untold: bool = False) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.silent = silent
        self.untold = untold

    def during(self, place: str) -> RankFailed:
        """Return the error of a silent rank with the place at which this one waited for it."""
        return RankFailed(f"{self}; this was in {place}", self.exit_code, silent=True, untold=self.untold)


class Runtime(AbstractContextManager["Runtime"], ABC):
    """The processes of one run, which all run the same program in the same order.

    Every method except `tell` is a meeting: each rank has to call it, and gets the same result. If one of them fails,
    the others raise RankFailed, or KeyboardInterrupt if it was interrupted. `local_rank` counts the processes of this
    machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @abstractmethod
    def gather(self, values: Tensor) -> list[Tensor]:
        """Return the tensors of all ranks in their order; they have one shape and type."""

    @abstractmethod
    def broadcast(self, data: bytes) -> bytes:
        """Return the bytes of rank 0, whatever the others give."""

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over 2^k ranks, added in one binary tree."""
        return tree_sum(self.gather(values))

    def fast_sum(self, values: Tensor) -> Tensor:
        """Return the sum over any number of ranks, added in an order that is the same for all of them."""
        first, *others = self.gather(values)
        return sum(others, start=first)

    def in_turn(self, items: Sequence[T], work: Callable[[T], Tensors]) -> Iterator[Tensors]:
        """Yield `work(item)` of all items in their order; each rank does one item after the other of its own.

        These are tensors, or tensors by name, of one type and shape except for the length of their first dimension. If
        a rank fails, all do every item from there on, and fail at the same one.
        """
        if self.size == 1:
            yield from map(work, items)
            return
        import torch

        for first in range(0, len(items), self.size):
            group = items[first : first + self.size]
            if len(group) == 1:
                yield work(group[0])
                return
            own, length = None, -1
            with suppress(Exception):  # it is met again where all do the same
                # a rank for which no item is left still has to know what the tensors look like
                own = work(group[self.rank % len(group)])
                length = len(next(iter(_by_name(own).values())))
            lengths = [int(one) for one in self.gather(torch.tensor([length]))]
            if own is None or min(lengths) < 0:
                yield from map(work, items[first:])
                return
            found = {}
            for name, values in _by_name(own).items():
                padding = values.new_zeros(max(lengths) - length, *values.shape[1:])
                found[name] = self.gather(torch.cat([values, padding]))
            for rank in range(len(group)):
                rows = {name: every[rank][: lengths[rank]] for name, every in found.items()}
                yield rows if isinstance(own, dict) else rows[""]

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.broadcast(b"")

    def agree(self, what: str, data: bytes) -> None:
        """Raise RunError unless all ranks give the same bytes; `what` names them in the message."""
        if self.size == 1:
            return
        import torch

        digest = torch.tensor(list(hashlib.sha256(data).digest()), dtype=torch.uint8)
        found = self.gather(digest)
        if other := [rank for rank, one in enumerate(found) if not torch.equal(one, found[0])]:
            raise RunError(
                f"{what} of rank {', '.join(map(str, other))} and of rank 0 differ: a part of the run depends on the "
                "process that it runs in, such as on its time, its files, or random numbers of its own"
            )

    def tell(self, error: BaseException, exit_code: int, place: str) -> None:
        """Tell the other ranks that this one fails with `error` at a `place` of the run; they fail, too."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Part from the other ranks."""


class Single(Runtime):
    """One process, which has nobody to wait for."""

    def gather(self, values: Tensor) -> list[Tensor]:
        return [values]

    def broadcast(self, data: bytes) -> bytes:
        return data


def _by_name(tensors: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors if isinstance(tensors, dict) else {"": tensors}


def gathered(values: Tensor, exchange: Callable[[Tensor], Iterable[Tensor]]) -> list[Tensor]:
    """Return the tensors of all ranks, which `exchange` returns for this rank's: gloo knows no booleans."""
    import torch

    plain = values.detach().contiguous()
    sent = plain.view(torch.uint8) if plain.dtype == torch.bool else plain
    return [one.view(plain.dtype).to(values.device) for one in exchange(sent)]


def heard(rank: int, message: str, exit_code: int, place: str) -> BaseException:
    """Return what a rank raises that heard from another one that it failed."""
    if exit_code == INTERRUPTED:
        return KeyboardInterrupt(message or "interrupted")
    return RankFailed(f"rank {rank} failed{f' in {place}' if place else ''}: {message}", exit_code)


def tree_sum(parts: list[Tensor]) -> Tensor:
    """Return the sum of 2^k tensors, in which the first half and the second half are sums of the same kind."""
    while len(parts) > 1:
        parts = [one + other for one, other in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def device_of(runtime: Runtime, name: str) -> torch.device | None:
    """Return the GPU of this rank if `name` leaves the device open and there are several ranks and GPUs."""
    import torch

    if runtime.size == 1 or name not in ("auto", "cuda") or not torch.cuda.is_available():
        return None
    return torch.device("cuda", runtime.local_rank % torch.cuda.device_count())


def exit_code_of(error: BaseException) -> int:
    """Return the exit code with which a command ends after `error`."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return error.exit_code if isinstance(error, HycoError) else 1
