"""The error budget of parameters and the test of the physics, against closed forms and drawn noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tiny_specs import HEAT_DATA
from torch import Tensor

import hyco_engine as hyco
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import BuildContext, PhysicalModel, Samples
from hyco_engine.physics.model import TorchModel, TorchPhysics
from hyco_engine.physics.parameters import ParameterDeclaration
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.report.verdict import verdict
from hyco_engine.rollout import rollout
from hyco_engine.training.discretisation import Discretisation, Excerpt, Held, discretisation
from hyco_engine.training.error_bars import by_blocks, measure
from hyco_engine.training.error_budget import ErrorBudget, error_budget
from hyco_engine.training.physics_test import PhysicsTest, physics_test
from hyco_engine.training.refinement import NotRefinable, Refinement, finer, interpolated
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.tangents import TangentRollout
from hyco_engine.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("measured")

DT = 0.1


def layout_of(boundary: Any = "periodic", cells: int = 8, **more: Any) -> StateLayout:
    grid = Grid(axes=("x",), resolution=(cells,), lower=(0.0,), upper=(1.0,))
    field = FieldInfo(name="u", boundary=Boundary.parse(boundary, ("x",)), **more)
    return StateLayout(grid=grid, dynamic=(field,))


class Euler(TorchPhysics):
    """u_t = -k u + c by Euler's method, with as many steps as `physical.dt` asks for."""

    parameters = (
        ParameterDeclaration(name="k", init=0.5),
        ParameterDeclaration(name="c", init=0.0, optional=True),
    )

    def fields(self, axes: tuple[str, ...]) -> Any:
        return layout_of().dynamic, ()

    def step(self, fields: Any, parameters: Any, dt: float) -> Any:
        return {"u": fields["u"] + dt * (parameters.get("c", 0.0) - parameters["k"] * fields["u"])}


class Reaction(Euler):
    """u_t = -k u^2 by Euler's method: steps of half the length change its form, so no other k makes up for them."""

    def step(self, fields: Any, parameters: Any, dt: float) -> Any:
        return {"u": fields["u"] - dt * parameters["k"] * fields["u"].square()}


def built(
    layout: StateLayout | None = None,
    inner_dt: float | None = None,
    physics: TorchPhysics | None = None,
    compile: Any = "eager",
    **settings: Any,
) -> TorchModel:
    context = BuildContext(
        seed=0,
        registry=Registry(),
        layout=layout or layout_of(),
        dt=DT,
        inner_dt=inner_dt,
        dtype=torch.float64,
        compile=compile,
        parameters={name: ParameterSetting(**own) for name, own in settings.items()},
    )
    return TorchModel(physics or Euler(), context)


def budget_of(model: PhysicalModel, data: Samples, noise: Any = None, more: Any = None, **settings: Any) -> ErrorBudget:
    trainer = Trainer(
        model,
        player="physical",
        layout=model.layout,
        settings=TrainingSettings(optimizer="gauss-newton", batch_size=64, **settings),
    )
    trainer.train(data, 20)
    bars = measure(trainer, data)
    assert bars is not None
    return error_budget(trainer, data, bars, lambda layout, dt: built(layout, dt, **(more or {})), noise)


def exact_decay(count: int = 6, steps: int = 1, noise: float = 0.0, starts: float = 0.0, seed: int = 0) -> Held:
    """Windows of u_t = -u, with noise of the targets and of the start states."""
    generator = torch.Generator().manual_seed(seed)
    states = 1 + torch.randn(count, 1, 8, generator=generator, dtype=torch.float64)
    times = DT * torch.arange(1, steps + 1, dtype=torch.float64).view(1, -1, 1, 1)
    targets = states[:, None] * torch.exp(-times)
    targets = targets + noise * torch.randn(targets.shape, generator=generator, dtype=torch.float64)
    return Held(states + starts * torch.randn(states.shape, generator=generator, dtype=torch.float64), targets)


