"""The choice of a solver from the settings and the number of parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyco_engine.data.fields import StateLayout
from hyco_engine.errors import SpecError
from hyco_engine.interfaces import Player
from hyco_engine.training.linearized import Linearizer
from hyco_engine.training.losses import Objective
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.solver.base import Solver
from hyco_engine.training.solver.full_batch import FullBatch
from hyco_engine.training.solver.gauss_newton import GaussNewton
from hyco_engine.training.solver.guessed import Guessed
from hyco_engine.training.solver.lbfgs import LBFGS
from hyco_engine.training.solver.minibatch import Minibatch
from hyco_engine.training.solver.multi_start import MultiStart
from hyco_engine.training.solver.patient import Patient
from hyco_engine.training.solver.rollback import Rollback
from hyco_engine.training.solver.staged import Staged
from hyco_engine.training.unknowns import Unknowns

FEW = 50
"""Up to so many parameters, "auto" takes gauss-newton: one forward derivative each, and error bars for free."""
MODERATE = 1_000_000
"""Up to so many parameters, "auto" takes lbfgs, which keeps forty vectors of that length."""

FULL_BATCH = ("gauss-newton", "lbfgs")
"""Optimizers that use all samples in each iteration, and need an objective that stays the same."""


def choose_optimizer(name: str, count: int, squared: bool = True) -> str:
    """Return the optimizer for a physics with `count` numbers to learn; `squared` losses are sums of squares."""
    if name != "auto":
        return name
    if count <= FEW and squared:
        return "gauss-newton"
    return "lbfgs" if count <= MODERATE else "adam"


def optimizer_name(unknowns: Unknowns, player: Player, settings: TrainingSettings, objective: Objective) -> str:
    """Return the optimizer that `settings` mean for this model. Raises SpecError if it does not fit the model."""
    asked, squared = settings.optimizer, objective.squared
    if asked == "gauss-newton" and not squared:
        kinds = ", ".join(f"{spec.name} ({spec.kind})" for spec in objective.specs)
        raise SpecError(
            f"gauss-newton needs squared errors; the loss terms are {kinds}: use lbfgs or adam",
            key=f"training.{player}.optimizer",
        )
    count = sum(parameter.numel() for parameter in unknowns.parameters)
    name = choose_optimizer(asked, count, squared) if asked != "auto" or player == "physical" else "adam"
    able = name in FULL_BATCH and player == "physical" and objective.rolls_out and settings.starts == 1
    if settings.initial_states == "learned" and not able:
        raise SpecError(
            "initial states are learned with a physics, on rollouts, by gauss-newton or lbfgs, from one start; "
            f"this is the {player} model under {name}: leave initial_states out, or choose another optimizer",
            key=f"training.{player}.initial_states",
        )
    if settings.input_noise and name in FULL_BATCH:
        raise SpecError(
            f"input noise changes from step to step, and {name} needs an objective that stays: leave input_noise out, "
            'or choose optimizer = "adam"',
            key=f"training.{player}.input_noise",
        )
    if settings.starts > 1 and (name not in FULL_BATCH or player != "physical"):
        raise SpecError(
            f"several starts are for a physics under gauss-newton or lbfgs; this is the {player} model under {name}: "
            "leave starts out, or choose another optimizer",
            key=f"training.{player}.starts",
        )
    return name


def solver_for(
    unknowns: Unknowns,
    player: Player,
    settings: TrainingSettings,
    objective: Objective,
    linearizer: Linearizer,
    total_epochs: int | None,
    error: Callable[[], float] | None = None,
    layout: StateLayout | None = None,
) -> Solver[Any]:
    """Return the solver that the settings ask for. Raises SpecError if it does not fit the model.

    `linearizer` computes the model's derivatives; `total_epochs` is the number of epochs in the whole run. `error`
    measures the model on held-out data; without it there is no patience. `layout` is that of the data's states.
    """
    name = optimizer_name(unknowns, player, settings, objective)
    solver: Solver[Any]
    if name in FULL_BATCH:
        full: FullBatch[Any] = LBFGS(player=player)
        if name == "gauss-newton":
            full = GaussNewton(player=player, linearizer=linearizer)
        solver = full
        if settings.starts > 1 and unknowns.physics is not None:
            solver = MultiStart(full, settings.starts)
        elif settings.initial_states == "learned":
            solver = Guessed(full, layout)
    else:
        batches = Minibatch(name=name, player=player, settings=settings, total_epochs=total_epochs)
        solver = Rollback(batches) if settings.on_divergence == "rollback" else batches
    if settings.curriculum:
        if not objective.rolls_out:
            raise SpecError(
                f"a curriculum shortens rollouts, and the {player} model is not trained on such: leave it out",
                key=f"training.{player}.curriculum",
            )
        solver = Staged(solver, settings.curriculum)
    return Patient(solver, settings.patience, error) if settings.patience and error is not None else solver
