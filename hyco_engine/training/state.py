"""A trainer's state: all that training goes on from, beside settings and data."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import attrs

from hyco_engine.errors import RunError
from hyco_engine.training.initial_states import InitialStates
from hyco_engine.training.memory import MemoryPlan
from hyco_engine.training.multi_start import MultiStart
from hyco_engine.training.phase_notes import SkippedBatches
from hyco_engine.training.position import PhasePosition
from hyco_engine.training.trainer import Trainer

_COUNTERS = ("epochs_done", "steps_done", "rollbacks", "_has_moved")


def trainer_state(trainer: Trainer) -> dict[str, Any]:
    """Tensors and plain values, not copied; within a phase also where in it training is."""
    optimizer, memory, starts, phase = trainer._optimizer, trainer._memory, trainer.multi_start, trainer._phase
    return {
        "model": dict(trainer.model.state_dict()),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        "normalization": trainer.normalization.state_dict(),
        "counters": {name: getattr(trainer, name) for name in _COUNTERS},
        "initial": None if trainer.initial is None else trainer.initial.shift.detach(),
        "curriculum": trainer.curriculum.done,
        "starved": dict(vars(trainer._starved)),
        "skipped": attrs.asdict(trainer._skipped),
        "warnings": list(trainer._warnings),
        "memory": None if memory is None else attrs.asdict(memory),
        "multi_start": None if starts is None else starts.to_data(),
        "phase": None if phase is None else phase.state_dict(trainer.device),
    }


def load_trainer_state(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """What `trainer_state` gave. Where that was within a phase, the model must be as it was at the phase's start.

    Raises RunError where the state is of other parts, PluginError where the normalizer does not take its own back.
    """
    state = copy.deepcopy(dict(state))
    phase, memory, starts = state["phase"], state["memory"], state["multi_start"]
    trainer._phase = None if phase is None else PhasePosition.from_state(phase, trainer.learned())
    if state["initial"] is not None:
        trainer.learn_initial(InitialStates(state["initial"].to(trainer.device)))
    elif trainer.initial is not None:
        trainer.learn_initial(None)
    try:
        trainer.model.load_state_dict(state["model"])
        if trainer._optimizer is not None:
            trainer._optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"the state does not fit the {trainer.player} model {trainer.model_name}: {error}") from error
    trainer.normalization.load_state_dict(state["normalization"])
    for name in _COUNTERS:
        setattr(trainer, name, state["counters"][name])
    trainer.curriculum.done = state["curriculum"]
    vars(trainer._starved).update(state["starved"])
    trainer._skipped = SkippedBatches(**state["skipped"])
    trainer._warnings = state["warnings"]
    trainer.multi_start = None if starts is None else MultiStart.from_data(starts)
    trainer._memory = None if memory is None else MemoryPlan(**memory)
    if trainer._memory is not None:
        trainer._memory.follow(trainer.objective)