# --- the finer grid ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("boundary", "cells", "lower", "upper"),
    [
        ("periodic", 24, 0.0, 1.0),
        ("zero-gradient", 24, 0.0, 1.0),
        # the value at the centre of the cell beyond the side stays where it is
        (0.0, 26, -1 / 24, 1 + 1 / 24),
        # and so does the centre of the last cell, about which the field is mirrored
        ("reflect", 22, 1 / 24, 1 - 1 / 24),
    ],
)
def test_the_finer_grid_has_the_places_of_the_coarse_one(boundary: Any, cells: int, lower: float, upper: float) -> None:
    layout = layout_of(boundary)
    fine = finer(layout)
    assert fine.grid.resolution == (cells,)
    assert (*fine.grid.lower, *fine.grid.upper) == pytest.approx((lower, upper))
    assert fine.grid.spacing == pytest.approx([dx / 3 for dx in layout.grid.spacing])
    model = built(layout)
    states = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    refined = Refinement.of(model, lambda own, dt: built(own, dt))
    assert refined.grid
    # a decay without neighbours is the same on every grid, so what is left are shorter steps
    shorter = Refinement.of(model, lambda own, dt: built(own, dt), grid=False)
    assert torch.allclose(refined.predictions(states, 3), shorter.predictions(states, 3), rtol=1e-12)
    assert (refined.cells, shorter.cells) == (3, 1)
    assert (refined.model.substeps, shorter.model.substeps) == (3, 3)


def test_waves_and_polynomials_are_interpolated_exactly() -> None:
    layout = layout_of(cells=16)
    places, finely = (
        torch.tensor(grid.centers("x"), dtype=torch.float64) for grid in (layout.grid, finer(layout).grid)
    )
    waves = [lambda x: torch.sin(2 * math.pi * 5 * x + 0.3), lambda x: torch.cos(2 * math.pi * 3 * x)]
    states = torch.stack([wave(places) for wave in waves])[:, None]
    exact = torch.stack([wave(finely) for wave in waves])[:, None]
    assert torch.allclose(interpolated(states, layout), exact, atol=1e-13)
    layout = layout_of("zero-gradient", cells=16)
    cubic = torch.stack([places**5 - places])[:, None]
    inner = slice(12, -12)
    assert torch.allclose(interpolated(cubic, layout)[..., inner], (finely**5 - finely)[inner], atol=1e-13)
    # a wave with zero slope at the walls, also beside them
    slope = torch.stack([torch.cos(math.pi * places)])[:, None]
    assert torch.allclose(interpolated(slope, layout), torch.cos(math.pi * finely), atol=2e-5)
    layout = layout_of(0.0, cells=16)
    # with the value 0 at the centres of the cells beyond the walls
    wall = layout.grid.spacing[0] / 2
    arch = torch.stack([torch.sin(math.pi * (places + wall) / (1 + 2 * wall))])[:, None]
    finely = torch.tensor(finer(layout).grid.centers("x"), dtype=torch.float64)
    assert torch.allclose(interpolated(arch, layout), torch.sin(math.pi * (finely + wall) / (1 + 2 * wall)), atol=2e-5)


def test_what_cannot_be_refined_says_why() -> None:
    with pytest.raises(NotRefinable, match=r"^u lies on the faces of the cells$"):
        finer(layout_of(components=("x",), sampling="staggered"))
    with pytest.raises(NotRefinable, match=r"^4 cells along x are too few to interpolate between them$"):
        finer(layout_of(0.0, cells=4))
    with pytest.raises(NotRefinable, match="no internal steps that could be shorter, and the grid was left as it is"):
        Refinement.of(built(), lambda own, dt: built(own), grid=False)


# --- the budget -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learned", [False, True])
def test_the_step_to_the_finer_fit_is_the_formulas(learned: bool) -> None:
    """One Euler step fits k = (1 - exp(-dt)) / dt, with three steps in its place the prediction is (1 - k dt / 3)^3."""
    settings = {"initial_states": "learned"} if learned else {}
    found = budget_of(built(), exact_decay(), **settings)
    entry = found.entries["k"]
    k = (1 - math.exp(-DT)) / DT
    shift = ((1 - k * DT / 3) ** 3 - (1 - k * DT)) / DT
    assert entry["discretisation_shift"] == pytest.approx(shift, rel=1e-5)
    assert entry["discretisation"] == pytest.approx(2 * shift, rel=1e-5)
    # in truth, such steps fit 3 (1 - exp(-dt / 3)) / dt
    assert k + shift == pytest.approx(3 * (1 - math.exp(-DT / 3)) / DT, rel=3e-3)
    low, high = entry["interval"]
    assert low < 1.0 < high
    assert found.discretisation is not None
    assert found.discretisation.refinement.grid


