"""The processes that Lightning Fabric has started, which exchange tensors by its strategy's collectives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor

from hyco_engine.ranks.runtime import RankFailed, Runtime, gathered

T = TypeVar("T")


class FabricRuntime(Runtime):
    """A runtime for `hyco_engine.Engine(spec, runtime=FabricRuntime(fabric))`, in all processes of a launched `fabric`.

    It takes from Fabric who a process is and how tensors travel. Models, their precision and their placement stay with
    the engine. A rank that fails ends the others, too: they see that it is gone, and its own message says why.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self.rank, self.size, self.local_rank = fabric.global_rank, fabric.world_size, fabric.local_rank

    def gather(self, values: Tensor) -> list[Tensor]:
        if self.size == 1:
            return [values]
        return gathered(values, self._all)

    def broadcast(self, data: bytes) -> bytes:
        # as tensors: Fabric would send an object as a pickle
        size = int(self.gather(torch.tensor([len(data)]))[0])
        own = torch.zeros(size, dtype=torch.uint8)
        if self.rank == 0 and size:
            own = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return self.gather(own)[0].cpu().numpy().tobytes() if size else b""

    def fast_sum(self, values: Tensor) -> Tensor:
        if self.size == 1:
            return values
        # a copy, since the sum takes its place
        own = values.detach().clone(memory_format=torch.contiguous_format)
        total = self._met(lambda: self._fabric.all_reduce(own, reduce_op="sum"))
        assert isinstance(total, Tensor)
        return total.to(values.device)

    def _all(self, values: Tensor) -> Tensor:
        found = self._met(lambda: self._fabric.all_gather(values))
        assert isinstance(found, Tensor)
        return found

    def _met(self, exchange: Callable[[], T]) -> T:
        try:
            return exchange()
        except RuntimeError as error:
            first = str(error).splitlines()[0]
            raise RankFailed(f"another rank has ended or does not answer: {first}", silent=True) from error
