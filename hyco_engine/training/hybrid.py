"""The cycle: each model generates samples for the other, and both are trained in turn."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor

from hyco_engine.augment.balance import Balance, check_balance
from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.augment.recipes import RolloutRecipe
from hyco_engine.errors import PluginError, RunError
from hyco_engine.hooks.blaming import blaming
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
    Tracker,
)
from hyco_engine.randomness import derive_generator
from hyco_engine.rollout import evaluating
from hyco_engine.runs.cache_manager import CacheManager
from hyco_engine.training.arms import Arms, arms_of
from hyco_engine.training.evaluation import HeldOut
from hyco_engine.training.history import Best, History
from hyco_engine.training.reporter import Guarded, Reporter
from hyco_engine.training.state import load_trainer_state, trainer_state
from hyco_engine.training.trainer import Trainer


class BalanceWarning(UserWarning):
    """Real and generated samples are not in the ratio that the strategy declares."""


class Watch:
    """Is asked along the way whether to go on; what a method raises ends training."""

    def between(self) -> None:
        """While samples are generated: a state would be that of the phase's start."""

    def at_rest(self, state: Callable[[], dict[str, Any]], *, phase_ended: bool) -> None:
        """After every step of a model, and after every phase: training can go on from `state()` as if nothing was."""


def planned_phases(strategy: Strategy | None, players: Collection[Player], cycle: int) -> list[Phase]:
    """The phases of a cycle of one arm in which one of `players` trains; without a strategy each trains once."""
    phases = [Phase(player=player) for player in players] if strategy is None else strategy.phases(cycle)
    return [phase for phase in phases if phase.player in players]