@pytest.mark.parametrize("starts", ["observed", "learned"])
def test_the_budget_of_a_grid_linearises_the_physics_once(starts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fits to this grid, to a finer one and to one on the other side differ in their targets alone."""
    asked: list[int] = []
    roll_out = TangentRollout.__call__

    def counted(self: TangentRollout, *inputs: Any) -> Any:
        asked.append(1)
        return roll_out(self, *inputs)

    def counting(*inputs: Any) -> Discretisation:
        monkeypatch.setattr(TangentRollout, "__call__", counted)
        try:
            return discretisation(*inputs)
        finally:
            monkeypatch.setattr(TangentRollout, "__call__", roll_out)

    monkeypatch.setattr("hyco_engine.training.error_budget.discretisation", counting)
    more = {"compile": "graph"}
    found = budget_of(built(**more), exact_decay(noise=0.01), more=more, initial_states=starts)
    assert found.discretisation is not None
    assert len(asked) == 1


def test_without_a_way_to_build_the_physics_the_reason_is_told() -> None:
    trainer = Trainer(
        built(), player="physical", layout=layout_of(), settings=TrainingSettings(optimizer="gauss-newton")
    )
    data = exact_decay(noise=0.1)
    trainer.train(data, 10)
    bars = measure(trainer, data)
    assert bars is not None
    entry = error_budget(trainer, data, bars).entries["k"]
    assert entry["discretisation"] is None
    assert entry["discretisation_reason"] == "nobody told how to build the physics on another grid"
    assert entry["total"] == max(entry["statistical"], entry["misfit"])
    assert (entry["trusted"], entry["verdict"]) == (True, "trusted")


@pytest.mark.parametrize("starts", ["observed", "learned"])
def test_a_search_that_ended_on_its_way_is_told_of(starts: Any) -> None:
    """Where a search ends whose next step gains much, nothing is to be trusted; at the minimum a limit is no harm."""
    model = built()
    settings = TrainingSettings(optimizer="gauss-newton", initial_states=starts)
    trainer = Trainer(model, player="physical", layout=layout_of(), settings=settings)
    data = exact_decay(steps=4, noise=0.01)
    trainer.train(data, 20)

    def told(converged: bool) -> ErrorBudget:
        bars = measure(trainer, data)
        assert bars is not None
        return error_budget(trainer, data, bars, converged=converged)

    at_end = told(converged=False).entries["k"]
    assert (at_end["trusted"], at_end["verdict"]) == (True, "trusted")
    trainer.unknowns.move_to(trainer.unknowns.point() + 0.5)
    assert told(converged=True).entries["k"]["verdict"] == "trusted"
    found = told(converged=False)
    unfinished = "the search ended before it had converged: train longer (run.cycles), or start closer"
    assert (found.entries["k"]["trusted"], found.entries["k"]["verdict"]) == (False, unfinished)
    assert found.after("").entries["k"]["verdict"] == unfinished
    assert found.after("residuals are large").entries["k"]["verdict"] == f"{unfinished}; residuals are large"
    assert told(converged=True).after("residuals are large").entries["k"]["verdict"] == "residuals are large"


def test_a_grid_that_is_too_dear_to_refine_leaves_an_interval_that_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hyco_engine.training.error_budget.LEAST_WORK", 0.0)
    monkeypatch.setattr("hyco_engine.training.error_budget.FINER_SHARE", 1e-9)
    entry = budget_of(built(), exact_decay(noise=0.01)).entries["k"]
    assert entry["discretisation_reason"] == (
        "the internal steps alone are shorter, since the grid was left as it is to bound the time that this takes"
    )
    assert (entry["trusted"], entry["verdict"]) == (
        False,
        "the error of the grid is not known, as a finer one would take longer than the identification",
    )


def test_data_made_with_these_very_steps_have_no_error_of_the_grid() -> None:
    states = exact_decay().states
    more = {"physics": Reaction()}
    found = budget_of(built(**more), Held(states, (states - 0.1 * states.square())[:, None]), more=more).entries["k"]
    assert found["discretisation"] is None
    assert "the data agree with this grid and these internal steps" in found["discretisation_reason"]


@pytest.mark.parametrize(
    ("noise", "very_grid", "told"),
    [
        (1e-6, False, "the finer one"),
        (1e-6, True, "this one"),
        (0.03, False, "nothing"),
        (0.03, True, "nothing"),
    ],
)
def test_the_interval_lies_where_the_data_put_their_grid(noise: float, very_grid: bool, told: str) -> None:
    """With little noise the data tell whether Euler's steps made them; else the interval has both estimates in it."""
    clean = exact_decay(40)
    states = 0.3 * clean.states.abs()
    targets = states - DT * states.square() if very_grid else states / (1 + DT * states)
    generator = torch.Generator().manual_seed(5)
    targets = targets + noise * torch.randn(targets.shape, generator=generator, dtype=torch.float64)
    more = {"physics": Reaction()}
    model = built(**more)
    entry = budget_of(model, Held(states, targets[:, None]), more=more).entries["k"]
    value = float(model.learnables.values()["k"].detach())
    low, high = entry["interval"]
    assert low < 1.0 < high
    if told == "this one":
        assert entry["discretisation"] is None
        assert value == pytest.approx(1.0, abs=1e-4)
        return
    shift = entry["discretisation_shift"]
    assert 0.005 < shift < 0.1
    assert (low < value < high) == (told == "nothing")
    if told == "nothing":
        assert low < value + 1.25 * shift < high


def test_the_data_measure_the_way_to_a_perfect_grid() -> None:
    """Data 1.6 times as far away as a finer grid: with little noise the interval lies there, 1.25 or not."""
    states = 0.3 * exact_decay(40).states.abs()
    more = {"physics": Reaction()}
    with torch.no_grad():
        coarse, fine = (rollout(built(inner_dt=dt, k={"init": 1.0}, **more), states, 1) for dt in (None, DT / 3))
    generator = torch.Generator().manual_seed(5)
    noise = 1e-6 * torch.randn(coarse.shape, generator=generator, dtype=torch.float64)
    model = built(**more)
    entry = budget_of(model, Held(states, coarse + 1.6 * (fine - coarse) + noise), more=more).entries["k"]
    value, shift = float(model.learnables.values()["k"].detach()), entry["discretisation_shift"]
    # what is expected without data, 1.25 +- 0.25 steps, would end here
    assert value + 1.75 * shift < 1.0
    low, high = entry["interval"]
    assert low < 1.0 < high < 1.05
    assert (low + high) / 2 == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("seen", "sd", "way", "spread"),
    [
        # the mean of both, each weighted by its precision
        (1.0, 0.25, 1.125, 0.25 / math.sqrt(2)),
        (1.25, 0.05, 1.25, 0.25 / math.sqrt(26)),
        # data that contradict the expectation by 4 standard deviations of the difference
        (2.25, 0.25e-9, 2.25, 4 * 0.25e-9),
        # data that say nothing
        (7.0, 1e9, 1.25, 0.25),
    ],
)
def test_the_way_is_what_is_expected_and_seen(seen: float, sd: float, way: float, spread: float) -> None:
    """What a fit leaves is c (w - seen)^2, where the variance of a value is c sd^2."""
    c = 3.0
    found = Discretisation(
        step=torch.zeros(1),
        defect=torch.zeros(1),
        left=(c * seen**2, -2 * c * seen, c),
        refinement=None,  # type: ignore[arg-type]
    ).way(c * sd**2)
    assert found == pytest.approx((way, spread), rel=1e-6)


