"""Several ranks as threads of this process, for tests of what runs on several processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from torch import Tensor

from hyco_engine.ranks.runtime import RankFailed, Runtime, Single, heard
from hyco_engine.testing.measuring import difference

T = TypeVar("T")
LONG_S = 60.0


class _Meeting:
    """The place at which all threads exchange values. Between meetings one thread computes at a time.

    Torch's forward mode and its random numbers have a state for the whole process.
    """

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=LONG_S)
        self.given: list[Any] = [None] * size
        self.computing = threading.Lock()
        self.told: BaseException | None = None

    def exchange(self, rank: int, value: Any) -> list[Any]:
        """Return the values of all ranks."""
        self.given[rank] = value
        self.computing.release()
        try:
            self.barrier.wait()
            found = list(self.given)
            # all have met: one that goes on and fails at once breaks this wait, and is noticed at the next meeting
            with suppress(threading.BrokenBarrierError):
                self.barrier.wait()
        except threading.BrokenBarrierError:
            raise self.told or RankFailed("another rank failed") from None
        finally:
            self.computing.acquire()
        return found


class Thread(Runtime):
    """The runtime of one of these threads; `exchanged` counts its meetings and the bytes that it gave."""

    def __init__(self, meeting: _Meeting, rank: int, size: int) -> None:
        self.rank, self.size, self.local_rank = rank, size, rank
        self.exchanged = {"meetings": 0, "bytes": 0}
        self._meeting = meeting

    def gather(self, values: Tensor) -> list[Tensor]:
        self._count(values.nbytes)
        found: list[Tensor] = self._meeting.exchange(self.rank, values.detach().clone())
        shapes = {(one.shape, one.dtype) for one in found}
        assert len(shapes) == 1, f"the ranks meet with different tensors: {shapes}"
        return found

    def broadcast(self, data: bytes) -> bytes:
        self._count(len(data))
        given: bytes = self._meeting.exchange(self.rank, data)[0]
        return given

    def tell(self, error: BaseException, exit_code: int, place: str) -> None:
        self._meeting.told = self._meeting.told or heard(self.rank, str(error), exit_code, place)
        self._meeting.barrier.abort()

    def _count(self, nbytes: int) -> None:
        self.exchanged["meetings"] += 1
        self.exchanged["bytes"] += nbytes


def on_ranks(size: int, work: Callable[[Runtime], T]) -> list[T]:
    """Return `work(runtime)` of each rank, whose thread has its name. Raises what the first rank to fail raised."""
    meeting = _Meeting(size)
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        with meeting.computing:
            try:
                results[rank] = work(Thread(meeting, rank, size))
            except BaseException as error:
                errors.append(error)
                meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,), name=f"rank {rank}") for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # the others failed because they waited for the one that did
    for error in sorted(errors, key=lambda error: isinstance(error, RankFailed)):
        raise error
    return results


def together(what: str, work: Callable[[Runtime], Any]) -> None:
    """Fail unless two ranks that do this work find what one process finds, a batch bit by bit.

    `what` names the plugin's part in the message.
    """
    alone = work(Single())
    try:
        found = on_ranks(2, work)
    except RankFailed as error:
        raise AssertionError(f"{what} does other things on one rank than on another: {error}") from error
    for rank, one in enumerate(found):
        different = difference(one, alone, 0.0) if isinstance(alone, Mapping) else ""
        assert not different, (
            f"{what} gives something else on rank {rank} of two than in one process: {different}. What it does may "
            "depend on what it is given alone, and not on times, on files, or on what else the process did"
        )
