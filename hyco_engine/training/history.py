"""What became of training so far: told in the summary, kept in checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs
from torch import Tensor

from hyco_engine.augment.balance import Balance


@attrs.define(kw_only=True)
class History:
    """What happened, phase by phase."""

    balance: list[Balance] = attrs.Factory(list)
    cooperation: list[dict[str, Any]] = attrs.Factory(list)
    warnings: list[str] = attrs.Factory(list)
    seconds: dict[str, float] = attrs.Factory(dict)
    trained: dict[str, dict[str, int]] = attrs.Factory(dict)
    """By player: `epochs`; `samples`, real and generated ones, each counted once an epoch; whether it `converged`."""
    arms: dict[str, dict[str, Any]] = attrs.Factory(dict)
    """By player, where a strategy has arms: which was `kept`, and the `errors` of all on held-out data."""
    cycles: int = 0
    peak_bytes: int = 0

    def to_data(self) -> dict[str, Any]:
        """Plain values, copied."""
        return attrs.asdict(self)

    def restore(self, data: Mapping[str, Any]) -> None:
        """Become what `to_data` gave; the containers stay the same objects."""
        self.balance[:] = [Balance(**balance) for balance in data["balance"]]
        self.cooperation[:] = data["cooperation"]
        self.warnings[:] = data["warnings"]
        self.seconds.clear()
        self.seconds |= data["seconds"]
        self.trained.clear()
        self.trained |= data["trained"]
        self.arms.clear()
        self.arms |= data["arms"]
        self.cycles, self.peak_bytes = data["cycles"], data["peak_bytes"]


@attrs.define(kw_only=True)
class Best:
    """The weights with the smallest error on held-out real data so far, and the error at the last look."""

    error: float = math.inf
    state: dict[str, Tensor] | None = None
    latest: float = math.inf

    def to_data(self) -> dict[str, Any]:
        """Plain values and tensors, not copied."""
        return attrs.asdict(self, recurse=False)
