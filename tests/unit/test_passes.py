"""Passes over all samples take as many at a time as fit and pay, and compute nothing twice."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from hyco_engine.testing.problems import Decay, LinearSurrogate, decay_layout, decay_trajectories, decay_windows
from hyco_engine.training.evaluation import HeldOutRollouts
from hyco_engine.training.linearized import Linearizer
from hyco_engine.training.memory import ENOUGH, Room
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer


@pytest.mark.parametrize(
    ("room", "cells", "together"),
    [
        (Room(budget_bytes=math.inf, tangents=1), 64, 304),
        (Room(budget_bytes=math.inf, tangents=1, starts=8), 64, 102),  # 128 pay, and three equal parts follow
        (Room(budget_bytes=math.inf, tangents=500), 500, 1),
        (Room(budget_bytes=math.inf, tangents=0), ENOUGH // 100, 76),
        # 64 float32 numbers, 200 times in each of 3 steps
        (Room(budget_bytes=100 * 64 * 4 * 200 * 3), 64, 76),
        (Room(budget_bytes=1.0), 64, 1),
        # 64 float32 numbers and their derivative, 16 times in a step and 6 times for each of 3 frames
        (Room(budget_bytes=150 * 64 * 4 * 2 * (16 + 3 * 6), tangents=1), 64, 102),
    ],
)
def test_all_samples_that_fit_are_computed_together_as_far_as_that_pays(room: Room, cells: int, together: int) -> None:
    assert room.together(304, torch.zeros(1, cells), steps=3, internal=1) == together


@pytest.mark.parametrize("optimizer", ["gauss-newton", "lbfgs"])
def test_the_number_at_a_time_changes_a_result_by_rounding_alone(
    optimizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learned() -> float:
        model = Decay(dtype=torch.float64)
        settings = TrainingSettings(optimizer=optimizer)
        trainer = Trainer(model, player="physical", layout=decay_layout(), settings=settings)
        trainer.train(decay_windows(dtype=torch.float64), 3)
        return float(model.learnables.values()["k"].detach())

    whole = learned()
    monkeypatch.setattr("hyco_engine.training.memory.ENOUGH", 3 * 8)
    assert learned() == pytest.approx(whole, rel=1e-12)


def test_a_phase_that_had_converged_on_the_same_data_is_not_linearised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    linearized = Linearizer.linearized

    def counted(self: Linearizer, *given: Any) -> Iterator[Any]:
        nonlocal count
        count += 1
        return linearized(self, *given)

    monkeypatch.setattr(Linearizer, "linearized", counted)
    settings = TrainingSettings(optimizer="gauss-newton")
    trainer = Trainer(Decay(dtype=torch.float64), player="physical", layout=decay_layout(), settings=settings)
    data = decay_windows(dtype=torch.float64)
    first = trainer.train(data, 20)
    assert first.converged
    needed, count = count, 0
    again = trainer.train(data, 20)
    assert (again.converged, again.epochs, again.moved, count) == (True, 1, False, 0)
    assert again.metrics["train/loss"] == first.metrics["train/loss"]

    # the same holds for a run that goes on from there
    other = Trainer(Decay(dtype=torch.float64), player="physical", layout=decay_layout(), settings=settings)
    other.load_state_dict(trainer.state_dict())
    assert (other.train(data, 20).epochs, count) == (1, 0)

    # other data are another loss
    trainer.train(decay_windows(count=3, dtype=torch.float64), 20)
    assert 0 < count <= needed


def test_a_model_is_rolled_out_again_only_once_its_weights_have_changed() -> None:
    class Counted(LinearSurrogate):
        calls = 0

        def forward(self, state: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(state)

    model, other = Counted(), Counted()
    heldout = HeldOutRollouts(decay_trajectories(frames=5), decay_layout())
    first = heldout.measure(model)
    assert (heldout.measure(model), model.calls) == (first, 4)
    assert float(heldout.scores(heldout.by_unit(model), torch.ones(1, 2).double(), torch.ones(1, 4).double())) > 0
    heldout.measure(other)
    assert (model.calls, other.calls) == (4, 4)
    with torch.no_grad():
        model.weight.fill_(0.9)
    assert heldout.measure(model) != first
    assert model.calls == 8
