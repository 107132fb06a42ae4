"""The strategy `curriculum`: the contract of strategies, its schedules, its starts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import hyco_engine_curriculum
import pytest
import torch
from hyco_engine_curriculum import CurriculumOptions
from hyco_engine_curriculum.starts import perturbed
from hyco_engine_curriculum.strategy import Curriculum, largest_alpha, scheduled_alpha
from torch import Tensor

from hyco_engine import Registry
from hyco_engine.augment.recipes import RolloutRecipe
from hyco_engine.interfaces import Phase, Strategy
from hyco_engine.randomness import derive_generator
from hyco_engine.testing.contexts import tiny_layout
from hyco_engine.testing.measuring import equal
from hyco_engine.testing.specs import RunSpec
from hyco_engine.testing.strategies import Question, StrategyContract

pytest_plugins = ["hyco_engine.testing.fixtures"]

ERRORS = {"physical": 0.1, "synthetic": 0.1}


class TestLinear(StrategyContract):
    def make(self) -> Strategy:
        return Curriculum(CurriculumOptions())


class TestFallingCosineFromPerturbedStarts(StrategyContract):
    def make(self) -> Strategy:
        return Curriculum(CurriculumOptions(schedule="cosine", initial_share=1.7, starts="perturbed", noise=0.2))


class TestStepFromRolledOutStarts(StrategyContract):
    def make(self) -> Strategy:
        return Curriculum(CurriculumOptions(schedule="step", initial_share=0.3, starts="rolled-out", ramp_cycles=4))


class TestConstant(StrategyContract):
    def make(self) -> Strategy:
        return Curriculum(CurriculumOptions(schedule="constant", initial_share=9.0))


# --- schedules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({"schedule": "constant"}, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ({"schedule": "linear"}, [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]),
        ({"schedule": "linear", "initial_share": 0.5}, [0.5, 0.625, 0.75, 0.875, 1.0, 1.0]),
        ({"schedule": "linear", "initial_share": 2.0}, [2.0, 1.75, 1.5, 1.25, 1.0, 1.0]),
        ({"schedule": "cosine"}, [0.0, 0.5 - 0.5**1.5, 0.5, 0.5 + 0.5**1.5, 1.0, 1.0]),
        ({"schedule": "step", "initial_share": 0.25}, [0.25, 0.25, 0.25, 0.25, 1.0, 1.0]),
    ],
)
def test_schedules(options: dict[str, Any], shares: list[float]) -> None:
    given = CurriculumOptions(ramp_cycles=4, **options)
    found = [scheduled_alpha(given, 0.4, cycle) for cycle in range(6)]
    assert found == pytest.approx([0.4 * share for share in shares], abs=1e-12)


def test_halfway_is_exact_so_that_no_sample_is_lost_to_rounding() -> None:
    options = CurriculumOptions(schedule="cosine", ramp_cycles=3)
    assert [scheduled_alpha(options, 1.0, cycle) for cycle in range(4)] == [0.0, 0.25, 0.75, 1.0]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "step"])
def test_no_cycle_has_more_than_the_largest(schedule: Any) -> None:
    for share in (0.0, 0.3, 1.0, 1.1, 3.0):
        options = CurriculumOptions(schedule=schedule, initial_share=share, ramp_cycles=7)
        for alpha in (0.0, 0.1, 0.29, 0.7):
            found = [scheduled_alpha(options, alpha, cycle) for cycle in range(10)]
            assert max(found) == largest_alpha(options, alpha)
            assert Curriculum(options).max_generated(100, alpha) == max(int(100 * value) for value in found)


# --- starts -----------------------------------------------------------------------------------------------------------


def recipe_of(cycle: int = 9, alpha: float = 0.5, seed: int = 0, **options: Any) -> tuple[RolloutRecipe, Question]:
    question = Question(Phase(player="synthetic"), cycle, alpha, ERRORS, seed)
    answer = question.ask(Curriculum(CurriculumOptions(**options)))
    assert answer is not None
    assert isinstance(answer.recipe, RolloutRecipe)
    return answer.recipe, question


def test_real_starts_are_those_of_different_real_windows() -> None:
    recipe, question = recipe_of(starts="real")
    starts, _ = recipe.generate(torch.arange(len(recipe)))
    real = question.real.inputs(torch.arange(len(question.real)))
    assert isinstance(starts, Tensor)
    assert isinstance(real, Tensor)
    same = (starts[:, None] == real[None]).flatten(2).all(2)
    assert (same.sum(1) == 1).all()
    assert same.sum(0).max() == 1


def test_rolled_out_starts_lie_1_to_lead_steps_ahead_of_real_ones() -> None:
    recipe, question = recipe_of(starts="rolled-out", lead_steps=3, alpha=1.0)
    assert recipe.lead is not None
    assert set(recipe.lead.tolist()) == {1, 2, 3}
    starts, _ = recipe.generate(torch.arange(len(recipe)))
    real, _ = recipe_of(starts="real", alpha=1.0)[0].generate(torch.arange(len(recipe)))
    assert isinstance(starts, Tensor)
    assert isinstance(real, Tensor)
    physics = question.models["physical"]
    ahead = [real]
    with torch.no_grad():
        for _ in range(3):
            ahead.append(physics(ahead[-1]))
    wanted = torch.stack([ahead[int(steps)][i] for i, steps in enumerate(recipe.lead)])
    torch.testing.assert_close(starts, wanted)


def test_other_cycles_and_seeds_start_elsewhere() -> None:
    starts = [
        recipe_of(starts="perturbed", cycle=cycle, seed=seed)[0].generate(torch.arange(3))[0]
        for cycle, seed in ((7, 0), (8, 0), (7, 1))
    ]
    assert not equal(starts[0], starts[1])
    assert not equal(starts[0], starts[2])


def noisy(noise: float = 0.1, **layout: Any) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Perturbed states and what they were, of a staggered velocity in a box and a static field."""
    where = tiny_layout(24, 20, vector=True, static=True, **layout)
    given = torch.randn(6, where.n_all, *where.spatial, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given[:, 1] *= 100.0
    given[3, :2] = 7.0
    made = perturbed(lambda i: given[i], where, noise, lambda *purpose: derive_generator(0, *purpose))
    return made, given


def test_noise_is_a_share_of_each_states_spread_over_space_and_components() -> None:
    made, given = noisy(0.1)
    added = made(torch.arange(6)) - given
    spread = given[:, :2].flatten(1).std(1)
    for component in range(2):
        found = added[:, component].flatten(1).std(1)
        torch.testing.assert_close(found, 0.1 * spread, rtol=0.1, atol=1e-12)
    assert (added[:, 2] == 0).all(), "a static field is no state to be disturbed"
    assert (added[3] == 0).all(), "a field that is the same everywhere has no size to take a share of"
    assert added[:, :2].flatten(1).mean(1).abs().max() < 0.05 * spread.max()


def test_filler_of_staggered_fields_is_left_alone() -> None:
    made, given = noisy(boundary="zero-gradient", sampling="staggered")
    added = made(torch.arange(6)) - given
    assert given.shape[2:] == (25, 21)
    assert (added[0, 0] != 0).sum() == 25 * 20
    assert (added[0, 1] != 0).sum() == 24 * 21


def test_noise_follows_from_the_index_alone() -> None:
    made, _ = noisy()
    whole = made(torch.arange(6))
    assert equal(made(torch.tensor([4, 0, 4])), whole[torch.tensor([4, 0, 4])])


# --- as a plugin ------------------------------------------------------------------------------------------------------


def test_a_run_generates_what_the_schedule_says(run_spec: RunSpec, builtin_registry: Registry) -> None:
    builtin_registry.register(hyco_engine_curriculum, distribution="hyco-engine-curriculum", version="0.1.0")
    augmentation = {"kind": "curriculum", "alpha": 1.0, "ramp_cycles": 2, "starts": "rolled-out"}
    summary = run_spec({"run": {"cycles": 3}, "augmentation": augmentation}, registry=builtin_registry).summary
    n_real = summary["balance"][0]["n_real"]
    assert [entry["n_generated"] for entry in summary["balance"]] == [0, 0, n_real // 2, n_real // 2, n_real, n_real]
    assert all(entry["ok"] for entry in summary["balance"])
    assert [entry["alpha"] for entry in summary["cooperation"]] == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
    assert summary["warnings"] == []


def test_the_hook_module_is_light() -> None:
    code = (
        "import sys, hyco_engine_curriculum; hyco_engine_curriculum.hyco_strategies(); "
        "assert not {'torch', 'phi'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
