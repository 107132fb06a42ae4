"""The cycle: both models train in turn, each on samples that the other one generated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import attrs

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.errors import RunError
from hyco_engine.interfaces import Augmentation, Phase, Player, Samples, Strategy
from hyco_engine.training.history import Best, History
from hyco_engine.training.proposal import Proposals
from hyco_engine.training.reporter import clock
from hyco_engine.training.teaching import Place, Teaching
from hyco_engine.training.trainer import Trainer, TrainingResult

REST = "rest"


@attrs.frozen
class Event:
    """Something that happened: `kind` names the tracker's method that receives `record`.

    An event of the kind `REST` follows each step of a model and the end of each phase. Training can continue from the
    state at that moment; the record is true if a phase has ended.
    """

    kind: str
    record: Any


@attrs.define(kw_only=True, eq=False)
class CycleState:
    """The state of cooperative training, beside the states of the trainers.

    `next` is the index, in the present cycle, of the next phase or of the one under way. Within a phase, `marks` are
    the lengths of the history's lists when it began.
    """

    history: History
    best: dict[Player, Best]
    next: int = 0
    marks: dict[str, int] | None = None


@attrs.frozen(kw_only=True, eq=False)
class Turn:
    """One cycle of one strategy, with the number `alpha` of generated samples per real one.

    `name` and `label` identify the strategy if several train side by side; `first` is true for the first of them.
    """

    strategy: Strategy | None
    alpha: float
    name: str
    label: Mapping[str, str]
    first: bool

    def place(self, phase: Phase, cycle: int, index: int) -> Place:
        """Return the place of a phase, the `index`-th one of this turn."""
        at = ", ".join([f"cycle {cycle}", *(f"{kind} {name}" for kind, name in self.label.items())])
        return Place(phase=phase, cycle=cycle, index=index, at=at, candidate=self.name, label=self.label)


def planned_phases(strategy: Strategy | None, players: Collection[Player], cycle: int) -> list[Phase]:
    """Return the phases of a strategy's cycle that train one of `players`; without a strategy each trains once."""
    phases = [Phase(player=player) for player in players] if strategy is None else strategy.phases(cycle)
    return [phase for phase in phases if phase.player in players]