def test_the_covariance_by_blocks_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    jacobian = torch.randn(12, 5, 2, generator=generator, dtype=torch.float64)
    residual = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    rows = torch.arange(12) // 2
    scores = torch.einsum("bnp,bn->bp", jacobian, residual)
    hessian = torch.einsum("bnp,bnq->pq", jacobian, jacobian)
    j, r = jacobian.numpy().reshape(6, 10, 2), residual.numpy().reshape(6, 10)
    pulls = np.einsum("knp,kn->kp", j, r)
    bread = np.linalg.inv(np.einsum("knp,knq->pq", j, j))
    exact = bread @ (pulls.T @ pulls) @ bread * 6 / 5
    assert by_blocks(hessian, scores, rows).numpy() == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("learned", [False, True])
def test_windows_with_errors_of_their_own_widen_the_misfit(learned: bool) -> None:
    """Each window has a decay of its own: residuals within a window err as one, and only windows are independent."""
    generator = torch.Generator().manual_seed(1)
    states = 1 + torch.rand(12, 1, 8, generator=generator, dtype=torch.float64)
    own = 1 + 0.2 * torch.randn(12, 1, 1, 1, generator=generator, dtype=torch.float64)
    times = DT * torch.arange(1, 9, dtype=torch.float64).view(1, -1, 1, 1)
    data = Held(states, states[:, None] * torch.exp(-own * times))
    settings = {"initial_states": "learned"} if learned else {}
    entry = budget_of(built(), data, **settings).entries["k"]
    # the spread of the mean of twelve decays
    assert entry["misfit"] == pytest.approx(float(own.std()) / math.sqrt(12), rel=0.35)
    assert entry["misfit"] > 2 * entry["statistical"] or learned


