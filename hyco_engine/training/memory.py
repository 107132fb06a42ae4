"""The memory that the gradient of a rollout needs, the distance between kept states with which it fits, and the number
of samples whose derivatives are computed together."""

from __future__ import annotations

import logging
import math
from typing import Any, Literal

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.interfaces import Batch, Player
from hyco_engine.physics.within import internal_steps
from hyco_engine.training.losses import Objective
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.unknowns import Unknowns

logger = logging.getLogger(__name__)

OPERATIONS = 200
"""The first guess at the number of state-sized tensors that a step keeps; if it exceeds the budget, it is measured."""

ENOUGH = 2**17
"""Operations on so many values cost far more than their calls, and their tensors still fit into a processor's cache."""
_TANGENTS = 16
"""The number of tangents of a state, of each kind, that a step holds at a time."""
_TANGENTS_OF_FRAME = 6
"""The number of copies of a frame's tangents: as they are collected, stacked, pushed into residuals and summed up."""


Passes = Literal["batches", "gradients", "tangents"]
"""What passes over all samples compute: batch after batch, or whole gradients, or derivatives in forward mode."""


@attrs.frozen(kw_only=True)
class Room:
    """What a pass over all samples may take: memory, for derivatives by `tangents` numbers of each sample.

    `tangents` is None for gradients. `starts` points are evaluated at a time.
    """

    budget_bytes: float
    tangents: int | None = None
    starts: int = 1

    @classmethod
    def of(cls, unknowns: Unknowns, settings: TrainingSettings, passes: Passes) -> Room | None:
        """Return the room that the settings give to such passes; None for batches of their own size.

        A compiled step is for such batches too, and one call of it costs little.
        """
        compiled = unknowns.physics is not None and unknowns.physics.execution[0] == "inductor"
        if compiled or passes == "batches":
            return None
        budget = settings.memory_gb * 2**30
        if passes == "gradients":
            return cls(budget_bytes=budget)
        return cls(budget_bytes=budget, tangents=unknowns.numbers_of_a_sample, starts=settings.starts)

    def together(self, count: int, state: Tensor, steps: int, internal: int) -> int:
        """Return how many of `count` samples to compute at a time: all that fit, as far as more of them are faster.

        Each is a rollout of `steps` from a start like `state [C_all, *S]`, of `internal` internal steps.
        """
        values, size = self.starts * state.numel(), self.starts * state.nbytes
        if self.tangents is None:
            each = size * steps * internal * OPERATIONS
        else:
            values *= 1 + self.tangents
            each = size * (1 + self.tangents) * (_TANGENTS + _TANGENTS_OF_FRAME * steps)
        most = max(1, min(count, ENOUGH // values, int(min(self.budget_bytes / each, count))))
        # parts of one size, since each size has a graph of its own
        return -(-count // -(-count // most))


@attrs.frozen(kw_only=True)
class MemoryPlan:
    """The bytes that the gradient of a rollout keeps, without and with checkpoints.

    `every` is the number of steps between checkpoints; None if none are needed. The plan is for steps of `internal`
    internal ones.
    """

    steps: int
    plain_bytes: int
    peak_bytes: int
    every: int | None = None
    internal: int = 1

    @property
    def message(self) -> str | None:
        """A message to the user before training; None without checkpoints."""
        if self.every is None:
            return None
        return (
            f"a gradient through {self.steps} steps would keep {_size_text(self.plain_bytes)}; with a checkpoint every "
            f"{self.every} step(s) it keeps about {_size_text(self.peak_bytes)}, for one more forward run"
        )


def plan_rollouts(
    model: nn.Module, objective: Objective, batch: Batch, budget_bytes: float, player: Player
) -> MemoryPlan | None:
    """Return a plan for batches like `batch`; None if the loss has no rollouts.

    The log states the cost before training begins.
    """
    states, steps = batch[0], objective.steps(batch)
    # a predictor of points needs no rollout, though its loss has a horizon
    rolled_out = objective.rolls_out and not objective.takes_parts
    if not rolled_out or not isinstance(states, Tensor) or steps is None:
        return None
    plan = plan_memory(model, states, steps, budget_bytes, internal_steps(model))
    if plan.message:
        logger.warning("the %s model: %s", player, plan.message)
    return plan


def plan_memory(model: nn.Module, state: Tensor, steps: int, budget_bytes: float, internal: int = 1) -> MemoryPlan:
    """Return a plan for rollouts of `steps` from states like `state [B, C_all, *S]`, with `internal` steps in each.

    The states after every k-th step and the tape of one stretch take T/k s + k t bytes, least for k = sqrt(T s / t).
    """
    size = state.nbytes
    guess = size * steps * internal * OPERATIONS
    if guess <= budget_bytes:
        return MemoryPlan(steps=steps, plain_bytes=guess, peak_bytes=guess, internal=internal)
    tape = tape_bytes(model, state)
    plain = steps * (size + tape)
    if plain <= budget_bytes or steps < 2:
        return MemoryPlan(steps=steps, plain_bytes=plain, peak_bytes=plain, internal=internal)
    every = min(steps - 1, max(1, round(math.sqrt(steps * size / max(tape, 1)))))
    peak = math.ceil(steps / every) * size + every * tape + steps * size
    return MemoryPlan(steps=steps, plain_bytes=plain, peak_bytes=peak, every=every, internal=internal)


def most_bytes(size: int, steps: int, internal: int, budget_bytes: float) -> int:
    """Return the most bytes that `plan_memory` may plan for, for states of `size` bytes; this needs no step."""
    plain = size * steps * internal * OPERATIONS
    if plain <= budget_bytes or steps < 2:
        return plain
    checkpointed = size * (2 * math.sqrt(steps * internal * OPERATIONS) + internal * OPERATIONS + steps + 1)
    return min(plain, max(int(budget_bytes), math.ceil(checkpointed)))


def expected_memory(size: int, *, steps: int, internal: int, budget_gb: float) -> dict[str, Any]:
    """Return the memory of the physics' gradient for `hyco-engine check`, for a batch of states of `size` bytes.

    `internal` is the number of internal steps in a frame.
    """
    frames = f"{steps} frame{'s' if steps > 1 else ''} of {internal} internal step{'s' if internal > 1 else ''}"
    reason = (
        f"at most, for the physics' gradient of a batch over {frames}; beyond training.physical.memory_gb = "
        f"{budget_gb:g}, states are computed again instead of kept"
    )
    return {"most_bytes": most_bytes(size, steps, internal, budget_gb * 2**30), "reason": reason}


def tape_bytes(model: nn.Module, state: Tensor) -> int:
    """Measure the bytes that one call of `model` keeps for its gradient; a storage that is kept twice counts once."""
    seen: dict[int, int] = {}
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        # while this tensor lives, no other one gets its address
        kept.append(tensor.detach())
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(state.detach().clone().requires_grad_())
    return sum(seen.values())


def _size_text(size: float) -> str:
    return f"{size / 2**30:.2g} GB" if size >= 2**29 else f"{size / 2**20:.2g} MB"