@attrs.frozen(kw_only=True, eq=False)
class Cycle:
    """The parts of a cycle. `during` receives events while a cache makes samples, and may raise to end the cycle."""

    trainers: Mapping[Player, Trainer]
    teaching: Teaching
    proposals: Proposals
    during: Callable[[Event], None]

    def run(self, state: CycleState, turn: Turn, real: Mapping[Player, Samples]) -> Iterator[Event]:
        """Run the rest of the present cycle on the real samples of each model."""
        cycle = state.history.cycles
        phases = planned_phases(turn.strategy, self.trainers, cycle)
        idle = dict.fromkeys(phase.player for phase in phases if not self.trainers[phase.player].trainable)
        if cycle == 0 and state.next == 0 and state.marks is None and turn.first:
            for player in idle:
                yield _warning(state, f"the {player} model has nothing to learn, so it only generates for the other")
        phases = [phase for phase in phases if phase.player not in idle]
        while state.next < len(phases):
            phase = phases[state.next]
            if self.proposals.repeats(phase.player):
                phase = attrs.evolve(phase, taught=False)
            yield from self._phase(state, turn, turn.place(phase, cycle, state.next), real[phase.player])
            if not self.proposals.repeats(phase.player):
                state.next += 1
            if state.next < len(phases):
                yield Event(REST, True)
        state.next = 0

    def last(self, state: CycleState, turn: Turn, real: Samples, phase: Phase) -> Iterator[Event]:
        """Run a phase on real data alone that follows the last cycle."""
        place = turn.place(attrs.evolve(phase, taught=False), state.history.cycles - 1, 0)
        yield from self._phase(state, turn, place, real)

    def _phase(self, state: CycleState, turn: Turn, place: Place, real: Samples) -> Iterator[Event]:
        """Generate samples, check the balance, train, and measure."""
        phase, history, trainer = place.phase, state.history, self.trainers[place.phase.player]
        if state.marks is None:
            state.marks = history.marks()
        else:
            # a resumed phase generates the same samples again, and records that again
            history.rewind(state.marks)
        if phase.player == "synthetic":
            self.teaching.inform()
        with ExitStack() as stack:
            with trainer.at_phase_start():
                augmentation = self.teaching.decide(place, turn.strategy, turn.alpha, real)
                try:
                    data = yield from self._data(state, place, real, augmentation, stack)
                except RunError as error:
                    augmentation = self.teaching.diverged(augmentation, error)
                    self.proposals.drop(phase.player)
                    yield _warning(state, f"{error}. So it teaches nothing in this phase")
                    data = AugmentedDataset(real, weight=augmentation.weight)
            latest = {player: best.latest for player, best in state.best.items()}
            for note in self.teaching.balanced(place, data, augmentation, turn.alpha, history, latest):
                yield _warning(state, note)
            result = yield from self._train(state, place, data, augmentation)
        counts = history.trained.setdefault(phase.player, {"epochs": 0, "samples": 0, "converged": False})
        counts["converged"] = result.converged
        counts["epochs"] += result.epochs
        counts["samples"] += result.epochs * len(data)
        for note in result.notes:
            yield _warning(state, f"{place.at}: {note}")
        if result.epochs and not result.moved and not result.converged:
            yield _warning(
                state,
                f"{place.at}: {result.epochs} epochs of {trainer.optimizer_name} did not move the {phase.player} "
                f"model. Its gradient may vanish, or training.{phase.player}.lr may be too small",
            )
        yield from self._measure(state, place)
        state.marks = None

    def _data(
        self, state: CycleState, place: Place, real: Samples, augmentation: Augmentation | None, stack: ExitStack
    ) -> Generator[Event, None, AugmentedDataset]:
        """Return the real samples with the generated ones, which exist until `stack` closes."""
        if augmentation is None or augmentation.recipe is None:
            return AugmentedDataset(real, weight=1.0 if augmentation is None else augmentation.weight)
        name = f"generate_{place.phase.teacher}"
        about = {"cycle": place.cycle, "phase": name}
        count = len(augmentation.recipe)

        def progress(made: int) -> None:
            self.during(Event("progress", {**about, "done": made, "total": count}))

        yield Event("phase_started", {**about, "total": count})
        with clock(state.history.seconds, name, place.cycle) as passed:
            generated = stack.enter_context(self.teaching.held(place, augmentation.recipe, state.history, progress))
        yield Event("phase_ended", {**about, "seconds": passed()})
        return AugmentedDataset(real, generated, weight=augmentation.weight)

    def _train(
        self, state: CycleState, place: Place, data: AugmentedDataset, augmentation: Augmentation | None
    ) -> Generator[Event, None, TrainingResult]:
        phase, trainer = place.phase, self.trainers[place.phase.player]
        epochs = phase.length(trainer.settings.epochs_per_cycle)
        name = f"train_{phase.player}"
        about = {"cycle": place.cycle, "phase": name}
        yield Event("phase_started", {**about, "total": epochs})
        with clock(state.history.seconds, name, place.cycle) as passed:
            for progress in trainer.steps(data, epochs, () if augmentation is None else augmentation.terms):
                if progress.metrics is not None:
                    yield Event("metrics", {**about, **place.label, **trainer.phase_record})
                    yield Event("progress", {**about, "done": trainer.phase_epochs, "total": epochs})
                yield Event(REST, False)
        yield Event("phase_ended", {**about, "seconds": passed()})
        return trainer.finish(epochs)

    def _measure(self, state: CycleState, place: Place) -> Iterator[Event]:
        """Record the trained model's error on held-out real data, and judge what it was taught."""
        if self.proposals.heldout is None:
            return
        player, trainer = place.phase.player, self.trainers[place.phase.player]
        about = {"cycle": place.cycle, "phase": "evaluate"}
        yield Event("phase_started", {**about, "total": 1})
        with clock(state.history.seconds, "evaluate", place.cycle) as passed:
            metrics = self.proposals.measured(player)
            notes = self.proposals.judge(place.phase, metrics, place.cycle, state.history)
        yield Event("phase_ended", {**about, "seconds": passed()})
        flat = {f"val/{name}": value for name, value in flatten(metrics).items()}
        yield Event("metrics", {**about, "phase": f"train_{player}", **place.label, **trainer.at, **flat})
        for note in notes:
            yield _warning(state, f"{place.at}: {note}")


def _warning(state: CycleState, message: str) -> Event:
    state.history.warnings.append(message)
    return Event("warned", message)


def flatten(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return `{"nrmse": 1, "nrmse/u": 1}` for `{"nrmse": 1, "nrmse_by_field": {"u": 1}}`, without lists and None."""
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= flatten({f"{name.removesuffix('_by_field')}/{part}": number for part, number in value.items()})
        elif value is not None and not isinstance(value, list):
            flat[name] = value
    return flat