def test_the_bias_by_noisy_starts_is_the_formulas() -> None:
    """A slope is too small by the share of noise in the squares of its starts: 1 - k dt = a s^2 / (s^2 + n^2)."""
    found = budget_of(built(), exact_decay(400, starts=0.3, seed=2), {"u": 0.3}).entries["k"]
    a, squares = math.exp(-DT), 2.0
    biased = (1 - a * squares / (squares + 0.09)) / DT
    unbiased = (1 - a) / DT
    assert found["start_noise"] == pytest.approx(biased - unbiased, rel=0.25)
    low, high = found["interval"]
    assert low < unbiased < high
    assert found["verdict"].startswith("dominated by the noise of start states, which may move it by ")


def test_a_profile_of_a_linear_model_is_the_interval_of_its_curvature() -> None:
    """c is vague, so that it has a profile; the model is linear in k and c, whose loss is a parabola."""
    data = exact_decay(noise=0.3, seed=3)
    more = {"c": {"init": 0.1, "learn": True}}
    model = built(**more)
    found = budget_of(model, data, more=more)
    entry_value = float(model.learnables.values()["c"].detach())
    entry = found.entries["c"]
    assert entry["statistical"] > 0.5 * 0.1
    low, high = entry["profile"]
    assert entry["correlation"]["with"] == "k"
    middle, shift = (low + high) / 2, entry["discretisation_shift"]
    # t of 46 degrees of freedom, and a quarter of a step for the vagueness of the grid's error
    half = [math.hypot(end - entry_value, 2.0129 * 0.25 * shift) for end in (low, high)]
    assert entry["interval"] == pytest.approx(
        [entry_value + min(0.0, 1.25 * shift) - half[0], entry_value + max(0.0, 1.25 * shift) + half[1]], rel=1e-4
    )
    assert (high - low) / 2 == pytest.approx(2.0129 * entry["statistical"], rel=0.05)
    assert abs(middle) < entry["statistical"] * 3


class Quadratic(Euler):
    """u_t = c - k u + b u^2 by Euler's method: one step is linear in all three."""

    parameters = (*Euler.parameters, ParameterDeclaration(name="b", init=0.0))

    def step(self, fields: Any, parameters: Any, dt: float) -> Any:
        own = super().step(fields, parameters, dt)["u"]
        return {"u": own + dt * parameters["b"] * fields["u"].square()}


