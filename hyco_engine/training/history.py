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


@attrs.define(kw_only=True, eq=False)
class Trial:
    """A taught phase that may be undone: the trainer's `state` before it, and the errors then, unit by unit.

    If it was undone, `undone` are the errors that it ended with, and the phase is repeated on real data alone.
    """

    state: dict[str, Any]
    errors: Tensor
    undone: Tensor | None = None


@attrs.define(kw_only=True, eq=False)
class Best:
    """The weights of a model with the smallest error on held-out real data so far, the latest error, and its teaching.

    `starts` is the state dict of the start states that were learned beside these weights. `taught` is true once it kept
    something that it was taught, and `trial` is its taught phase under way. As a teacher, it had the errors `refused`
    when its teaching was last undone, and waits until they have fallen.
    """

    error: float = math.inf
    state: dict[str, Tensor] | None = None
    starts: dict[str, Tensor] | None = None
    latest: float = math.inf
    taught: bool = False
    trial: Trial | None = None
    refused: Tensor | None = None

    def to_data(self) -> dict[str, Any]:
        """Return plain values and tensors, not copied."""
        trial = None if self.trial is None else attrs.asdict(self.trial, recurse=False)
        return {**attrs.asdict(self, recurse=False), "trial": trial}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Best:
        """Return what `data` are the values of, which is not copied."""
        return cls(**{**data, "trial": None if data["trial"] is None else Trial(**data["trial"])})
