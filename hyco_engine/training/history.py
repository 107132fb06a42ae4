"""The history of training, which the summary reports and checkpoints keep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs
from torch import Tensor

from hyco_engine.augment.balance import Balance


@attrs.define(kw_only=True)
class History:
    """The events of training, phase by phase."""

    balance: list[Balance] = attrs.Factory(list)
    cooperation: list[dict[str, Any]] = attrs.Factory(list)
    warnings: list[str] = attrs.Factory(list)
    seconds: dict[str, float] = attrs.Factory(dict)
    trained: dict[str, dict[str, int]] = attrs.Factory(dict)
    """The `epochs` of each player; its `samples`, real and generated, each counted once an epoch; and `converged`."""
    candidates: dict[str, dict[str, Any]] = attrs.Factory(dict)
    """The strategy `kept` for each player, and the `errors` of all, if several strategies train side by side."""
    cycles: int = 0
    peak_bytes: int = 0

    def to_data(self) -> dict[str, Any]:
        """Return plain values, copied."""
        return attrs.asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> History:
        """Return the history of which `data` are the plain values."""
        return cls(**{**data, "balance": [Balance(**balance) for balance in data["balance"]]})

    def marks(self) -> dict[str, int]:
        """Return the lengths of the lists, for `rewind`."""
        return {name: len(getattr(self, name)) for name in ("balance", "cooperation", "warnings")}

    def rewind(self, marks: Mapping[str, int]) -> None:
        """Forget the entries after the marks, since a phase that begins anew records them again."""
        for name, length in marks.items():
            del getattr(self, name)[length:]


@attrs.define(kw_only=True)
class Best:
    """The weights with the smallest error on held-out real data so far, and the latest error."""

    error: float = math.inf
    state: dict[str, Tensor] | None = None
    latest: float = math.inf

    def to_data(self) -> dict[str, Any]:
        """Return plain values and tensors, not copied."""
        return attrs.asdict(self, recurse=False)