def test_a_parameter_at_its_bound_has_the_profile_of_the_formula() -> None:
    """The data want k = 0.3 where k lies above 0.5. Its profile is a parabola about 0.3, as all three are linear."""
    data = exact_decay(20, noise=0.1, seed=4)
    data.targets = data.targets + 0.7 * DT * data.states[:, None]
    more = {
        "physics": Quadratic(),
        "k": {"init": 0.8, "bounds": [0.5, 2.0]},
        "c": {"init": 0.1, "learn": True},
        "b": {"init": 0.1},
    }
    model = built(**more)
    trainer = Trainer(
        model, player="physical", layout=model.layout, settings=TrainingSettings(optimizer="gauss-newton")
    )
    trainer.train(data, 40)
    bars = measure(trainer, data)
    assert bars is not None
    before = trainer.unknowns.point()
    entry = error_budget(trainer, data, bars).entries["k"]
    assert torch.equal(trainer.unknowns.point(), before)
    u, v = data.states.flatten(), data.targets.flatten()
    columns = torch.stack([-u, torch.ones_like(u), u.square()], dim=1) * DT
    k = float(torch.linalg.lstsq(columns, (v - u)[:, None]).solution[0])
    curvature = 1 / float(torch.linalg.inv(columns.T @ columns)[0, 0])
    assert k < 0.5
    # the loss is a mean of squares
    allowed = bars.reach**2 * bars.variance * len(u)
    exact = k + math.sqrt((0.5 - k) ** 2 + allowed / curvature)
    low, high = entry["profile"]
    assert low == 0.5
    assert exact <= high <= exact + 0.12 * (exact - k)
    assert entry["profile_reason"] is None
    assert entry["verdict"] == "at its lower bound, beyond which the fit would go on"


@pytest.mark.parametrize("starts", ["observed", "learned"])
def test_all_parameters_that_the_data_hardly_determine_have_profiles(starts: str) -> None:
    """Nothing changes but by noise, so that all three numbers are vague, without and with learned start states."""
    states, generator = exact_decay(20).states, torch.Generator().manual_seed(3)
    targets = states + 0.1 * torch.randn(states.shape, generator=generator, dtype=torch.float64)
    more = {"physics": Quadratic(), "k": {"init": 0.5}, "c": {"init": 0.1, "learn": True}, "b": {"init": 0.1}}
    found = budget_of(built(**more), Held(states, targets[:, None]), more=more, initial_states=starts)
    for entry in found.entries.values():
        low, high = entry["profile"]
        # t of more than a hundred degrees of freedom, and up to a tenth beyond
        reach = (high - low) / 2 / max(entry["statistical"], entry["misfit"])
        assert 1.95 < reach < 2.3


# --- the test of the physics ------------------------------------------------------------------------------------------


