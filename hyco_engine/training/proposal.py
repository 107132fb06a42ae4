"""Proposals: what a model was taught is kept only if its error on held-out real data did not rise.

Held-out data are few, so the change of an error, log(after / before), has an uncertainty. A bootstrap estimates it as
the standard deviation of the change over resamples of the held-out data, the same ones for before and after. If there
are few simulations, it also draws blocks of successive lead times, whose errors are alike.
Source: H. Künsch, Annals of Statistics 17 (1989), for blocks.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import attrs
import torch
from torch import Tensor

from hyco_engine.errors import RunError
from hyco_engine.hooks.attribution import attributed
from hyco_engine.interfaces import Augmentation, Phase, Player
from hyco_engine.randomness import derive_generator
from hyco_engine.training.evaluation import HeldOut
from hyco_engine.training.history import Best, History, Trial
from hyco_engine.training.trainer import Trainer

RESAMPLES = 400
MANY = 8
"""If there are at least so many simulations, or samples, the bootstrap draws these alone."""
LEAST = 0.05
"""The least uncertainty of a change. Resamples of few simulations find any change certain that has one sign at all lead
times. But a physics whose error had risen by 1 or 2 % had better parameters in the cases that were measured."""


@attrs.frozen
class Change:
    """The change log(after / before) of an error, and its uncertainty."""

    value: float
    uncertainty: float

    @property
    def rose(self) -> bool:
        """True if the error rose by more than the uncertainty."""
        return self.value > self.uncertainty

    @property
    def fell(self) -> bool:
        """True if the error fell by more than the uncertainty."""
        return -self.value > self.uncertainty


def change(heldout: HeldOut, before: Tensor, after: Tensor, generator: torch.Generator) -> Change:
    """Return the change from one model's errors to another's; both are as `HeldOut.by_unit` returns them."""
    diverged = [not bool(errors.isfinite().all()) for errors in (before, after)]
    if any(diverged):
        return Change(0.0 if all(diverged) else math.inf if diverged[1] else -math.inf, 0.0)
    seen = before[1].sum(dim=(0, 2)) > 0
    before, after = before[:, :, seen], after[:, :, seen]
    n, steps = before.shape[1:3]
    units = _counts(torch.randint(n, (RESAMPLES, n), generator=generator), n)
    leads = _counts(_blocks(steps, generator), steps) if n < MANY else torch.ones(RESAMPLES, steps).double()
    changes = heldout.scores(after, units, leads).log() - heldout.scores(before, units, leads).log()
    # a resample may have drawn no observation
    known = changes[changes.isfinite()]
    uncertainty = float(known.std()) if len(known) > 1 else LEAST
    return Change(math.log(total(heldout, after) / total(heldout, before)), max(LEAST, uncertainty))


def total(heldout: HeldOut, by_unit: Tensor) -> float:
    """Return the score over all held-out data, which is that of `HeldOut.measure`."""
    return float(heldout.scores(by_unit, *(torch.ones(1, size).double() for size in by_unit.shape[1:3])))


def _blocks(steps: int, generator: torch.Generator) -> Tensor:
    """Draw lead times in blocks of about sqrt(steps) successive ones, which may go on from the last to the first."""
    length = math.isqrt(steps - 1) + 1
    starts = torch.randint(steps, (RESAMPLES, -(-steps // length), 1), generator=generator)
    return ((starts + torch.arange(length)) % steps).flatten(1)


def _counts(drawn: Tensor, n: int) -> Tensor:
    return torch.zeros(len(drawn), n).double().scatter_add_(1, drawn, torch.ones(drawn.shape).double())


@attrs.define(kw_only=True, eq=False)
class Proposals:
    """Measures the models on held-out data, undoes what did harm, and knows the best weights of each model.

    A taught phase that may be undone has a `Trial` from its beginning on. If it is undone, the same phase follows on
    real data alone. If that ends better, the teacher waits until its own error has fallen. Without held-out data
    nothing is undone.
    """

    trainers: Mapping[Player, Trainer]
    best: Mapping[Player, Best]
    heldout: HeldOut | None
    seed: int

    def measure_on(self, heldout: HeldOut | None) -> None:
        """Measure on other rollouts from now on, and the best weights so far as well."""
        self.heldout = heldout
        if heldout is None:
            return
        for player, best in self.best.items():
            if best.state is not None:
                best.latest = heldout.score(self.measured(player))
                with self.trainers[player].unknowns.with_weights(best.state):
                    best.error = heldout.score(self.measured(player))

    def measured(self, player: Player) -> dict[str, Any]:
        """Return the metrics of a model on held-out real data, which there must be."""
        with self._attributed(player):
            return self._data.measure(self.trainers[player].model)

    def errors(self, *, noise: bool = False) -> dict[Player, float]:
        """Return the models' errors, with or without the noise of the data. Raises RunError if none is held out."""
        if self.heldout is None:
            raise RunError("this strategy weighs the models by held-out errors: give validation data (data.split.val)")
        if noise:
            return {player: self._data.score(self.measured(player)) for player in self.trainers}
        return {player: self._error(player) for player in self.trainers}

    def repeats(self, player: Player) -> bool:
        """Return True if the last phase of a model was undone, and has to be repeated on real data alone."""
        trial = self.best[player].trial
        return trial is not None and trial.undone is not None

    def begin(self, phase: Phase, augmentation: Augmentation, cycle: int) -> Augmentation:
        """Begin a taught phase that may be undone; return what is taught, which is nothing if the teacher waits.

        A teacher that diverges teaches nothing either.
        """
        if self.heldout is None or (augmentation.recipe is None and not augmentation.terms):
            return augmentation
        teacher, pupil = self.best[phase.teacher], self.best[phase.player]
        now = self._by_unit(phase.teacher)
        # errors on rollouts of other lengths cannot be compared
        refused = None if teacher.refused is None or teacher.refused.shape != now.shape else teacher.refused
        better = refused is None or self._change(refused, now, phase.teacher, "waits", cycle).fell
        accepted = better and bool(now.isfinite().all())
        if accepted and pupil.trial is None:
            state = copy.deepcopy(self.trainers[phase.player].state_dict())
            pupil.trial = Trial(state=state, errors=self._by_unit(phase.player))
        record = {**augmentation.record, "accepted": accepted}
        if accepted:
            return attrs.evolve(augmentation, record=record)
        return Augmentation(record=record)

    def drop(self, player: Player) -> None:
        """Forget the trial of a phase for which its teacher generated nothing after all."""
        self.best[player].trial = None

    def judge(self, phase: Phase, metrics: Mapping[str, Any], cycle: int, history: History) -> list[str]:
        """Judge a phase whose model now has these metrics, and undo it if it did harm.

        Returns messages to the user, without the place.
        """
        player, notes = phase.player, []
        best, error = self.best[player], self._data.score(metrics)
        if (trial := best.trial) is not None:
            now = self._by_unit(player)
            if trial.undone is None:
                harmed = self._change(trial.errors, now, player, "taught", cycle).rose
                history.cooperation[-1] |= {"e_after": self._error(player), "accepted": not harmed}
                if harmed:
                    before = total(self._data, trial.errors)
                    self.trainers[player].undo(trial.state)
                    trial.undone = now
                    return [
                        f"what the {phase.teacher} model taught the {player} model raised its error on held-out data "
                        f"from {before:.3g} to {error:.3g}: it is undone, and the phase repeated on real data alone"
                    ]
                best.taught = True
            elif self._change(trial.undone, now, player, "alone", cycle).fell:
                self.best[phase.teacher].refused = self._by_unit(phase.teacher)
                notes.append(
                    f"the {phase.teacher} model teaches the {player} model again once its own error on held-out data "
                    "has fallen"
                )
            best.trial = None
        best.latest = error
        if error < best.error:
            best.error, best.state, best.starts = error, *self.trainers[player].found()
        return notes

    def polishes(self, phase: Phase, cycle: int) -> bool:
        """Return True if a model was taught something, and by a teacher that is not better than it is itself.

        A physics that is worse than the surrogate lacks something. Real data alone would lead it back to parameters
        that imitate what it lacks.
        """
        player, teacher = phase.player, phase.teacher
        if not self.best[player].taught:
            return False
        return not self._change(self._by_unit(teacher), self._by_unit(player), player, "polish", cycle).rose

    def settle(self, cycle: int) -> None:
        """Give each model its best weights, unless the last ones are as good within the uncertainty."""
        for player, best in self.best.items():
            if best.state is None or best.latest == best.error:
                continue
            trainer, now = self.trainers[player], self._by_unit(player)
            with trainer.unknowns.with_weights(best.state):
                lowest = self._by_unit(player)
            if self._change(lowest, now, player, "settle", cycle).rose:
                trainer.take(best.state, best.starts)

    @property
    def _data(self) -> HeldOut:
        assert self.heldout is not None
        return self.heldout

    def _error(self, player: Player) -> float:
        with self._attributed(player):
            return self._data.error(self.trainers[player].model)

    def _by_unit(self, player: Player) -> Tensor:
        with self._attributed(player):
            return self._data.by_unit(self.trainers[player].model)

    def _attributed(self, player: Player) -> AbstractContextManager[None]:
        return attributed(self.trainers[player].who, "rollouts on held-out data")

    def _change(self, before: Tensor, after: Tensor, *purpose: str | int) -> Change:
        return change(self._data, before, after, derive_generator(self.seed, "proposal", *purpose))
