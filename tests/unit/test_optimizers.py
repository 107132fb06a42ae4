"""Optimizers for physics: Levenberg-Marquardt, L-BFGS over all samples, several starts, memory."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
import torch
from messages import error_naming
from torch import Tensor, nn

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.data.windows import WindowDataset
from hyco_engine.errors import RunError, SpecError
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import BuildContext, ExtraTerm, LossTerm, Predictor, TermSpec, Trajectory
from hyco_engine.physics.model import DeclaredModel, TorchModel, TorchPhysics
from hyco_engine.physics.parameters import ParameterDeclaration
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.rollout import rollout
from hyco_engine.spec.classes import TrainingSpec
from hyco_engine.testing.problems import Decay, LinearSurrogate, decay_layout, decay_trajectories, decay_windows
from hyco_engine.training.jacobian import ForwardJacobian
from hyco_engine.training.least_squares import LevenbergMarquardt, NormalEquations
from hyco_engine.training.linearized import Linearizer
from hyco_engine.training.losses import RolloutObjective
from hyco_engine.training.memory import most_bytes, plan_memory, tape_bytes
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.solver.choosing import choose_optimizer
from hyco_engine.training.solver.minibatch import Minibatch
from hyco_engine.training.trainer import Trainer
from hyco_engine.training.unknowns import draw_starts


class Residuals:
    """r(theta) as a `SquaredSum`, for one start or several."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.seen: list[Tensor] = []

    def values(self, points: Tensor, starts: Tensor) -> Tensor:
        self.seen += list(points)
        return torch.stack([self.function(p).square().sum() for p in points])

    def normal_equations(self, points: Tensor, starts: Tensor) -> NormalEquations:
        pairs = [ForwardJacobian()(self.function, point, 1) for point in points]
        r, j = torch.stack([r for r, _ in pairs]), torch.stack([j for _, j in pairs])
        return NormalEquations(values=r.square().sum(1), gradient=torch.einsum("snp,sn->sp", j, r), hessian=j.mT @ j)


# --- Levenberg-Marquardt --------------------------------------------------------------------------------------------


def test_a_linear_problem_is_solved_in_one_step_without_damping() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    b = torch.randn(20, generator=generator, dtype=torch.float64)
    exact = torch.linalg.lstsq(a, b).solution
    search = LevenbergMarquardt()
    search.damping[:] = 0.0
    problem = Residuals(lambda theta: a @ theta - b)
    step = search.iterate(problem, torch.zeros(1, 3))
    assert torch.allclose(step.points[0], exact, rtol=1e-12)
    assert bool(search.iterate(problem, step.points).converged)


def test_scaling_a_parameter_does_not_change_the_steps() -> None:
    def rosenbrock(theta: Tensor) -> Tensor:
        return torch.stack([10 * (theta[1] - theta[0] ** 2), 1 - theta[0]])

    scale = torch.tensor([1.0, 1e4], dtype=torch.float64)
    one, two = LevenbergMarquardt(), LevenbergMarquardt()
    p, q = torch.tensor([[-1.2, 1.0]]).double(), torch.tensor([[-1.2, 1.0]]).double() * scale
    for _ in range(5):
        p = one.iterate(Residuals(rosenbrock), p).points
        q = two.iterate(Residuals(lambda theta: rosenbrock(theta / scale)), q).points
    assert torch.allclose(p * scale, q, rtol=1e-8)


def test_rosenbrock_is_solved_and_never_goes_uphill() -> None:
    problem = Residuals(lambda t: torch.stack([10 * (t[1] - t[0] ** 2), 1 - t[0]]))
    search, points, before = LevenbergMarquardt(), torch.tensor([[-1.2, 1.0]]).double(), math.inf
    for _ in range(60):
        step = search.iterate(problem, points)
        assert float(step.values) <= before
        points, before = step.points, float(step.values)
        if bool(step.converged):
            break
    assert torch.allclose(points[0], torch.ones(2).double(), rtol=1e-7)
    assert bool(step.converged)