def outcome(
    noise: float,
    seed: int,
    force: Tensor | None = None,
    *,
    steps: int = 4,
    count: int = 12,
    supposed: float | None = None,
) -> PhysicsTest:
    """Test u_t = -u on its own data from noisy starts, or on those with a force, with the noise that is supposed."""
    generator = torch.Generator().manual_seed(seed)
    model = built(k={"init": 1.0})
    states = 1 + torch.randn(count, 1, 8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        path = torch.cat([states[:, None], rollout(model, states, steps)], dim=1)
    if force is not None:
        path = path + force * DT * torch.arange(steps + 1, dtype=torch.float64).view(1, -1, 1, 1)
    seen = path + noise * torch.randn(path.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        predicted = rollout(model, seen[:, 0], steps)
    excerpt = Excerpt(indices=torch.arange(count), states=seen[:, 0], observed=seen[:, 1:], predicted=predicted)
    data = Held(seen[:, 0], seen[:, 1:])
    return physics_test(
        model, model.layout, DT, excerpt, {"u": supposed or noise}, data=data, learned_starts=False, seed=seed
    )


def test_a_right_physics_with_noise_is_hardly_ever_accused() -> None:
    alarms = [seed for seed in range(100) if not outcome(0.1, seed).explained]
    assert len(alarms) <= 5


def test_what_a_physics_lacks_is_found_and_named() -> None:
    found = outcome(0.05, 0, torch.full((8,), 2.0).double())
    assert not found.explained
    assert {"time", "space", "bias", "large"} <= set(found.fields["u"].failed)
    best = found.missing[0]
    assert (best["field"], best["term"]) == ("u", "1")
    assert best["correlation"] > 0.9
    assert best["coefficient"] == pytest.approx(2.0, rel=0.15)
    assert found.rate["u"] == pytest.approx([2.0] * 8, rel=0.3)
    assert found.verdict.startswith("the model does not explain the data: residuals are ")
    assert found.verdict.endswith(" times the noise and correlated")


def test_a_force_in_one_place_shows_there() -> None:
    force = torch.zeros(8, dtype=torch.float64)
    force[2:4] = 3.0
    found = outcome(0.02, 1, force)
    regions = found.fields["u"].by_region
    assert max(range(4), key=regions.__getitem__) == 1
    assert max(regions[0], *regions[2:]) < 1.3


def test_residuals_far_below_a_noise_that_was_only_supposed_are_no_fault_of_the_physics() -> None:
    slightly = torch.linspace(1e-4, 1e-3, 8, dtype=torch.float64)
    assert outcome(0.0, 0, slightly, supposed=0.2).explained
    assert not outcome(0.0, 0, 1e3 * slightly, supposed=0.2).explained


def test_without_noise_only_residuals_that_matter_count() -> None:
    assert outcome(0.0, 0).explained
    assert outcome(0.0, 0, torch.full((8,), 1e-3).double()).explained
    found = outcome(0.0, 0, torch.full((8,), 1.0).double())
    assert found.fields["u"].failed == ("size",)
    assert " times what matters and correlated" in found.verdict


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, drawn: None) -> hyco.RunResult:
    folder = tmp_path_factory.mktemp("budget")
    spec = {
        "run": {"name": "budget", "cycles": 1},
        "paths": {"cache": str(folder / "cache"), "runs": str(folder / "runs")},
        "data": HEAT_DATA | {"resolution": {"x": 24}, "extra": {"force": 5.0}},
        "physical": {"kind": "heat", "parameters": {"kappa": {"init": 0.2}}},
        "training": {"physical": {"epochs_per_cycle": 5}},
    }
    return hyco.run(spec)


def test_a_run_that_cannot_be_trusted_says_so_first(finished: hyco.RunResult) -> None:
    summary = finished.summary
    entry = summary["parameters"]["kappa"]["budget"]
    assert set(entry) == {
        "statistical",
        "misfit",
        "discretisation",
        "discretisation_shift",
        "discretisation_reason",
        "start_noise",
        "correlation",
        "profile",
        "profile_reason",
        "total",
        "interval",
        "trusted",
        "verdict",
    }
    assert entry["trusted"] is False
    first = summary["verdict"][0]
    assert first == f"The interval of kappa is not to be trusted: {entry['verdict']}."
    assert entry["verdict"].startswith("the model does not explain the data: residuals are ")
    assert "a surrogate of kind “corrected” learns it beside the physics." in " ".join(summary["verdict"])
    assert summary["physics_test"]["explained"] is False
    assert summary["timings"]["phases"]["error_budget"] > 0
    page = (finished.folder / "report.html").read_text()
    assert "<h2>Error budget</h2>" in page
    assert "<h2>Test of the physics</h2>" in page
    assert (
        'aria-label="Mean rate that is missing in T"' in page or 'aria-label="Mean rate that is missing in u"' in page
    )


def test_the_same_reason_is_told_once_for_several_parameters() -> None:
    budget = {"trusted": False, "verdict": "why", "total": 0.1}
    parameters = {
        name: {"final": 1.0, "standard_error": 0.01, "moved": True, "budget": budget} for name in ("a", "b", "c")
    }
    found = verdict({"status": "completed", "parameters": parameters})
    assert found[0] == "The intervals of a, b and c are not to be trusted: why."
    assert "a = 1 ± 0.1" in found[1]
