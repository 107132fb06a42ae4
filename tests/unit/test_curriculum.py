"""A horizon curriculum: which epoch trains rollouts of which length."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hyco_engine as hyco
from hyco_engine.errors import SpecError
from hyco_engine.interfaces import Batch, Samples, TermSpec
from hyco_engine.rollout import rollout
from hyco_engine.testing.problems import Decay, LinearSurrogate, decay_layout, decay_windows
from hyco_engine.training.curriculum import check_stages
from hyco_engine.training.losses import PredictorObjective, RolloutObjective
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.solver.minibatch import Minibatch
from hyco_engine.training.solver.staged import Staged
from hyco_engine.training.trainer import Trainer


class Counting(Decay):
    """Decay that counts its steps."""

    steps = 0

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        Counting.steps += 1
        return super().forward(state)


def trainer_of(model: Any, **settings: Any) -> Trainer:
    return Trainer(model, player="physical", layout=decay_layout(), settings=TrainingSettings(**settings))


def test_every_epoch_trains_rollouts_of_its_stage_and_computes_no_more() -> None:
    trainer = trainer_of(Counting(), optimizer="adam", batch_size=100, curriculum=((1, 2), (2, 1)))
    data = decay_windows(horizon=4)
    taken, seen = [], []

    def observe(record: Any) -> None:
        taken.append(Counting.steps)
        seen.append(record["train/horizon"])
        Counting.steps = 0

    # what is looked up once, before the first step of all
    trainer.train(data, 1)
    trainer = trainer_of(trainer.model, optimizer="adam", batch_size=100, curriculum=((1, 2), (2, 1)))
    Counting.steps = 0
    # the stages go on over phases
    trainer.train(data, 2, observe=observe)
    trainer.train(data, 3, observe=observe)
    assert seen == [1, 1, 2, 4, 4]
    assert taken == [1, 1, 2, 4, 4]
    assert isinstance(trainer.objective, RolloutObjective)
    assert trainer.objective.horizon is None


@pytest.mark.parametrize("optimizer", ["gauss-newton", "lbfgs"])
def test_a_stage_that_has_converged_makes_way_for_the_next(optimizer: str) -> None:
    trainer = trainer_of(
        Decay(dtype=torch.float64), optimizer=optimizer, batch_size=100, curriculum=((1, 1000), (2, 1000))
    )
    seen: list[int] = []
    result = trainer.train(
        decay_windows(horizon=3, dtype=torch.float64), 200, observe=lambda record: seen.append(record["train/horizon"])
    )
    assert result.converged
    assert sorted(set(seen)) == [1, 2, 3]
    assert seen == sorted(seen)
    assert len(seen) < 100
    assert float(trainer.model.learnables.values()["k"].detach()) == pytest.approx(1.0, abs=1e-6)


def test_the_loss_of_a_stage_is_that_of_shorter_targets() -> None:
    model, long = Decay(), decay_windows(horizon=4)
    states, targets = long.batch(torch.arange(len(long)))
    targets = targets.clone()
    targets[::3, 1:] = float("nan")
    targets[1::3, :1] = float("nan")
    plain = RolloutObjective(decay_layout())
    objective = plain.at_horizon(2)
    short = (states, targets[:, :2])
    (term,), (expected,) = objective(model, (states, targets)), plain(model, short)
    assert torch.equal(term.per_sample, expected.per_sample)
    assert torch.equal(term.mean(), expected.mean())
    assert torch.equal(objective.residuals(model, (states, targets))["u"], plain.residuals(model, short)["u"])
    assert torch.equal(objective.weights((states, targets))["u"], plain.weights(short)["u"])
    assert objective.steps((states, targets)) == 2
    assert rollout(model, states, 2).shape[1] == 2


def test_a_stage_lasts_its_epochs_or_until_it_converges() -> None:
    staged = Staged(Minibatch(name="adam", player="physical", settings=TrainingSettings()), [(2, 3), (5, 1)])
    assert [staged.horizon(done) for done in range(6)] == [2, 2, 2, 5, None, None]
    assert [staged.after(done, converged=False) for done in range(6)] == [1, 2, 3, 4, 5, 6]
    assert [staged.after(done, converged=True) for done in range(6)] == [3, 3, 3, 4, 5, 6]


def test_only_rollouts_can_be_shortened() -> None:
    with pytest.raises(SpecError, match="the synthetic model is not trained on such: leave it out"):
        Trainer(
            LinearSurrogate(),
            player="synthetic",
            objective=PredictorObjective([TermSpec(name="u")]),
            settings=TrainingSettings(curriculum=((1, 1),)),
        )


def test_a_first_stage_that_sees_nothing_is_refused() -> None:
    data = decay_windows(horizon=4)
    states, targets = data.batch(torch.arange(len(data)))
    targets = targets.clone()
    targets[:, :2] = float("nan")

    class Late(Samples):
        def __len__(self) -> int:
            return len(states)

        def batch(self, indices: torch.Tensor) -> Batch:
            return states[indices], targets[indices]

    objective = RolloutObjective(decay_layout())
    with pytest.raises(SpecError) as error:
        check_stages("physical", objective, ((2, 5), (3, 5)), Late())
    assert [(p.message, p.key) for p in error.value.problems] == [
        (
            "the first stage trains 2 steps, and nothing is observed that soon after the start of any window: begin "
            "with more steps",
            "training.physical.curriculum",
        )
    ]
    assert objective.horizon is None
    check_stages("physical", objective, ((3, 5),), Late())


@pytest.mark.parametrize("pairs", [((0, 1),), ((1, 0),), ((2, 1), (2, 1)), ((3, 1), (2, 1))])
def test_stages_grow(pairs: Any) -> None:
    with pytest.raises(ValueError, match=r"must be pairs \[steps, epochs\] of at least 1 each, with growing steps"):
        TrainingSettings(curriculum=pairs)


def test_stages_are_shorter_than_the_rollouts_that_follow() -> None:
    spec = {
        "data": {"kind": "simulate", "resolution": {"x": 8}, "dt": 0.1, "num_predict_steps": 4},
        "physical": {"kind": "burgers"},
        "training": {"physical": {"curriculum": [[2, 3], [4, 1]]}},
    }
    told = r"the last stage trains 4 steps, but it must train fewer than data.num_predict_steps = 4"
    with pytest.raises(SpecError, match=told) as error:
        hyco.Engine(spec)
    assert error.value.problems[0].key == "training.physical.curriculum"
    spec["data"]["num_predict_steps"] = 5  # type: ignore[index]
    assert hyco.Engine(spec).spec.training.physical.curriculum == ((2, 3), (4, 1))
