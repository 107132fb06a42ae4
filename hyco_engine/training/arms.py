"""Strategies tried side by side: each trains models of its own from the same start."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import attrs
from torch import nn

from hyco_engine.errors import PluginError
from hyco_engine.interfaces import Arm, Player, Strategy
from hyco_engine.training.history import Best
from hyco_engine.training.normalized import Normalization
from hyco_engine.training.state import load_trainer_state, trainer_state
from hyco_engine.training.trainer import Trainer


def arms_of(strategy: Strategy | None) -> tuple[Arm, ...]:
    """The arms of a strategy; one that has none is its own only arm, and so is none.

    Raises PluginError where an arm has arms itself.
    """
    arms = () if strategy is None else tuple(strategy.arms())
    for arm in arms:
        if arm.strategy is not None and arm.strategy.arms():
            raise PluginError(
                f"the arm {arm.name!r} of {type(strategy).__name__} has arms itself, and nobody asks those"
            )
    return arms or (Arm(name="", strategy=strategy),)


def check_strategy(
    strategy: Strategy, models: Mapping[Player, nn.Module], n_real: int, alpha: float, *, heldout: bool
) -> None:
    """Ask a strategy, and each of its arms that may generate, whether it can work with these models."""
    arms = arms_of(strategy)
    if len(arms) > 1:
        strategy.check(models, heldout=heldout)
    for arm in arms:
        if arm.strategy is not None and arm.max_generated(n_real, alpha) > 0:
            arm.strategy.check(models, heldout=heldout)


@attrs.define(kw_only=True)
class Arms:
    """Which arm the trainers are at, and what the other arms left.

    With a single arm nothing is ever copied.
    """

    arms: tuple[Arm, ...]
    trainers: Mapping[Player, Trainer]
    best: dict[Player, Best]
    """Of the arm that the trainers are at; after `settle` of what was kept."""
    _active: int = 0
    _start: dict[str, Any] | None = None
    _left: dict[str, dict[str, Any]] = attrs.Factory(dict)
    """By arm: all that its models go on from."""
    _fresh: dict[Player, Normalization] = attrs.Factory(dict)
    """As they were before training: a normalizer knows the loss terms of its own arm alone."""
    _settled: bool = False

    def __attrs_post_init__(self) -> None:
        if len(self.arms) > 1:
            self._fresh = {player: copy.deepcopy(trainer.normalization) for player, trainer in self.trainers.items()}

    @property
    def active(self) -> Arm:
        """The arm that the trainers are at."""
        return self.arms[self._active]

    @property
    def name(self) -> str:
        """Of the active arm; empty where there is no other."""
        return self.active.name if len(self.arms) > 1 else ""

    @property
    def label(self) -> dict[str, str]:
        """What tells the records of several arms apart."""
        return {"arm": self.name} if self.name else {}

    def at(self, cycle: int) -> str:
        """What messages say of when something happened."""
        return f"cycle {cycle}, arm {self.name}" if self.name else f"cycle {cycle}"

    def begin(self) -> None:
        """Before training goes on: the trainers are at the active arm again."""
        if len(self.arms) > 1 and self._start is None:
            self._start = copy.deepcopy(self._models())
        if self._settled:
            self._load(self._left[self.active.name])
            self._settled = False

    def turn(self) -> bool:
        """Go to the next arm; True where that is the first one again, or there is no other."""
        if len(self.arms) < 2:
            return True
        self._leave()
        self._active = (self._active + 1) % len(self.arms)
        self._load(self._left.get(self.active.name, self._start))
        return self._active == 0

    def settle(self) -> dict[str, Any]:
        """Give each trainer what the arm with its smallest held-out error left, and say which that is.

        `{player: {"kept": name, "errors": {name: error}}}`; empty where there is nothing to choose from.
        """
        if len(self.arms) < 2 or self._settled:
            return {}
        self._leave()
        self._settled = True
        told: dict[str, Any] = {}
        for player in self.trainers:
            errors = {name: left["best"][player]["latest"] for name, left in self._left.items()}
            finite = {name: error for name, error in errors.items() if math.isfinite(error)}
            if not finite:
                continue
            kept = min(finite, key=lambda name: finite[name])
            self._load_trainer(player, self._left[kept])
            best = min((left["best"][player] for left in self._left.values()), key=lambda found: found["error"])
            self.best[player] = Best(**copy.deepcopy(best))
            told[player] = {"kept": kept, "errors": errors}
        return told

    def state_dict(self) -> dict[str, Any] | None:
        """What is not in the trainers, not copied."""
        if len(self.arms) < 2:
            return None
        return {"active": self._active, "start": self._start, "left": self._left, "settled": self._settled}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """What `state_dict` gave."""
        if state is not None:
            found = copy.deepcopy(dict(state))
            self._active, self._start = found["active"], found["start"]
            self._left, self._settled = found["left"], found["settled"]

    def _leave(self) -> None:
        self._left[self.active.name] = copy.deepcopy(self._models())

    def _models(self) -> dict[str, Any]:
        return {
            "trainers": {player: trainer_state(trainer) for player, trainer in self.trainers.items()},
            "best": {player: best.to_data() for player, best in self.best.items()},
        }

    def _load(self, state: Mapping[str, Any] | None) -> None:
        assert state is not None
        for player in self.trainers:
            self._load_trainer(player, state)
            self.best[player] = Best(**copy.deepcopy(state["best"][player]))

    def _load_trainer(self, player: Player, state: Mapping[str, Any]) -> None:
        trainer = self.trainers[player]
        trainer.normalization = copy.deepcopy(self._fresh[player])
        load_trainer_state(trainer, state["trainers"][player])
