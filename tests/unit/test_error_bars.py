"""Error bars against formulas, simulated coverage, and directions that nobody can tell."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.data.windows import WindowDataset
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import BuildContext, Samples, Trajectory
from hyco_engine.physics.model import TorchModel, TorchPhysics
from hyco_engine.physics.parameters import ParameterDeclaration
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.rollout import rollout
from hyco_engine.testing.problems import Decay, decay_layout
from hyco_engine.training.error_bars import ErrorBars, Every, find_blocks, measure
from hyco_engine.training.error_correlation import correlation
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("measured")

CELLS = 8


class Affine(TorchPhysics):
    """u(t + dt) = a + b x + s, with x a fixed pattern and s = u of the state: linear in a and b."""

    parameters = (ParameterDeclaration(name="a", init=0.3), ParameterDeclaration(name="b", init=0.2))

    def fields(self, axes: tuple[str, ...]) -> Any:
        return decay_layout().dynamic, ()

    def step(self, fields: Any, parameters: Any, dt: float) -> Any:
        return {"u": fields["u"] + parameters["a"] + parameters["b"] * pattern()}


class Product(Affine):
    """u(t + dt) = u + a b x: only the product can be told."""

    parameters = (
        ParameterDeclaration(name="a", init=2.0, bounds=(0.0, math.inf)),
        ParameterDeclaration(name="b", init=0.5, bounds=(0.0, math.inf)),
        ParameterDeclaration(name="c", init=1.0),
    )

    def step(self, fields: Any, parameters: Any, dt: float) -> Any:
        return {"u": fields["u"] + parameters["a"] * parameters["b"] * pattern() + parameters["c"]}


def pattern() -> Tensor:
    return torch.linspace(-1, 1, CELLS, dtype=torch.float64)


class Pairs(Samples):
    """States and what followed."""

    def __init__(self, states: Tensor, targets: Tensor) -> None:
        self.states, self.targets = states, targets

    def __len__(self) -> int:
        return len(self.states)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.states[indices], self.targets[indices]


def model_of(physics: TorchPhysics, **settings: ParameterSetting) -> TorchModel:
    context = BuildContext(
        seed=0,
        registry=Registry(),
        layout=decay_layout(),
        dt=0.1,
        dtype=torch.float64,
        compile="eager",
        parameters=settings,
    )
    return TorchModel(physics, context)


def trainer_of(model: Any) -> Trainer:
    settings = TrainingSettings(optimizer="gauss-newton", batch_size=64)
    return Trainer(model, player="physical", layout=decay_layout(), settings=settings)


def fitted(model: Any, data: Samples) -> ErrorBars:
    trainer = trainer_of(model)
    trainer.train(data, 25)
    found = measure(trainer, data)
    assert found is not None
    return found


def affine_data(noise: float, seed: int, count: int = 6) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(count, 1, CELLS, generator=generator, dtype=torch.float64)
    targets = states + 1.0 + 0.5 * pattern()
    return Pairs(states, (targets + noise * torch.randn(targets.shape, generator=generator).double())[:, None])


@pytest.mark.parametrize(
    ("bounds", "side"), [((-1.0, 0.5), "upper"), ((1.5, 3.0), "lower"), ((0.99, 3.0), None), ((-1.0, 1.01), None)]
)
@pytest.mark.parametrize("transform", ["auto", "linear"])
def test_a_parameter_pressed_against_a_bound_is_told_as_such(
    bounds: tuple[float, float], side: str | None, transform: Any
) -> None:
    """The data ask for a = 1, whether the bounds allow that or not."""
    start = sum(bounds) / 2
    setting = ParameterSetting(init=start, bounds=bounds, transform=transform if bounds[0] >= 0 else "linear")
    found = fitted(model_of(Affine(), a=setting), affine_data(1e-6, seed=1))
    assert dict(found.at_bound) == ({} if side is None else {"a": side})
    told = (
        f"a lies at its {side} bound, and the fit would go on beyond it: set wider bounds "
        "(physical.parameters.a.bounds), or ask whether the physics explains the data"
    )
    assert found.warnings == (() if side is None else (told,))


WARNS = """
import warnings

import torch

script = torch.jit.script


def deprecated(*args, **kwargs):
    warnings.warn("`torch.jit.script` is deprecated.", FutureWarning, stacklevel=2)
    return script(*args, **kwargs)


torch.jit.script = deprecated
import test_error_bars as here

