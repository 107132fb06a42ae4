"""Candidates: strategies that train side by side, of which held-out data chooses the best at the end.

The spec and the results call them arms. All candidates begin from the same start and take turns, a cycle each. The
trainers hold the state of the candidate whose turn it is; the states of the others wait in a list.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from torch import nn

from hyco_engine.errors import PluginError
from hyco_engine.interfaces import Arm, Player, Strategy
from hyco_engine.training.cycle import Turn
from hyco_engine.training.history import Best
from hyco_engine.training.trainer import Trainer


def candidates_of(strategy: Strategy | None) -> tuple[Arm, ...]:
    """Return the candidates of a strategy; a strategy without any is the only candidate itself, and has no name.

    Raises PluginError if a candidate has candidates itself.
    """
    arms = () if strategy is None else tuple(strategy.arms())
    for arm in arms:
        if arm.strategy is not None and arm.strategy.arms():
            raise PluginError(
                f"the arm {arm.name!r} of {type(strategy).__name__} has arms itself, which the engine never asks"
            )
    return arms or (Arm(name="", strategy=strategy),)


def label(candidate: Arm, candidates: Sequence[Arm]) -> dict[str, str]:
    """Return the label of a candidate's records, which is empty if there is no other candidate."""
    return {"arm": candidate.name} if len(candidates) > 1 else {}


def check_strategy(
    strategy: Strategy, models: Mapping[Player, nn.Module], n_real: int, alpha: float, *, heldout: bool
) -> None:
    """Have a strategy, and each candidate that may generate, check that it can work with these models."""
    arms = candidates_of(strategy)
    if len(arms) > 1:
        strategy.check(models, heldout=heldout)
    for arm in arms:
        if arm.strategy is not None and arm.max_generated(n_real, alpha) > 0:
            arm.strategy.check(models, heldout=heldout)


@attrs.define(kw_only=True, eq=False)
class Candidates:
    """The candidates' states and their turns. A single candidate is never copied.

    `best` are the best weights of the candidate whose turn it is; after `choose` those of the chosen ones.
    """

    candidates: Sequence[Arm]
    alpha: float
    trainers: Mapping[Player, Trainer]
    best: dict[Player, Best]
    _active: int | None = 0
    """The index of the candidate whose turn it is; None after the choice, when the trainers hold the chosen models."""
    _states: list[dict[str, Any]] = attrs.Factory(list)
    """The whole state of each candidate when its last turn ended; empty before the first turn."""
    _chosen: dict[Player, int] = attrs.Factory(dict)
    """The index of the candidate that was chosen for each model."""

    @classmethod
    def of(
        cls, strategy: Strategy | None, alpha: float, trainers: Mapping[Player, Trainer], best: dict[Player, Best]
    ) -> Candidates:
        """Return the candidates of a strategy, for trainers that have not begun."""
        return cls(candidates=candidates_of(strategy), alpha=alpha, trainers=trainers, best=best)

    @property
    def several(self) -> bool:
        """True if there is more than one candidate."""
        return len(self.candidates) > 1

    @property
    def turn(self) -> Turn:
        """The turn of the present candidate."""
        return self._turn(self._active or 0)

    def turn_of(self, player: Player) -> Turn:
        """Return a turn of the candidate that was chosen for a model."""
        return self._turn(self._chosen.get(player, 0))

    def _turn(self, index: int) -> Turn:
        arm = self.candidates[index]
        return Turn(
            strategy=arm.strategy,
            alpha=self.alpha if arm.alpha is None else arm.alpha,
            name=arm.name if self.several else "",
            label=label(arm, self.candidates),
            first=index == 0,
        )

    def begin(self) -> None:
        """Prepare for training: every candidate begins from the trainers' state, or continues from its own."""
        if not self.several:
            return
        if not self._states:
            self._states = [self._state() for _ in self.candidates]
        if self._active is None:
            self._active = 0
            self._load(self._states[0])

    def next(self) -> bool:
        """Give the turn to the next candidate; return True if all have had theirs."""
        if not self.several:
            return True
        assert self._active is not None  # training has begun
        self._states[self._active] = self._state()
        self._active = (self._active + 1) % len(self.candidates)
        self._load(self._states[self._active])
        return self._active == 0

    def choose(self) -> dict[str, Any]:
        """Give each trainer the state with its smallest error on held-out data.

        Returns `{player: {"kept": name, "errors": {name: error}}}`, which is empty if there is no choice.
        """
        # without a cycle there is nothing to choose from
        if not self.several or self._active is None or not self._states:
            return {}
        self._states[self._active] = self._state()
        self._active = None
        choices: dict[str, Any] = {}
        for player in self.trainers:
            errors = [state["best"][player]["error"] for state in self._states]
            if (chosen := best_of(errors)) is None:
                continue
            self._chosen[player] = chosen
            self._load_player(player, self._states[chosen])
            names = [arm.name for arm in self.candidates]
            choices[player] = {"kept": names[chosen], "errors": dict(zip(names, errors, strict=True))}
        return choices

    def state_dict(self) -> dict[str, Any] | None:
        """Return the state that the trainers do not hold, not copied."""
        return None if not self.several else {"active": self._active, "states": self._states}

    def load_state_dict(self, saved: Mapping[str, Any] | None) -> None:
        """Continue from what `state_dict` returned."""
        if saved is not None:
            self._active, self._states = saved["active"], copy.deepcopy(saved["states"])

    def _state(self) -> dict[str, Any]:
        state = {
            "trainers": {player: trainer.state_dict() for player, trainer in self.trainers.items()},
            "best": {player: best.to_data() for player, best in self.best.items()},
        }
        return copy.deepcopy(state)

    def _load(self, state: Mapping[str, Any]) -> None:
        for player in self.trainers:
            self._load_player(player, state)

    def _load_player(self, player: Player, state: Mapping[str, Any]) -> None:
        self.trainers[player].restart(state["trainers"][player])
        self.best[player] = Best.from_data(copy.deepcopy(state["best"][player]))


def best_of(errors: Sequence[float]) -> int | None:
    """Return the index of the smallest finite error; None if no error is finite."""
    finite = [k for k, error in enumerate(errors) if math.isfinite(error)]
    return min(finite, key=lambda k: errors[k], default=None)
