"""The processes that torchrun, srun or mpirun started, which exchange tensors by torch.distributed's gloo."""

from __future__ import annotations

import json
import logging
import time
import traceback
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from hyco_engine.errors import RunError
from hyco_engine.ranks.environment import TIMEOUT_VARIABLE, Place
from hyco_engine.ranks.runtime import RankFailed, Runtime, gathered, heard

logger = logging.getLogger("hyco_engine")

HERE, WORD, ENDED, ALIVE = "here", "word", "ended", "alive"
"""Keys of the store: that a rank has come, what the first one that failed told, that rank 0 has ended, and that a rank
is alive."""
CONNECTED_S = 60.0
"""How long connecting may take when all ranks have come."""
HEARD_S = 5.0
"""How long a rank waits for what another one told, or for a sign that it is alive."""
ENDING_S = 60.0
"""How long a rank that failed waits for rank 0 to tell it and to end: starters end all processes with the first."""


class ProcessGroup(Runtime):
    """Meets the other processes through a store, and exchanges tensors on the CPU with them.

    Whoever waits for another rank longer than `timeout_s` seconds fails.
    """

    def __init__(self, place: Place, *, timeout_s: float) -> None:
        self.rank, self.size, self.local_rank = place.rank, place.size, place.local_rank
        self._timeout_s = timeout_s
        self._failed = False
        self._broken: BaseException | None = None
        timeout = timedelta(seconds=timeout_s)
        try:
            # torchrun has a store of its own, which env:// finds
            url = "env://" if place.starter == "torchrun" else f"tcp://{place.host}:{place.port}"
            self._store, _, _ = next(iter(rendezvous(url, place.rank, place.size, timeout=timeout)))
            # connecting takes a moment once all are here: whoever waits longer for a rank waits for a dead one
            self._store.set(f"{HERE}/{self.rank}", "yes")
            self._store.wait([f"{HERE}/{rank}" for rank in range(self.size)], timeout)
            soon = timedelta(seconds=min(timeout_s, CONNECTED_S))
            dist.init_process_group("gloo", store=self._store, rank=self.rank, world_size=self.size, timeout=soon)
            dist.distributed_c10d._set_pg_timeout(timeout)
        except (RuntimeError, ValueError) as error:
            raise RunError(
                f"rank {self.rank} of {self.size} could not meet the others at {place.host}:{place.port} within "
                f"{timeout_s:g} s, as {place.starter} told it to: {_first_line(error)}"
            ) from error

    def gather(self, values: Tensor) -> list[Tensor]:
        return gathered(values, self._all)

    def fast_sum(self, values: Tensor) -> Tensor:
        # a copy, since the sum takes its place
        total = values.detach().cpu().clone(memory_format=torch.contiguous_format)
        self._meet(lambda: dist.all_reduce(total))
        return total.to(values.device)

    def broadcast(self, data: bytes) -> bytes:
        size = torch.tensor([len(data)])
        self._meet(lambda: dist.broadcast(size, 0))
        if not int(size):
            return b""
        content = torch.frombuffer(bytearray(data), dtype=torch.uint8) if self.rank == 0 else None
        if content is None:
            content = torch.empty(int(size), dtype=torch.uint8)
        self._meet(lambda: dist.broadcast(content, 0))
        return content.numpy().tobytes()

    def tell(self, error: BaseException, exit_code: int, place: str) -> None:
        if isinstance(error, RankFailed):
            return
        self._failed = True
        word = json.dumps({"rank": self.rank, "message": str(error), "exit_code": exit_code, "place": place})
        try:
            # the first word stays, since others may fail because of it
            self._store.compare_set(WORD, "", word)
        except RuntimeError as lost:
            logger.debug("the store is gone: %s", lost)

    def _all(self, values: Tensor) -> list[Tensor]:
        own = values.cpu()
        found = [torch.empty_like(own) for _ in range(self.size)]
        self._meet(lambda: dist.all_gather(found, own))
        return found

    def _meet(self, exchange: Any) -> None:
        """Exchange tensors. Raises what another rank told if it failed, now and ever after."""
        if self._broken is not None:
            raise self._broken
        try:
            exchange()
        except RuntimeError as error:
            self._failed = True
            _leave(error)
            self._broken = self._why(error)
            raise self._broken from error

    def _why(self, error: RuntimeError) -> BaseException:
        """Return the reason why another rank did not come, which it may have told."""
        word = self._word()
        if word is None:
            return self._silence(error)
        return heard(**word)

    def _word(self) -> dict[str, Any] | None:
        """Return what a rank told, which it may do a moment after it stopped answering."""
        try:
            end = time.monotonic() + HEARD_S
            while not self._store.check([WORD]):
                if time.monotonic() > end:
                    return None
                time.sleep(0.05)
            told: dict[str, Any] = json.loads(self._store.get(WORD))
            return told
        except RuntimeError:
            return None

    def _silence(self, error: RuntimeError) -> RankFailed:
        """Return an error that says which ranks have gone without a word."""
        try:
            self._store.set(f"{ALIVE}/{self.rank}", "yes")
            time.sleep(HEARD_S)
            gone = [rank for rank in range(self.size) if not self._store.check([f"{ALIVE}/{rank}"])]
        except RuntimeError:
            gone = [0]
        who = f"rank {', '.join(map(str, gone))}" if gone else "another rank"
        if "imed out" in str(error) or "imeout" in str(error):
            told = (
                f"{who} did not answer within {self._timeout_s:g} s, the time that {TIMEOUT_VARIABLE} allows: look at "
                "what it does there, or allow more"
            )
        else:
            told = f"{who} ended without a word: it was killed, perhaps for memory, or its machine failed"
        return RankFailed(told, silent=True, untold=0 in gone)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.rank == 0:
                self._store.set(ENDED, "yes")
            if dist.is_initialized():
                dist.destroy_process_group()
            if self.rank and self._failed:
                self._store.wait([ENDED], timedelta(seconds=ENDING_S))
        except RuntimeError as lost:
            logger.debug("the others are gone already: %s", lost)


def _leave(error: RuntimeError) -> None:
    """Part from the others after a meeting that failed, so that those who wait for this rank notice at once.

    Connections close with the last reference to the group, of which the failed call's frames hold some.
    """
    traceback.clear_frames(error.__traceback__)
    dist.destroy_process_group()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