class HybridTrainer:
    """Trains a physical and a synthetic model in turn; with one of them alone it trains that one on real data.

    It composes parts: the trainers train, the strategy decides who learns from what, the cache backend holds what is
    generated, `heldout` measures both models on real data after each phase. Each arm of a strategy that has arms trains
    models of its own; at the end of `train` what did best on the held-out data is kept. `folders` None: nothing is kept
    on disk. `strict`: an unexplained difference between declared and actual balance is an error, else a warning. A
    trainer that was given the state of another one goes on from there, to the last bit.
    """

    def __init__(
        self,
        *,
        physical: Trainer | None = None,
        synthetic: Trainer | None = None,
        strategy: Strategy | None = None,
        cache: CacheBackend | None = None,
        alpha: float = 0.1,
        seed: int = 0,
        heldout: HeldOut | None = None,
        folders: CacheManager | None = None,
        trackers: Sequence[Tracker | Guarded] = (),
        strict: bool = False,
        watch: Watch | None = None,
    ) -> None:
        if physical is None and synthetic is None:
            raise ValueError("a hybrid trainer needs a physical or a synthetic trainer, or both")
        if physical is not None and synthetic is not None and (strategy is None or cache is None):
            raise ValueError("two models that teach each other need a strategy and a cache backend")
        if alpha < 0:
            raise ValueError(f"alpha = {alpha} is negative: it is the number of generated samples per real one")
        trainers: dict[Player, Trainer | None] = {"physical": physical, "synthetic": synthetic}
        self.trainers: dict[Player, Trainer] = {player: t for player, t in trainers.items() if t is not None}
        self.cache = cache
        self.alpha = alpha
        self.seed = seed
        self.heldout = heldout
        self.folders = folders
        self.strict = strict
        self.watch = watch or Watch()
        self.history = History()
        self._report = Reporter(trackers=tuple(trackers), seconds=self.history.seconds, warnings=self.history.warnings)
        self.best: dict[Player, Best] = {player: Best() for player in self.trainers}
        self.arms = Arms(arms=arms_of(strategy), trainers=self.trainers, best=self.best)
        if len(self.arms.arms) > 1 and heldout is None:
            raise RunError("arms are chosen by their errors on held-out data: give validation data (data.split.val)")
        self._next = 0
        """Which phase of the present cycle comes next, or goes on."""
        self._begun: dict[str, Any] | None = None
        """Within a phase: the history before it, and the weights that its model started from."""
        self._halfway: Mapping[str, Any] | None = None
        """Of a phase that is to be gone on with: the state of the trainer in the middle of it."""

    def train(self, dataset: Samples, cycles: int) -> History:
        """Run `cycles` cycles on the real samples of `dataset`; one that is half done counts as one."""
        end = self.history.cycles + cycles
        if cycles:
            self.arms.begin()
        while self.history.cycles < end:
            cycle = self.history.cycles
            phases = self._phases(cycle)
            while self._next < len(phases):
                self._run(phases[self._next], cycle, self._next, dataset)
                self._next += 1
                if self._next < len(phases):
                    self.watch.at_rest(self.state_dict, phase_ended=True)
            self._next = 0
            if self.arms.turn():
                self.history.cycles += 1
            self.watch.at_rest(self.state_dict, phase_ended=True)
        self.history.arms |= self.arms.settle()
        return self.history

    def _phases(self, cycle: int) -> list[Phase]:
        phases = planned_phases(self.arms.active.strategy, self.trainers, cycle)
        idle = dict.fromkeys(phase.player for phase in phases if not self.trainers[phase.player].trainable)
        if cycle == 0 and self._next == 0 and self._halfway is None and self.arms.active is self.arms.arms[0]:
            for player in idle:
                self._report.warn(f"the {player} model has nothing to learn, so it only generates for the other")
        return [phase for phase in phases if phase.player not in idle]

    # --- state ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that training goes on from, beside the parts and the data: tensors and plain values, not copied."""
        return {
            "next": self._next,
            "history": self.history.to_data() | ({} if self._begun is None else self._begun["history"]),
            "start": None if self._begun is None else self._begun["start"],
            "best": {player: best.to_data() for player, best in self.best.items()},
            "arms": self.arms.state_dict(),
            "trainers": {player: trainer_state(trainer) for player, trainer in self.trainers.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave. Raises RunError where it is of other parts."""
        if set(state["trainers"]) != set(self.trainers):
            raise RunError(f"the state is of {', '.join(state['trainers'])}, and trained is {', '.join(self.trainers)}")
        self._next = state["next"]
        self.history.restore(state["history"])
        self.arms.load_state_dict(state["arms"])
        for player, trainer in self.trainers.items():
            found = state["trainers"][player]
            self.best[player] = Best(**copy.deepcopy(state["best"][player]))
            if found["phase"] is None:
                load_trainer_state(trainer, found)
            else:
                # the phase begins anew from where it began, and generates the same samples
                trainer.model.load_state_dict(state["start"])
                self._halfway = found

    # --- one phase ------------------------------------------------------------------------------------------------

    def _run(self, phase: Phase, cycle: int, index: int, real: Samples) -> None:
        """Generate, check the balance, train, measure."""
        trainer = self.trainers[phase.player]
        history = {name: list(getattr(self.history, name)) for name in ("warnings", "cooperation")}
        self._begun = {
            "history": {**history, "balance": [attrs.asdict(balance) for balance in self.history.balance]},
            "start": copy.deepcopy(dict(trainer.model.state_dict())),
        }
        augmentation = self._augmentation(phase, self._context(cycle, index, real))
        with self._generated(phase, cycle, augmentation) as generated:
            weight = 1.0 if augmentation is None else augmentation.weight
            data = AugmentedDataset(real, generated, weight=weight)
            self._check_balance(phase, cycle, data, augmentation)
            epochs = trainer.settings.epochs_per_cycle if phase.epochs is None else phase.epochs
            name = f"train_{phase.player}"
            done = 0
            if self._halfway is not None:
                done = self._halfway["phase"]["epochs"]
                load_trainer_state(trainer, self._halfway)
                self._halfway = None
            before = trainer.epochs_done - done
            with self._report.timed(name, cycle, total=epochs):

                def observe(record: Mapping[str, Any]) -> None:
                    self._report.tell("metrics", {"cycle": cycle, "phase": name, **self.arms.label, **record})
                    done = record["epoch"] - before
                    self._report.tell("progress", {"cycle": cycle, "phase": name, "done": done, "total": epochs})

                def pause() -> None:
                    self.watch.at_rest(self.state_dict, phase_ended=False)

                terms = () if augmentation is None else augmentation.terms
                result = trainer.train(data, epochs, terms=terms, observe=observe, pause=pause)
        counts = self.history.trained.setdefault(phase.player, {"epochs": 0, "samples": 0, "converged": False})
        counts["converged"] = result.converged
        counts["epochs"] += trainer.epochs_done - before
        counts["samples"] += (trainer.epochs_done - before) * len(data)
        for note in result.notes:
            self._report.warn(f"{self.arms.at(cycle)}: {note}")
        if epochs and not result.moved and not result.converged:
            self._report.warn(
                f"{self.arms.at(cycle)}: {epochs} epochs of {trainer.optimizer_name} did not move the {phase.player} "
                f"model. Its gradient may vanish, or training.{phase.player}.lr may be too small"
            )
        self._measure(phase.player, cycle, name)
        self._begun = None

    def _context(self, cycle: int, index: int, real: Samples) -> CycleContext:
        def generator(*purpose: str | int) -> torch.Generator:
            return derive_generator(self.seed, "strategy", cycle, index, *purpose)

        def rollout_recipe(
            teacher: Player, states: Callable[[Tensor], Tensor], count: int, lead: Tensor | None = None
        ) -> Recipe:
            trainer = self.trainers[teacher]
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
                batch_size=trainer.settings.batch_size,
                where=f"{self.arms.at(cycle)}, by the {teacher} model",
                who=trainer.who,
            )

        return CycleContext(
            cycle=cycle,
            alpha=self._alpha,
            real=real,
            errors=self._errors,
            rollout_recipe=rollout_recipe,
            models={player: trainer.model for player, trainer in self.trainers.items()},
            terms={player: trainer.objective.specs for player, trainer in self.trainers.items()},
            layout=next(iter(self.trainers.values())).layout,
            generator=generator,
        )

    def _augmentation(self, phase: Phase, context: CycleContext) -> Augmentation | None:
        strategy = self.arms.active.strategy
        if strategy is None or phase.teacher not in self.trainers or not phase.taught:
            return None
        augmentation = strategy.augment(phase, context)
        asked = 0 if augmentation is None or augmentation.recipe is None else len(augmentation.recipe)
        most = strategy.max_generated(len(context.real), context.alpha)
        if asked > most:
            raise PluginError(
                f"the strategy {type(strategy).__name__} asks for {asked} generated samples for the "
                f"{phase.player} model in cycle {context.cycle}, and its max_generated declared at most {most} for "
                f"{len(context.real)} real ones at alpha = {context.alpha:g}: how they are held was decided for that "
                "many; correct its max_generated"
            )
        return augmentation

    @contextmanager
    def _generated(
        self, phase: Phase, cycle: int, augmentation: Augmentation | None
    ) -> Iterator[GeneratedSamples | None]:
        """The generated samples for as long as the phase lasts; whatever happens, they are gone afterwards."""
        recipe = None if augmentation is None else augmentation.recipe
        if recipe is None or self.cache is None:
            yield None
            return
        with ExitStack() as stack:
            folder = None
            if self.folders is not None and self.cache.uses_folder:
                folder = stack.enter_context(self.folders.generated(phase.teacher, cycle))
            count = len(recipe)
            name = f"generate_{phase.teacher}"

            def progress(made: int) -> None:
                self._report.tell("progress", {"cycle": cycle, "phase": name, "done": made, "total": count})
                self.watch.between()

            # the teacher may generate as long as the other one trains
            stack.enter_context(evaluating(self.trainers[phase.teacher].model))
            with self._report.timed(name, cycle, total=count):
                generated = self.cache.hold(recipe, folder, progress)
                # before anybody else is told, who might raise
                stack.callback(generated.close)
            try:
                yield generated
            finally:  # some hold more than at first
                self.history.peak_bytes = max(self.history.peak_bytes, generated.nbytes)
                if self.folders is not None:
                    self.folders.note(generated.nbytes)

    def _check_balance(
        self, phase: Phase, cycle: int, data: AugmentedDataset, augmentation: Augmentation | None
    ) -> None:
        expected = 0.0 if augmentation is None else augmentation.expected_ratio
        alone = phase.teacher not in self.trainers
        balance = check_balance(
            cycle=cycle,
            phase=f"train_{phase.player}",
            n_real=data.n_real,
            n_generated=data.n_generated,
            weight=data.weight,
            alpha=0.0 if alone else self._alpha,
            expected_ratio=expected,
        )
        self.history.balance.append(attrs.evolve(balance, arm=self.arms.name))
        if augmentation is not None and augmentation.record:
            direction = f"{phase.teacher}->{phase.player}"
            entry = {"cycle": cycle, **self.arms.label, "direction": direction, "n_generated": data.n_generated}
            self.history.cooperation.append(entry | dict(augmentation.record))
        # what a strategy records, it has decided on; an untaught phase is meant to be one
        if not alone and phase.taught and data.n_generated == 0 and not (augmentation and augmentation.record):
            few = int(data.n_real * self._alpha) == 0
            why = f"int({data.n_real} * alpha) with alpha = {self._alpha:g}" if few else "as its strategy decided"
            self._report.warn(
                f"{self.arms.at(cycle)}: nothing is generated for the {phase.player} model ({why}), so it trains on "
                "real data alone"
            )
        if augmentation is not None and not augmentation.record:
            self._warn_of_teacher(phase, cycle, balance)
        if not balance.ok:
            if self.strict:
                raise RunError(balance.verdict)
            warnings.warn(balance.verdict, BalanceWarning, stacklevel=4)

    def _warn_of_teacher(self, phase: Phase, cycle: int, balance: Balance) -> None:
        """Tell, once, of a teacher whose samples carry more error than its pupil has; who records, has measured."""
        teacher, pupil = self.best[phase.teacher].latest, self.best[phase.player].latest
        imported = balance.actual_ratio * teacher**2
        about = f"the {phase.player} model learns from"
        told = any(about in note and self.arms.name in note for note in self.history.warnings)
        if not (pupil**2 < imported < math.inf) or told:
            return
        self._report.warn(
            f"{self.arms.at(cycle)}: {about} {balance.n_generated} samples of the {phase.teacher} model, whose error "
            f"on held-out data is {teacher:.3g} against its own {pupil:.3g}: they are likely to make it worse. "
            'augmentation.kind = "trust" generates as many as held-out data justify'
        )

    def _measure(self, player: Player, cycle: int, phase: str) -> None:
        """Record the trained model's error on held-out real data, and keep the best weights."""
        if self.heldout is None:
            return
        trainer = self.trainers[player]
        with self._report.timed("evaluate", cycle, total=1):
            metrics = self._measured(trainer)
        best = self.best[player]
        best.latest = self.heldout.score(metrics)
        if best.latest < best.error:
            best.error, best.state = best.latest, copy.deepcopy(trainer.model.state_dict())
        flat = {f"val/{name}": value for name, value in flatten(metrics).items()}
        at = {"epoch": trainer.epochs_done, "step": trainer.steps_done}
        self._report.tell("metrics", {"cycle": cycle, "phase": phase, **self.arms.label, **at, **flat})

    def _measured(self, trainer: Trainer) -> dict[str, Any]:
        assert self.heldout is not None
        with blaming(trainer.who, "rollouts on held-out data"):
            return self.heldout.measure(trainer.model)

    @property
    def _alpha(self) -> float:
        own = self.arms.active.alpha
        return self.alpha if own is None else own

    def _errors(self) -> dict[Player, float]:
        if self.heldout is None:
            raise RunError("this strategy weighs the models by held-out errors: give validation data (data.split.val)")
        return {player: self.heldout.score(self._measured(t)) for player, t in self.trainers.items()}


def flatten(metrics: Mapping[str, Any]) -> dict[str, float]:
    """`{"nrmse": 1, "nrmse_by_field": {"u": 1}}` -> `{"nrmse": 1, "nrmse/u": 1}`; lists are left out."""
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= {f"{name.removesuffix('_by_field')}/{part}": number for part, number in value.items()}
        elif not isinstance(value, list):
            flat[name] = value
    return flat
