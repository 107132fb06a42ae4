"""The interface of the cycle for programs: it trains a physics and a surrogate in turn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from torch import Tensor

from hyco_engine.errors import RunError
from hyco_engine.interfaces import CacheBackend, Player, Samples, Strategy, Tracker
from hyco_engine.training.candidates import Candidates
from hyco_engine.training.cycle import REST, Cycle, CycleState, Event
from hyco_engine.training.evaluation import HeldOut
from hyco_engine.training.history import Best, History
from hyco_engine.training.proposal import Proposals
from hyco_engine.training.reporter import Guarded, Reporter
from hyco_engine.training.teaching import Folders, Teaching
from hyco_engine.training.trainer import Trainer


class HybridTrainer:
    """Trains a physical and a synthetic model in turn; one of them alone trains on real data.

    It composes parts: the trainers train, the strategy decides on which samples each model trains, the cache backend
    holds the generated samples, and `heldout` measures both models on real data after each phase. If the strategy has
    candidates, each of them trains models of its own, and `train` ends with the models that have the smallest error
    on held-out data. `polish` and then `settle` end training with the models that did best. Without `folders`, nothing
    is kept on disk. With `strict`, an unexplained difference between declared and actual balance is an error, else a
    warning. A trainer that loads the state of another one continues from there, to the last bit.
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
        folders: Folders | None = None,
        trackers: Sequence[Tracker | Guarded] = (),
        strict: bool = False,
    ) -> None:
        if physical is None and synthetic is None:
            raise ValueError("a hybrid trainer needs a physical or a synthetic trainer, or both")
        if physical is not None and synthetic is not None and (strategy is None or cache is None):
            raise ValueError("two models that teach each other need a strategy and a cache backend")
        if alpha < 0:
            raise ValueError(f"alpha = {alpha} is negative: it is the number of generated samples per real one")
        trainers: dict[Player, Trainer | None] = {"physical": physical, "synthetic": synthetic}
        self.trainers: dict[Player, Trainer] = {player: t for player, t in trainers.items() if t is not None}
        self.state = CycleState(history=History(), best={player: Best() for player in self.trainers})
        self._candidates = Candidates.of(strategy, alpha, self.trainers, self.state.best)
        if heldout is None and self._candidates.several:
            raise RunError("arms are chosen by their errors on held-out data: give validation data (data.split.val)")
        self._proposals = Proposals(trainers=self.trainers, best=self.state.best, heldout=heldout, seed=seed)
        self._teaching = Teaching(
            trainers=self.trainers, cache=cache, seed=seed, folders=folders, strict=strict, proposals=self._proposals
        )
        self._trackers = tuple(trackers)

    @property
    def history(self) -> History:
        """The history of training so far."""
        return self.state.history

    @property
    def best(self) -> dict[Player, Best]:
        """The best weights of each model by its error on held-out data."""
        return self.state.best

    @property
    def compares_candidates(self) -> bool:
        """True if held-out error chooses among several strategies, each of which trains models of its own."""
        return self._candidates.several

    @property
    def heldout(self) -> HeldOut | None:
        """The real data on which models are measured; another may take its place between two phases."""
        return self._proposals.heldout

    @heldout.setter
    def heldout(self, heldout: HeldOut | None) -> None:
        self._proposals.measure_on(heldout)

    def train(self, dataset: Samples, cycles: int) -> History:
        """Run `cycles` cycles on the real samples of `dataset`; the rest of a cycle under way counts as one."""
        with closing(self.events(dataset, cycles, self.tell)) as events:
            for event in events:
                self.tell(event)
        return self.history

    def events(
        self,
        dataset: Samples,
        cycles: int,
        during: Callable[[Event], None],
        own: Mapping[Player, Samples] | None = None,
    ) -> Generator[Event, None, None]:
        """Run `cycles` cycles event by event, on the real samples of `dataset`, or on a model's `own` ones.

        Training can continue from `state_dict` at each event of the kind `REST`.

        `during` receives the progress while samples are made, and may raise to end it. If you stop before the end,
        close the iterator: that frees the generated samples.
        """
        end = self.history.cycles + cycles
        parts, real = self._parts(during), self._real(dataset, own)
        if cycles:
            self._candidates.begin()
        while self.history.cycles < end:
            yield from parts.run(self.state, self._candidates.turn, real)
            if self._candidates.next():
                self.history.cycles += 1
            yield Event(REST, True)
        self.history.candidates |= self._candidates.choose()

    def polish(
        self, dataset: Samples, during: Callable[[Event], None], own: Mapping[Player, Samples] | None = None
    ) -> Iterator[Event]:
        """Run the strategy's last phases on real data alone, for the models that a worse one has taught something.

        Training continues, after a resume, from the state before.
        """
        parts, real = self._parts(during), self._real(dataset, own)
        for player in self.trainers:
            turn = self._candidates.turn_of(player)
            for phase in () if turn.strategy is None else turn.strategy.last_phases():
                if phase.player == player and self._proposals.polishes(phase, self.history.cycles):
                    yield from parts.last(self.state, turn, real[player], phase)

    def settle(self) -> None:
        """Give each model the weights that did best on held-out data, unless the last ones are as good."""
        self._proposals.settle(self.history.cycles)

    def _real(self, dataset: Samples, own: Mapping[Player, Samples] | None) -> dict[Player, Samples]:
        return dict.fromkeys(self.trainers, dataset) | dict(own or {})

    def _parts(self, during: Callable[[Event], None]) -> Cycle:
        return Cycle(trainers=self.trainers, teaching=self._teaching, proposals=self._proposals, during=during)

    def tell(self, event: Event) -> None:
        """Tell all trackers of an event."""
        if event.kind != REST:
            Reporter(trackers=self._trackers, warnings=self.history.warnings).tell(event.kind, event.record)

    def keep(self, player: Player, error: float, weights: Mapping[str, Tensor]) -> None:
        """Make `weights`, with this error on held-out data, the best and the last ones of a model."""
        self.best[player] = Best(error=error, state=dict(weights))
        self.trainers[player].model.load_state_dict(weights)

    # --- state ----------------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, Any]:
        """Return the weights of all models, and the lowest error of each on held-out data."""
        lowest = {player: best.error for player, best in self.best.items()}
        return {"lowest": lowest, **{player: t.model.state_dict() for player, t in self.trainers.items()}}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of training, without parts and data: tensors and plain values, not copied."""
        return {
            "next": self.state.next,
            "marks": self.state.marks,
            "history": self.history.to_data(),
            "best": {player: best.to_data() for player, best in self.best.items()},
            "candidates": self._candidates.state_dict(),
            "trainers": {player: trainer.state_dict() for player, trainer in self.trainers.items()},
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned. Raises RunError if it belongs to other parts."""
        if set(saved["trainers"]) != set(self.trainers):
            raise RunError(f"the state is of {', '.join(saved['trainers'])}, and trained is {', '.join(self.trainers)}")
        own = copy.deepcopy({name: saved[name] for name in ("next", "marks", "history", "best")})
        self.state.next, self.state.marks = own["next"], own["marks"]
        self.state.history = History.from_data(own["history"])
        for player, trainer in self.trainers.items():
            self.best[player] = Best.from_data(own["best"][player])
            trainer.load_state_dict(saved["trainers"][player])
        self._candidates.load_state_dict(saved["candidates"])
