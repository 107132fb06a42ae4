"""Gauss-Newton with learned start states: the arrow of normal equations, its Schur complement, and the error bars."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
import torch
from test_initial_states import minimum, noisy
from test_optimizers import growth, growth_windows
from torch import Tensor, nn

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.builtin.caches.memory import Memory
from hyco_engine.data.windows import WindowDataset
from hyco_engine.interfaces import Batch, Recipe, Trajectory
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.ranks.runtime import RanksDiffer, Runtime, Single
from hyco_engine.ranks.shards import Shards
from hyco_engine.testing.problems import Decay, decay_layout
from hyco_engine.testing.ranks import on_ranks
from hyco_engine.training import arrow, linearized
from hyco_engine.training.arrow import Arrow, ArrowPart, DenseCurvature, OwnedStarts, ProductCurvature
from hyco_engine.training.error_bars import measure
from hyco_engine.training.linearized import JointProblem
from hyco_engine.training.problem import Problem
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.solver import guessed
from hyco_engine.training.solver.full_batch import Iteration
from hyco_engine.training.solver.gauss_newton import GaussNewton
from hyco_engine.training.solver.guessed import Guessed
from hyco_engine.training.trainer import Trainer


def learning(model: nn.Module, shards: Shards | None = None, **more: Any) -> Trainer:
    settings = attrs.evolve(TrainingSettings(optimizer="gauss-newton", batch_size=16, initial_states="learned"), **more)
    return Trainer(model, player="physical", layout=decay_layout(), settings=settings, shards=shards)


def begun(trainer: Trainer, data: Any, moved: float = 0.0) -> Problem:
    """The problem of `trainer` on `data`, with learned starts that are `moved` at random."""
    trainer.state.learn_starts(AugmentedDataset(data), decay_layout(), torch.device("cpu"))
    whole = trainer.whole_loss(data)
    draws = torch.Generator().manual_seed(5)
    point = whole.point()
    whole.move_to(point + moved * torch.randn(len(point), generator=draws, dtype=torch.float64))
    return whole


def numeric(problem: Problem, trainer: Trainer) -> tuple[Tensor, Tensor]:
    """(r [N], J [N, P + W D]) by central differences of all residuals."""
    here = problem.point()

    def residuals(point: Tensor) -> Tensor:
        problem.move_to(point)
        with torch.no_grad():
            parts = [problem.residuals(problem.model, chunk, problem.draws()) for chunk in problem.chunks()]
        return torch.cat([part.flatten() for part in parts])

    columns = []
    for k in range(len(here)):
        shift = torch.zeros_like(here)
        shift[k] = 1e-5
        columns.append((residuals(here + shift) - residuals(here - shift)) / 2e-5)
    found = residuals(here)
    problem.move_to(here)
    return found, torch.stack(columns, dim=1)


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("batch", [7, 16])
def test_the_arrow_is_that_of_all_residuals(products: bool, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step, predicted gain and Schur complement equal those of the whole dense H, in chunks of any size."""
    monkeypatch.setattr(arrow, "TOLERANCE", 1e-12)
    if products:
        monkeypatch.setattr(linearized, "MOST_WORK", 0)
    model = growth(a=ParameterSetting(init=1.3))
    data = growth_windows(growth(), noise=0.05, horizon=6, count=2)
    trainer = learning(model, batch_size=batch)
    problem = begun(trainer, data, moved=0.01)
    found = trainer.linearizer.arrow(problem)
    (owned,) = found.owned
    assert isinstance(owned.curvature, ProductCurvature if products else DenseCurvature)
    r, j = numeric(problem, trainer)
    h, g, p = j.T @ j, j.T @ r, len(problem.unknowns.point())
    assert float(found.values) == pytest.approx(float(r.square().sum()), rel=1e-9)
    torch.testing.assert_close(found.gradient, g[:p], rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(owned.part.start_gradient.flatten(), g[p:], rtol=1e-5, atol=1e-9)
    schur = h[:p, :p] - h[:p, p:] @ torch.linalg.solve(h[p:, p:], h[p:, :p])
    torch.testing.assert_close(found.reduced, schur, rtol=1e-5, atol=1e-9)
    assert float(found.decrease()) == pytest.approx(float(g @ torch.linalg.solve(h, g)), rel=1e-5)
    none = torch.zeros(1, dtype=torch.float64)
    step = found.step(torch.zeros(1, dtype=torch.int64), none, None)
    torch.testing.assert_close(step[0], -torch.linalg.solve(h, g), rtol=1e-4, atol=1e-8)
    assert float(found.predicted(none, step)) == pytest.approx(
        float(-2 * g @ step[0] - step[0] @ h @ step[0]), rel=1e-5
    )


def test_parameters_of_other_groups_cost_no_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of four samples has one of eight columns of its own and a shared one: two systems are solved, not nine."""
    monkeypatch.setattr(arrow, "TOLERANCE", 1e-12)
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(4, 3, 3, generator=generator, dtype=torch.float64)
    blocks = root @ root.mT + torch.eye(3)
    right = torch.zeros(4, 3, 9, dtype=torch.float64)
    right[:, :, 0] = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    for sample in range(4):
        right[sample, :, 1 + 2 * sample] = torch.randn(3, generator=generator, dtype=torch.float64)
    calls = []

    def product(starts: Tensor) -> Tensor:
        calls.append(starts)
        return torch.einsum("wde,kwe->kwd", blocks, starts)

    found = ProductCurvature(product, 1.0).solve(right, 0.0)
    torch.testing.assert_close(found, torch.linalg.solve(blocks, right))
    # both share their products, three for three values, and one or two more to see the end
    assert [call.shape for call in calls] == [(2, 4, 3)] * len(calls)
    assert len(calls) <= 5
    # a solution of nothing
    assert not ProductCurvature(product, 1.0).solve(torch.zeros(4, 3, 9, dtype=torch.float64), 0.0).any()


def test_damping_shortens_both_parts_of_a_step() -> None:
    data = growth_windows(growth(), noise=0.05, horizon=6)
    trainer = learning(growth(a=ParameterSetting(init=1.3)))
    problem = begun(trainer, data)
    found = trainer.linearizer.arrow(problem)
    count, starts = len(problem.unknowns.point()), torch.zeros(1, dtype=torch.int64)
    sizes = []
    for damping in (0.0, 1.0, 1e6):
        step = found.step(starts, torch.tensor([damping], dtype=torch.float64), None)[0]
        sizes.append((float(step[:count].norm()), float(step[count:].norm())))
        assert float(found.predicted(starts, step[None])) > 0
    assert sizes[0][0] > sizes[1][0] > 1e3 * sizes[2][0]
    assert sizes[0][1] > sizes[1][1] > 1e3 * sizes[2][1]


@pytest.mark.parametrize("differences", [False, True])
def test_the_minimum_is_that_of_least_squares(differences: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gauss-Newton finds what L-BFGS finds, also where forward mode fails."""
    if differences:

        def fails(*arguments: Any) -> Any:
            raise NotImplementedError("no rule for this operation")

        monkeypatch.setattr(linearized, "push_forward", fails)
    data = noisy(0, 0.1)
    trainer = learning(Decay(dtype=torch.float64), batch_size=100)
    result = trainer.train(data, 30)
    assert result.converged
    _, starts = minimum(trainer, data)
    assert trainer.state.initial is not None
    moved = data.inputs(torch.arange(len(data))) + trainer.state.initial.states(trainer.state.initial.scaled.detach())
    torch.testing.assert_close(moved, starts, rtol=0, atol=1e-4)


def test_differences_along_no_change_are_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that no parameter and no residual moves, alone in its chunk, leaves the others their minimum."""

    def fails(*arguments: Any) -> Any:
        raise NotImplementedError("no rule for this operation")

    monkeypatch.setattr(linearized, "push_forward", fails)
    seen = noisy(0, 0.1, count=2).trajectories
    moving = [Trajectory(dynamic=path.dynamic.float(), static=path.static.float()) for path in seen]
    still = Trajectory(dynamic=torch.zeros_like(moving[0].dynamic), static=moving[0].static)
    found = []
    for paths in (moving, [*moving, still]):
        # so little memory that each window is a chunk
        trainer = learning(Decay(), batch_size=1, memory_gb=1e-9)
        assert trainer.train(WindowDataset(paths, horizon=10), 10).converged
        found.append(float(trainer.model.learnables.values()["k"].detach()))
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_intervals_cover_the_truth_where_the_starts_are_unknown() -> None:
    """95 % intervals cover the truth in at least 16 of 20 draws, and are as wide as the estimates spread."""
    values, errors, covered = [], [], 0
    # a start near the minimum, which few steps reach
    near = {"k": ParameterSetting(init=1.0)}
    for seed in range(20):
        data = noisy(seed, 0.1, count=6, frames=6, horizon=5)
        trainer = learning(Decay(settings=near, dtype=torch.float64), batch_size=100)
        trainer.train(data, 3)
        bars = measure(trainer, data)
        assert bars is not None
        interval, error = bars.interval["k"], bars.standard_error["k"]
        assert interval is not None
        assert error is not None
        values.append(float(trainer.model.learnables.values()["k"].detach()))
        errors.append(error)
        covered += interval[0] <= 1.0 <= interval[1]
    spread = float(torch.tensor(values).std())
    assert covered >= 16  # fewer have a probability below 1 %
    assert sum(errors) / len(errors) == pytest.approx(spread, rel=0.35)
    assert "the 48 values of the start states are unknown too" in bars.assumption


@pytest.mark.parametrize("way", ["step", "predicted"])
def test_starts_that_cannot_be_eliminated_on_one_rank_end_all_ranks(way: str) -> None:
    """An error that one rank alone catches, as for memory, must not let it meet others with something else."""
    one = torch.ones(1, dtype=torch.float64)

    def work(runtime: Runtime) -> str:
        def product(starts: Tensor) -> Tensor:
            if runtime.rank == 1:
                raise MemoryError("no memory for products")
            return starts

        part = ArrowPart(
            value=one[0],
            gradient=one,
            hessian=2 * one[None],
            start_gradient=one[None],
            between=one[None, None],
            scores=one[None],
            count=1,
        )
        model = Arrow.joined([OwnedStarts(part, ProductCurvature(product, 1.0))], Shards(2, runtime), 2, 2)
        try:
            if way == "step":
                model.step(torch.zeros(1, 3), torch.zeros(1), None)
            else:
                model.predicted(torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.float64))
        except RanksDiffer as error:
            runtime.tell(error, 1, "train physical")
            return str(error)
        return "nothing"

    told = "no memory for products (other ranks had no error there)"
    assert on_ranks(2, work) == [f"rank 1 failed in train physical: {told}", told]


@pytest.mark.parametrize(("slope", "curvature"), [(torch.nan, 1.0), (1.0, torch.nan)])
def test_an_unstable_point_is_not_usable(slope: float, curvature: float) -> None:
    """Nor is one whose starts cannot be eliminated."""
    part = torch.ones(1, dtype=torch.float64)
    bad = ArrowPart(
        value=part[0],
        gradient=part,
        hessian=part[None],
        start_gradient=part[None] * slope,
        between=part[None, None],
        scores=part[None],
        count=1,
    )
    bad = Arrow.joined([OwnedStarts(bad, DenseCurvature(part[None, None] * curvature))], Shards(), 1, 1)
    assert bad.usable.tolist() == [False]
    assert bad.decrease().tolist() == [torch.inf]


@pytest.mark.parametrize("products", [False, True])
def test_a_trial_leaves_the_quadratic_model_where_it_was(products: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products with the curvature of starts are those at the point that was linearised, not at the last trial."""
    if products:
        monkeypatch.setattr(linearized, "MOST_WORK", 0)
    data = growth_windows(growth(), noise=0.05, horizon=6)
    trainer = learning(growth(a=ParameterSetting(init=1.3)))
    problem = begun(trainer, data)
    joint, here = JointProblem(problem, trainer.linearizer), problem.point()
    model = joint.normal_equations(here[None], torch.zeros(1))
    damping, starts = torch.tensor([1e-3], dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    step = model.step(starts, damping, None)
    joint.values(here[None] + 10 * step, starts)
    assert torch.equal(problem.point(), here)
    assert torch.equal(model.step(starts, damping, None), step)


@pytest.mark.parametrize("unit", [1.0, 1e5])
def test_products_do_not_depend_on_the_unit_of_a_field(unit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linearized, "MOST_WORK", 0)
    data = noisy(0, 0.1)
    scaled = WindowDataset(
        [Trajectory(dynamic=unit * t.dynamic, static=t.static) for t in data.trajectories], horizon=data.horizon
    )
    trainer = learning(Decay(dtype=torch.float64), batch_size=100)
    trainer.train(scaled, 8)
    minimum(trainer, data)


def test_weights_come_with_their_start_states() -> None:
    data = growth_windows(growth(), noise=0.05, horizon=6)
    trainer = learning(growth(a=ParameterSetting(init=1.3)))
    trainer.train(data, 3)
    weights, starts = trainer.found()
    assert starts is not None
    trainer.state.initial.scaled.data.zero_()  # type: ignore[union-attr]
    trainer.take(weights, starts)
    torch.testing.assert_close(trainer.state.initial.scaled.detach(), starts["scaled"])  # type: ignore[union-attr]


def test_a_joint_problem_evaluates_other_points_and_returns() -> None:
    data = growth_windows(growth(), noise=0.05, horizon=6)
    trainer = learning(growth(a=ParameterSetting(init=1.3)))
    problem = begun(trainer, data)
    joint = JointProblem(problem, trainer.linearizer)
    moved = problem.point() + 0.01
    (value,) = joint.values(moved[None], torch.zeros(1))
    problem.move_to(moved)
    r, _ = numeric(problem, trainer)
    assert float(value) == pytest.approx(float(r.square().sum()), rel=1e-9)


class Again(Recipe):
    """The windows of a data set once more, as if they had been generated."""

    batch_size = 4
    sample_bytes = 8

    def __init__(self, data: WindowDataset, count: int) -> None:
        self.data = data
        self.count = count

    def __len__(self) -> int:
        return self.count

    def generate(self, indices: Tensor) -> Batch:
        return self.data.batch(indices)


@pytest.mark.parametrize(
    ("ranks", "kind", "generated"), [(2, DenseCurvature, 0), (4, ProductCurvature, 5)], ids=["blocks", "products"]
)
def test_each_rank_holds_the_starts_of_its_samples(ranks: int, kind: type, generated: int) -> None:
    """Any number of ranks finds the same bits, and each linearizes its own samples alone."""
    real = noisy(0, 0.1, count=9)

    def found(runtime: Runtime) -> tuple[list[Tensor], dict[str, Any] | None, list[int]]:
        model = growth(a=ParameterSetting(init=1.3)) if kind is DenseCurvature else Decay(dtype=torch.float64)
        trainer = learning(model, shards=Shards(4, runtime))
        more = Memory().hold(Again(real, generated), None) if generated else None
        data = AugmentedDataset(real, more, weight=0.5)
        trainer.train(data, 2)
        weights, starts = trainer.found()
        assert starts is not None
        bars = measure(trainer, real)
        assert bars is not None
        arrow = trainer.linearizer.arrow(trainer.whole_loss(data))
        assert all(isinstance(owned.curvature, kind) for owned in arrow.owned)
        values = [*weights.values(), *starts.values(), arrow.scores(), arrow.reduced, *arrow.start_step()[:1]]
        return values, bars.to_data(), [len(owned.part.start_gradient) for owned in arrow.owned]

    alone, told, held = found(Single())
    assert held == ([3, 4, 2, 0] if generated else [2, 2, 2, 3])
    results = on_ranks(ranks, found)
    for values, bars, _ in results:
        assert all(torch.equal(one, other) for one, other in zip(values, alone, strict=True))
        assert bars == told
    own = [counts for _, _, counts in results]
    each = 4 // ranks
    assert own == [held[k : k + each] for k in range(0, 4, each)]


def test_shards_change_no_more_of_learned_starts_than_rounding() -> None:
    data, found = noisy(0, 0.1, count=9), []
    for shards in (Shards(), Shards(4)):
        trainer = learning(Decay(dtype=torch.float64), batch_size=100, shards=shards)
        trainer.train(data, 10)
        found.append(trainer.found())
    (whole, starts), (divided, moved) = found
    assert starts is not None
    assert moved is not None
    torch.testing.assert_close(whole, divided, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(starts, moved, rtol=1e-9, atol=1e-9)


# --- the first guess --------------------------------------------------------------------------------------------------


def test_windows_of_a_joint_search_share_no_frame_and_learn_their_own_starts() -> None:
    trainer, data = learning(growth()), growth_windows(growth(), noise=0.05, horizon=20, count=2)
    problem = begun(trainer, data)
    shorter = problem.from_starts(6)
    assert shorter is not None
    assert shorter.initial is not None
    assert len(shorter.initial.scaled) == len(shorter.data) == 3 * len(data)
    states, targets = shorter.data.batch(torch.arange(len(shorter.data)))
    cut = torch.cat([states[:, None, :1], targets], dim=1).reshape(len(data), 21, -1)
    first, rest = data.batch(torch.arange(len(data)))
    assert torch.equal(cut, torch.cat([first[:, None, :1], rest], dim=1).reshape(len(data), 21, -1))
    # one step of it moves its own starts alone
    trainer.solver.solver.step(shorter, trainer.solver.solver.init(shorter))
    assert problem.initial is not None
    assert bool((shorter.initial.scaled != 0).any())
    assert bool((problem.initial.scaled == 0).all())
    assert problem.from_starts(1) is None
    assert problem.from_starts(21) is None


@pytest.mark.parametrize(("horizon", "rollouts"), [(3, 36), (9, 8)])
def test_a_guess_takes_as_many_rollouts_as_tell_something(
    horizon: int, rollouts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two simulations of 21 frames have 36 rollouts of 3 steps, and 8 of 9 steps, which begin 3 frames apart."""
    trainer, data = learning(growth()), growth_windows(growth(), noise=0.05, horizon=20, count=2)
    problem = begun(trainer, data)
    every = problem.from_frames(data, horizon)
    assert every is not None
    monkeypatch.setattr("hyco_engine.training.problem.LEAST_ROLLOUTS", 3)
    monkeypatch.setattr(
        "hyco_engine.training.problem.ENOUGH_VALUES", every.data.batch(torch.tensor([0]))[1].numel() * 4
    )
    fewer = problem.from_frames(data, horizon)
    assert fewer is not None
    assert len(every.data) == rollouts
    step = len(every.data) // 4
    assert len(fewer.data) == -(-len(every.data) // step)
    rows = torch.arange(len(fewer.data))
    assert torch.equal(fewer.data.batch(rows)[0], every.data.batch(rows * step)[0])


def test_a_first_guess_searches_in_growing_windows_and_takes_back_a_search_that_diverges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[int | None] = []

    def iterate(self: Any, problem: Problem, state: Any) -> Iteration:
        steps.append(problem.steps)
        if problem.steps == 6:
            problem.unknowns.move_to(problem.unknowns.point() + 1)
        return Iteration(loss=math.inf if problem.steps == 6 else 1.0, metrics={}, converged=True)

    trainer = learning(growth(a=ParameterSetting(init=1.3)))
    problem = begun(trainer, growth_windows(growth(), noise=0.05, horizon=20, count=2))
    monkeypatch.setattr(GaussNewton, "iterate", iterate)
    monkeypatch.setattr(guessed, "LEARNED", (7, 3))
    before = problem.unknowns.point()
    monkeypatch.setattr(Guessed, "_found", lambda self, problem, windows, start: start)
    trainer.solver.step(problem, trainer.solver.init(problem))
    assert steps == [2, 6, 20]
    assert torch.equal(problem.unknowns.point(), before)
