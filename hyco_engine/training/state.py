"""All that training one model goes on from, beside its model and its normalizer."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import attrs
from torch import Tensor

from hyco_engine.training.initial_states import InitialStates
from hyco_engine.training.memory import MemoryPlan
from hyco_engine.training.solver.base import State


@attrs.define(kw_only=True, eq=False)
class PhaseState:
    """A phase under way.

    `start` is the state dict of the model when the phase began, and `first` whether that was its first phase. `epochs`
    counts those that are done; `record` holds the last one's metrics.
    """

    start: Mapping[str, Tensor]
    first: bool
    epochs: int = 0
    record: dict[str, Any] = attrs.Factory(dict)
    converged: bool = False


@attrs.define(kw_only=True, eq=False)
class TrainingState:
    """What a trainer knows of its training; `solver` None: it has not begun.

    `initial` are the start states that are learned beside the model, `memory` says how rollouts fit into memory, and
    `moved` whether any phase changed the model.
    """

    solver: State | None = None
    initial: InitialStates | None = None
    memory: MemoryPlan | None = None
    moved: bool = False
    phase: PhaseState | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values, not copied."""
        return {
            "solver": None if self.solver is None else self.solver.state_dict(),
            "initial": None if self.initial is None else self.initial.shift.detach(),
            "memory": None if self.memory is None else attrs.asdict(self.memory),
            "moved": self.moved,
            "phase": None if self.phase is None else attrs.asdict(self.phase, recurse=False),
        }


def copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy of a state dict."""
    return copy.deepcopy(dict(weights))
