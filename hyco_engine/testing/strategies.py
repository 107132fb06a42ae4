"""The contract of augmentation strategies, as a test suite.

    class TestMine(StrategyContract):
        def make(self) -> Strategy:
            return Mine(cycles=3)

pytest collects the tests of the subclass. They call the strategy for every cycle, alpha and pair of errors in
`questions`, with windows of decaying fields as data.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor, nn

from hyco_engine.augment.balance import check_balance
from hyco_engine.augment.recipes import FirstSamples, RolloutRecipe
from hyco_engine.augment.shared import SharedRecipe
from hyco_engine.interfaces import Augmentation, CycleContext, LossTerm, Phase, Player, Recipe, Strategy, TermSpec
from hyco_engine.randomness import derive_generator
from hyco_engine.ranks.runtime import Runtime
from hyco_engine.testing.measuring import difference, equal, global_generators
from hyco_engine.testing.problems import Decay, LinearSurrogate, decay_windows
from hyco_engine.testing.ranks import together
from hyco_engine.training.evaluation import HeldOutSamples
from hyco_engine.training.losses import RolloutObjective

ERRORS: tuple[Mapping[Player, float], ...] = (
    {"physical": 0.1, "synthetic": 0.1},
    {"physical": 0.05, "synthetic": 0.4},
    {"physical": 0.4, "synthetic": 0.05},
    {"physical": float("inf"), "synthetic": 1.0},
)


class Question:
    """One call of `augment` before a phase; its data and models are new, so that nothing remains of an earlier call."""

    def __init__(self, phase: Phase, cycle: int, alpha: float, errors: Mapping[Player, float], seed: int = 0) -> None:
        self.phase = phase
        self.real = decay_windows(count=3, frames=10, horizon=2)
        physics = Decay()
        self.models: dict[Player, nn.Module] = {"physical": physics, "synthetic": LinearSurrogate()}
        layout = self.layout = physics.layout

        def recipe(teacher: Player, states: object, count: int, lead: Tensor | None = None) -> RolloutRecipe:
            return RolloutRecipe(
                self.models[teacher],
                states,  # type: ignore[arg-type]
                count,
                horizon=2,
                layout=layout,
                lead=lead,
                batch_size=5,
            )

        self.context = CycleContext(
            cycle=cycle,
            alpha=alpha,
            real=self.real,
            errors=lambda: errors,
            loss=self._loss,
            rollout_recipe=recipe,
            models=self.models,
            terms={player: [TermSpec(name="u", n_elements=16, scale=2.0)] for player in self.models},
            layout=layout,
            generator=lambda *purpose: derive_generator(seed, cycle, phase.player, *purpose),
        )

    def _loss(self, player: Player, recipe: Recipe | None = None) -> float:
        samples = self.real if recipe is None else FirstSamples(recipe, len(recipe))
        measured = HeldOutSamples(samples, RolloutObjective(self.layout, self.context.terms[player]))
        return measured.score(measured.measure(self.models[player]))

    def __str__(self) -> str:
        errors = ", ".join(f"{player} {error:g}" for player, error in self.context.errors().items())
        taught = f"for the {self.phase.player} model in cycle {self.context.cycle}"
        return f"{taught}, with alpha {self.context.alpha:g} and errors {errors}"

    def ask(self, strategy: Strategy) -> Augmentation | None:
        """Return the strategy's answer after a check of its type."""
        with global_generators(f"augment {self}"):
            answer = strategy.augment(self.phase, self.context)
        right = answer is None or isinstance(answer, Augmentation)
        assert right, f"augment {self} returns a {type(answer).__name__}, not an Augmentation or None"
        return answer


