"""Smoothness priors of parameter fields: values, gradients, and that every optimizer minimises them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from messages import error_naming
from torch import Tensor

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.windows import WindowDataset
from hyco_engine.errors import SpecError
from hyco_engine.interfaces import BuildContext, Trajectory
from hyco_engine.physics.model import TorchModel, TorchPhysics
from hyco_engine.physics.parameters import ParameterDeclaration
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.testing.problems import decay_layout
from hyco_engine.training.error_bars import measure
from hyco_engine.training.linearized import BatchedProblem
from hyco_engine.training.prior import Prior, slopes
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer


class Gain(TorchPhysics):
    """u(t + dt) = gain u(t): the loss of one step is quadratic in the field `gain`, which has no bounds."""

    parameters = (ParameterDeclaration(name="gain", init=1.0, may_be_field=True),)

    def fields(self, axes: Any) -> Any:
        return decay_layout().dynamic, ()

    def step(self, fields: Any, parameters: Any, dt: float) -> Any:
        return {"u": fields["u"] * parameters["gain"]}


def model_of(smoothness: float = 0.0, cells: int = 8, **setting: Any) -> TorchModel:
    setting = {"field": True, "smoothness": smoothness, **setting}
    context = BuildContext(
        seed=0,
        registry=None,  # type: ignore[arg-type]
        layout=decay_layout(cells),
        dt=0.1,
        dtype=torch.float64,
        parameters={"gain": ParameterSetting(**setting)},
    )
    return TorchModel(Gain(), context)


def data_of(cells: int = 8) -> WindowDataset:
    """Pairs of frames: the second is gain times the first, with noise."""
    draws = torch.Generator().manual_seed(0)
    x = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    gain = 1 + 0.3 * torch.sin(2 * math.pi * x) + 0.2 * torch.randn(cells, generator=draws, dtype=torch.float64)
    found = []
    for _ in range(6):
        u = torch.randn(1, cells, generator=draws, dtype=torch.float64)
        found.append(Trajectory(dynamic=torch.stack([u, gain * u]), static=torch.zeros(0, cells, dtype=torch.float64)))
    return WindowDataset(found, horizon=1)


def least_squares(data: WindowDataset, smoothness: float) -> Tensor:
    """The gain that minimises mean (gain u - v)^2 + smoothness * mean |grad gain|^2, by its normal equations."""
    states, targets = data.batch(torch.arange(len(data)))
    u, v, cells = states[:, 0], targets[:, 0, 0], states.shape[-1]
    difference = (torch.eye(cells).roll(1, 1) - torch.eye(cells)).double() * cells
    matrix = torch.diag(u.square().mean(0)) / cells + smoothness / cells * difference.T @ difference
    return torch.linalg.solve(matrix, (u * v).mean(0) / cells)


def trainer_of(model: TorchModel, optimizer: str, **more: Any) -> Trainer:
    # full-batch optimizers take two chunks
    batch_size = 6 if optimizer == "adam" else 4
    settings = TrainingSettings(optimizer=optimizer, batch_size=batch_size, **more)  # type: ignore[arg-type]
    return Trainer(model, player="physical", layout=model.layout, settings=settings)


@pytest.mark.parametrize("boundary", ["periodic", "zero-gradient"])
def test_the_value_of_a_wave_is_that_of_calculus(boundary: str) -> None:
    """mean |grad cos(2 pi x) cos(2 pi y)|^2 on [0, 1] x [0, 2], to second order in the cells' size."""
    errors = []
    for n in (16, 32):
        grid = Grid(axes=("x", "y"), resolution=(n, 2 * n), lower=(0.0, 0.0), upper=(1.0, 2.0))
        field = FieldInfo(name="u", boundary=Boundary.parse(boundary, grid.axes))
        layout = StateLayout(grid=grid, dynamic=(field,))
        x, y = (torch.tensor(grid.centers(axis), dtype=torch.float64) for axis in grid.axes)
        value = torch.cos(2 * math.pi * x)[:, None] * torch.cos(2 * math.pi * y)
        found = slopes(value, layout)
        assert len(found) == (4 * n * n if boundary == "periodic" else (n - 1) * 2 * n + n * (2 * n - 1))
        errors.append(abs(float(found.square().sum()) / value.numel() - 2 * math.pi**2))
    assert errors[1] < 0.26 * errors[0] < 0.26


def test_a_kink_is_seen_across_a_periodic_boundary_alone() -> None:
    prior = Prior(model_of(2.0))
    value = torch.linspace(0.0, 1.0, 8, dtype=torch.float64)
    ramp = 7 * (8 / 7) ** 2
    assert float(prior.value({"learnables.raw.gain": value})) == pytest.approx(2.0 / 8 * (ramp + 64))