found = here.fitted(here.model_of(here.Affine()), here.affine_data(0.1, seed=1))
print(sorted(found.standard_error), found.warnings)
"""


def test_what_torch_warns_of_its_own_rules_costs_no_error_bars() -> None:
    """torch 2.15 warns by a FutureWarning where it loads rules of forward mode."""
    command = [sys.executable, "-W", "error::FutureWarning", "-c", WARNS]
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.stdout, done.stderr) == ("['a', 'b'] ()\n", "")


def test_the_covariance_of_a_linear_model_is_the_formulas() -> None:
    data = affine_data(0.1, seed=1)
    found = fitted(model_of(Affine()), data)
    design = torch.stack([torch.ones(CELLS).double(), pattern()], 1).repeat(len(data), 1)
    change = (data.targets[:, 0] - data.states).flatten()
    solution = torch.linalg.lstsq(design, change[:, None])
    variance = float((design @ solution.solution - change[:, None]).square().sum()) / (len(change) - 2)
    exact = variance * torch.linalg.inv(design.T @ design)
    assert [found.standard_error[n] for n in "ab"] == pytest.approx(exact.diagonal().sqrt().tolist(), rel=1e-6)
    assert found.correlation[0][1] == pytest.approx(0.0, abs=1e-9)
    assert found.warnings == ()
    assert found.assumption == "values err independently of each other"


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    inside = 0
    for seed in range(60):
        low, high = fitted(model_of(Affine()), affine_data(0.1, seed, count=2)).interval["b"] or (0.0, 0.0)
        inside += low < 0.5 < high
    assert 52 <= inside <= 60


def test_hidden_values_do_not_count() -> None:
    data = affine_data(0.1, seed=1)
    hidden = Pairs(torch.cat([data.states] * 2), torch.cat([data.targets, torch.full_like(data.targets, math.nan)]))
    one, two = fitted(model_of(Affine()), data), fitted(model_of(Affine()), hidden)
    assert one.standard_error == pytest.approx(two.standard_error, rel=1e-6)


def test_bounds_hold_for_intervals_and_errors_are_in_the_parameters_unit() -> None:
    free = fitted(model_of(Affine()), affine_data(0.1, seed=1))
    near = fitted(model_of(Affine(), b=ParameterSetting(init=0.51, bounds=(0.45, 0.6))), affine_data(0.1, seed=1))
    assert near.standard_error["b"] == pytest.approx(free.standard_error["b"], rel=1e-4)
    low, high = near.interval["b"] or (0.0, 0.0)
    assert 0.45 < low < high < 0.6


# --- what cannot be told --------------------------------------------------------------------------------------------


def test_a_direction_that_cannot_be_told_is_named() -> None:
    states = affine_data(0.0, seed=0).states
    generator = torch.Generator().manual_seed(0)
    noise = 0.01 * torch.randn(states.shape, generator=generator, dtype=torch.float64)
    data = Pairs(states, (states + 1.3 * pattern() + 0.7 + noise)[:, None])
    found = fitted(model_of(Product()), data)
    assert found.condition > 1e6
    (message,) = found.warnings
    assert message.startswith("the parameters cannot be told apart: changing ")
    assert "a by +1 %, b by -1 %" in message or "b by +1 %, a by -1 %" in message
    assert "c by" not in message


def test_a_parameter_that_no_prediction_depends_on_has_no_error() -> None:
    class Idle(Affine):
        parameters = (*Affine.parameters, ParameterDeclaration(name="c", init=1.0))

        def step(self, fields: Any, parameters: Any, dt: float) -> Any:
            return {"u": super().step(fields, parameters, dt)["u"] + 0 * parameters["c"]}

    found = fitted(model_of(Idle()), affine_data(0.1, seed=1))
    assert found.standard_error["c"] is None
    assert found.interval["c"] is None
    assert found.warnings == ("the data say nothing about c: no prediction depends on it",)
    assert found.to_data()["standard_error"]["c"] is None


def test_fields_and_networks_have_none() -> None:
    field = trainer_of(Decay())
    many = model_of(Affine())
    many.extra = torch.nn.Parameter(torch.zeros(60))
    assert measure(trainer_of(many), affine_data(0.1, 0)) is None
    assert measure(field, Pairs(torch.ones(2, 1, 8), torch.ones(2, 1, 1, 8))) is not None


def test_what_it_may_cost_is_bounded_and_what_was_left_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 parameters, 1 step, 8 cells: 16 values a sample."""
    data = affine_data(0.1, seed=1, count=40)
    trainer = trainer_of(model_of(Affine()))
    whole = measure(trainer, data)
    monkeypatch.setattr("hyco_engine.training.error_bars.MOST_TANGENTS", 20 * 16)
    part = measure(trainer, data)
    of_the_part = measure(trainer, Pairs(data.states[::2], data.targets[::2]))
    assert whole is not None
    assert part is not None
    assert of_the_part is not None
    assert part.standard_error == of_the_part.standard_error
    told = "; from 20 of 40 samples, evenly spread, to bound the time this takes"
    assert part.assumption == of_the_part.assumption + told
    assert "evenly spread" not in whole.assumption


