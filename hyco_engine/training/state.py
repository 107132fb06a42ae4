"""The state of training one model, beside the model and its normalizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.data.fields import StateLayout
from hyco_engine.physics.within import internal_steps
from hyco_engine.training.initial_states import InitialStates
from hyco_engine.training.memory import MemoryPlan
from hyco_engine.training.problem import Problem
from hyco_engine.training.solver.base import Solver, State
from hyco_engine.training.unknowns import Unknowns


@attrs.define(kw_only=True, eq=False)
class PhaseState:
    """A phase under way.

    `start` is the state dict of the model when the phase began, and `before` are copies of what the model learns.
    `first` is true for the model's first phase. `epochs` counts the epochs done; `record` holds the metrics of the
    last one.
    """

    start: Mapping[str, Tensor]
    before: Mapping[str, Tensor]
    first: bool
    epochs: int = 0
    record: dict[str, Any] = attrs.Factory(dict)
    converged: bool = False

    def state_dict(self) -> dict[str, Any]:
        """Return all but `before`, which `start` gives again."""
        return {name: value for name, value in attrs.asdict(self, recurse=False).items() if name != "before"}

    @classmethod
    def load(cls, saved: Mapping[str, Any], unknowns: Unknowns) -> PhaseState:
        """Return the phase of which `saved` is the state dict."""
        with unknowns.with_weights(saved["start"]):
            before = unknowns.copies()
        return cls(**saved, before=before)


@attrs.define(kw_only=True, eq=False)
class TrainingState:
    """The state of a trainer; `solver` is None before training begins.

    `initial` are the start states that are learned beside the model, `memory` says how rollouts fit into memory, and
    `moved` is true if any phase changed the model. `undone` counts the epochs and steps of phases that were undone;
    records count them too.
    """

    solver: State | None = None
    initial: InitialStates | None = None
    memory: MemoryPlan | None = None
    moved: bool = False
    undone: tuple[int, int] = (0, 0)
    phase: PhaseState | None = None

    @property
    def at(self) -> dict[str, int]:
        """The `epoch` and `step` of records."""
        done = (0, 0) if self.solver is None else (self.solver.epochs, self.solver.steps)
        return {"epoch": done[0] + self.undone[0], "step": done[1] + self.undone[1]}

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values, not copied."""
        return {
            "solver": None if self.solver is None else self.solver.state_dict(),
            "initial": None if self.initial is None else dict(self.initial.state_dict()),
            "memory": None if self.memory is None else attrs.asdict(self.memory),
            "moved": self.moved,
            "undone": self.undone,
            "phase": None if self.phase is None else self.phase.state_dict(),
        }

    @classmethod
    def load(
        cls,
        saved: Mapping[str, Any],
        solver: Solver[Any],
        unknowns: Unknowns,
        layout: StateLayout | None,
        device: torch.device,
    ) -> TrainingState:
        """Return the state of which `saved` is the state dict; `solver` is the solver that made it."""
        starts, memory, phase = saved["initial"], saved["memory"], saved["phase"]
        initial = None if starts is None or layout is None else InitialStates.load(starts, layout).to(device)
        parameters = [*unknowns.parameters, *([] if initial is None else initial.parameters())]
        return cls(
            solver=None if saved["solver"] is None else solver.load(saved["solver"], parameters),
            initial=initial,
            memory=None if memory is None else MemoryPlan(**memory),
            moved=saved["moved"],
            undone=tuple(saved["undone"]),
            phase=None if phase is None else PhaseState.load(phase, unknowns),
        )

    def plan_memory(self, problem: Problem, budget_gb: float) -> None:
        """Plan how rollouts fit into memory, anew for other numbers of internal steps; a phase keeps its plan."""
        fits = self.memory is not None and self.memory.internal == internal_steps(problem.model)
        if self.memory is None or not (fits or self.phase is not None):
            self.memory = problem.plan_memory(budget_gb)

    def learn_starts(self, data: AugmentedDataset, layout: StateLayout, device: torch.device) -> None:
        """Begin to learn the start states of the real samples. Raises RunError if others are learned already."""
        self.initial = self.initial or InitialStates.of(data, layout, device)
        self.initial.check(data)