def test_the_gradient_is_that_of_differences_through_the_bounds() -> None:
    model = model_of(0.3, bounds=(0.0, math.inf))
    prior, raw = Prior(model), model.learnables.raw["gain"]
    point = 0.5 * torch.randn(8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        raw.copy_(point)
    prior.value().backward()
    assert raw.grad is not None
    for k in range(8):
        step = torch.zeros(8, dtype=torch.float64)
        step[k] = 1e-5
        up, down = (float(prior.value({"learnables.raw.gain": point + sign * step})) for sign in (1, -1))
        assert float(raw.grad[k]) == pytest.approx((up - down) / 2e-5, rel=1e-6, abs=1e-9)
    assert prior.metrics()["prior/gain"] == pytest.approx(float(prior.value().detach()), rel=1e-14)


@pytest.mark.parametrize("optimizer", ["gauss-newton", "lbfgs", "adam"])
def test_every_optimizer_finds_the_minimum_with_the_prior(optimizer: str) -> None:
    data, model = data_of(), model_of(0.05)
    more: dict[str, Any] = {"lr": 0.02, "schedule": "cosine"} if optimizer == "adam" else {}
    trainer = trainer_of(model, optimizer, **more)
    trainer.total_epochs = 400
    records: list[dict[str, float]] = []
    trainer.train(data, 400, observe=lambda record: records.append(dict(record)))
    expected = least_squares(data, 0.05)
    found = model.learnables.values()["gain"].detach()
    assert float((expected - least_squares(data, 0.0)).abs().max()) > 0.05
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3 if optimizer == "adam" else 1e-6)
    assert records[-1]["prior/gain"] == pytest.approx(0.05 * float(slopes(found, model.layout).square().mean()))
    # the data's loss is told apart from it
    states, targets = data.batch(torch.arange(len(data)))
    data_alone = float((states[:, 0] * found - targets[:, 0, 0]).square().mean())
    assert records[-1]["train/loss"] == pytest.approx(data_alone, rel=0.02 if optimizer == "adam" else 1e-6)


def test_batched_starts_have_the_values_and_normal_equations_of_the_whole_loss() -> None:
    model = model_of(0.05)
    trainer = trainer_of(model, "gauss-newton")
    whole = trainer.whole_loss(data_of())
    points = 1 + 0.1 * torch.randn(3, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    problem, starts = BatchedProblem(whole, trainer.linearizer), torch.arange(3)
    values, found = problem.values(points, starts), problem.normal_equations(points, starts)
    summed, gradients = found.values, found.gradient
    for k, point in enumerate(points):
        whole.unknowns.move_to(point)
        model.zero_grad()
        loss, _ = whole.gradient()
        assert float(values[k]) == pytest.approx(loss, rel=1e-12)
        assert float(summed[k]) == pytest.approx(loss, rel=1e-12)
        torch.testing.assert_close(2 * gradients[k], model.learnables.raw["gain"].grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["gauss-newton", "lbfgs", "adam"])
def test_without_weight_nothing_changes(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for smoothness in (0.0, None):
        model = model_of(**({} if smoothness is None else {"smoothness": smoothness}))
        assert not Prior(model)
        records: list[dict[str, float]] = []
        trainer_of(model, optimizer).train(data_of(), 3, observe=lambda record, r=records: r.append(dict(record)))
        assert not any(name.startswith("prior/") for name in records[-1])
        ends.append((model.learnables.raw["gain"].detach(), records))
        monkeypatch.setattr(Prior, "value", lambda self, point=None: pytest.fail("there is no prior"))
        monkeypatch.setattr(Prior, "residuals", lambda self, point=None: pytest.fail("there is no prior"))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


def test_error_bars_are_of_the_data_alone() -> None:
    data, model, plain = data_of(), model_of(0.05), model_of()
    trainer = trainer_of(model, "gauss-newton")
    trainer.train(data, 20)
    plain.load_state_dict(model.state_dict())
    found, expected = measure(trainer, data), measure(trainer_of(plain, "gauss-newton"), data)
    assert found is not None
    assert expected is not None
    assert found.standard_error == expected.standard_error


@pytest.mark.parametrize("setting", [{}, {"field": True, "learn": False}])
def test_what_is_no_learned_field_cannot_be_kept_smooth(setting: Any) -> None:
    with error_naming(SpecError, "field", key="smoothness"):
        ParameterSetting(smoothness=0.1, **setting)
