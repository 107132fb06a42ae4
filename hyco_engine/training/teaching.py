"""The samples of a phase: the real ones, and those that the teacher generates for the pupil."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor

from hyco_engine.augment.balance import Balance, check_balance
from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.augment.recipes import FirstSamples, RolloutRecipe, TeacherDiverged
from hyco_engine.augment.shared import SharedRecipe
from hyco_engine.data.recut import Every
from hyco_engine.errors import PluginError, RunError
from hyco_engine.hooks.attribution import attributed
from hyco_engine.interfaces import (
    Augmentation,
    CacheBackend,
    CycleContext,
    GeneratedSamples,
    Phase,
    Player,
    Recipe,
    Samples,
    Strategy,
)
from hyco_engine.physics.within import physics_within
from hyco_engine.randomness import derive_generator
from hyco_engine.rollout import evaluating
from hyco_engine.training.evaluation import HeldOutSamples
from hyco_engine.training.history import History
from hyco_engine.training.informed import InformedSurrogate
from hyco_engine.training.proposal import Proposals
from hyco_engine.training.trainer import Trainer

PROBE = 128
"""The most samples on which a loss is measured before a phase."""
TOGETHER = 2**16
"""The least values of states that a teacher steps together, as far as there are so many samples: the calls of a step
take as long with fewer, and batches that train are smaller."""


class BalanceWarning(UserWarning):
    """Warns that real and generated samples are not in the ratio that the strategy declares."""


class Folders(Protocol):
    """Makes a folder for the generated samples of a phase."""

    def generated(self, player: Player, cycle: int) -> Any:
        """Return a context manager that makes the folder and removes it afterwards."""

    def note(self, nbytes: int) -> None:
        """Take note of the number of bytes that were held."""


@attrs.frozen(kw_only=True, eq=False)
class Place:
    """A phase at its place in training: the `index`-th phase of a cycle.

    `candidate` names the strategy if several train side by side, and `label` names it in records. Messages call the
    place `at`, such as "cycle 2".
    """

    phase: Phase
    cycle: int
    index: int
    at: str
    candidate: str
    label: Mapping[str, str]


@attrs.frozen(kw_only=True, eq=False)
class Teaching:
    """Asks a strategy what the teacher generates, has the cache hold it, and checks the balance.

    With `strict`, a difference between the declared and the actual balance is an error, else a warning.
    """

    trainers: Mapping[Player, Trainer]
    cache: CacheBackend | None
    seed: int
    folders: Folders | None
    strict: bool
    proposals: Proposals

    def inform(self) -> None:
        """Tell the surrogate what the physics has found for each group of simulations, where it takes that."""
        physical, synthetic = (self.trainers.get(player) for player in ("physical", "synthetic"))
        if physical is None or synthetic is None:
            return
        for part in synthetic.model.modules():
            if isinstance(part, InformedSurrogate):
                part.inform(physics_within(physical.model)[""].learnables.values())

    def decide(self, place: Place, strategy: Strategy | None, alpha: float, real: Samples) -> Augmentation | None:
        """Ask the strategy what the phase's teacher generates; None stands for real data alone."""
        phase = place.phase
        if strategy is None or phase.teacher not in self.trainers or not phase.taught:
            return None
        augmentation = strategy.augment(phase, self._context(place, alpha, real))
        asked = 0 if augmentation is None or augmentation.recipe is None else len(augmentation.recipe)
        most = strategy.max_generated(len(real), alpha)
        if asked > most:
            raise PluginError(
                f"the strategy {type(strategy).__name__} asks for {asked} generated samples for the "
                f"{phase.player} model in cycle {place.cycle}, and its max_generated declared at most {most} for "
                f"{len(real)} real ones at alpha = {alpha:g}: how they are held was decided for that "
                "many; correct its max_generated"
            )
        if augmentation is None or not strategy.proposes:
            return augmentation
        return self.proposals.begin(phase, augmentation, place.cycle)

    def _context(self, place: Place, alpha: float, real: Samples) -> CycleContext:
        def generator(*purpose: str | int) -> torch.Generator:
            return derive_generator(self.seed, "strategy", place.cycle, place.index, *purpose)

        def rollout_recipe(
            teacher: Player, states: Callable[[Tensor], Tensor], count: int, lead: Tensor | None = None
        ) -> Recipe:
            return self._recipe(self.trainers[teacher], real, states, count, lead, place.at)

        return CycleContext(
            cycle=place.cycle,
            alpha=alpha,
            real=real,
            errors=self.proposals.errors,
            noisy_errors=partial(self.proposals.errors, noise=True),
            loss=partial(self._loss, real),
            rollout_recipe=rollout_recipe,
            models={player: trainer.model for player, trainer in self.trainers.items()},
            terms={player: trainer.objective.specs for player, trainer in self.trainers.items()},
            layout=next(iter(self.trainers.values())).layout,
            generator=generator,
        )

    def _loss(self, real: Samples, player: Player, recipe: Recipe | None = None) -> float:
        trainer = self.trainers[player]
        samples = FirstSamples(recipe, PROBE) if recipe is not None else Every(real, -(-len(real) // PROBE))
        measured = HeldOutSamples(samples, trainer.objective, trainer.device, trainer.settings.batch_size)
        with attributed(trainer.who, "the loss on samples"):
            return measured.score(measured.measure(trainer.model))

    @staticmethod
    def _recipe(
        trainer: Trainer,
        real: Samples,
        states: Callable[[Tensor], Tensor],
        count: int,
        lead: Tensor | None,
        at: str,
    ) -> Recipe:
        """Return rollouts of a model over the horizon of the real samples."""
        inputs, targets = real.batch(torch.tensor([0]))
        horizon = targets.shape[1] if isinstance(targets, Tensor) else real.horizon
        if trainer.layout is None or horizon is None or not isinstance(inputs, Tensor):
            raise RunError("rollouts can only be generated for data on a grid")
        return RolloutRecipe(
            trainer.model,
            states,
            count,
            lead=lead,
            horizon=horizon,
            layout=trainer.layout,
            device=trainer.device,
            dtype=inputs.dtype,
            batch_size=max(trainer.settings.batch_size, TOGETHER // inputs[0].numel()),
            where=f"{at}, by the {trainer.player} model",
            who=trainer.who,
        )

    @contextmanager
    def held(
        self, place: Place, recipe: Recipe, history: History, progress: Callable[[int], None]
    ) -> Iterator[GeneratedSamples]:
        """Make the samples of a recipe, hold them within the context, and remove them at its end, even after an error.

        `progress(made)` is called while the samples are made.
        """
        assert self.cache is not None  # two trainers have one
        teacher = place.phase.teacher
        with ExitStack() as stack:
            folder: Path | None = None
            if self.folders is not None and self.cache.uses_folder:
                folder = stack.enter_context(self.folders.generated(teacher, place.cycle))
            # the teacher may generate while the other model trains
            stack.enter_context(evaluating(self.trainers[teacher].model))
            runtime = self.trainers[teacher].shards.runtime
            shared = recipe if runtime.size == 1 else SharedRecipe(recipe, runtime)
            generated = self.cache.hold(shared, folder, progress)
            stack.callback(generated.close)
            try:
                yield generated
            finally:  # a cache may hold more bytes now than at first
                history.peak_bytes = max(history.peak_bytes, generated.nbytes)
                if self.folders is not None:
                    self.folders.note(generated.nbytes)

    @staticmethod
    def diverged(augmentation: Augmentation | None, error: RunError) -> Augmentation:
        """Return the augmentation without the samples of a teacher that diverged, which has the trust 0.

        Raises `error` if it is another one, or if the strategy does not weigh its teachers.
        """
        if augmentation is None or "tau" not in augmentation.record or not isinstance(error, TeacherDiverged):
            raise error
        record = {**augmentation.record, "tau": 0.0, "accepted": False}
        return attrs.evolve(augmentation, recipe=None, expected_ratio=0.0, record=record)

    # --- the balance ----------------------------------------------------------------------------------------------

    def balanced(
        self,
        place: Place,
        data: AugmentedDataset,
        augmentation: Augmentation | None,
        alpha: float,
        history: History,
        latest: Mapping[Player, float],
    ) -> Iterator[str]:
        """Record a phase's numbers of real and generated samples, and yield messages to the user about them.

        `latest` are both models' latest errors on held-out data. Raises RunError at the end if the balance is not the
        declared one.
        """
        phase = place.phase
        alone = phase.teacher not in self.trainers
        balance = check_balance(
            cycle=place.cycle,
            phase=f"train_{phase.player}",
            n_real=data.n_real,
            n_generated=data.n_generated,
            weight=data.weight,
            alpha=0.0 if alone else alpha,
            expected_ratio=0.0 if augmentation is None else augmentation.expected_ratio,
        )
        history.balance.append(attrs.evolve(balance, candidate=place.candidate))
        recorded = augmentation is not None and bool(augmentation.record)
        if augmentation is not None and recorded:
            direction = f"{phase.teacher}->{phase.player}"
            entry = {"cycle": place.cycle, **place.label, "direction": direction, "n_generated": data.n_generated}
            history.cooperation.append(entry | dict(augmentation.record))
        # no message where the strategy recorded its decision, or planned a phase without a teacher
        told = any("nothing is generated for the " + phase.player in note for note in history.warnings)
        if not alone and phase.taught and data.n_generated == 0 and not recorded and not told:
            few = int(data.n_real * alpha) == 0
            why = f"int({data.n_real} * alpha) with alpha = {alpha:g}" if few else "as its strategy decided"
            yield (
                f"{place.at}: nothing is generated for the {phase.player} model ({why}), so it trains on "
                "real data alone"
            )
        if augmentation is not None and not recorded:
            yield from self._worse_teacher(place, balance, history, latest)
        if not balance.ok:
            if self.strict:
                raise RunError(balance.verdict)
            # where `HybridTrainer.train` was called
            warnings.warn(balance.verdict, BalanceWarning, stacklevel=6)

    @staticmethod
    def _worse_teacher(place: Place, balance: Balance, history: History, latest: Mapping[Player, float]) -> list[str]:
        """Return a warning, once, of a teacher whose samples add more error than its pupil has.

        A strategy that records its decisions has measured this itself.
        """
        phase = place.phase
        teacher, pupil = latest[phase.teacher], latest[phase.player]
        imported = balance.actual_ratio * teacher**2
        about = f"the {phase.player} model learns from"
        warned = any(about in note and place.candidate in note for note in history.warnings)
        if not (pupil**2 < imported < math.inf) or warned:
            return []
        return [
            f"{place.at}: {about} {balance.n_generated} samples of the {phase.teacher} model, whose error "
            f"on held-out data is {teacher:.3g} against its own {pupil:.3g}: they are likely to make it worse. "
            'augmentation.kind = "trust" generates as many as held-out data justify'
        ]