def test_windows_left_out_leave_the_blocks_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    data = decay_windows(0.01, 0, horizon=3)
    half = find_blocks(AugmentedDataset(Every(data, 2)), 1)
    assert [place for _, place in half.places] == list(range(0, 57, 2))
    assert half.multiplicity == pytest.approx(29 * 3 / 59)
    model = Decay(settings={"k": ParameterSetting(init=1.0)}, dtype=torch.float64)
    monkeypatch.setattr("hyco_engine.training.error_bars.MOST_TANGENTS", 29 * 3 * CELLS)
    found = measure(trainer_of(model), data)
    assert found is not None
    assert "from 29 of 57 samples" in found.assumption


def test_few_samples_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = affine_data(0.1, seed=1, count=10)
    trainer = trainer_of(model_of(Affine()))
    whole = measure(trainer, data)
    monkeypatch.setattr("hyco_engine.training.memory.ENOUGH", 3 * 16)
    part = measure(trainer, data)
    assert whole is not None
    assert part is not None
    assert part.standard_error == pytest.approx(whole.standard_error, rel=1e-12)


# --- windows --------------------------------------------------------------------------------------------------------


def decay_windows(noise: float, seed: int, horizon: int, simulations: int = 1, frames: int = 60) -> WindowDataset:
    generator = torch.Generator().manual_seed(seed)
    state = 3 + torch.randn(simulations, 1, CELLS, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        truth = Decay(settings={"k": ParameterSetting(init=1.0)}, dtype=torch.float64)
        path = torch.cat([state[:, None], rollout(truth, state, frames - 1)], 1)
    path = path + noise * torch.randn(path.shape, generator=generator, dtype=torch.float64)
    empty = torch.zeros(0, CELLS, dtype=torch.float64)
    return WindowDataset([Trajectory(dynamic=p, static=empty) for p in path], horizon=horizon)


def test_blocks_are_longer_than_windows_and_stay_within_a_simulation() -> None:
    blocks = find_blocks(AugmentedDataset(decay_windows(0.0, 0, horizon=3)), 1)
    sizes = torch.bincount(blocks.of_sample)
    assert len(sizes) == 7
    assert int(sizes.min()) >= 8
    assert blocks.multiplicity == pytest.approx(57 * 3 / 59)
    many = find_blocks(AugmentedDataset(decay_windows(0.0, 0, horizon=3, simulations=12, frames=9)), 1)
    assert many.said == "simulations"
    assert torch.bincount(many.of_sample).tolist() == [6] * 12


def test_windows_that_overlap_do_not_count_as_more_data() -> None:
    # the same frames in windows of one step and of five
    errors = []
    for horizon in (1, 5):
        spread, told = [], []
        for seed in range(40):
            model = Decay(settings={"k": ParameterSetting(init=0.9)}, dtype=torch.float64)
            found = fitted(model, decay_windows(0.01, seed, horizon))
            spread.append(float(model.learnables.values()["k"].detach()))
            told.append(found.standard_error["k"] or 0.0)
        errors.append(sum(told) / len(told) / float(torch.tensor(spread).std()))
    # never too small; twice too large at one step, where neighbouring windows err to opposite sides
    assert all(0.8 < error < 4.0 for error in errors), errors


def test_noise_errs_alone_and_a_smooth_error_in_one_piece() -> None:
    generator = torch.Generator().manual_seed(0)
    places = [(s, f) for s in range(2) for f in range(50)]
    noise = torch.randn(100, 1, 40, generator=generator)
    assert correlation(noise, places).volume == pytest.approx(1.0, abs=0.1)
    assert correlation(noise, places).times == pytest.approx(100, rel=0.1)
    smooth = torch.sin(torch.linspace(0, 3, 40)) * torch.linspace(1, 1.1, 50).repeat(2)[:, None]
    found = correlation(smooth[:, None], places)
    assert found.volume > 500
    assert found.times < 4


def test_what_remains_of_a_fit_by_a_wrong_model_is_no_noise() -> None:
    """Clean data of another equation: the residuals are smooth, and the error bar is far from that of noise."""
    windows = decay_windows(0.0, 0, horizon=2)
    bent = [attrs.evolve(t, dynamic=t.dynamic + 0.02 * t.dynamic**2) for t in windows.trajectories]
    data = WindowDataset(bent, horizon=2)
    found = fitted(Decay(settings={"k": ParameterSetting(init=0.9)}, dtype=torch.float64), data)
    assert "values err as one" in found.assumption
    alone = fitted(
        Decay(settings={"k": ParameterSetting(init=0.9)}, dtype=torch.float64),
        Pairs(*data.batch(torch.arange(len(data)))),
    )
    assert (found.standard_error["k"] or 0) > 3 * (alone.standard_error["k"] or 1)