class StrategyContract(ABC):
    """The tests of every strategy."""

    cycles: ClassVar[tuple[int, ...]] = (0, 1, 5)
    alphas: ClassVar[tuple[float, ...]] = (0.0, 0.04, 0.3, 1.0, 2.3)

    @abstractmethod
    def make(self) -> Strategy:
        """Return a new strategy."""

    def questions(self, strategy: Strategy, seed: int = 0) -> Iterator[Question]:
        """Yield all questions of the tests; there are none for a strategy with candidates, which are asked instead."""
        if strategy.arms():
            return
        for cycle, alpha, errors in product(self.cycles, self.alphas, ERRORS):
            for phase in strategy.phases(cycle):
                if phase.taught:
                    yield Question(phase, cycle, alpha, errors, seed)

    def test_phases_are_a_pure_function_of_the_cycle(self) -> None:
        one, other = self._made(), self._made()
        for cycle in () if one.arms() else (3, 0, 1, 2, 0):
            phases = list(one.phases(cycle))
            assert phases, f"cycle {cycle} has no phase; train at least one model"
            for phase in phases:
                assert isinstance(phase, Phase), f"phases({cycle}) holds a {type(phase).__name__}, not a Phase"
                assert phase.player in ("physical", "synthetic"), f"there is no player {phase.player!r}"
                right = phase.epochs is None or (type(phase.epochs) is int and phase.epochs >= 0)
                assert right, f"a phase of cycle {cycle} has {phase.epochs!r} epochs"
            again = [list(strategy.phases(cycle)) for strategy in (one, other)]
            assert again == [phases, phases], f"phases({cycle}) differs from call to call"

    def test_arms_have_names_and_are_announced(self) -> None:
        strategy = self._made()
        names = [arm.name for arm in strategy.arms()]
        assert len(names) != 1, "one arm leaves no choice; return none, and decide in phases and augment"
        assert len({*names, ""}) == len(names) + 1, f"each arm needs a name of its own: {names}"
        for arm, alpha in product(strategy.arms(), self.alphas):
            most, own = strategy.max_generated(100, alpha), arm.max_generated(100, alpha)
            assert own <= most, f"the arm {arm.name!r} may ask for {own} samples, but max_generated allows {most}"

    def test_no_more_is_generated_than_is_announced(self) -> None:
        strategy = self._made()
        for question in self.questions(strategy):
            n_real, alpha = len(question.real), question.context.alpha
            most = strategy.max_generated(n_real, alpha)
            right = type(most) is int and most >= 0
            assert right, f"max_generated({n_real}, {alpha:g}) is {most!r}, not a count"
            made = _count(question.ask(strategy))
            assert made <= most, f"{question}: {made} samples, more than max_generated({n_real}, {alpha:g}) = {most}"

    def test_what_is_made_is_what_is_declared(self) -> None:
        strategy = self._made()
        for question in self.questions(strategy):
            answer = question.ask(strategy) or Augmentation()
            assert answer.weight >= 0, f"{question}: the weight is {answer.weight:g}; it must be at least 0"
            balance = check_balance(
                cycle=question.context.cycle,
                phase=f"train_{question.phase.player}",
                n_real=len(question.real),
                n_generated=_count(answer),
                weight=answer.weight,
                alpha=question.context.alpha,
                expected_ratio=answer.expected_ratio,
            )
            assert balance.ok, f"{question}: {balance.verdict}"

    def test_nothing_is_generated_at_alpha_zero(self) -> None:
        strategy = self._made()
        for question in self.questions(strategy):
            if question.context.alpha == 0:
                made = _count(question.ask(strategy))
                assert made == 0, f"{question}: {made} samples are generated"

    def test_answers_depend_on_the_context_alone(self) -> None:
        used = self._made()
        for question in reversed(list(self.questions(used))):
            question.ask(used)
        for question, again in zip(self.questions(used), self.questions(used), strict=True):
            one, two = (_content(asked.ask(who)) for asked, who in ((question, used), (again, self._made())))
            same = one[0] == two[0] and equal(one[1], two[1])
            assert same, (
                f"{question}: a strategy that was asked before answers differently from a new one; it must have no "
                "state, and all its random numbers must come from context.generator"
            )

    def test_recipes_are_pure(self) -> None:
        strategy, tested = self._made(), 0
        for question in self.questions(strategy):
            answer = question.ask(strategy)
            if answer is None or answer.recipe is None or _count(answer) < 2:
                continue
            tested += 1
            recipe, count = answer.recipe, _count(answer)
            weights = [_weights(model) for model in question.models.values()]
            with global_generators(f"generating {question}"):
                whole = recipe.generate(torch.arange(count))
                order = torch.tensor([count - 1, 0, count - 1])
                picked = recipe.generate(order)
            wanted = tuple(part[order] if isinstance(part, Tensor) else part for part in whole)
            found = difference(tuple(picked), wanted, 1e-5)
            assert not found, f"{question}: an index gives another sample in another batch: {found}"
            assert [_weights(model) for model in question.models.values()] == weights, "generating changes a model"
            sizes = [part.nbytes // count for part in whole if isinstance(part, Tensor)]
            assert sum(sizes) == recipe.sample_bytes, f"a sample has {sum(sizes)} bytes, not {recipe.sample_bytes}"
            assert not any(part.requires_grad for part in whole if isinstance(part, Tensor)), "samples have gradients"
            if tested >= 6:
                return

    def test_ranks_get_the_same_answers(self) -> None:
        def answers(runtime: Runtime) -> dict[str, Tensor]:
            # each process makes its own strategy
            strategy, found = self._made(), dict[str, Tensor]()
            for question in list(self.questions(strategy))[:: 1 + 2 * len(ERRORS)]:
                answer = question.ask(strategy) or Augmentation()
                plain = [_count(answer), answer.weight, answer.expected_ratio or 0.0, len(answer.terms)]
                found[f"the answer {question}"] = torch.tensor(plain, dtype=torch.float64)
                if answer.recipe is not None and _count(answer):
                    shared = SharedRecipe(answer.recipe, runtime)
                    every = torch.split(torch.arange(len(shared)), shared.batch_size)
                    inputs = [shared.generate(indices)[0] for indices in every]
                    found[f"the samples {question}"] = torch.cat([one for one in inputs if isinstance(one, Tensor)])
            return found

        together("the strategy", answers)

    def test_further_terms_can_be_trained_on(self) -> None:
        strategy = self._made()
        for question in list(self.questions(strategy))[:: 1 + 4 * len(ERRORS)]:
            for extra in (question.ask(strategy) or Augmentation()).terms:
                model = question.models[question.phase.player]
                batch = question.real.batch(torch.arange(4))
                with global_generators(f"a term {question}"):
                    term, again = (extra.term(model, batch, torch.Generator().manual_seed(3)) for _ in range(2))
                assert isinstance(term, LossTerm), f"term() returns a {type(term).__name__}, not a LossTerm"
                shape = list(term.per_sample.shape)
                assert shape == [4], f"the term {term.spec.name!r} is {shape} for 4 samples, not [4]"
                assert bool(term.per_sample.isfinite().all()), f"the term {term.spec.name!r} is not finite"
                assert term.per_sample.requires_grad, f"no gradient reaches the model from the term {term.spec.name!r}"
                same = equal(term.per_sample, again.per_sample)
                assert same, f"the term {term.spec.name!r} is not determined by its generator"

    def test_records_can_be_written(self) -> None:
        strategy = self._made()
        for question in self.questions(strategy):
            for name, value in (question.ask(strategy) or Augmentation()).record.items():
                plain = isinstance(value, bool | int | float)
                assert plain, f"record[{name!r}] is a {type(value).__name__}; only numbers and bools can be written"
                json.dumps({name: value})

    def _made(self) -> Strategy:
        strategy = self.make()
        assert isinstance(strategy, Strategy), f"the factory returns a {type(strategy).__name__}, not a Strategy"
        return strategy


def _count(answer: Augmentation | None) -> int:
    return 0 if answer is None or answer.recipe is None else len(answer.recipe)


def _content(answer: Augmentation | None) -> tuple[object, object]:
    """Return the content of an answer: plain values, and the samples."""
    if answer is None:
        return None, torch.zeros(0)
    samples = answer.recipe.generate(torch.arange(_count(answer))) if answer.recipe and _count(answer) else None
    plain = (_count(answer), answer.weight, answer.expected_ratio, len(answer.terms), repr(dict(answer.record)))
    return plain, samples if samples is not None else torch.zeros(0)


def _weights(model: nn.Module) -> list[object]:
    return [value.tolist() for value in model.state_dict().values()]
