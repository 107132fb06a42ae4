"""A normalizer at work: late terms, frozen weights, its state, and what it does wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from hyco_engine.builtin.normalizers.batch_stat import BatchStat
from hyco_engine.builtin.normalizers.grad_norm import GradNorm
from hyco_engine.builtin.normalizers.running_mean import RunningMean
from hyco_engine.builtin.normalizers.uncertainty import Uncertainty
from hyco_engine.data.fields import FieldInfo, StateLayout
from hyco_engine.data.windows import WindowDataset
from hyco_engine.errors import PluginError
from hyco_engine.interfaces import (
    ExtraTerm,
    LossNormalizer,
    LossTerm,
    NormalizedLoss,
    StepContext,
    TermSpec,
    Trajectory,
)
from hyco_engine.testing.problems import Decay, decay_layout, decay_windows
from hyco_engine.training.error_bars import measure
from hyco_engine.training.hybrid import HybridTrainer
from hyco_engine.training.losses import WeightedSum
from hyco_engine.training.normalized import Normalization
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer

MINE = "'mine' of plugin 'x' (hyco-x 1.0)"


class Anchor(ExtraTerm):
    """Pulls the rate to 1; its loss is `unit` times what it is for 1."""

    def __init__(self, unit: float = 1.0) -> None:
        self.unit = unit

    def term(self, model: nn.Module, batch: Any, generator: torch.Generator) -> LossTerm:
        assert isinstance(model, Decay)
        loss = self.unit * (model.learnables.values()["k"] - 1.0).square()
        return LossTerm(spec=TermSpec(name="anchor"), per_sample=loss.expand(len(batch[0])))


def physical(normalizer: LossNormalizer, **changes: Any) -> Trainer:
    settings = attrs.evolve(TrainingSettings(batch_size=4, lr=0.02), **changes)
    return Trainer(Decay(), player="physical", layout=decay_layout(), settings=settings, normalizer=normalizer)


def rate(trainer: Trainer) -> float:
    return float(trainer.model.learnables.values()["k"].detach())


# --- terms that appear later ----------------------------------------------------------------------------------------


def test_the_parameters_of_a_late_term_are_learned() -> None:
    normalizer = Uncertainty()
    trainer = physical(normalizer)
    trainer.train(decay_windows(), 1)
    trainer.train(decay_windows(), 3, terms=[Anchor()])
    (late,) = (group["params"][0] for group in normalizer.param_groups() if group["name"] == "anchor")
    assert float(late.detach()) != 0.0
    before = float(late.detach())
    trainer.train(decay_windows(), 1, terms=[Anchor()])
    assert float(late.detach()) != before


def test_late_terms_go_on_from_a_saved_state_in_any_order() -> None:
    def run(trainer: Trainer, phases: Sequence[int]) -> None:
        for phase in phases:
            trainer.train(decay_windows(), 1, terms=[Anchor()] if phase % 2 else [])

    whole, first, second = (physical(Uncertainty(), optimizer="sgd") for _ in range(3))
    run(whole, range(6))
    run(first, range(3))
    HybridTrainer(physical=second).load_state_dict(HybridTrainer(physical=first).state_dict())
    run(second, range(3, 6))
    assert rate(second) == rate(whole)
    ours, theirs = second.normalization.state_dict(), whole.normalization.state_dict()
    assert ours.keys() == theirs.keys()
    assert any(name.startswith("optimizer/anchor/0/exp_avg") for name in ours)
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


# --- weights that stay ----------------------------------------------------------------------------------------------


def two_fields(scales: tuple[float, float] = (1.0, 1.0)) -> tuple[StateLayout, WindowDataset]:
    one = decay_layout()
    boundary = one.dynamic[0].boundary
    layout = StateLayout(grid=one.grid, dynamic=tuple(FieldInfo(name=name, boundary=boundary) for name in "uv"))
    states = torch.randn(6, 6, 2, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor(scales)[:, None]
    data = WindowDataset([Trajectory(dynamic=s, static=torch.zeros(0, 8)) for s in states], horizon=1)
    return layout, data


@pytest.mark.parametrize("make", [RunningMean, BatchStat, GradNorm])
@pytest.mark.parametrize("optimizer", ["gauss-newton", "lbfgs"])
def test_weights_are_frozen_over_all_chunks_at_the_start_of_a_phase(make: Any, optimizer: Any) -> None:
    found = []
    for chunk in (3, 7, 1000):
        layout, data = two_fields((1.0, 1e3))
        normalizer = make()
        trainer = Trainer(
            Decay(layout),
            player="physical",
            layout=layout,
            settings=TrainingSettings(optimizer=optimizer, batch_size=chunk),
            normalizer=normalizer,
        )
        whole = trainer.whole_loss(data, commit=True)
        found.append([float(whole.weights[name]) for name in "uv"])
        state = normalizer.state_dict()
        assert state
        # frozen: neither iterations nor another look change the state
        trainer.train(data, 0)
        trainer.whole_loss(data)
        assert {name: value.tolist() for name, value in normalizer.state_dict().items()} == {
            name: value.tolist() for name, value in state.items()
        }
    assert found[0] == pytest.approx(found[2], rel=1e-5)
    assert found[1] == pytest.approx(found[2], rel=1e-5)
    u, v = found[2]
    assert u / v == pytest.approx(1e6, rel=0.5)


def test_a_phase_under_lbfgs_counts_as_one_step_of_the_normalizer() -> None:
    layout, data = two_fields((1.0, 1e3))
    normalizer = RunningMean()
    trainer = Trainer(
        Decay(layout),
        player="physical",
        layout=layout,
        settings=TrainingSettings(optimizer="lbfgs", batch_size=4),
        normalizer=normalizer,
    )
    for phase in (1, 2):
        trainer.train(data, 3)
        assert {float(value[0]) for value in normalizer.state_dict().values()} == {phase}


def test_a_term_of_a_phase_is_weighted_by_all_its_samples() -> None:
    trainer = physical(RunningMean(), optimizer="lbfgs")
    whole = trainer.whole_loss(decay_windows(), [Anchor(100.0)], commit=True)
    # k starts at 0.5: 100 (k - 1)^2 = 25
    assert float(whole.weights["anchor"]) == pytest.approx(1 / 25, rel=1e-5)


def test_error_bars_leave_the_normalizer_as_it_was() -> None:
    normalizer = RunningMean()
    trainer = physical(normalizer, optimizer="adam")
    trainer.train(decay_windows(), 2)
    before = {name: value.clone() for name, value in normalizer.state_dict().items()}
    assert measure(trainer, decay_windows()) is not None
    after = normalizer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


# --- what plugins do wrong ------------------------------------------------------------------------------------------


class Plain(WeightedSum):
    """A third party's."""


