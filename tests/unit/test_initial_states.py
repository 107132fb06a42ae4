"""Learned initial states (4D-Var): analytic minima of linear problems, and what noise does with and without them."""

from __future__ import annotations

from statistics import median
from typing import Any

import pytest
import torch
from messages import error_naming
from torch import Tensor

from hyco_engine.data.windows import WindowDataset
from hyco_engine.errors import RunError, SpecError
from hyco_engine.interfaces import Trajectory
from hyco_engine.testing.problems import Decay, LinearSurrogate, decay_layout, decay_trajectories, decay_windows
from hyco_engine.training.initial_states import InitialStates
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer


def trainer_of(learned: bool = True, **more: Any) -> Trainer:
    settings = TrainingSettings(
        optimizer="lbfgs", batch_size=100, initial_states="learned" if learned else "observed", **more
    )
    return Trainer(Decay(dtype=torch.float64), player="physical", layout=decay_layout(), settings=settings)


def noisy(seed: int, noise: float, count: int = 4, frames: int = 11, horizon: int = 10) -> WindowDataset:
    draws = torch.Generator().manual_seed(seed)
    found = []
    for one in decay_trajectories(count, frames, dtype=torch.float64):
        more = noise * torch.randn(one.dynamic.shape, generator=draws, dtype=torch.float64)
        found.append(Trajectory(dynamic=one.dynamic + more, static=one.static))
    return WindowDataset(found, horizon=horizon)


def projected(data: WindowDataset, k: Tensor) -> tuple[Tensor, Tensor]:
    """(least mean square over all frames, the first among them; the starts that give it) for rate k, by hand."""
    states, targets = data.batch(torch.arange(len(data)))
    frames = torch.cat([states[:, None], targets], dim=1)
    factors = torch.exp(-k * 0.1 * torch.arange(frames.shape[1], dtype=torch.float64))[:, None, None]
    starts = (factors * frames).sum(1) / factors.square().sum()
    return (frames - factors * starts[:, None]).square().mean(), starts


def minimum(trainer: Trainer, data: WindowDataset) -> tuple[Tensor, Tensor]:
    """Require the trainer's k to be the minimum, by hand; return the loss and the starts there."""
    found = trainer.model.learnables.values()["k"].detach()
    k = found.clone().requires_grad_()
    loss, starts = projected(data, k)
    (slope,) = torch.autograd.grad(loss, k)
    (far,) = torch.autograd.grad(projected(data, kk := (found + 0.01).requires_grad_())[0], kk)
    assert abs(float(slope)) < 1e-5 * abs(float(far))
    return loss.detach(), starts.detach()


def test_the_minimum_is_that_of_least_squares() -> None:
    data, trainer = noisy(0, 0.1), trainer_of()
    records: list[dict[str, float]] = []
    trainer.train(data, 300, observe=lambda record: records.append(dict(record)))
    loss, starts = minimum(trainer, data)
    assert records[-1]["train/loss"] == pytest.approx(float(loss), rel=1e-9)
    assert trainer.state.initial is not None
    moved = data.inputs(torch.arange(len(data))) + trainer.state.initial.states(trainer.state.initial.scaled.detach())
    torch.testing.assert_close(moved, starts, rtol=0, atol=1e-5)


def test_noisy_starts_bias_the_rate_and_learned_ones_do_not() -> None:
    """Error of the rate by noise alone: median over three draws."""
    errors: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(3):
        for learned, found in errors.items():
            trainer = trainer_of(learned)
            trainer.train(noisy(seed, 0.3, count=64), 200)
            found.append(abs(float(trainer.model.learnables.values()["k"].detach()) - 1.0))
    print(errors)
    assert median(errors[True]) < 0.3 * median(errors[False])


def test_a_batch_starts_where_it_is_learned_to_and_generated_samples_where_they_do() -> None:
    every, size = torch.ones(1, 8, dtype=torch.bool), torch.ones(1)
    initial = InitialStates(torch.arange(2.0)[:, None].expand(2, 8).contiguous(), size, every, decay_layout())
    states, targets = torch.ones(3, 2, 8), torch.zeros(3, 4, 1, 8)
    started, longer = initial((states, targets), torch.tensor([1, 5, 0]))
    assert isinstance(started, Tensor)
    assert isinstance(longer, Tensor)
    assert started[:, 0, 0].tolist() == [2.0, 1.0, 1.0]
    assert torch.equal(started[:, 1], states[:, 1])
    assert longer.shape == (3, 5, 1, 8)
    assert longer[:, 0, 0, 0].tolist()[::2] == [1.0, 1.0]
    assert longer[1, 0].isnan().all()
    assert torch.equal(longer[:, 1:], targets)


def test_phases_go_on_from_the_states_learned_before_and_others_are_refused() -> None:
    data = noisy(0, 0.1)
    whole, twice = trainer_of(), trainer_of()
    whole.train(data, 6)
    twice.train(data, 3)
    twice.train(data, 3)
    assert whole.state.initial is not None
    assert twice.state.initial is not None
    assert torch.equal(whole.state.initial.scaled, twice.state.initial.scaled)
    assert torch.equal(whole.unknowns.point(), twice.unknowns.point())
    assert not any("scaled" in name for name in whole.model.state_dict())
    with error_naming(RunError, 4, 2):
        whole.train(decay_windows(2, 11, 10, dtype=torch.float64), 1)


def test_the_horizon_does_not_count_the_start() -> None:
    trainer, seen = trainer_of(curriculum=((1, 1),)), []
    trainer.train(noisy(0, 0.1), 3, observe=lambda record: seen.append(record["train/horizon"]))
    assert seen == [1, 10, 10]


def test_without_noise_nothing_is_to_be_corrected() -> None:
    trainer = trainer_of()
    trainer.train(noisy(0, 0.0), 300)
    assert trainer.state.initial is not None
    assert float(trainer.state.initial.scaled.detach().abs().max()) < 1e-6
    assert float(trainer.model.learnables.values()["k"].detach()) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("more", [{"optimizer": "adam"}, {"starts": 3}])
def test_only_full_batches_from_one_start_learn_them(more: Any) -> None:
    settings = TrainingSettings(**{"optimizer": "lbfgs", "initial_states": "learned", **more})
    with error_naming(SpecError, "lbfgs"):
        Trainer(Decay(), player="physical", layout=decay_layout(), settings=settings)


def test_a_surrogate_learns_none() -> None:
    settings = TrainingSettings(optimizer="lbfgs", initial_states="learned")
    with error_naming(SpecError, "synthetic", "lbfgs"):
        Trainer(LinearSurrogate(), player="synthetic", layout=decay_layout(), settings=settings)
