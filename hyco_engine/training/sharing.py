"""Whether several processes would be faster than one, from the counted work of a step.

The work of a surrogate's step is counted in operations of its layers, that of the physics in values that its operations
compute. Both are divided among processes; their meetings are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from hyco_engine.data.fields import StateLayout
from hyco_engine.interfaces import Player
from hyco_engine.physics.compiling import VALUE_S
from hyco_engine.physics.within import internal_steps, physics_within
from hyco_engine.training.memory import OPERATIONS
from hyco_engine.training.planning import counted_work
from hyco_engine.training.solver.choosing import FULL_BATCH
from hyco_engine.training.trainer import Trainer

MEETINGS_S = 3e-3
"""Seconds that processes of one machine meet for in a step: three times, for about a millisecond each."""


def sharing(trainers: Mapping[Player, Trainer], samples: Mapping[Player, int], horizon: int) -> dict[str, Any] | None:
    """Return whether two processes are faster than one, `pays`, and the `reason`; None if no model is rolled out.

    They are if they save more than their meetings cost: half of the work of a step, of the model with more of it.
    """
    found: dict[Player, float] = {}
    for player, trainer in trainers.items():
        if trainer.layout is not None and _is_rollouts(trainer) and trainer.trainable:
            # a plan does not fail where a plugin's surrogate cannot step from states of zeros
            with suppress(Exception):
                found[player] = work_of_step(trainer, trainer.layout, samples[player], horizon)
    if not found:
        return None
    player, work = max(found.items(), key=lambda entry: entry[1])
    name = "surrogate" if player == "synthetic" else "physics"
    pays = work / 2 > MEETINGS_S
    reason = (
        f"a step of the {name} takes about {1e3 * work:.2g} ms; two processes save half of it, and lose "
        f"{1e3 * MEETINGS_S:g} ms when they meet: {'several processes are faster' if pays else 'one process is faster'}"
    )
    return {"pays": pays, "reason": reason}


def _is_rollouts(trainer: Trainer) -> bool:
    """Return whether the loss is that of rollouts on a grid, which alone can be counted without data."""
    return trainer.objective.rolls_out and not trainer.objective.takes_parts


def work_of_step(trainer: Trainer, layout: StateLayout, samples: int, horizon: int) -> float:
    """Return the seconds of work of one step of the optimizer, or of one of its passes over all samples."""
    full = trainer.optimizer_name in FULL_BATCH
    together = samples if full else min(samples, trainer.settings.batch_size)
    stages = trainer.settings.curriculum
    steps = stages[0][0] if stages else horizon
    if not physics_within(trainer.model):
        return together * counted_work(trainer.model, trainer.objective, layout, steps)
    # what corrects a physics is far less work than the physics
    directions = 1 + trainer.unknowns.numbers_of_a_sample if trainer.solver.passes == "tangents" else 1
    values = math.prod(layout.spatial) * layout.n_dynamic * steps * internal_steps(trainer.model)
    return together * values * OPERATIONS * directions * VALUE_S