def test_each_start_goes_its_own_way() -> None:
    problem = Residuals(lambda t: torch.stack([t[0] ** 2 - 4, 0.01 * (t[0] - 2)]))
    search, points = LevenbergMarquardt(starts=3), torch.tensor([[3.0], [-5.0], [0.7]]).double()
    for _ in range(20):
        points = search.iterate(problem, points).points
    assert points.flatten().tolist() == pytest.approx([2.0, -2.0, 2.0], abs=1e-3)


def test_steps_to_where_nothing_is_finite_are_taken_back_and_counted() -> None:
    # Gauss-Newton's own step from 3 on log(t) - log(0.1) leads to t < 0
    problem = Residuals(lambda t: torch.stack([torch.log(t[0]) - math.log(0.1)]))
    search, points, nonfinite = LevenbergMarquardt(), torch.tensor([[3.0]]).double(), 0
    for _ in range(40):
        step = search.iterate(problem, points)
        assert torch.isfinite(step.values).all()
        points, nonfinite = step.points, nonfinite + int(step.nonfinite)
    assert float(points) == pytest.approx(0.1, rel=1e-8)
    assert nonfinite > 0


class NoisyLine:
    """A line through 20,000 noisy values. Rounding moves its minimum by 0.4 standard errors, and always seems to gain
    a little.
    """

    def __init__(self, rounding: float) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.linspace(-1, 1, 20_000, dtype=torch.float64)
        self.y = 2.0 * self.x + torch.randn(20_000, generator=generator, dtype=torch.float64)
        self.rounding, self.calls = rounding, 0

    @property
    def best(self) -> float:
        return float((self.x * self.y).sum() / self.x.square().sum())

    def values(self, points: Tensor, starts: Tensor) -> Tensor:
        self.calls += 1
        return (self.y - points * self.x).square().sum(1) * (1 - self.rounding * self.calls)

    def normal_equations(self, points: Tensor, starts: Tensor) -> NormalEquations:
        values, r = self.values(points, starts), points * self.x - self.y
        wrong = 0.4 * self.x.norm() * (-1) ** (self.calls // 2) if self.rounding else 0.0
        gradient, hessian = (r * self.x).sum(1, keepdim=True) + wrong, self.x.square().sum()[None, None, None]
        return NoisyEquations(values=values, gradient=gradient, hessian=hessian)


class NoisyEquations(NormalEquations):
    @property
    def noise(self) -> Tensor:
        return self.values / 20_000


@pytest.mark.parametrize("rounding", [0.0, 1e-6])
def test_a_search_ends_where_noise_and_rounding_hide_what_is_left(rounding: float) -> None:
    line, standard_error = NoisyLine(rounding), math.sqrt(3 / 20_000)
    search, points = LevenbergMarquardt(precision=torch.float32), torch.zeros(1, 1, dtype=torch.float64)
    for _ in range(4):
        step = search.iterate(line, points)
        points = step.points
        if bool(step.converged):
            break
    assert bool(step.converged)
    assert abs(float(points) - line.best) < (1.0 if rounding else 1e-3) * standard_error


@attrs.define
class Stiff:
    """F = |theta|^2 + `least`, whose linearisation says `curvature` times its second derivative."""

    curvature: float = 4.0
    least: float = 0.0
    calls: int = 0

    def values(self, points: Tensor, starts: Tensor) -> Tensor:
        self.calls += 1
        return points.square().sum(1) + self.least

    def normal_equations(self, points: Tensor, starts: Tensor) -> NormalEquations:
        hessian = self.curvature * torch.eye(points.shape[1], dtype=torch.float64).expand(len(points), -1, -1)
        return NoisyEquations(values=self.values(points, starts), gradient=points, hessian=hessian)


def test_a_step_on_a_loss_that_is_flatter_than_its_linearisation_goes_to_the_lowest_point_of_its_line() -> None:
    problem, start = Stiff(), torch.tensor([[3.0, -1.0]]).double()
    step = LevenbergMarquardt().iterate(problem, start)
    assert float(step.points.norm()) < 1e-2 * float(start.norm())
    assert problem.calls == 3
    assert float(step.values) == float(problem.values(step.points, torch.zeros(1)))


def test_a_longer_step_stays_in_the_trust_region() -> None:
    start = torch.tensor([[8.0, 0.5]]).double()
    # Gauss-Newton's step is 2 long in the first number, and a fourth of the way
    longer = LevenbergMarquardt(trust_region=torch.tensor([3.0, math.inf])).iterate(Stiff(), start)
    assert longer.points[0].tolist() == pytest.approx([5.0, 0.5 * 5 / 8], rel=1e-3)
    problem = Stiff()
    bound = LevenbergMarquardt(trust_region=torch.tensor([0.5, math.inf])).iterate(problem, start)
    assert float(bound.points[0, 0]) == 7.5
    assert problem.calls == 2


@pytest.mark.parametrize(("curvature", "ends"), [(4.0, True), (1.0, False)])
def test_a_search_that_creeps_ends_where_noise_hides_what_is_left(curvature: float, ends: bool) -> None:
    """One standard error is a change of F by 1. A good linearisation finds the exact minimum in one more step."""
    problem, start = Stiff(curvature, least=20_000.0), torch.tensor([[0.1]]).double()
    step = LevenbergMarquardt().iterate(problem, start)
    assert bool(step.moved)
    assert bool(step.converged) == ends
    assert not bool(LevenbergMarquardt().iterate(problem, 10 * start).converged)


def test_a_parameter_without_effect_stays_and_hinders_no_other() -> None:
    problem = Residuals(lambda t: torch.stack([t[0] - 3, 2 * t[0] - 6, 0 * t[1]]))
    search, points = LevenbergMarquardt(), torch.tensor([[0.0, 7.0]]).double()
    for _ in range(6):
        points = search.iterate(problem, points).points
    assert points[0].tolist() == pytest.approx([3.0, 7.0])


def test_exactly_dependent_parameters_are_no_obstacle() -> None:
    problem = Residuals(lambda t: torch.stack([t[0] + t[1] - 3, 2 * (t[0] + t[1]) - 6]))
    search, points = LevenbergMarquardt(), torch.tensor([[0.0, 1.0]]).double()
    for _ in range(12):
        points = search.iterate(problem, points).points
    assert float(points.sum()) == pytest.approx(3.0)
    assert torch.isfinite(points).all()


# --- derivatives ----------------------------------------------------------------------------------------------------


class Growth(TorchPhysics):
    """u_t = a u - b u^2, in some internal steps."""

    parameters = (
        ParameterDeclaration(name="a", init=1.0, bounds=(0.0, math.inf)),
        ParameterDeclaration(name="b", init=0.5, bounds=(0.0, 2.0)),
    )

    def fields(self, axes: tuple[str, ...]) -> Any:
        return decay_layout().dynamic, ()

    def internal_steps(self, *args: Any) -> int:
        return 3

    def step(self, fields: Any, parameters: Any, dt: float) -> Any:
        u = fields["u"]
        return {"u": u + dt * (parameters["a"] * u - parameters["b"] * u * u)}


def growth(dtype: torch.dtype = torch.float64, compile: str = "graph", **settings: ParameterSetting) -> TorchModel:
    context = BuildContext(
        seed=0, registry=Registry(), layout=decay_layout(), dt=0.1, dtype=dtype, compile=compile, parameters=settings
    )
    return TorchModel(Growth(), context)


def growth_windows(
    model: DeclaredModel, noise: float = 0.0, seed: int = 0, horizon: int = 4, count: int = 2
) -> WindowDataset:
    """Rollouts of `model`, with noise on the targets' trajectories."""
    generator = torch.Generator().manual_seed(seed)
    state = 0.2 + torch.rand(count, 1, 8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        frames = torch.cat([state[:, None], rollout(model, state, 20)], dim=1)
    frames = frames + noise * torch.randn(frames.shape, generator=generator, dtype=torch.float64)
    dtype = next(model.parameters()).dtype
    empty = torch.zeros(0, 8, dtype=dtype)
    return WindowDataset([Trajectory(dynamic=f.to(dtype), static=empty) for f in frames], horizon=horizon)


def trainer_of(model: nn.Module, **changes: Any) -> Trainer:
    settings = attrs.evolve(TrainingSettings(optimizer="gauss-newton", batch_size=16), **changes)
    return Trainer(model, player="physical", layout=decay_layout(), settings=settings)


def differences(trainer: Trainer, data: Any, point: Tensor, step: float = 1e-6) -> Tensor:
    columns = []
    whole = trainer.whole_loss(data)
    for k in range(len(point)):
        shift = torch.zeros_like(point)
        shift[k] = step
        pair = []
        for sign in (1, -1):
            whole.unknowns.move_to(point + sign * shift)
            draws = torch.Generator()
            pair.append(
                torch.cat([whole.residuals(trainer.model, c, draws).detach().flatten() for c in whole.chunks()])
            )
        columns.append((pair[0] - pair[1]) / (2 * step))
    whole.unknowns.move_to(point)
    return torch.stack(columns, dim=1)


class Polynomial(TorchPhysics):
    """u_t = a + b u + ... + f u^5."""

    parameters = tuple(ParameterDeclaration(name=name, init=0.1) for name in "abcdef")

    def fields(self, axes: tuple[str, ...]) -> Any:
        return decay_layout().dynamic, ()

    def step(self, fields: Any, parameters: Any, dt: float) -> Any:
        u = fields["u"]
        return {"u": u + dt * sum(value * u**k for k, value in enumerate(parameters.values()))}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_parameters_go_together(dtype: torch.dtype) -> None:
    context = BuildContext(seed=0, registry=Registry(), layout=decay_layout(), dt=0.1, dtype=dtype, compile="graph")
    trainer = trainer_of(TorchModel(Polynomial(), context))
    data = growth_windows(growth(dtype, a=ParameterSetting(init=2.0)))
    whole = trainer.whole_loss(data)
    found = [j[0].flatten(0, 1) for _, _, j in trainer.linearizer.linearized(whole, whole.unknowns.point()[None])]
    assert trainer.linearizer.way == "captured"
    if dtype == torch.float64:
        assert torch.allclose(
            torch.cat(found), differences(trainer, data, whole.unknowns.point()), rtol=1e-6, atol=1e-9
        )


@pytest.mark.parametrize("compile", ["graph", "eager"])
def test_columns_of_the_jacobian_match_finite_differences(compile: str) -> None:
    truth = growth(a=ParameterSetting(init=2.0))
    trainer = trainer_of(growth(compile=compile))
    data = growth_windows(truth)
    whole = trainer.whole_loss(data)
    found = [j[0].flatten(0, 1) for _, _, j in trainer.linearizer.linearized(whole, whole.unknowns.point()[None])]
    assert trainer.linearizer.way == {"graph": "captured", "eager": "together"}[compile]
    assert torch.allclose(torch.cat(found), differences(trainer, data, whole.unknowns.point()), rtol=1e-6, atol=1e-9)


def test_batched_starts_are_the_points_one_by_one() -> None:
    trainer = trainer_of(growth())
    whole = trainer.whole_loss(growth_windows(growth(a=ParameterSetting(init=2.0))))
    points = whole.unknowns.point() + torch.tensor([[0.0, 0.0], [0.3, -0.2], [-0.5, 0.1]], dtype=torch.float64)
    together = trainer.linearizer.normal_equations(whole, points)
    for k, point in enumerate(points):
        alone = Linearizer(growth(compile="eager")).normal_equations(whole, point[None])
        for name in ("values", "gradient", "hessian"):
            assert torch.allclose(getattr(together, name)[k], getattr(alone, name)[0], rtol=1e-9)
    assert torch.allclose(trainer.linearizer.values(whole, points), together.values, rtol=1e-12)
    assert torch.allclose(trainer.linearizer.values(whole, points[:2]), together.values[:2], rtol=1e-12)


def test_the_gradient_of_the_sum_of_squares_is_that_of_the_loss() -> None:
    model = growth()
    data = growth_windows(growth(a=ParameterSetting(init=2.0)))
    for trajectory in data.trajectories:
        trajectory.dynamic[3::4, :, :5] = math.nan
    data = WindowDataset(data.trajectories, horizon=4)
    fake = WindowDataset([attrs.evolve(t, dynamic=t.dynamic + 0.1) for t in data.trajectories[:1]], horizon=4)
    fake.nbytes, fake.upcoming = 0, lambda batches: None  # type: ignore[attr-defined]
    mixed = AugmentedDataset(data, fake, weight=0.3)  # type: ignore[arg-type]
    layout = decay_layout()
    objective = RolloutObjective(layout, [TermSpec(name="u", scale=4.0, priority=3.0)])
    settings = TrainingSettings(optimizer="gauss-newton", batch_size=7)
    trainer = Trainer(model, player="physical", layout=layout, objective=objective, settings=settings)
    whole = trainer.whole_loss(mixed)
    found = trainer.linearizer.normal_equations(whole, whole.unknowns.point()[None])
    loss, metrics = whole.gradient()
    assert float(found.values) == pytest.approx(loss, rel=1e-6)
    assert metrics()["train/loss"] == pytest.approx(loss, rel=1e-6)
    assert (2 * found.gradient[0]).tolist() == pytest.approx([float(p.grad) for p in model.parameters()], rel=1e-6)


def test_what_forward_mode_cannot_follow_is_told_and_differentiated_by_differences() -> None:
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.exp()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            return g

    jacobian = ForwardJacobian()
    value, found = jacobian(lambda x: Opaque.apply(x), torch.tensor([0.0, 1.0]).double(), 2)
    assert jacobian.way == "differences"
    assert jacobian.reason
    assert torch.allclose(found, torch.diag(value), rtol=1e-8)


# --- in the trainer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gauss_newton_finds_both_parameters_and_ends_early(dtype: torch.dtype) -> None:
    model = growth(dtype)
    data = growth_windows(growth(dtype, a=ParameterSetting(init=2.0), b=ParameterSetting(init=1.2)))
    records: list[Any] = []
    result = trainer_of(model).train(data, 50, observe=records.append)
    values = model.learnables.values()
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    assert [float(values["a"].detach()), float(values["b"].detach())] == pytest.approx([2.0, 1.2], rel=tolerance)
    assert len(records) < 15
    assert records[-1]["converged"] is True
    assert (result.converged, result.moved) == (True, True)


def test_what_has_converged_does_not_move_and_is_not_blamed_for_it() -> None:
    trainer = trainer_of(growth())
    data = growth_windows(growth(a=ParameterSetting(init=2.0)))
    trainer.train(data, 50)
    again = trainer.train(data, 50)
    assert again.converged
    assert again.notes == ()


def test_bounds_are_kept_though_the_data_ask_for_more() -> None:
    model = growth(a=ParameterSetting(init=1.0, bounds=(0.5, 1.5)))
    trainer_of(model).train(growth_windows(growth(a=ParameterSetting(init=3.0))), 30)
    assert 0.5 < float(model.learnables.values()["a"].detach()) <= 1.5
    assert float(model.learnables.values()["a"].detach()) > 1.45


def test_a_parameter_that_cannot_move_is_named() -> None:
    class Idle(Growth):
        parameters = (*Growth.parameters, ParameterDeclaration(name="c", init=1.0))

        def step(self, fields: Any, parameters: Any, dt: float) -> Any:
            new = super().step(fields, parameters, dt)
            return {"u": new["u"] + 0 * parameters["c"]}

    context = BuildContext(seed=0, registry=Registry(), layout=decay_layout(), dt=0.1, dtype=torch.float64)
    model = TorchModel(Idle(), context)
    truth = growth(a=ParameterSetting(init=2.0), b=ParameterSetting(init=0.7))
    result = trainer_of(model).train(growth_windows(truth), 10)
    assert result.notes == (
        "c did not move in 10 epochs of gauss-newton: it was right from the start, or the loss does not depend on it",
    )


def test_a_start_that_is_not_finite_is_an_error_that_says_what_to_do() -> None:
    trainer = trainer_of(growth(torch.float32, a=ParameterSetting(init=1e35)))
    data = growth_windows(growth(torch.float32))
    told = r"physical.* (nan|inf) .*epoch 1\b.*'u'"
    with pytest.raises(RunError, match=told):
        trainer.train(data, 3)


def test_extra_terms_take_part() -> None:
    class Pull(ExtraTerm):
        spec = TermSpec(name="pull")

        def term(self, model: Any, batch: Any, generator: Any) -> LossTerm:
            values = (model.learnables.values()["k"] - 3.0).square().expand(len(batch[0]))
            return LossTerm(spec=self.spec, per_sample=1e4 * values)

    for name in ("gauss-newton", "lbfgs"):
        trainer = Trainer(
            Decay(dtype=torch.float64),
            player="physical",
            layout=decay_layout(),
            settings=TrainingSettings(optimizer=name, batch_size=4),  # type: ignore[arg-type]
        )
        trainer.train(decay_windows(dtype=torch.float64), 40, terms=[Pull()])
        assert float(trainer.model.learnables.values()["k"].detach()) == pytest.approx(3.0, rel=1e-4), name


def test_gauss_newton_refuses_what_is_no_square() -> None:
    class Heads(Predictor):
        terms = (TermSpec(name="class", kind="categorical"),)

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

        def forward(self, inputs: Any) -> Any:
            return {"class": inputs["x"][:, None] * self.weight}

    with error_naming(SpecError, "gauss-newton", "class", "categorical"):
        Trainer(Heads(), player="physical", settings=TrainingSettings(optimizer="gauss-newton"))


def test_auto_goes_by_the_number_of_parameters() -> None:
    chosen = [choose_optimizer("auto", n) for n in (1, 50, 51, 1_000_000, 1_000_001)]
    assert chosen == ["gauss-newton", "gauss-newton", "lbfgs", "lbfgs", "adam"]
    assert choose_optimizer("auto", 1, squared=False) == "lbfgs"
    assert TrainingSpec().physical.optimizer == "auto"
    settings = TrainingSettings(optimizer="auto")
    network = Trainer(LinearSurrogate(), player="synthetic", layout=decay_layout(), settings=settings)
    assert network.optimizer_name == "adam"


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
def test_lbfgs_does_not_depend_on_the_unit_of_the_loss(unit: float) -> None:
    trajectories = [attrs.evolve(t, dynamic=t.dynamic * unit) for t in decay_trajectories(dtype=torch.float64)]
    trainer = trainer_of(Decay(dtype=torch.float64), optimizer="lbfgs")
    trainer.train(WindowDataset(trajectories, horizon=3), 12)
    assert float(trainer.model.learnables.values()["k"].detach()) == pytest.approx(1.0, rel=1e-6)


def test_lbfgs_ends_when_there_is_nothing_to_gain() -> None:
    trainer = trainer_of(Decay(), optimizer="lbfgs")
    records: list[Any] = []
    trainer.train(decay_windows(), 200, observe=records.append)
    assert len(records) < 40
    assert records[-1]["converged"] is True


@pytest.mark.parametrize("name", ["lbfgs", "gauss-newton"])
def test_an_optimizer_goes_on_from_its_saved_state(name: str) -> None:
    data = growth_windows(growth(a=ParameterSetting(init=2.0)), noise=0.01)
    once, twice = trainer_of(growth(), optimizer=name), trainer_of(growth(), optimizer=name)
    once.train(data, 3)
    once.train(data, 2)
    twice.train(data, 3)
    resumed = trainer_of(growth(), optimizer=name)
    resumed.load_state_dict(twice.state_dict())
    resumed.train(data, 2)
    for one, other in zip(once.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


# --- several starts -------------------------------------------------------------------------------------------------


class Wave(TorchPhysics):
    """u_t = sin(3 k) u: many minima in k."""

    parameters = (ParameterDeclaration(name="k", init=0.2, bounds=(-2.0, 0.5)),)

    def fields(self, axes: tuple[str, ...]) -> Any:
        return decay_layout().dynamic, ()

    def step(self, fields: Any, parameters: Any, dt: float) -> Any:
        k = parameters["k"]
        return {"u": fields["u"] * (1 + dt * (torch.sin(3 * k) + 0.1 * k))}


def wave(**settings: ParameterSetting) -> TorchModel:
    context = BuildContext(
        seed=0,
        registry=Registry(),
        layout=decay_layout(),
        dt=0.1,
        dtype=torch.float64,
        compile="graph",
        parameters=settings,
    )
    return TorchModel(Wave(), context)


@pytest.mark.parametrize("name", ["gauss-newton", "lbfgs"])
def test_several_starts_find_the_lowest_minimum_and_tell_of_the_others(name: str) -> None:
    # sin(3 k) + 0.1 k is 0.97 at 0.4, and no more than 0.84 on the other hill, at -1.56
    data = growth_windows(wave(k=ParameterSetting(init=0.4)), horizon=2)
    alone = trainer_of(wave(k=ParameterSetting(init=-1.2)), optimizer=name)
    alone.train(data, 30)
    several = trainer_of(wave(k=ParameterSetting(init=-1.2)), optimizer=name, starts=12)
    result = several.train(data, 30)
    assert float(several.model.learnables.values()["k"].detach()) == pytest.approx(0.4, rel=1e-3)
    assert float(alone.model.learnables.values()["k"].detach()) == pytest.approx(-1.56, abs=0.02)
    found = several.minima
    assert found is not None
    assert found.starts == 12
    assert sum(minimum.starts for minimum in found.minima) + found.lost == 12
    assert len(found.minima) > 1
    assert [m.loss for m in found.minima] == sorted(m.loss for m in found.minima)
    low, high = found.spread["k"]
    assert low < -1.5 < 0.399 < high
    assert any(
        f"{len(found.minima)} minima were found from 12 starts. The lowest is k = 0.4" in n for n in result.notes
    )


def test_starts_cover_the_bounds_evenly_and_begin_with_the_own() -> None:
    model = growth(a=ParameterSetting(init=0.1, bounds=(1e-4, 1.0)), b=ParameterSetting(init=0.5, bounds=(0.0, 2.0)))
    points = draw_starts(model, 8, torch.Generator().manual_seed(0))
    values = [{name: float(v) for name, v in model.learnables.values({"a": p[0], "b": p[1]}).items()} for p in points]
    assert (values[0]["a"], values[0]["b"]) == pytest.approx((0.1, 0.5))
    # one in each eighth, less the one whose place the own start has taken
    assert len({int(8 * (math.log10(v["a"]) / 4 + 1)) for v in values[1:]}) >= 6
    assert all(1e-4 < v["a"] < 1.0 and 0 < v["b"] < 2 for v in values)


def test_starts_are_refused_where_they_mean_nothing() -> None:
    with error_naming(SpecError, "gauss-newton", "lbfgs"):
        trainer_of(Decay(), optimizer="adam", starts=4)


# --- memory ---------------------------------------------------------------------------------------------------------


class Stepper(nn.Module):
    """Keeps four tensors of the state's size for its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.1))

    def forward(self, state: Tensor) -> Tensor:
        return torch.sin(torch.cos(torch.sin(state * self.weight)))


def test_checkpoints_change_no_number_and_bound_what_500_steps_keep() -> None:
    model, state = Stepper(), torch.randn(4, 1, 2000, generator=torch.Generator().manual_seed(0))
    plan = plan_memory(model, state, 500, budget_bytes=30e6)
    assert plan.every is not None
    assert plan.peak_bytes < plan.plain_bytes / 2
    assert plan.message is not None
    assert "a gradient through 500 steps would keep" in plan.message
    kept, gradients = [], []
    for every in (None, plan.every):
        live: dict[int, int] = {}

        def pack(tensor: Tensor, live: dict[int, int] = live) -> Tensor:
            live[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = rollout(model, state, 500, checkpoint_every=every).square().mean()
        kept.append(sum(live.values()))
        gradients.append(torch.autograd.grad(loss, model.weight)[0])
    assert torch.equal(gradients[0], gradients[1])
    assert kept[0] == pytest.approx(plan.plain_bytes, rel=0.35)
    assert kept[1] <= plan.peak_bytes


def test_the_trainer_says_beforehand_what_a_long_gradient_keeps(caplog: pytest.LogCaptureFixture) -> None:
    trainer = trainer_of(growth(), optimizer="lbfgs", memory_gb=1e-6)
    result = trainer.train(growth_windows(growth(), horizon=10), 1)
    plan = trainer.state.memory
    assert plan is not None
    assert plan.every is not None
    assert "a gradient through 10 steps would keep" in caplog.text
    assert any("a gradient through 10 steps would keep" in note for note in result.notes)


def test_the_tape_of_a_step_is_measured() -> None:
    state = torch.randn(4, 1, 100)
    assert tape_bytes(Stepper(), state) == pytest.approx(4 * state.nbytes, rel=0.3)


@pytest.mark.parametrize("budget", [1e4, 1e6, 1e8, math.inf])
@pytest.mark.parametrize("steps", [1, 2, 10, 500])
@pytest.mark.parametrize("internal", [1, 7])
def test_what_is_told_before_anything_runs_is_an_upper_bound(budget: float, steps: int, internal: int) -> None:
    state = torch.zeros(4, 1, 100)

    class Many(Stepper):
        def forward(self, state: Tensor) -> Tensor:
            for _ in range(internal):
                state = super().forward(state)
            return state

    plan = plan_memory(Many(), state, steps, budget, internal)
    told = most_bytes(state.nbytes, steps, internal, budget)
    assert plan.peak_bytes <= told
    if math.isinf(budget):
        assert told == plan.plain_bytes


def test_short_rollouts_are_left_alone() -> None:
    assert plan_memory(Stepper(), torch.zeros(2, 1, 8), 3, budget_bytes=2**30).every is None


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("transposed", [False, True])
def test_adam_goes_on_from_state_that_lies_otherwise_in_memory(name: str, transposed: bool) -> None:
    """A parameter may be a view, as a field that a file has in Fortran order; checkpoints are contiguous."""
    start = torch.arange(6.0).reshape(2, 3)
    settings = TrainingSettings(optimizer=name, lr=0.1)

    def fresh(values: Tensor) -> tuple[nn.Parameter, torch.optim.Optimizer]:
        parameter = nn.Parameter(values.T.contiguous().T if transposed else values.clone())
        optimizer = Minibatch(name=name, player="physical", settings=settings).optimizer([parameter])
        return parameter, optimizer

    def steps(parameter: nn.Parameter, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            (parameter - start.square()).square().sum().backward()
            optimizer.step()

    parameter, optimizer = fresh(start)
    steps(parameter, optimizer, 3)
    state = optimizer.state_dict()
    (own,) = state["state"].values()
    state["state"] = {0: {entry: v.clone(memory_format=torch.contiguous_format) for entry, v in own.items()}}
    again, resumed = fresh(parameter.detach())
    resumed.load_state_dict(state)
    steps(parameter, optimizer, 3)
    steps(again, resumed, 3)
    assert torch.equal(parameter, again)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_adam_takes_numbers_of_any_kind(dtype: torch.dtype) -> None:
    parameter = nn.Parameter(torch.ones(3, dtype=dtype))
    optimizer = Minibatch(name="adam", player="physical", settings=TrainingSettings(lr=0.1)).optimizer([parameter])
    parameter.abs().square().sum().backward()
    optimizer.step()
    assert torch.allclose(parameter.detach().real.double(), torch.full((3,), 0.9, dtype=torch.float64), atol=0.03)