class Floats(Plain):
    def __call__(self, terms: Sequence[LossTerm], context: StepContext) -> Any:
        return float(super().__call__(terms, context).total.detach())


class NanWeights(Plain):
    def __call__(self, terms: Sequence[LossTerm], context: StepContext) -> NormalizedLoss:
        return attrs.evolve(super().__call__(terms, context), weights={"u": math.nan})


class Forgetful(Plain):
    def __call__(self, terms: Sequence[LossTerm], context: StepContext) -> NormalizedLoss:
        return attrs.evolve(super().__call__(terms, context), weights={})


class Raising(Plain):
    def __call__(self, terms: Sequence[LossTerm], context: StepContext) -> NormalizedLoss:
        raise IndexError("list index out of range")


class BadStep(Plain):
    def post_step(self, context: StepContext) -> None:
        raise ZeroDivisionError("division by zero")


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (Floats, ["0."]),
        (NanWeights, ["'u'", "nan"]),
        (Forgetful, ["'u'"]),
        (Raising, ["__call__", "IndexError: list index out of range"]),
        (BadStep, ["post_step", "ZeroDivisionError: division by zero"]),
    ],
)
def test_a_third_partys_normalizer_is_named_with_its_distribution(make: type[Plain], values: list[str]) -> None:
    trainer = Trainer(
        Decay(),
        player="physical",
        layout=decay_layout(),
        normalizer=make(),
        normalizer_name=MINE,
        settings=TrainingSettings(batch_size=4),
    )
    with pytest.raises(PluginError) as caught:
        trainer.train(decay_windows(), 1)
    assert [value for value in (MINE, *values) if value not in str(caught.value)] == []


def test_state_that_does_not_come_back_is_named() -> None:
    class Losing(Plain):
        def __init__(self) -> None:
            self.count = 0

        def post_step(self, context: StepContext) -> None:
            self.count += 1

        def state_dict(self) -> dict[str, Tensor]:
            return {"count": torch.tensor(self.count)}

        def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
            pass

    first, second = (Normalization(Losing(), [], MINE) for _ in range(2))
    first.step(StepContext(step=0))
    with pytest.raises(PluginError) as caught:
        second.load_state_dict(first.state_dict())
    told = str(caught.value)
    assert [part for part in (MINE, "'count'", "load_state_dict", "state_dict") if part not in told] == []


def test_what_a_normalizer_says_of_foreign_state_is_told_with_its_name() -> None:
    normalization = Normalization(RunningMean(), [TermSpec(name="a")], MINE)
    with pytest.raises(PluginError, match=r"load_state_dict.*ValueError") as caught:
        normalization.load_state_dict({"state/other/a": torch.zeros(2)})
    assert [part for part in (MINE, "RunningMean", "other/a") if part not in str(caught.value)] == []
